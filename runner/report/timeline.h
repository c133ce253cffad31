/* timeline.json of a run folder: which stage worked on which unit when, and with how many threads, in the trace format
 * of Chrome (chrome://tracing, ui.perfetto.dev). Times are microseconds since the start of the run. */
#ifndef QUANTPIPE_RUNNER_REPORT_TIMELINE_H
#define QUANTPIPE_RUNNER_REPORT_TIMELINE_H

struct qp_record;
struct qp_stage_record;

/* What a stage has been at until now, if anything, is over. */
void qp_timeline_note(const struct qp_record *record, struct qp_stage_record *stage);

/* A run without a timeline is as good: it says nothing when it cannot. */
void qp_timeline_write(const struct qp_record *record);

#endif
