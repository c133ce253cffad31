/* The lifecycle of a stage process: hello, config, open, units, drain, close, done, bye. */
#include <inttypes.h>
#include <signal.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "kernels/scratch.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/stage/internal.h"
#include "libstage/stage/link.h"
#include "libstage/stage/work_json.h"
#include "libstage/wire/message.h"

#define PROGRESS_SECONDS 0.1
#define KEPT_ON_TOP ((size_t)1 << 20) /* bytes at the end of the heap */

struct lifecycle {
    struct qp_stage stage;
    struct link *link;
    const char *instance;
    struct qp_receipt *current; /* of the unit in process; NULL in a source */
    int64_t seq;                /* of the unit in process; -1: none */
    int64_t units, emitted;
    double begun, busy, told; /* seconds; told: when progress was told last */
};

static void write_log(const struct lifecycle *lifecycle, const char *level, const char *message)
{
    char when[32];
    time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &parts);
    fprintf(stderr, "%s %s: %s: %s\n", when, lifecycle->instance, level, message);
}

/* ---- what callbacks reach ---- */

static int emit(void *context, size_t port, struct qp_unit *unit, struct qp_error *err)
{
    struct lifecycle *lifecycle = context;
    lifecycle->emitted++;
    return link_emit(lifecycle->link, port, unit, lifecycle->current, err);
}

static void log_line(void *context, enum qp_level level, const char *message)
{
    const struct lifecycle *lifecycle = context;
    write_log(lifecycle, qp_level_name(level), message);
    if (level != QP_DEBUG)
        link_send(lifecycle->link, "log", json_pack("{s:s, s:s}", "level", qp_level_name(level), "message", message),
                  NULL);
}

/* An array that is too long for one message goes in parts, which the runner appends. */
static int send_report(struct lifecycle *lifecycle, const char *key, json_t *value, struct qp_error *err)
{
    int r = link_send(lifecycle->link, "report", json_pack("{s:s, s:O}", "key", key, "value", value), err);
    size_t count = json_array_size(value);
    if (r == 0 || count < 2)
        return r;
    qp_auto_json json_t *front = json_array();
    qp_auto_json json_t *back = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append(i < count / 2 ? front : back, json_array_get(value, i));
    r = send_report(lifecycle, key, front, err);
    return r < 0 ? r : send_report(lifecycle, key, back, err);
}

static void warn(void *context, const char *code, const char *where, const char *message)
{
    const struct lifecycle *lifecycle = context;
    char line[QP_ERROR_SIZE + 512];
    snprintf(line, sizeof line, "%s: %.400s: %s", code, where, message);
    write_log(lifecycle, "warning", line);
    link_send(lifecycle->link, "warning",
              json_pack("{s:s, s:s, s:s}", "code", code, "where", where, "message", message), NULL);
}

/* What cannot be sent is missing in report.json, so that has to stand there at least. */
static void report(void *context, const char *key, json_t *value)
{
    struct qp_error err = {0};
    if (send_report(context, key, value, &err) < 0)
        warn(context, "report-lost", key, err.message);
    json_decref(value);
}

static void progress(void *context, int64_t done, int64_t total)
{
    struct lifecycle *lifecycle = context;
    double now = qp_wall_seconds();
    if (now - lifecycle->told < PROGRESS_SECONDS && done != total)
        return;
    lifecycle->told = now;
    link_send(lifecycle->link, "progress",
              json_pack("{s:I, s:I}", "done", (json_int_t)done, "total", (json_int_t)total), NULL);
}

static bool cancelled(void *context)
{
    return link_cancelled(((const struct lifecycle *)context)->link);
}

static const struct stage_surroundings around = {emit, report, warn, log_line, progress, cancelled};

/* ---- the lifecycle ---- */

static int prepare(struct lifecycle *lifecycle, const json_t *config, struct qp_error *err)
{
    int r = link_connect(lifecycle->link, config, err);
    if (r < 0)
        return r;
    int64_t threads = json_integer_value(json_object_get(config, "threads"));
    lifecycle->stage.connected = link_connected(lifecycle->link);
    lifecycle->stage.context = json_object_get(config, "context");
    lifecycle->stage.wants = json_object_get(config, "wants");
    lifecycle->stage.drops = json_object_get(config, "drops");
    lifecycle->stage.scratch = json_string_value(json_object_get(config, "scratch"));
    lifecycle->stage.threads = threads > 0 && threads <= 4096 ? (int)threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    lifecycle->stage.kernels = qp_kernels_open("cpu");
    lifecycle->stage.allocator = qp_pool_allocator(link_pool(lifecycle->link));
    qp_kernels_set_threads(lifecycle->stage.threads);
    r = qp_make_folders(lifecycle->stage.scratch, err);
    if (r < 0)
        return r;
    link_send_busy(lifecycle->link, 0); /* open may take long */
    r = qp_stage_begin(&lifecycle->stage, json_object_get(config, "params"), err);
    link_send_busy(lifecycle->link, -1);
    return r;
}

