/* Writing a large file from its beginning to its end at the speed of its disk, beside what is computed. */
#ifndef QUANTPIPE_BASE_FILE_WRITER_H
#define QUANTPIPE_BASE_FILE_WRITER_H

#include <stddef.h>

#include "libstage/base/error.h"

/* A file that a thread of its own writes past the page cache where the file system allows that, from three buffers of
 * 4 MiB: what is added is on its way to the disk while the next comes, and no copy of it stays in memory that other
 * files could use. A file of less than a buffer is written at its end, without a thread. */
struct qp_file_writer;

/* The most memory that one holds. */
enum { QP_FILE_WRITER_BYTES = 3 * (4 << 20) };

/* Creates `path`, or empties it. */
int qp_file_writer_open(const char *path, struct qp_file_writer **out, struct qp_error *err);

/* Adds bytes at the end; they are copied. The error may be one of what was added before. */
int qp_file_writer_add(struct qp_file_writer *writer, const void *data, size_t bytes, struct qp_error *err);

/* Writes what is left and `head` in the place of the first bytes, syncs and closes the file: durable when this returns
 * 0. Frees the writer in any case. */
int qp_file_writer_finish(struct qp_file_writer *writer, const void *head, size_t bytes, struct qp_error *err);

/* Closes the file as it is and frees the writer, which may be NULL. */
void qp_file_writer_abandon(struct qp_file_writer *writer);

#endif
