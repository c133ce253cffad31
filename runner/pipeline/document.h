/* A pipeline file with what the command line lays over it, and the position of everything in it. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_DOCUMENT_H
#define QUANTPIPE_RUNNER_PIPELINE_DOCUMENT_H

#include "libstage/base/json.h"

#include "libstage/base/error.h"

struct qp_document {
    char *file;    /* as the user named it */
    char *folder;  /* where relative paths in it start */
    json_t *root;  /* an object */
    json_t *marks; /* positions, as runner/pipeline/yaml.h has them */
};

int qp_document_load(const char *path, struct qp_document **out, struct qp_error *err);

/* The same from a text of `size` bytes; `file` stands for it in messages, and its folder part is the folder. */
int qp_document_parse(const char *text, size_t size, const char *file, struct qp_document **out, struct qp_error *err);

void qp_document_free(struct qp_document *document); /* NULL is accepted */

/* Lays profiles.NAME over the document: mappings are merged, anything else is replaced. */
int qp_document_profile(struct qp_document *document, const char *name, struct qp_error *err);

/* "a.b.c=VALUE": VALUE is YAML; missing mappings on the way are made. */
int qp_document_set(struct qp_document *document, const char *assignment, struct qp_error *err);

/* Sets the key at `path` to text, as `--model` does; `option` stands for its position; missing mappings are made. */
int qp_document_set_text(struct qp_document *document, const char *path, const char *option, const char *value,
                         struct qp_error *err);

/* Removes the key at `path` with all below it and their positions. A missing one is no error. */
void qp_document_remove(struct qp_document *document, const char *path);

/* The value at a path, or NULL. Borrowed. Indexes of lists are numbers. */
json_t *qp_document_get(const struct qp_document *document, const char *path);

/* Position of the value, or of the key, at a path: of the nearest thing around it when it is not there. Borrowed. */
const char *qp_document_at(const struct qp_document *document, const char *path);
const char *qp_document_key_at(const struct qp_document *document, const char *path);

/* A path that the document names, absolute: relative to the file's folder, or to the working directory when the value
 * came from the command line. New memory. */
int qp_document_path(const struct qp_document *document, const char *path, const char *value, char **out,
                     struct qp_error *err);

/* Describes an error at the position of `path`; QP_ERR_INPUT. */
int qp_document_fail(const struct qp_document *document, const char *path, struct qp_error *err, const char *format,
                     ...) __attribute__((format(printf, 4, 5)));
int qp_document_fail_key(const struct qp_document *document, const char *path, struct qp_error *err, const char *format,
                         ...) __attribute__((format(printf, 4, 5)));

/* Puts a position before a message that begins with a path in the document ("scheme.weights.group: ..."), or that is
 * about `path`. Returns err->code. */
int qp_document_place(const struct qp_document *document, const char *path, struct qp_error *err);

/* "the string `yes`", "the number 5", "a list" ... for messages. */
const char *qp_json_found(const json_t *value, char *text, size_t size);

#endif
