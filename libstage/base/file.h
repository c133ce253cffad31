/* Files: reading whole small ones, and writing so that a reader sees all of a file or none of it. */
#ifndef QUANTPIPE_BASE_FILE_H
#define QUANTPIPE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "libstage/base/json.h"

#include "libstage/base/error.h"

/* Opens a regular file to read: a descriptor, or QP_ERR_INPUT. Never waits: a FIFO or a device in its place is refused,
 * with what it is. */
int qp_open_file(const char *path, struct qp_error *err);

/* Reads a whole regular file of at most `limit` bytes into a new NUL-terminated buffer that the caller frees.
 * QP_ERR_INPUT when it cannot be read or is larger. */
int qp_read_file(const char *path, size_t limit, char **text, size_t *size, struct qp_error *err);

/* Parses a JSON file of at most `limit` bytes; duplicate keys are refused. *out is a new reference. The message of an
 * error starts with path:line:column. */
int qp_read_json(const char *path, size_t limit, json_t **out, struct qp_error *err);

/* Writes all of `bytes`, short writes included. */
int qp_write_all(int fd, const void *data, size_t bytes, const char *path, struct qp_error *err);

/* Writes `path` durably and as a whole: temporary name in the same folder, fsync, rename, fsync of the folder. */
int qp_write_file(const char *path, const void *data, size_t size, struct qp_error *err);

/* The same for a JSON value, indented by 2, keys sorted, a newline at the end. */
int qp_write_json(const char *path, const json_t *value, struct qp_error *err);

/* Copies a file with qp_write_file's guarantee. */
int qp_copy_file(const char *from, const char *to, struct qp_error *err);

/* fsyncs a folder, so that the names in it are durable. */
int qp_sync_folder(const char *path, struct qp_error *err);

/* Makes a folder and its missing parents, mode 0777 less umask. An existing folder is no error. */
int qp_make_folders(const char *path, struct qp_error *err);

/* Removes a file, or a folder with all it holds (symbolic links are not followed). A missing path is no error. */
int qp_remove_tree(const char *path, struct qp_error *err);

bool qp_exists(const char *path);
bool qp_is_folder(const char *path);

/* snprintf into a new string that the caller frees; NULL without memory. */
char *qp_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* `path` itself when it is absolute or `folder` is NULL, else folder/path; a new string, NULL without memory. */
char *qp_join(const char *folder, const char *path);

/* The folder part of a path ("." when it has none); a new string, NULL without memory. */
char *qp_folder_of(const char *path);

#endif
