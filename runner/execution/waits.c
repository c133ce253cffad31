/* Stages that wait: for each other, for what never comes, or for a stage that tells nothing of itself; and what a stage
 * counts when it is done. */
#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/times.h"
#include "runner/execution/supervise.h"
#include "runner/machine.h"
#include "runner/process.h"
#include "runner/report/progress.h"

#define WAITS_TEXT 1024
#define SILENT_SECONDS (4 * QP_HEARTBEAT_SECONDS)

static bool is_idle(const struct qp_child *c)
{
    return !c->over && !c->record->done && !c->record->busy;
}

/* Seconds since the last move of any stage; 0 while one computes, when all are done, and while one is silent, which has
 * a limit of its own. A stage that does not tell that it is busy is taken to wait: who computes long says so. */
static double idle_seconds(const struct qp_supervisor *s)
{
    double last = 0;
    size_t idle = 0;
    for (size_t i = 0; i < s->count; i++) {
        const struct qp_child *c = &s->children[i];
        if (c->over || c->record->done)
            continue;
        if (!is_idle(c) || qp_now() - c->message_at > SILENT_SECONDS)
            return 0;
        last = c->moved_at > last ? c->moved_at : last;
        idle++;
    }
    return s->configured && idle > 0 ? qp_now() - last : 0;
}

/* ---- who waits for whom ---- */

static const struct qp_edge *edge_of(const struct qp_supervisor *s, const char *id)
{
    const struct qp_pipeline *p = s->run->plan->pipeline;
    for (size_t i = 0; i < p->edge_count; i++)
        if (strcmp(p->edges[i].id, id) == 0)
            return &p->edges[i];
    return NULL;
}

static bool waits_for(const struct qp_child *c, const char *what)
{
    return c->waits && strcmp(c->waits_for, what) == 0;
}

/* The stage at the other end of the edge that a stage waits on; NULL when it waits on none of its own. */
static const struct qp_child *peer_of(const struct qp_supervisor *s, const struct qp_child *c)
{
    const struct qp_edge *e = c->waits ? edge_of(s, c->waits_on) : NULL;
    if (!e || (&s->children[e->from] != c && &s->children[e->to] != c))
        return NULL;
    return &s->children[&s->children[e->from] == c ? e->to : e->from];
}

static void describe_wait(const struct qp_supervisor *s, const struct qp_child *c, char *text, size_t size)
{
    size_t used = strlen(text);
    const struct qp_child *peer = peer_of(s, c);
    bool unit = waits_for(c, "unit");
    const char *before = used ? "; " : "", *name = c->instance->name;
    if (c->waits)
        snprintf(text + used, size - used, "%sstage `%s` waits on edge %s for %s%sunit %lld%s%s%s", before, name,
                 c->waits_on, unit ? "" : c->waits_for,
                 unit                              ? ""
                 : waits_for(c, "acknowledgement") ? " of "
                                                   : " to send ",
                 (long long)c->waits_seq, peer ? " from stage `" : "", peer ? peer->instance->name : "",
                 peer ? "`" : "");
    else
        snprintf(text + used, size - used,
                 c->ready ? "%sstage `%s` tells neither that it computes (`busy`) nor what it waits for (`waits`)"
                          : "%sstage `%s` has not sent ready",
                 before, name);
}

/* ---- a run that stands still ---- */

static void describe_idle(const struct qp_supervisor *s, char *text, bool *traced)
{
    *text = '\0';
    *traced = false;
    for (size_t i = 0; i < s->count; i++) {
        const struct qp_child *c = &s->children[i];
        if (!is_idle(c))
            continue;
        describe_wait(s, c, text, WAITS_TEXT);
        *traced = *traced || qp_process_is_traced(c->pid);
    }
}

/* First a warning, which is no reason for a strict run to fail: a machine may have slept. */
static void warn_stalled(struct qp_supervisor *s, double seconds, const char *waits)
{
    char message[WAITS_TEXT + 256];
    if (s->stall_told)
        return;
    s->stall_told = true;
    snprintf(message, sizeof message,
             "for %.0f seconds nothing has moved and no stage has computed: %s; after %d seconds the run ends "
             "(--timeout)",
             seconds, waits, s->run->plan->pipeline->timeout);
    qp_auto_json json_t *body = json_pack("{s:s, s:s, s:s}", "code", "stalled", "where", "", "message", message);
    qp_progress_print(s->progress, "run", "warning", body);
}

