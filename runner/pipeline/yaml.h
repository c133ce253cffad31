/* YAML, strictly: one document of the core schema becomes a JSON value and a table of where everything stood.
 *
 * Refused: more than QP_YAML_LIMIT bytes, nesting over QP_YAML_DEPTH, several documents, anchors, aliases, tags,
 * duplicate keys, keys that are no plain text, and NUL. Plain scalars are typed by the core schema
 * (YAML 1.2.2, 10.3.2); quoted ones are strings. ${NAME} and ${NAME:-default} in plain and double-quoted scalars read
 * the environment; a plain scalar is typed after that. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_YAML_H
#define QUANTPIPE_RUNNER_PIPELINE_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include "libstage/base/json.h"

#include "libstage/base/error.h"

#define QP_YAML_LIMIT ((size_t)1 << 20)
#define QP_YAML_DEPTH 32
#define QP_YAML_KEY 200 /* bytes of a key, at most */

/* Marks: an object from paths ("stages.load.with") to positions ("pipeline.yaml:3:5") of values; the same path with
 * QP_YAML_KEY_MARK in front has the position of the key. */
#define QP_YAML_KEY_MARK "@"

struct qp_yaml_text {
    const char *text;
    size_t size;
    const char *name; /* stands for it in messages and marks */
    bool positions;   /* with line and column after the name; false for a value from the command line */
    const char *path; /* where the value will hang in a document; "" for a whole one */
};

/* Parses a text. Marks are added to `marks`; *out is a new reference. QP_ERR_INPUT starts with the position. */
int qp_yaml_parse(const struct qp_yaml_text *from, json_t *marks, json_t **out, struct qp_error *err);

/* A plain scalar by the core schema: *out is a new reference, NULL for a number that JSON cannot hold. */
void qp_yaml_scalar(const char *text, json_t **out);

/* Replaces ${NAME} and ${NAME:-default} in `text`; *out is new memory. The error has no position. */
int qp_yaml_expand(const char *text, char **out, struct qp_error *err);

#endif
