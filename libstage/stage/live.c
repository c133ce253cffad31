/* The life of a stage process: hello, config, open, units, drain, close, done, bye. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/stage/internal.h"
#include "libstage/stage/link.h"
#include "libstage/stage/work_json.h"
#include "libstage/wire/message.h"

#define PROGRESS_SECONDS 0.1

struct life {
    struct qp_stage stage;
    struct link *link;
    const char *instance;
    struct qp_receipt *current; /* of the unit in process; NULL in a source */
    int64_t seq;                /* of the unit in process; -1: none */
    int64_t units, emitted;
    double begun, busy, told; /* seconds; told: when progress was told last */
};

static void write_log(const struct life *life, const char *level, const char *message)
{
    char when[32];
    time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &parts);
    fprintf(stderr, "%s %s: %s: %s\n", when, life->instance, level, message);
}

/* ---- what callbacks reach ---- */

static int emit(void *context, size_t port, struct qp_unit *unit, struct qp_error *err)
{
    struct life *life = context;
    life->emitted++;
    return link_emit(life->link, port, unit, life->current, err);
}

static void log_line(void *context, enum qp_level level, const char *message)
{
    const struct life *life = context;
    write_log(life, qp_level_name(level), message);
    if (level != QP_DEBUG)
        link_say(life->link, "log", json_pack("{s:s, s:s}", "level", qp_level_name(level), "message", message), NULL);
}

/* An array that is too long for one message goes in parts, which the runner appends. */
static int send_report(struct life *life, const char *key, json_t *value, struct qp_error *err)
{
    int r = link_say(life->link, "report", json_pack("{s:s, s:O}", "key", key, "value", value), err);
    size_t count = json_array_size(value);
    if (r == 0 || count < 2)
        return r;
    qp_auto_json json_t *front = json_array();
    qp_auto_json json_t *back = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append(i < count / 2 ? front : back, json_array_get(value, i));
    r = send_report(life, key, front, err);
    return r < 0 ? r : send_report(life, key, back, err);
}

static void warn(void *context, const char *code, const char *where, const char *message)
{
    const struct life *life = context;
    char line[QP_ERROR_SIZE + 512];
    snprintf(line, sizeof line, "%s: %.400s: %s", code, where, message);
    write_log(life, "warning", line);
    link_say(life->link, "warning", json_pack("{s:s, s:s, s:s}", "code", code, "where", where, "message", message),
             NULL);
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
    struct life *life = context;
    double now = qp_wall_seconds();
    if (now - life->told < PROGRESS_SECONDS && done != total)
        return;
    life->told = now;
    link_say(life->link, "progress", json_pack("{s:I, s:I}", "done", (json_int_t)done, "total", (json_int_t)total),
             NULL);
}

static bool cancelled(void *context)
{
    return link_cancelled(((const struct life *)context)->link);
}

static const struct stage_surroundings around = {emit, report, warn, log_line, progress, cancelled};

/* ---- the life ---- */

static int prepare(struct life *life, const json_t *config, struct qp_error *err)
{
    int r = link_connect(life->link, config, err);
    if (r < 0)
        return r;
    int64_t threads = json_integer_value(json_object_get(config, "threads"));
    life->stage.connected = link_connected(life->link);
    life->stage.context = json_object_get(config, "context");
    life->stage.wants = json_object_get(config, "wants");
    life->stage.scratch = json_string_value(json_object_get(config, "scratch"));
    life->stage.threads = threads > 0 && threads <= 4096 ? (int)threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    life->stage.kernels = qp_kernels_open("cpu");
    life->stage.allocator = qp_pool_allocator(link_pool(life->link));
    qp_kernels_set_threads(life->stage.threads);
    r = qp_make_folders(life->stage.scratch, err);
    return r < 0 ? r : qp_stage_begin(&life->stage, json_object_get(config, "params"), err);
}

/* One call of process; time in which emit waited is not busy. */
static int process(struct life *life, struct qp_unit *unit, struct qp_error *err)
{
    double start = qp_wall_seconds(), waited = link_waited(life->link);
    link_say_busy(life->link, unit ? unit->seq : 0);
    int r = qp_stage_process(&life->stage, unit, err);
    link_say_busy(life->link, -1);
    life->busy += qp_wall_seconds() - start - (link_waited(life->link) - waited);
    return r;
}

static int process_units(struct life *life, struct qp_error *err)
{
    for (;;) {
        struct link_unit next;
        int r = link_next(life->link, &next, err);
        if (r < 0 || !next.unit)
            return r;
        life->current = next.receipt;
        life->stage.port = life->stage.desc->inputs[next.port].name;
        life->seq = next.unit->seq;
        r = process(life, next.unit, err);
        life->current = NULL;
        if (r < 0) {
            link_abandon(life->link, &next, err);
            return r;
        }
        life->units++;
        life->seq = -1;
        link_processed(life->link, &next);
    }
}

/* What was done, by kind. */
static json_t *work_done(const struct life *life)
{
    struct qp_work done;
    qp_work_read(&done);
    done.bytes_written = (double)qp_pool_given(link_pool(life->link));
    qp_disk_read(&done);
    return qp_work_json(&done);
}

static json_t *account(const struct life *life)
{
    struct qp_usage usage;
    qp_usage_read(&usage);
    int64_t units = qp_port_count(life->stage.desc->inputs) > 0 ? life->units : life->emitted;
    return json_pack("{s:{s:f, s:f, s:f, s:I, s:I, s:I, s:o}, s:o}", "stage", "wall_seconds",
                     qp_wall_seconds() - life->begun, "busy_seconds", life->busy, "cpu_seconds", qp_cpu_seconds(),
                     "peak_rss_bytes", (json_int_t)usage.peak_rss, "peak_anonymous_bytes",
                     (json_int_t)link_peak_anonymous(life->link), "units", (json_int_t)units, "work", work_done(life),
                     "edges", link_statistics(life->link));
}

static int work(struct life *life, const json_t *config, struct qp_error *err)
{
    int r = prepare(life, config, err);
    if (r == 0)
        r = link_say(life->link, "ready", json_object(), err);
    if (r == 0)
        r = qp_port_count(life->stage.desc->inputs) > 0 ? process_units(life, err) : process(life, NULL, err);
    return r < 0 ? r : link_drain(life->link, err);
}

static void tell_failure(struct life *life, const struct qp_error *err)
{
    write_log(life, "error", err->message);
    link_say(life->link, "failed",
             json_pack("{s:i, s:s, s:o}", "code", -err->code, "message", err->message, "seq",
                       life->seq >= 0 ? json_integer(life->seq) : json_null()),
             NULL);
}

static int live(struct life *life, struct qp_error *err)
{
    qp_auto_json json_t *config = NULL;
    int r = link_wait_config(life->link, &config, err);
    if (r == 0)
        r = work(life, config, err);
    if (r < 0)
        r = link_cause(life->link, r, err);
    qp_stage_end(&life->stage);
    if (r < 0) {
        tell_failure(life, err);
        return r;
    }
    link_say(life->link, "done", account(life), err);
    link_wait_bye(life->link);
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
    struct life life = {.instance = instance, .seq = -1, .begun = qp_wall_seconds()};
    life.stage = (struct qp_stage){.desc = desc, .around = &around, .around_context = &life};
    block_signals();
    int r = link_open(desc, control, instance, replica, &life.link, &err);
    if (r < 0) {
        write_log(&life, "error", err.message);
        return -r;
    }
    r = live(&life, &err);
    link_close(life.link);
    return -r;
}
