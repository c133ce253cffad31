/* Files that are mapped, for the day that one of them loses its end. A read there would end the process by SIGBUS; it
 * gives zeros instead, and the loss is kept until it is asked for. */
#ifndef QUANTPIPE_BASE_MAPPED_H
#define QUANTPIPE_BASE_MAPPED_H

#include <sys/stat.h>

#include "libstage/base/error.h"

/* Enters a mapping of a whole file; `path` must live as long as the mapping. `file`: what fstat said. Thread-safe.
 * Beyond 4096 mappings at a time nothing is entered, and SIGBUS is what it was. */
void qp_mapped_add(void *base, const struct stat *file, const char *path);

/* Before the mapping goes; for one that was never entered nothing happens. */
void qp_mapped_remove(void *base);

/* QP_ERR_INPUT with the file's name when a mapped file has lost bytes since the last call, whether or not they were
 * read; 0 otherwise, and for files that were replaced or removed, whose mappings keep their bytes. */
int qp_mapped_check(struct qp_error *err);

#endif
