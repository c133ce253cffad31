/* Making a folder appear under its name whole or not at all, and never in the place of something else. */
#ifndef QUANTPIPE_BASE_PUBLISH_H
#define QUANTPIPE_BASE_PUBLISH_H

#include <stdbool.h>

#include "libstage/base/error.h"

/* Makes a folder that nobody else uses beside FOLDER/NAME: FOLDER/.NAME.quantpipe-XXXXXX, mode 0700. FOLDER must exist.
 * *out is a new string. */
int qp_temporary_new(const char *path, char **out, struct qp_error *err);

/* The lock file that marks a temporary folder as a run's (libstage/base/lock.h); a new string, NULL without memory. */
char *qp_temporary_lock(const char *temporary);

/* Removes the temporary folders beside `path` that dead runs have left: those whose lock file is there and free, of
 * this user. Everything else stays, whatever it is called. The caller holds the lock of `path`, for a run that has just
 * begun has not locked its folder yet. */
void qp_temporary_clean(const char *path);

/* Gives the file or folder `from` the name `to`, on the same file system, unless something has that name: QP_ERR_INPUT.
 * *published (may be NULL) says whether `to` stands, which it does when only making its name durable failed. */
int qp_publish(const char *from, const char *to, bool *published, struct qp_error *err);

#endif