/* Workspaces of operations were kept for the next ones of the unit. Gaps that freed arrays have left between others are
 * of no use to the next ones where these are aligned: the heap grows with every block, and what it has in the gaps goes
 * back to the system here. */
static void trim_heap(void)
{
    qp_scratch_empty();
#ifdef __GLIBC__
    malloc_trim(KEPT_ON_TOP);
#endif
}

/* One call of process; time in which emit waited is not busy. */
static int process(struct lifecycle *lifecycle, struct qp_unit *unit, struct qp_error *err)
{
    double start = qp_wall_seconds(), waited = link_waited(lifecycle->link);
    link_send_busy(lifecycle->link, unit ? unit->seq : 0);
    int r = qp_stage_process(&lifecycle->stage, unit, err);
    trim_heap();
    link_send_busy(lifecycle->link, -1);
    lifecycle->busy += qp_wall_seconds() - start - (link_waited(lifecycle->link) - waited);
    return r;
}

static int process_units(struct lifecycle *lifecycle, struct qp_error *err)
{
    for (;;) {
        struct link_unit next;
        int r = link_next(lifecycle->link, &next, err);
        if (r < 0 || !next.unit)
            return r;
        lifecycle->current = next.receipt;
        lifecycle->stage.port = lifecycle->stage.desc->inputs[next.port].name;
        lifecycle->seq = next.unit->seq;
        r = process(lifecycle, next.unit, err);
        lifecycle->current = NULL;
        if (r < 0) {
            link_abandon(lifecycle->link, &next, err);
            return r;
        }
        lifecycle->units++;
        lifecycle->seq = -1;
        link_processed(lifecycle->link, &next);
    }
}

/* What was done, by kind. */
static json_t *work_done(const struct lifecycle *lifecycle)
{
    struct qp_work done;
    qp_work_read(&done);
    done.bytes_written = (double)qp_pool_given(link_pool(lifecycle->link));
    qp_disk_read(&done);
    return qp_work_json(&done);
}

static json_t *account(const struct lifecycle *lifecycle)
{
    struct qp_usage usage;
    qp_usage_read(&usage);
    int64_t units = qp_port_count(lifecycle->stage.desc->inputs) > 0 ? lifecycle->units : lifecycle->emitted;
    return json_pack("{s:{s:f, s:f, s:f, s:I, s:I, s:I, s:o}, s:o}", "stage", "wall_seconds",
                     qp_wall_seconds() - lifecycle->begun, "busy_seconds", lifecycle->busy, "cpu_seconds",
                     qp_cpu_seconds(), "peak_rss_bytes", (json_int_t)usage.peak_rss, "peak_anonymous_bytes",
                     (json_int_t)link_peak_anonymous(lifecycle->link), "units", (json_int_t)units, "work",
                     work_done(lifecycle), "edges", link_statistics(lifecycle->link));
}

static int work(struct lifecycle *lifecycle, const json_t *config, struct qp_error *err)
{
    int r = prepare(lifecycle, config, err);
    if (r == 0)
        r = link_send(lifecycle->link, "ready", json_object(), err);
    if (r == 0)
        r = qp_port_count(lifecycle->stage.desc->inputs) > 0 ? process_units(lifecycle, err)
                                                             : process(lifecycle, NULL, err);
    return r < 0 ? r : link_drain(lifecycle->link, err);
}

static void tell_failure(struct lifecycle *lifecycle, const struct qp_error *err)
{
    write_log(lifecycle, "error", err->message);
    link_send(lifecycle->link, "failed",
              json_pack("{s:i, s:s, s:o}", "code", -err->code, "message", err->message, "seq",
                        lifecycle->seq >= 0 ? json_integer(lifecycle->seq) : json_null()),
              NULL);
}

static int live(struct lifecycle *lifecycle, struct qp_error *err)
{
    qp_auto_json json_t *config = NULL;
    int r = link_wait_config(lifecycle->link, &config, err);
    if (r == 0)
        r = work(lifecycle, config, err);
    if (r < 0)
        r = link_cause(lifecycle->link, r, err);
    qp_stage_end(&lifecycle->stage);
    if (r < 0) {
        tell_failure(lifecycle, err);
        return r;
    }
    link_send(lifecycle->link, "done", account(lifecycle), err);
    link_wait_bye(lifecycle->link);
    return 0;
}

/* The link's thread reads these signals from a descriptor; every other thread must leave them alone. */
static void block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int qp_stage_live(const struct qp_stage_desc *desc, const char *control, const char *instance, int replica)
{
    struct qp_error err = {0};
    struct lifecycle lifecycle = {.instance = instance, .seq = -1, .begun = qp_wall_seconds()};
    lifecycle.stage = (struct qp_stage){.desc = desc, .around = &around, .around_context = &lifecycle};
    block_signals();
    int r = link_open(desc, control, instance, replica, &lifecycle.link, &err);
    if (r < 0) {
        write_log(&lifecycle, "error", err.message);
        return -r;
    }
    r = live(&lifecycle, &err);
    link_close(lifecycle.link);
    return -r;
}
