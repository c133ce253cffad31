#include "runner/report/progress.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/utf8.h"
#include "libstage/wire/times.h"
#include "runner/size.h"
#include "runner/machine.h"
#include "runner/report/record.h"

#define BAR_SECONDS 0.2
#define LINE_SECONDS 5.0
#define BAR_WIDTH 24
#define PIECE 512 /* bytes that a pipe or a terminal that has a place takes at once */

enum mode { BAR, PLAIN, JSON, NONE };

struct qp_progress {
    enum mode mode;
    bool (*stop_waits)(void);
    double started, shown;
    bool bar_is_up;
    bool hurried, muted; /* the run is being stopped; its reader took nothing until a signal came */
    double whole;        /* never goes back */
};

/* ---- lines ---- */

/* Waits until the descriptor takes something; not when a signal asks for an end meanwhile, and not long once one has.
 */
static bool wait_writable(const struct qp_progress *progress, int fd)
{
    double since = qp_now();
    for (;;) {
        struct pollfd item = {.fd = fd, .events = POLLOUT};
        if (poll(&item, 1, QP_TICK_MS) > 0)
            return true;
        if ((progress->hurried || progress->stop_waits()) && qp_now() - since > QP_READER_SECONDS)
            return false;
    }
}

/* Writes a line to a reader who may be slow, or gone, or stopped for ever: that must not make the run deaf. */
static void write_text(struct qp_progress *progress, int fd, const char *text)
{
    for (size_t left = text ? strlen(text) : 0; left > 0 && !progress->muted;) {
        progress->muted = !wait_writable(progress, fd);
        ssize_t n = progress->muted ? 0 : write(fd, text, left < PIECE ? left : PIECE);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            progress->muted = true;
        text += n > 0 ? n : 0;
        left -= n > 0 ? (size_t)n : 0;
    }
}

void qp_progress_hurry(struct qp_progress *progress)
{
    progress->hurried = true;
}

int qp_progress_new(const char *mode, bool (*stop_waits)(void), struct qp_progress **out, struct qp_error *err)
{
    static const char *const names[] = {"bar", "plain", "json", "none"};
    int found = isatty(2) ? BAR : PLAIN;
    for (int i = 0; mode && i < 5; i++) {
        found = i;
        if (i == 4)
            return qp_fail(err, QP_ERR_USAGE, "--progress is `%s`; expected bar, plain, json or none", mode);
        if (strcmp(mode, names[i]) == 0)
            break;
    }
    struct qp_progress *progress = calloc(1, sizeof *progress);
    if (!progress)
        return qp_fail_memory(err, sizeof *progress, "progress");
    *progress = (struct qp_progress){.mode = (enum mode)found, .stop_waits = stop_waits, .started = qp_now()};
    progress->shown = progress->started;
    *out = progress;
    return 0;
}

static void clear_bar(struct qp_progress *progress)
{
    if (progress->bar_is_up)
        write_text(progress, 2, "\r\033[K");
    progress->bar_is_up = false;
}

void qp_progress_free(struct qp_progress *progress)
{
    if (!progress)
        return;
    clear_bar(progress);
    free(progress);
}

bool qp_progress_is_json(const struct qp_progress *progress)
{
    return progress->mode == JSON;
}

static double fraction_of(const struct qp_stage_record *c)
{
    if (c->done)
        return 1;
    return c->units_total > 0 ? (double)c->units_done / (double)c->units_total : 0;
}

/* The mean over the stages; stages before the first unit count nothing. */
static double whole(struct qp_progress *progress, const struct qp_record *record)
{
    double sum = 0;
    for (size_t i = 0; i < record->count; i++)
        sum += fraction_of(&record->stages[i]);
    double mean = record->count ? sum / (double)record->count : 0;
    if (mean > progress->whole)
        progress->whole = mean < 1 ? mean : 1;
    return progress->whole;
}

/* "calibrate 3/8, quantize 2/8": the stages that are at work. */
static void stages_text(const struct qp_record *record, char *text, size_t size)
{
    bool begun = false;
    text[0] = '\0';
    for (size_t i = 0; i < record->count; i++) {
        const struct qp_stage_record *c = &record->stages[record->plan->pipeline->order[i]];
        begun = begun || c->done || c->units_done > 0;
        if (c->units_done < c->units_total)
            snprintf(text + strlen(text), size - strlen(text), "%s%s %lld/%lld", text[0] ? ", " : "", c->instance->name,
                     (long long)c->units_done, (long long)c->units_total);
    }
    if (!text[0])
        snprintf(text, size, "%s", begun ? "finishing" : "starting");
}

