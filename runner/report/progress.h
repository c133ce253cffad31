/* What a run shows while it goes: a bar on a terminal, plain lines elsewhere, events for programs. */
#ifndef QUANTPIPE_RUNNER_REPORT_PROGRESS_H
#define QUANTPIPE_RUNNER_REPORT_PROGRESS_H

#include <stdbool.h>
#include "libstage/base/json.h"

#include "libstage/base/error.h"

struct qp_progress;
struct qp_record;

/* mode: "json" (one event a line on stdout, schemas/events.schema.json), "plain", "none", or NULL for a bar when stderr
 * is a terminal and plain lines otherwise. */
int qp_progress_new(const char *mode, bool (*stop_waits)(void), struct qp_progress **out, struct qp_error *err);
void qp_progress_free(struct qp_progress *progress); /* takes the bar off the screen; NULL is accepted */

/* Shows how far the stages are, not more often than is useful unless `now`. */
void qp_progress_tick(struct qp_progress *progress, const struct qp_record *record, bool now);

/* Shows what a stage sent: kind "log" {level, message} or "warning" {code, where, message}. */
void qp_progress_print(struct qp_progress *progress, const char *stage, const char *kind, const json_t *body);

/* Something about the run itself that its user should know and that is no warning. */
void qp_progress_note(struct qp_progress *progress, const char *message);

/* A stage is "ready", "done" or "failed". */
void qp_progress_stage(struct qp_progress *progress, const char *stage, const char *state);

/* An event of the run itself ("start", "end"), for programs alone; takes `body` over. */
void qp_progress_event(struct qp_progress *progress, const char *event, json_t *body);

/* The run is being stopped: from here on a reader that takes nothing is not waited for. */
void qp_progress_hurry(struct qp_progress *progress);

/* Whether stdout belongs to events. */
bool qp_progress_is_json(const struct qp_progress *progress);

#endif
