/* The thread that owns the sockets. */
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "kernels/failure.h"
#include "libstage/base/cleanup.h"
#include "libstage/stage/link_internal.h"
#include "libstage/wire/control_client.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"
#include "libstage/wire/times.h"

void link_wake(struct link *link)
{
    eventfd_write(link->wake, 1);
}

void link_fail(struct link *link, const struct qp_error *err)
{
    if (link->error.code == 0)
        link->error = *err;
    atomic_store(&link->cancelled, true);
    qp_failure_set(QP_FAILURE_STOPPED, "%s", link->error.message); /* nothing that is computed now is of use */
    pthread_cond_broadcast(&link->changed);
}

static void interrupt(struct link *link, const char *why)
{
    struct qp_error err;
    qp_fail(&err, QP_ERR_INTERRUPTED, "%s", why);
    link_fail(link, &err);
    if (link->stopped_at == 0)
        link->stopped_at = qp_wall_seconds();
}

/* The main thread is in the middle of an operation that may last: its stage is worth nothing any more, and its runner
 * may be gone, so that nobody else would end it. */
static void end_process(struct link *link)
{
    qp_auto_json json_t *body =
        json_pack("{s:i, s:s, s:n}", "code", -QP_ERR_INTERRUPTED, "message", link->error.message, "seq");
    if (body)
        qp_client_send(link->control, "failed", body, NULL);
    if (link->pool)
        qp_pool_unlink(link->pool);
    usleep(QP_SEND_US);
    _exit(-QP_ERR_INTERRUPTED);
}

int64_t link_sample(struct link *link)
{
    struct qp_usage usage;
    qp_usage_read(&usage);
    int64_t own = usage.anonymous + (link->pool ? (int64_t)qp_pool_size(link->pool) : 0);
    if (own > link->peak_anonymous)
        link->peak_anonymous = own;
    return usage.rss;
}

static void handle_command(struct link *link, const char *kind, json_t *body)
{
    if (strcmp(kind, "stop") == 0)
        interrupt(link, "stopped by the runner");
    else if (strcmp(kind, "bye") == 0)
        link->bye = true;
    else if (strcmp(kind, "threads") == 0)
        qp_kernels_ask_threads((int)json_integer_value(json_object_get(body, "threads")));
    else if (!link->config)
        link->config = json_incref(body);
}

static int listen_to_runner(struct link *link, struct qp_error *err)
{
    for (;;) {
        const char *kind;
        qp_auto_json json_t *body = NULL;
        int r = qp_client_receive(link->control, &kind, &body, err);
        if (r <= 0)
            return r < 0 ? qp_wrap(err, "from the runner") : 0;
        handle_command(link, kind, body);
        pthread_cond_broadcast(&link->changed);
    }
}

static void talk_to_runner(struct link *link)
{
    while (link->first) {
        struct outgoing *message = link->first;
        link->first = message->next;
        qp_frame_send(link->control, NULL, message->data.data, message->data.size, false, NULL);
        msgpack_sbuffer_destroy(&message->data);
        free(message);
    }
    link->last = &link->first;
}

/* Strangers at a port are no reason to stop, but somebody should know. */
static void tell_rejected(struct link *link, size_t i)
{
    const char *why;
    long rejected = qp_out_rejected(link->outs[i], &why);
    if (rejected == link->rejected[i])
        return;
    link->rejected[i] = rejected;
    qp_auto_json json_t *body =
        json_pack("{s:s, s:s, s:s}", "code", "refused-message", "where", link->desc->outputs[i].name, "message", why);
    if (body)
        qp_client_send(link->control, "warning", body, NULL);
}

static int serve_edges(struct link *link, struct qp_error *err)
{
    int happened = 0;
    bool local = false;
    for (size_t i = 0; i < link->out_count; i++) {
        int r = qp_out_poll(link->outs[i], err);
        if (r < 0)
            return r;
        happened |= r;
        local = local || qp_out_local(link->outs[i]);
        tell_rejected(link, i);
    }
    for (size_t i = 0; i < link->in_count; i++) {
        int r = qp_in_poll(link->ins[i], err);
        if (r < 0)
            return r;
        happened |= r;
    }
    if (link->connected)
        qp_pool_switch(link->pool, local);
    link->moved += happened;
    return happened;
}

