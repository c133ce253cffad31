/* Locks of runs: a file beside what a run works on, held by flock, and so never longer than its process lives. The file
 * says whose it is: {"quantpipe": 1, "run", "pid", "host"}. */
#ifndef QUANTPIPE_BASE_LOCK_H
#define QUANTPIPE_BASE_LOCK_H

#include <stdbool.h>

#include "libstage/base/error.h"

struct qp_lock {
    char *path; /* NULL: not held */
    int fd;
    bool unsupported; /* the file system has no locks: only the file's existence keeps others away */
};

/* FOLDER/.NAME.quantpipe-lock for a path FOLDER/NAME; a new string, NULL without memory. */
char *qp_lock_path(const char *path);

/* Takes the lock file `path` for the run `run`, without waiting; the file of a run that is dead is taken over. The
 * folder must exist. *out is held until qp_lock_release; after an error there is nothing to release. QP_ERR_INPUT when
 * a run that lives holds it (the message names the run and its process) or when the file is none of quantpipe's. */
int qp_lock_take(const char *path, const char *run, struct qp_lock *out, struct qp_error *err);

/* Removes the file and lets go of the lock; a lock that is not held is accepted. */
void qp_lock_release(struct qp_lock *lock);

/* Whether `path` is a lock file of this user's that no living run holds: what it marks is left from a dead one. */
bool qp_lock_is_stale(const char *path);

#endif
