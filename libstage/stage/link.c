#include "libstage/stage/link.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/stage/link_internal.h"
#include "libstage/wire/control.h"
#include "libstage/wire/control_client.h"
#include "libstage/wire/host.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"
#include "libstage/wire/times.h"

/* Takes `body` over. */
static int pack(const char *kind, json_t *body, struct outgoing **out, struct qp_error *err)
{
    qp_auto_json json_t *owned = body;
    struct outgoing *message = calloc(1, sizeof *message);
    if (!owned || !message) {
        free(message);
        return qp_fail_memory(err, sizeof *message, "a message");
    }
    int r = qp_message_pack(kind, owned, &message->data, err);
    if (r < 0) {
        msgpack_sbuffer_destroy(&message->data);
        free(message);
        return r;
    }
    *out = message;
    return 0;
}

/* The lock is held. */
static void queue(struct link *link, struct outgoing *message)
{
    *link->last = message;
    link->last = &message->next;
}

/* The same; without memory the runner arranges by what it knows. */
static void queue_busy(struct link *link, int64_t unit)
{
    struct outgoing *message = NULL;
    json_t *body =
        json_pack("{s:o, s:f}", "unit", unit < 0 ? json_null() : json_integer(unit), "cpu_seconds", qp_cpu_seconds());
    link->unit = unit;
    if (pack("busy", body, &message, NULL) == 0)
        queue(link, message);
}

/* Beside the control socket where that is a file; else on the interface that reaches the runner. */
static char *port_endpoint(const struct link *link, const char *control, const char *port, struct qp_error *err)
{
    if (strncmp(control, "tcp://", 6) == 0) {
        char address[128];
        if (qp_host_address_towards(control, address, sizeof address, err) < 0)
            return NULL;
        return qp_format(strchr(address, ':') ? "tcp://[%s]:*" : "tcp://%s:*", address);
    }
    qp_auto_free char *folder = qp_folder_of(control);
    return folder ? qp_format("%s/%s.%d.%s", folder, link->instance, link->replica, port) : NULL;
}

static int open_ports(struct link *link, const char *control, struct qp_error *err)
{
    size_t count = qp_port_count(link->desc->outputs), inputs = qp_port_count(link->desc->inputs);
    if (count > LINK_MOST || inputs > LINK_MOST)
        return qp_fail(err, QP_ERR_STAGE, "%zu input and %zu output ports; at most %d of each", inputs, count,
                       LINK_MOST);
    for (; link->out_count < count; link->out_count++) {
        qp_fail(err, QP_ERR_SPACE, "no memory for an endpoint");
        qp_auto_free char *endpoint = port_endpoint(link, control, link->desc->outputs[link->out_count].name, err);
        int r = endpoint ? qp_out_open(link->context, endpoint, &link->outs[link->out_count], err) : err->code;
        if (r < 0)
            return r;
    }
    err->code = 0;
    return 0;
}

static json_t *greeting(const struct link *link)
{
    char hostname[256] = "";
    gethostname(hostname, sizeof hostname - 1);
    json_t *endpoints = json_object();
    for (size_t i = 0; i < link->out_count; i++)
        json_object_set_new(endpoints, link->desc->outputs[i].name, json_string(qp_out_endpoint(link->outs[i])));
    return json_pack("{s:i, s:s, s:i, s:i, s:s, s:s, s:o, s:[]}", "protocol", QP_PROTOCOL_VERSION, "stage",
                     link->desc->name, "version", link->desc->version, "pid", (int)getpid(), "host", link->host,
                     "hostname", hostname, "endpoints", endpoints, "gpus");
}

static int open_all(struct link *link, const char *control, struct qp_error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    link->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    link->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (link->wake < 0) /* without the other, signals are found at intervals */
        return qp_fail_errno(err, QP_ERR_STAGE, "cannot wait for events");
    int r = qp_context_new(&link->context, err);
    if (r == 0)
        r = qp_client_open(link->context, control, link->instance, link->replica, &link->control, err);
    if (r == 0)
        r = open_ports(link, control, err);
    if (r == 0)
        r = link_send(link, "hello", greeting(link), err);
    return r;
}

