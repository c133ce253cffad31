#include "runner/timeline.h"

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/supervise.h"

static double microseconds(const struct qp_supervisor *s, double time)
{
    return 1e6 * (time - s->run->started);
}

/* Rows are numbered as the pipeline has its stages. */
static int row_of(const struct qp_supervisor *s, const struct qp_child *c)
{
    return (int)(c - s->children);
}

void qp_timeline_note(const struct qp_supervisor *s, struct qp_child *c)
{
    char name[32];
    if (!c->busy)
        return;
    snprintf(name, sizeof name, "unit %lld", (long long)c->unit);
    json_array_append_new(c->spans, json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:{s:I, s:i}}", "name", name, "ph", "X",
                                              "pid", 1, "tid", row_of(s, c), "ts", microseconds(s, c->busy_since),
                                              "dur", 1e6 * (qp_now() - c->busy_since), "args", "unit",
                                              (json_int_t)c->unit, "threads", c->threads));
}

static void add_instant(const struct qp_supervisor *s, const struct qp_child *c, const char *name, double time,
                        json_t *events)
{
    if (time > 0)
        json_array_append_new(events, json_pack("{s:s, s:s, s:s, s:i, s:i, s:f}", "name", name, "ph", "i", "s", "t",
                                                "pid", 1, "tid", row_of(s, c), "ts", microseconds(s, time)));
}

static void add_stage(const struct qp_supervisor *s, const struct qp_child *c, json_t *events)
{
    json_array_append_new(events, json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "name", "thread_name", "ph", "M", "pid", 1,
                                            "tid", row_of(s, c), "args", "name", c->instance->name));
    add_instant(s, c, "hello", c->greeted_at, events);
    add_instant(s, c, "done", c->done_at, events);
    add_instant(s, c, "exit", c->ended, events);
    json_array_extend(events, c->spans);
}

void qp_timeline_write(const struct qp_supervisor *s)
{
    struct qp_error ignored;
    json_t *events = json_array();
    qp_auto_free char *path = qp_run_path(s->run, "timeline.json");
    for (size_t i = 0; i < s->count; i++)
        add_stage(s, &s->children[i], events);
    qp_auto_json json_t *timeline = json_pack("{s:s, s:o}", "displayTimeUnit", "ms", "traceEvents", events);
    if (timeline && path)
        qp_write_json(path, timeline, &ignored);
}