static void look_after_stall(struct qp_supervisor *s)
{
    char waits[WAITS_TEXT];
    bool traced;
    int limit = s->run->plan->pipeline->timeout;
    double seconds = idle_seconds(s);
    s->stall_told = s->stall_told && seconds > limit / 2.0;
    if (limit == 0 || seconds <= limit / 2.0)
        return;
    describe_idle(s, waits, &traced);
    if (traced)
        for (size_t i = 0; i < s->count; i++)
            s->children[i].moved_at = qp_now();
    else if (seconds <= limit)
        warn_stalled(s, seconds, waits);
    else
        qp_supervisor_stop(s, QP_ERR_STAGE,
                           "for %d seconds nothing has moved and no stage has computed: %s; a stage that keeps units "
                           "back says so by `holds` in its descriptor, one that computes sends `busy`; --timeout sets "
                           "another limit",
                           limit, waits);
}

/* ---- what is done, and what is not ---- */

/* A number of what a stage that is done counted on an edge; -1 when it counted nothing there. */
static int64_t counted(const struct qp_child *c, const char *edge, const char *role, const char *key)
{
    size_t i;
    json_t *record;
    json_array_foreach(c->record->edges, i, record) {
        const char *its_edge = json_string_value(json_object_get(record, "edge"));
        const char *its_role = json_string_value(json_object_get(record, "role"));
        const json_t *value = json_object_get(record, key);
        if (its_edge && its_role && strcmp(its_edge, edge) == 0 && strcmp(its_role, role) == 0)
            return json_is_integer(value) ? json_integer_value(value) : -1;
    }
    return -1;
}

/* A stage that waits for a unit after all that its producer, which is done, has sent. */
static void check_end(struct qp_supervisor *s, const struct qp_child *c)
{
    const struct qp_child *peer = peer_of(s, c);
    if (!peer || !peer->record->done || !waits_for(c, "unit"))
        return;
    int64_t sent = counted(peer, c->waits_on, "producer", "sent");
    if (c->waits_seq >= sent)
        qp_supervisor_stop(
            s, QP_ERR_STAGE,
            "stage `%s` is done without an end unit: on edge %s stage `%s` has taken the %lld units that "
            "it sent and waits for unit %lld",
            peer->instance->name, c->waits_on, c->instance->name, (long long)sent, (long long)c->waits_seq);
}

/* A stage that waits for what its consumer, which is done, would have to send. Its wait may be older than what came of
 * it, so it has to come twice. */
static void check_consumer(struct qp_supervisor *s, const struct qp_child *c)
{
    const struct qp_child *peer = peer_of(s, c);
    if (!peer || !peer->record->done || waits_for(c, "unit") || c->repeated < 2)
        return;
    qp_supervisor_stop(s, QP_ERR_STAGE, "stage `%s` is done, but on edge %s stage `%s` waits for %s%sunit %lld",
                       peer->instance->name, c->waits_on, c->instance->name, c->waits_for,
                       waits_for(c, "acknowledgement") ? " of " : " to send ", (long long)c->waits_seq);
}

void qp_look_after_waits(struct qp_supervisor *s)
{
    for (size_t i = 0; i < s->count && !s->stopping; i++) {
        check_end(s, &s->children[i]);
        check_consumer(s, &s->children[i]);
    }
    if (!s->stopping)
        look_after_stall(s);
}

static void check_edge(struct qp_supervisor *s, const struct qp_edge *e, const struct qp_child *c)
{
    const struct qp_child *from = &s->children[e->from], *to = &s->children[e->to];
    const char *name = c->instance->name;
    int64_t sent = counted(from, e->id, "producer", "sent");
    int64_t acknowledged = counted(from, e->id, "producer", "acknowledged");
    int64_t received = counted(to, e->id, "consumer", "received");
    if (from->record->done && (sent < 0 || acknowledged < 0))
        qp_supervisor_stop(s, QP_ERR_STAGE,
                           "stage `%s`: its done does not count sent and acknowledged units of edge %s", name, e->id);
    else if (to->record->done && received < 0)
        qp_supervisor_stop(s, QP_ERR_STAGE, "stage `%s`: its done does not count received units of edge %s", name,
                           e->id);
    else if (from->record->done && acknowledged != sent)
        qp_supervisor_stop(s, QP_ERR_STAGE,
                           "stage `%s` is done, but of %lld units that it sent on edge %s, %lld are acknowledged", name,
                           (long long)sent, e->id, (long long)acknowledged);
    else if (from->record->done && to->record->done && received != sent)
        qp_supervisor_stop(s, QP_ERR_STAGE, "edge %s: stage `%s` counts %lld units sent, stage `%s` %lld received",
                           e->id, from->instance->name, (long long)sent, to->instance->name, (long long)received);
}

void qp_check_counts(struct qp_supervisor *s, const struct qp_child *c)
{
    const struct qp_pipeline *p = s->run->plan->pipeline;
    for (size_t i = 0; i < p->edge_count; i++)
        if (&s->children[p->edges[i].from] == c || &s->children[p->edges[i].to] == c)
            check_edge(s, &p->edges[i], c);
}