/* One round with the lock held. Returns 1 when there may be more to do at once. */
static int step(struct link *link)
{
    struct qp_error err = {0};
    int r = listen_to_runner(link, &err);
    if (r == 0)
        talk_to_runner(link);
    if (r == 0 && link->connected && link->error.code == 0)
        r = serve_edges(link, &err);
    if (r < 0)
        link_fail(link, &err);
    pthread_cond_broadcast(&link->changed);
    return r > 0;
}

/* The runner finds from these whether the stages wait for each other. */
static void tell_wait(struct link *link)
{
    if (!link->waits)
        return;
    qp_auto_json json_t *body = json_pack("{s:s, s:s, s:I, s:I}", "edge", link->on_edge, "what", link->waits, "seq",
                                          (json_int_t)link->for_seq, "moved", (json_int_t)link->moved);
    if (body)
        qp_client_send(link->control, "waits", body, NULL);
}

static void send_heartbeat(struct link *link, double *last)
{
    int64_t rss = link_sample(link);
    double now = qp_wall_seconds();
    if (now - *last < QP_HEARTBEAT_SECONDS)
        return;
    *last = now;
    qp_auto_json json_t *body = json_pack("{s:I}", "rss_bytes", (json_int_t)rss);
    if (body)
        qp_client_send(link->control, "heartbeat", body, NULL);
    tell_wait(link);
}

/* What to wait for; the first is `wake`. The lock is held. */
static int list_items(const struct link *link, zmq_pollitem_t *items)
{
    int count = 0;
    items[count++] = (zmq_pollitem_t){.fd = link->wake, .events = ZMQ_POLLIN};
    items[count++] = (zmq_pollitem_t){.socket = link->control, .events = ZMQ_POLLIN};
    if (link->signals >= 0)
        items[count++] = (zmq_pollitem_t){.fd = link->signals, .events = ZMQ_POLLIN};
    bool edges = link->connected && link->error.code == 0;
    for (size_t i = 0; edges && i < link->out_count; i++)
        items[count++] = (zmq_pollitem_t){.socket = qp_out_socket(link->outs[i]), .events = ZMQ_POLLIN};
    for (size_t i = 0; edges && i < link->in_count; i++)
        items[count++] = (zmq_pollitem_t){.socket = qp_in_socket(link->ins[i]), .events = ZMQ_POLLIN};
    return count;
}

static void handle_messages(struct link *link, const zmq_pollitem_t *items)
{
    eventfd_t ignored;
    sigset_t set;
    const struct timespec at_once = {0};
    if (items[0].revents)
        eventfd_read(link->wake, &ignored);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    int signal = sigtimedwait(&set, NULL, &at_once); /* the descriptor only wakes */
    if (signal > 0)
        interrupt(link, signal == SIGINT ? "interrupted by SIGINT" : "interrupted by SIGTERM");
}

void *link_thread(void *argument)
{
    struct link *link = argument;
    double last_heartbeat = 0;
    pthread_mutex_lock(&link->lock);
    bool busy = true;
    while (!link->quit) {
        zmq_pollitem_t items[3 + 2 * LINK_MOST];
        int count = list_items(link, items), pause = link->unit >= 0 ? QP_BUSY_SAMPLE_MS : QP_SAMPLE_MS;
        pthread_mutex_unlock(&link->lock);
        zmq_poll(items, count, busy ? 0 : pause);
        pthread_mutex_lock(&link->lock);
        handle_messages(link, items);
        busy = step(link);
        send_heartbeat(link, &last_heartbeat);
        if (link->stopped_at > 0 && qp_wall_seconds() - link->stopped_at > QP_STOP_SECONDS)
            end_process(link);
    }
    step(link);
    pthread_mutex_unlock(&link->lock);
    return NULL;
}
