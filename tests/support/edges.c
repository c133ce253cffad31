#include "tests/support/edges.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/control.h"
#include "libstage/wire/socket.h"

#define PATIENCE_MS 20000

void edges_open(struct edges *edges, const char *endpoint, const char *root)
{
    struct qp_error err = {0};
    char host[QP_HOST_SIZE];
    const char *roots[] = {root, NULL};
    *edges = (struct edges){.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    qp_host_identity(host, sizeof host);
    cr_assert_eq(qp_context_new(&edges->context, &err), 0, "%s", err.message);
    cr_assert_eq(qp_out_open(edges->context, endpoint, &edges->out, &err), 0, "%s", err.message);
    cr_assert_eq(qp_out_configure(edges->out, EDGES_RUN, host, &err), 0);
    cr_assert_eq(qp_out_add_edge(edges->out, "a->b", &err), 0);
    cr_assert_eq(qp_references_new(EDGES_RUN, roots, &edges->references, &err), 0);
}

static void drop_consumer(struct edges *edges)
{
    if (!edges->in)
        return;
    qp_in_close_socket(edges->in);
    qp_in_free(edges->in);
    edges->in = NULL;
}

static void dial(struct edges *edges, bool same_host, int64_t window_units, int64_t window_bytes, bool discards)
{
    struct qp_error err = {0};
    char host[QP_HOST_SIZE] = "another host";
    if (same_host)
        qp_host_identity(host, sizeof host);
    drop_consumer(edges);
    struct qp_in_config config = {.run = EDGES_RUN,
                                  .edge = "a->b",
                                  .instance = "b",
                                  .host = host,
                                  .endpoint = qp_out_endpoint(edges->out),
                                  .local = same_host,
                                  .discards = discards,
                                  .window_units = window_units,
                                  .window_bytes = window_bytes,
                                  .references = edges->references,
                                  .wake = edges->wake};
    cr_assert_eq(qp_in_open(edges->context, &config, &edges->in, &err), 0, "%s", err.message);
}

void edges_dial(struct edges *edges, bool same_host, int64_t window_units, int64_t window_bytes)
{
    dial(edges, same_host, window_units, window_bytes, false);
}

void edges_discard(struct edges *edges)
{
    dial(edges, true, 1, 1, true);
}

void edges_close(struct edges *edges)
{
    qp_out_close_socket(edges->out);
    if (edges->in)
        qp_in_close_socket(edges->in);
    zmq_ctx_term(edges->context);
    qp_out_free(edges->out);
    qp_in_free(edges->in);
    qp_references_free(edges->references);
    close(edges->wake);
}

static bool step(struct edges *edges)
{
    struct qp_error err;
    int sent = qp_out_poll(edges->out, &err);
    int received = sent >= 0 && edges->in ? qp_in_poll(edges->in, &err) : 0;
    if (sent < 0 || received < 0)
        edges->error = err;
    else if (!sent && !received)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return sent >= 0 && received >= 0;
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000L;
}

bool edges_poll(struct edges *edges, bool (*done)(const struct edges *))
{
    long until = now_ms() + PATIENCE_MS;
    while (!done(edges) && now_ms() < until)
        if (!step(edges))
            return false;
    return done(edges);
}

void edges_poll_for(struct edges *edges, int milliseconds)
{
    for (long until = now_ms() + milliseconds; now_ms() < until;)
        step(edges);
}

static const char *awaited_key;
static long awaited_value;

static bool is_reached(const struct edges *edges)
{
    return edges_count(edges, true, awaited_key) >= awaited_value;
}

bool edges_stay_at(struct edges *edges, const char *key, long value)
{
    awaited_key = key;
    awaited_value = value;
    if (!edges_poll(edges, is_reached))
        return false;
    edges_poll_for(edges, 50);
    return edges_count(edges, true, key) == value;
}

bool edges_has_unit(const struct edges *edges)
{
    return qp_in_next(edges->in) != NULL;
}

bool edges_all_sent(const struct edges *edges)
{
    return qp_out_sent(edges->out);
}

bool edges_all_acknowledged(const struct edges *edges)
{
    return qp_out_empty(edges->out);
}

struct qp_unit *edges_take(struct edges *edges, int64_t seq)
{
    struct qp_receipt *receipt;
    cr_assert(edges_poll(edges, edges_has_unit), "unit %lld: %s", (long long)seq, edges->error.message);
    struct qp_unit *unit = qp_in_take(edges->in, &receipt);
    cr_assert_eq(unit->seq, seq, "unit %lld came, expected %lld", (long long)unit->seq, (long long)seq);
    qp_in_processed(edges->in, receipt);
    qp_receipt_release(receipt);
    return unit;
}

long edges_count(const struct edges *edges, bool producer, const char *key)
{
    qp_auto_json json_t *records = json_array();
    if (producer)
        qp_out_statistics(edges->out, records);
    else
        qp_in_statistics(edges->in, records);
    return (long)json_integer_value(json_object_get(json_array_get(records, 0), key));
}

struct qp_unit *edges_unit(enum qp_unit_kind kind, int64_t seq, size_t size, struct qp_storage *storage)
{
    struct qp_unit *unit;
    struct qp_tensor *tensor;
    int64_t shape[] = {(int64_t)size};
    cr_assert_eq(qp_unit_new(kind, seq, &unit, NULL), 0);
    json_object_set_new(unit->attrs, "name", json_pack("{s:I, s:[f]}", "seq", (json_int_t)seq, "values", 0.5));
    if (storage)
        cr_assert_eq(qp_tensor_view("t", QP_U8, 1, shape, (struct qp_place){storage, 0}, &tensor, NULL), 0);
    else
        cr_assert_eq(qp_tensor_new("t", QP_U8, 1, shape, &tensor, NULL), 0);
    for (size_t i = 0; i < size && tensor->storage->where != QP_WHERE_FILE; i++)
        ((unsigned char *)tensor->data)[i] = (unsigned char)(i + (size_t)seq);
    cr_assert_eq(qp_unit_put(unit, tensor, NULL), 0);
    return unit;
}

bool edges_intact(const struct qp_unit *unit, size_t size)
{
    const struct qp_tensor *tensor = qp_unit_find(unit, "t");
    if (!tensor || tensor->bytes != size || tensor->rank != 1)
        return false;
    for (size_t i = 0; i < size; i++)
        if (((unsigned char *)tensor->data)[i] != (unsigned char)(i + (size_t)unit->seq))
            return false;
    return json_integer_value(json_object_get(json_object_get(unit->attrs, "name"), "seq")) == unit->seq;
}
