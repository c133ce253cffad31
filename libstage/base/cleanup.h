/* Automatic release at the end of a scope, for locals only. */
#ifndef QUANTPIPE_BASE_CLEANUP_H
#define QUANTPIPE_BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>
#include "libstage/base/json.h"

static inline void qp_cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void qp_cleanup_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void qp_cleanup_json(json_t **j)
{
    json_decref(*j);
}

#define qp_auto_free __attribute__((cleanup(qp_cleanup_free)))
#define qp_auto_close __attribute__((cleanup(qp_cleanup_close)))
#define qp_auto_json __attribute__((cleanup(qp_cleanup_json)))

#endif
