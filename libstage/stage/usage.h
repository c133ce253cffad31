/* What this process uses of the machine. */
#ifndef QUANTPIPE_STAGE_USAGE_H
#define QUANTPIPE_STAGE_USAGE_H

#include <stdint.h>

struct qp_usage {
    int64_t rss, peak_rss, anonymous; /* bytes; anonymous: without pages of files and of shared memory */
};

void qp_usage_read(struct qp_usage *usage);

double qp_cpu_seconds(void);  /* of all threads, user and system */
double qp_wall_seconds(void); /* of a clock that only goes forward */

#endif
