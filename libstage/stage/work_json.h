/* What was done (kernels/work.h), as messages, plans and reports say it: {operations: {gemm ...}, bytes_read,
 * bytes_written, disk_read_bytes, disk_written_bytes}. */
#ifndef QUANTPIPE_STAGE_WORK_JSON_H
#define QUANTPIPE_STAGE_WORK_JSON_H

#include "libstage/base/json.h"

#include "kernels/work.h"

/* A new reference, NULL without memory. */
json_t *qp_work_json(const struct qp_work *work);

/* What is missing or no number at least 0 counts as 0: it may come from a stage of any kind. */
void qp_work_from_json(const json_t *json, struct qp_work *out);

/* Sets disk_read and disk_written to what the kernel (Linux) has this process down for; 0 where it does not say. */
void qp_disk_read(struct qp_work *work);

#endif
