/* report.json and the closing table: what came of a run. */
#ifndef QUANTPIPE_RUNNER_REPORT_REPORT_H
#define QUANTPIPE_RUNNER_REPORT_REPORT_H

#include "libstage/base/json.h"

#include "runner/args.h"
#include "runner/report/record.h"

/* The report of a run that ended with `result` (0, or a negative code with `err` described);
 * schemas/report.schema.json. A new reference, NULL without memory. */
json_t *qp_report(const struct qp_record *record, const struct qp_args *args, int result, const struct qp_error *err);

/* "done", "failed", "cancelled" or "gate". */
const char *qp_report_status(int result);

/* The table for people, to stdout. */
void qp_print_table(const json_t *report, const char *report_path);

#endif