static void free_all(struct link *link)
{
    for (size_t i = 0; i < link->out_count; i++)
        qp_out_close_socket(link->outs[i]);
    for (size_t i = 0; i < link->in_count; i++)
        qp_in_close_socket(link->ins[i]);
    if (link->control)
        zmq_close(link->control);
    if (link->context)
        zmq_ctx_term(link->context);
    for (size_t i = 0; i < link->out_count; i++)
        qp_out_free(link->outs[i]);
    for (size_t i = 0; i < link->in_count; i++)
        qp_in_free(link->ins[i]);
    qp_references_free(link->references);
    qp_pool_free(link->pool);
    while (link->first) {
        struct outgoing *message = link->first;
        link->first = message->next;
        msgpack_sbuffer_destroy(&message->data);
        free(message);
    }
    json_decref(link->config);
    qp_cleanup_close(&link->wake);
    qp_cleanup_close(&link->signals);
    pthread_mutex_destroy(&link->lock);
    pthread_cond_destroy(&link->changed);
    free(link);
}

int link_open(const struct qp_stage_desc *desc, const char *control, const char *instance, int replica,
              struct link **out, struct qp_error *err)
{
    struct link *link = calloc(1, sizeof *link);
    if (!link)
        return qp_fail_memory(err, sizeof *link, "a stage");
    link->desc = desc;
    link->instance = instance;
    link->replica = replica;
    link->wake = link->signals = -1;
    link->last = &link->first;
    qp_host_identity(link->host, sizeof link->host);
    pthread_mutex_init(&link->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&link->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    int r = open_all(link, control, err);
    if (r == 0 && pthread_create(&link->thread, NULL, link_thread, link) != 0)
        r = qp_fail(err, QP_ERR_SPACE, "cannot start a thread");
    if (r < 0) {
        free_all(link);
        return r;
    }
    *out = link;
    return 0;
}

void link_close(struct link *link)
{
    pthread_mutex_lock(&link->lock);
    link->quit = true;
    pthread_mutex_unlock(&link->lock);
    link_wake(link);
    pthread_join(link->thread, NULL);
    free_all(link);
}

/* Waits for a change, at most until `deadline` (0: none); the lock is held. Returns false when that has passed. */
static bool wait_until(struct link *link, double deadline)
{
    if (deadline == 0) {
        pthread_cond_wait(&link->changed, &link->lock);
        return true;
    }
    struct timespec t = {(time_t)deadline, (long)(1e9 * (deadline - (double)(time_t)deadline))};
    return pthread_cond_timedwait(&link->changed, &link->lock, &t) == 0;
}

static int failure(const struct link *link, struct qp_error *err)
{
    return link->error.code ? qp_fail(err, link->error.code, "%s", link->error.message) : 0;
}

/* How long to wait for a config, in seconds; 0: without limit. */
static double config_limit(void)
{
    const char *text = getenv(QP_CONFIG_VARIABLE);
    char *end = NULL;
    double seconds = text ? strtod(text, &end) : 0;
    return text && end != text && !*end && seconds >= 0 && seconds < 1e9 ? seconds : QP_CONFIG_SECONDS;
}

int link_wait_config(struct link *link, json_t **config, struct qp_error *err)
{
    double limit = config_limit(), deadline = limit > 0 ? qp_wall_seconds() + limit : 0;
    pthread_mutex_lock(&link->lock);
    while (!link->config && link->error.code == 0 && wait_until(link, deadline))
        ;
    int r = failure(link, err);
    if (r == 0 && !link->config)
        r = qp_fail(err, QP_ERR_STAGE,
                    "no config from the runner within %g seconds; " QP_CONFIG_VARIABLE
                    " in the environment sets another limit",
                    limit);
    if (r == 0)
        *config = json_incref(link->config);
    pthread_mutex_unlock(&link->lock);
    return r;
}

struct qp_pool *link_pool(const struct link *link)
{
    return link->pool;
}

uint64_t link_connected(const struct link *link)
{
    uint64_t ports = 0;
    for (size_t i = 0; i < link->in_count; i++)
        ports |= (uint64_t)1 << link->in_ports[i];
    return ports;
}

/* Unit n that comes back from downstream stands between units n and n + 1 of the other inputs. */
static bool is_sooner(const struct link *link, size_t i, size_t than)
{
    int64_t seq = qp_in_next(link->ins[i])->seq, other = qp_in_next(link->ins[than])->seq;
    return seq < other || (seq == other && !link->delayed[i] && link->delayed[than]);
}

/* The input whose unit is the first of those that have come; in_count when none has one. */
static size_t first_input(const struct link *link)
{
    size_t best = link->in_count;
    for (size_t i = 0; i < link->in_count; i++)
        if (qp_in_next(link->ins[i]) && (best == link->in_count || is_sooner(link, i, best)))
            best = i;
    return best;
}

/* Whether all that may still come on input i stands after the first unit of input `best`. */
static bool is_downstream(const struct link *link, size_t i, size_t best)
{
    int64_t taken = qp_in_taken(link->ins[i]), seq = qp_in_next(link->ins[best])->seq;
    return qp_in_ended(link->ins[i]) || taken >= seq || (taken == seq - 1 && link->delayed[i] && !link->delayed[best]);
}

/* The main thread waits for `what`, of unit `seq`, on an edge. */
static void note_wait(struct link *link, const char *what, const char *edge, int64_t seq)
{
    link->waits = what;
    link->on_edge = edge;
    link->for_seq = seq;
}

/* The input to take a unit from; -1 while that cannot be known, in_count when all have ended. */
static int choose_input(struct link *link)
{
    size_t best = first_input(link);
    for (size_t i = 0; i < link->in_count; i++) {
        bool waits = !qp_in_next(link->ins[i]);
        if (waits && !(best < link->in_count ? is_downstream(link, i, best) : qp_in_ended(link->ins[i]))) {
            note_wait(link, "unit", qp_in_edge(link->ins[i]), qp_in_taken(link->ins[i]) + 1);
            return -1;
        }
    }
    return (int)best;
}

int link_next(struct link *link, struct link_unit *next, struct qp_error *err)
{
    int input = -1;
    pthread_mutex_lock(&link->lock);
    while (link->error.code == 0 && (input = choose_input(link)) < 0)
        wait_until(link, 0);
    link->waits = NULL;
    link->moved++;
    int r = failure(link, err);
    *next = (struct link_unit){0};
    if (r == 0 && input < (int)link->in_count) {
        next->edge = (size_t)input;
        next->port = link->in_ports[input];
        next->unit = qp_in_take(link->ins[input], &next->receipt);
    }
    pthread_mutex_unlock(&link->lock);
    return r;
}

void link_processed(struct link *link, const struct link_unit *unit)
{
    pthread_mutex_lock(&link->lock);
    qp_in_processed(link->ins[unit->edge], unit->receipt);
    link_sample(link);
    pthread_mutex_unlock(&link->lock);
    qp_receipt_release(unit->receipt);
    link_wake(link);
}

void link_abandon(struct link *link, const struct link_unit *unit, const struct qp_error *err)
{
    pthread_mutex_lock(&link->lock);
    link_fail(link, err);
    pthread_mutex_unlock(&link->lock);
    qp_receipt_release(unit->receipt);
}

/* The index of an output port with units that are not acknowledged; out_count when there is none. */
static size_t first_unacknowledged(const struct link *link)
{
    size_t i = 0;
    while (i < link->out_count && qp_out_empty(link->outs[i]))
        i++;
    return i;
}

static bool all_acknowledged(const struct link *link)
{
    return first_unacknowledged(link) == link->out_count;
}

/* Whether a block (-1: what is none) fits into what may be on its way, from the first one that is not acknowledged. */
static bool is_within_blocks(const struct link *link, size_t port, int64_t block)
{
    int64_t first = qp_out_first_block(link->outs[port]);
    return link->most_blocks == 0 || block < 0 || first < 0 || block - first < link->most_blocks;
}

static bool has_memory(const struct link *link)
{
    return qp_pool_in_use(link->pool) <= link->own_budget || all_acknowledged(link);
}

/* One unit a port may wait to be sent, so that the next can be computed meanwhile. */
static bool has_space(const struct link *link, size_t port, int64_t block)
{
    return qp_out_sent(link->outs[port]) && is_within_blocks(link, port, block) && has_memory(link);
}

/* A unit for `port` waits for credit of its consumer, for the end of an earlier block, or for memory that
 * unacknowledged units hold. */
static void note_space(struct link *link, size_t port, int64_t block)
{
    const char *edge = "", *what = !qp_out_sent(link->outs[port])         ? "credit"
                                   : !is_within_blocks(link, port, block) ? "acknowledgement"
                                                                          : "memory";
    int64_t seq = 0;
    qp_out_first(link->outs[port], &edge, &seq);
    note_wait(link, what, edge, seq);
}

/* Waits for space; the lock is held. Meanwhile the stage is not busy. */
static void wait_for_space(struct link *link, size_t port, int64_t block)
{
    double start = qp_wall_seconds();
    int64_t unit = link->unit;
    queue_busy(link, -1);
    link_wake(link);
    while (link->error.code == 0 && !has_space(link, port, block)) {
        note_space(link, port, block);
        wait_until(link, 0);
    }
    link->waits = NULL;
    link->moved++;
    queue_busy(link, unit);
    link->waited += qp_wall_seconds() - start;
}

/* A stage that makes blocks does not begin with one that may not be on its way yet. */
static void await_next(struct link *link, size_t port, int64_t block)
{
    if (link->in_count == 0 && block >= 0 && link->error.code == 0 && !is_within_blocks(link, port, block + 1))
        wait_for_space(link, port, block + 1);
}

int link_emit(struct link *link, size_t port, struct qp_unit *unit, struct qp_receipt *origin, struct qp_error *err)
{
    int64_t block = qp_unit_block(unit);
    pthread_mutex_lock(&link->lock);
    if (link->error.code == 0 && !has_space(link, port, block))
        wait_for_space(link, port, block);
    link_sample(link);
    int r = failure(link, err);
    if (r == 0 && link->ended[port])
        r = qp_fail(err, QP_ERR_STAGE, "unit %lld emitted after the end unit", (long long)unit->seq);
    if (r < 0) {
        qp_unit_free(unit);
    } else {
        link->ended[port] = unit->kind == QP_UNIT_END;
        r = qp_out_push(link->outs[port], unit, origin, err);
        link_wake(link);
        await_next(link, port, block);
    }
    pthread_mutex_unlock(&link->lock);
    return r;
}

int link_drain(struct link *link, struct qp_error *err)
{
    int r = 0;
    pthread_mutex_lock(&link->lock);
    for (size_t i = 0; r == 0 && i < link->out_count; i++)
        if (link->has_edges[i] && !link->ended[i])
            r = qp_fail(err, QP_ERR_STAGE, "the stage finished without an end unit for its output port %s",
                        link->desc->outputs[i].name);
    while (r == 0 && link->error.code == 0 && !all_acknowledged(link)) {
        const char *edge = "";
        int64_t seq = 0;
        qp_out_first(link->outs[first_unacknowledged(link)], &edge, &seq);
        note_wait(link, "acknowledgement", edge, seq);
        wait_until(link, 0);
    }
    link->waits = NULL;
    if (r == 0)
        r = failure(link, err);
    pthread_mutex_unlock(&link->lock);
    return r;
}

void link_wait_bye(struct link *link)
{
    double deadline = qp_wall_seconds() + QP_BYE_SECONDS;
    pthread_mutex_lock(&link->lock);
    while (!link->bye && link->error.code == 0 && wait_until(link, deadline))
        ;
    pthread_mutex_unlock(&link->lock);
}

int link_send(struct link *link, const char *kind, json_t *body, struct qp_error *err)
{
    struct outgoing *message = NULL;
    int r = pack(kind, body, &message, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&link->lock);
    queue(link, message);
    pthread_mutex_unlock(&link->lock);
    link_wake(link);
    return 0;
}

void link_send_busy(struct link *link, int64_t unit)
{
    pthread_mutex_lock(&link->lock);
    queue_busy(link, unit);
    pthread_mutex_unlock(&link->lock);
    link_wake(link);
}

bool link_cancelled(const struct link *link)
{
    return atomic_load(&link->cancelled);
}

int link_cause(struct link *link, int r, struct qp_error *err)
{
    pthread_mutex_lock(&link->lock);
    int cause = failure(link, err);
    pthread_mutex_unlock(&link->lock);
    return cause < 0 ? cause : r;
}

json_t *link_statistics(struct link *link)
{
    json_t *records = json_array();
    pthread_mutex_lock(&link->lock);
    for (size_t i = 0; i < link->out_count; i++)
        qp_out_statistics(link->outs[i], records);
    for (size_t i = 0; i < link->in_count; i++)
        qp_in_statistics(link->ins[i], records);
    pthread_mutex_unlock(&link->lock);
    return records;
}

double link_waited(const struct link *link)
{
    return link->waited;
}

int64_t link_peak_anonymous(struct link *link)
{
    pthread_mutex_lock(&link->lock);
    link_sample(link);
    int64_t peak = link->peak_anonymous;
    pthread_mutex_unlock(&link->lock);
    return peak;
}