static int terminal_width(void)
{
    struct winsize size;
    return ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

static void show_bar(struct qp_progress *progress, const struct qp_record *record)
{
    char stages[1024], time[32], bar[BAR_WIDTH + 1], line[1200], shown[1300];
    double part = whole(progress, record);
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < (int)(part * BAR_WIDTH) ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    stages_text(record, stages, sizeof stages);
    qp_seconds_text(qp_now() - progress->started, time, sizeof time);
    snprintf(line, sizeof line, "[%s] %3.0f %%  %s  %s", bar, part * 100, time, stages);
    snprintf(shown, sizeof shown, "\r\033[K%.*s", terminal_width() - 1, line);
    write_text(progress, 2, shown);
    progress->bar_is_up = true;
}

static void show_line(struct qp_progress *progress, const struct qp_record *record)
{
    char stages[1024], time[32], line[1200];
    stages_text(record, stages, sizeof stages);
    snprintf(line, sizeof line, "%s: %.0f %% (%s)\n", qp_seconds_text(qp_now() - progress->started, time, sizeof time),
             whole(progress, record) * 100, stages);
    write_text(progress, 2, line);
}

static void show_event(struct qp_progress *progress, const struct qp_record *record)
{
    json_t *stages = json_array();
    for (size_t i = 0; i < record->count; i++) {
        const struct qp_stage_record *c = &record->stages[i];
        json_array_append_new(stages, json_pack("{s:s, s:I, s:I}", "stage", c->instance->name, "done",
                                                (json_int_t)c->units_done, "total", (json_int_t)c->units_total));
    }
    qp_progress_event(progress, "progress",
                      json_pack("{s:f, s:o}", "fraction", whole(progress, record), "stages", stages));
}

void qp_progress_tick(struct qp_progress *progress, const struct qp_record *record, bool now)
{
    double since = qp_now() - progress->shown;
    double pause = progress->mode == PLAIN ? LINE_SECONDS : BAR_SECONDS;
    if (progress->mode == NONE || (since < pause && !(now && progress->mode == JSON)))
        return;
    progress->shown = qp_now();
    if (progress->mode == BAR)
        show_bar(progress, record);
    else if (progress->mode == PLAIN)
        show_line(progress, record);
    else
        show_event(progress, record);
}

void qp_progress_event(struct qp_progress *progress, const char *event, json_t *body)
{
    if (progress->mode == JSON && !body) {
        printf(
            "{\"event\": \"log\", \"time\": %.9g, \"stage\": \"run\", \"level\": \"warning\", \"message\": \"an event "
            "was lost, for memory ran out\"}\n",
            qp_now() - progress->started);
        fflush(stdout);
    } else if (progress->mode == JSON) {
        json_object_set_new(body, "event", json_string(event));
        json_object_set_new(body, "time", json_real(qp_now() - progress->started));
        qp_auto_free char *text = json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(9));
        qp_auto_free char *line = text ? qp_format("%s\n", text) : NULL;
        write_text(progress, 1, line);
    }
    json_decref(body);
}

void qp_progress_stage(struct qp_progress *progress, const char *stage, const char *state)
{
    qp_progress_event(progress, "stage", json_pack("{s:s, s:s}", "stage", stage, "state", state));
}

void qp_progress_note(struct qp_progress *progress, const char *message)
{
    if (progress->mode == JSON) {
        qp_progress_event(progress, "log",
                          json_pack("{s:s, s:s, s:s}", "stage", "run", "level", "info", "message", message));
    } else if (progress->mode != NONE) {
        clear_bar(progress);
        qp_auto_free char *line = qp_format("quantpipe: note: %s\n", message);
        write_text(progress, 2, line);
    }
}

void qp_progress_print(struct qp_progress *progress, const char *stage, const char *kind, const json_t *body)
{
    const char *level = json_string_value(json_object_get(body, "level"));
    const char *where = json_string_value(json_object_get(body, "where"));
    const char *message = json_string_value(json_object_get(body, "message"));
    bool info = level && strcmp(level, "warning") != 0;
    if (progress->mode == JSON) {
        json_t *event = json_deep_copy(body);
        json_object_set_new(event, "stage", json_string(stage));
        qp_progress_event(progress, kind, event);
    } else if (progress->mode != NONE && !info) {
        char place[QP_ERROR_SIZE], text[QP_ERROR_SIZE]; /* a stage of any kind has sent them */
        qp_utf8_clean(where ? where : "", place, sizeof place);
        qp_utf8_clean(message ? message : "", text, sizeof text);
        clear_bar(progress);
        qp_auto_free char *line = qp_format("%s: warning: %s%s%s\n", stage, place, *place ? ": " : "", text);
        write_text(progress, 2, line);
    }
}
