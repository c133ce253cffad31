#include "runner/report/timeline.h"

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/machine.h"
#include "runner/report/record.h"

static double microseconds(const struct qp_record *record, double time)
{
    return 1e6 * (time - record->started);
}

/* Rows are numbered as the pipeline has its stages. */
static int row_of(const struct qp_record *record, const struct qp_stage_record *c)
{
    return (int)(c - record->stages);
}

void qp_timeline_note(const struct qp_record *record, struct qp_stage_record *c)
{
    char name[32];
    if (!c->busy)
        return;
    snprintf(name, sizeof name, "unit %lld", (long long)c->unit);
    json_array_append_new(c->spans,
                          json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:{s:I, s:i}}", "name", name, "ph", "X", "pid", 1,
                                    "tid", row_of(record, c), "ts", microseconds(record, c->busy_since), "dur",
                                    1e6 * (qp_now() - c->busy_since), "args", "unit", (json_int_t)c->unit, "threads",
                                    c->threads));
}

static void add_instant(const struct qp_record *record, const struct qp_stage_record *c, const char *name, double time,
                        json_t *events)
{
    if (time > 0)
        json_array_append_new(events, json_pack("{s:s, s:s, s:s, s:i, s:i, s:f}", "name", name, "ph", "i", "s", "t",
                                                "pid", 1, "tid", row_of(record, c), "ts", microseconds(record, time)));
}

static void add_stage(const struct qp_record *record, const struct qp_stage_record *c, json_t *events)
{
    json_array_append_new(events, json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "name", "thread_name", "ph", "M", "pid", 1,
                                            "tid", row_of(record, c), "args", "name", c->instance->name));
    add_instant(record, c, "hello", c->greeted_at, events);
    add_instant(record, c, "done", c->done_at, events);
    add_instant(record, c, "exit", c->ended, events);
    json_array_extend(events, c->spans);
}

void qp_timeline_write(const struct qp_record *record)
{
    struct qp_error ignored;
    json_t *events = json_array();
    qp_auto_free char *path = qp_join(record->folder, "timeline.json");
    for (size_t i = 0; i < record->count; i++)
        add_stage(record, &record->stages[i], events);
    qp_auto_json json_t *timeline = json_pack("{s:s, s:o}", "displayTimeUnit", "ms", "traceEvents", events);
    if (timeline && path)
        qp_write_json(path, timeline, &ignored);
}
