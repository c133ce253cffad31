/* Edges: what arrives, what it costs, and what is refused. */
#include <criterion/criterion.h>
#include <string.h>
#include <zmq.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/wire/control.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"
#include "tests/support/edges.h"
#include "tests/support/scratch.h"

#define SOME ((size_t)100 << 10) /* bytes that are worth a reference */
#define WINDOW ((int64_t)64 << 20)

static struct edges edges;

static void setup(void)
{
    scratch_make();
    qp_auto_free char *endpoint = qp_format("ipc://%s", scratch("port"));
    edges_open(&edges, endpoint, scratch(""));
}

static void teardown(void)
{
    edges_close(&edges);
    scratch_drop();
}

TestSuite(edge, .init = setup, .fini = teardown, .timeout = 60);

static void push(struct qp_unit *unit)
{
    struct qp_error err;
    cr_assert_eq(qp_out_push(edges.out, unit, NULL, &err), 0, "%s", err.message);
}

static void expect_end(int64_t seq)
{
    qp_unit_free(edges_take(&edges, seq));
    cr_expect(qp_in_ended(edges.in));
    cr_expect(edges_poll(&edges, edges_all_acknowledged));
}

Test(edge, inline_units_arrive_whole)
{
    static const size_t sizes[] = {0, 1, 32 << 10, 1 << 20, (1 << 20) + 1, 5 << 20};
    const size_t count = sizeof sizes / sizeof sizes[0];
    edges_dial(&edges, false, 3, WINDOW);
    for (size_t i = 0; i < count; i++)
        push(edges_unit(QP_UNIT_BLOCK, (int64_t)i, sizes[i], NULL));
    push(edges_unit(QP_UNIT_END, (int64_t)count, 0, NULL));
    long bytes = 0;
    for (size_t i = 0; i < count; i++) {
        qp_auto_unit struct qp_unit *unit = edges_take(&edges, (int64_t)i);
        cr_expect(edges_intact(unit, sizes[i]), "%zu bytes", sizes[i]);
        bytes += (long)sizes[i];
    }
    expect_end((int64_t)count);
    cr_expect_eq(edges_count(&edges, true, "sent"), (long)count + 1);
    cr_expect_eq(edges_count(&edges, true, "acknowledged"), (long)count + 1);
    cr_expect_eq(edges_count(&edges, true, "bytes_inline"), bytes);
    cr_expect_eq(edges_count(&edges, true, "bytes_by_reference"), 0);
    cr_expect_eq(edges_count(&edges, false, "received"), (long)count + 1);
}

Test(edge, shared_memory_is_not_copied_and_acknowledged_when_let_go)
{
    struct qp_storage *storage;
    cr_assert_eq(qp_storage_create_shm("/qp-" EDGES_RUN "-1-0", SOME, &storage, NULL), 0);
    edges_dial(&edges, true, 3, WINDOW);
    push(edges_unit(QP_UNIT_BLOCK, 1, SOME, storage));
    struct qp_unit *unit = edges_take(&edges, 1);
    cr_expect(edges_intact(unit, SOME));
    ((unsigned char *)storage->base)[7] = 99; /* seen on the other side: it is the same memory */
    cr_expect_eq(((unsigned char *)qp_unit_find(unit, "t")->data)[7], 99);
    edges_poll_for(&edges, 50);
    cr_expect_not(edges_all_acknowledged(&edges), "acknowledged while its memory is in use");
    qp_unit_free(unit);
    cr_expect(edges_poll(&edges, edges_all_acknowledged));
    cr_expect_eq(edges_count(&edges, true, "bytes_by_reference"), (long)SOME);
    qp_storage_unref(storage);
}

/* Pushes unit 1 with two tensors in shared memory, "t" and "late", whose storages the caller keeps as well. `number` is
 * the test's own. */
static void push_two(int number, struct qp_storage *storages[2])
{
    struct qp_tensor *late;
    int64_t shape[] = {(int64_t)SOME};
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "/qp-" EDGES_RUN "-9%d-%d", number, i);
        cr_assert_eq(qp_storage_create_shm(name, SOME, &storages[i], NULL), 0);
    }
    struct qp_unit *unit = edges_unit(QP_UNIT_BLOCK, 1, SOME, storages[0]);
    cr_assert_eq(qp_tensor_view("late", QP_U8, 1, shape, (struct qp_place){storages[1], 0}, &late, NULL), 0);
    cr_assert_eq(qp_unit_put(unit, late, NULL), 0);
    push(unit);
}

static struct qp_storage *watched;

static bool is_dropped(const struct edges *unused)
{
    (void)unused;
    return atomic_load(&watched->references) == 1;
}

Test(edge, a_tensor_that_nobody_uses_any_more_is_freed_before_its_unit_is_acknowledged)
{
    struct qp_storage *storages[2];
    edges_dial(&edges, true, 3, WINDOW);
    push_two(1, storages);
    struct qp_unit *unit = edges_take(&edges, 1);
    watched = storages[1];
    cr_expect_not(is_dropped(&edges));
    qp_unit_remove(unit, "late");
    cr_expect(edges_poll(&edges, is_dropped));
    cr_expect_not(edges_all_acknowledged(&edges));
    watched = storages[0];
    cr_expect_not(is_dropped(&edges), "the other tensor is in use");
    qp_unit_free(unit);
    cr_expect(edges_poll(&edges, edges_all_acknowledged));
    cr_expect(is_dropped(&edges));
    for (int i = 0; i < 2; i++)
        qp_storage_unref(storages[i]);
}

/* A second consumer of the same units holds what the first one has released. */
Test(edge, a_tensor_lives_for_all_edges_of_its_port)
{
    struct qp_storage *storages[2];
    cr_assert_eq(qp_out_add_edge(edges.out, "a->c", NULL), 0);
    edges_dial(&edges, true, 3, WINDOW);
    push_two(2, storages);
    struct qp_unit *unit = edges_take(&edges, 1);
    watched = storages[1];
    qp_unit_remove(unit, "late");
    edges_poll_for(&edges, 50);
    cr_expect_not(is_dropped(&edges));
    qp_unit_free(unit);
    edges_poll_for(&edges, 50);
    cr_expect_not(is_dropped(&edges), "acknowledged by one of two");
    for (int i = 0; i < 2; i++)
        qp_storage_unref(storages[i]);
}

Test(edge, what_was_released_cannot_be_sent_to_a_successor)
{
    struct qp_storage *storages[2];
    edges_dial(&edges, true, 3, WINDOW);
    push_two(3, storages);
    struct qp_unit *unit = edges_take(&edges, 1);
    watched = storages[1];
    qp_unit_remove(unit, "late");
    cr_expect(edges_poll(&edges, is_dropped));
    qp_unit_free(unit); /* it dies before it says so */
    edges_dial(&edges, true, 3, WINDOW);
    cr_expect_not(edges_poll(&edges, edges_all_acknowledged));
    cr_expect(strstr(edges.error.message, "edge a->b: unit 1 cannot be sent again"), "%s", edges.error.message);
    for (int i = 0; i < 2; i++)
        qp_storage_unref(storages[i]);
}

/* The runner, in the place of a consumer whose branch has ended. */
Test(edge, a_successor_that_discards_needs_nothing_again)
{
    struct qp_storage *storages[2];
    edges_dial(&edges, true, 3, WINDOW);
    push_two(4, storages);
    struct qp_unit *unit = edges_take(&edges, 1);
    watched = storages[1];
    qp_unit_remove(unit, "late");
    cr_expect(edges_poll(&edges, is_dropped));
    qp_unit_free(unit);
    edges_discard(&edges);
    cr_expect(edges_poll(&edges, edges_all_acknowledged), "%s", edges.error.message);
    push(edges_unit(QP_UNIT_BLOCK, 2, 10, NULL));
    cr_expect(edges_poll(&edges, edges_all_acknowledged), "%s", edges.error.message);
    cr_expect_eq(edges_count(&edges, true, "sent"), edges_count(&edges, true, "acknowledged"));
    cr_expect_eq(edges_count(&edges, true, "resent"), 0);
    for (int i = 0; i < 2; i++)
        qp_storage_unref(storages[i]);
}

Test(edge, small_tensors_travel_inline)
{
    struct qp_storage *storage;
    cr_assert_eq(qp_storage_create_shm("/qp-" EDGES_RUN "-1-1", 100, &storage, NULL), 0);
    edges_dial(&edges, true, 3, WINDOW);
    push(edges_unit(QP_UNIT_BLOCK, 1, 100, storage));
    qp_unit_free(edges_take(&edges, 1));
    cr_expect_eq(edges_count(&edges, true, "bytes_inline"), 100);
    qp_storage_unref(storage);
    edges_poll(&edges, edges_all_acknowledged);
}

static struct qp_storage *file_of(const char *path, size_t size)
{
    struct qp_storage *storage;
    qp_auto_free unsigned char *bytes = malloc(size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(i + 1);
    cr_assert_eq(qp_write_file(path, bytes, size, NULL), 0);
    cr_assert_eq(qp_storage_map(path, &storage, NULL), 0);
    return storage;
}

Test(edge, files_below_a_root_are_referenced_and_cost_nothing)
{
    struct qp_storage *storage = file_of(scratch("weights"), SOME);
    edges_dial(&edges, true, 3, 1);
    push(edges_unit(QP_UNIT_BLOCK, 1, SOME, storage));
    push(edges_unit(QP_UNIT_BLOCK, 2, SOME, storage));
    cr_expect(edges_poll(&edges, edges_all_sent));
    struct qp_unit *first = edges_take(&edges, 1), *second = edges_take(&edges, 2);
    cr_expect(edges_intact(first, SOME));
    cr_expect_eq(qp_unit_find(first, "t")->data, qp_unit_find(second, "t")->data, "a file is mapped once");
    cr_expect(edges_poll(&edges, edges_all_acknowledged), "a file's memory needs no release");
    qp_unit_free(first);
    qp_unit_free(second);
    qp_storage_unref(storage);
}

static void expect_failure(const char *why)
{
    cr_assert_not(edges_poll(&edges, edges_has_unit));
    cr_expect(strstr(edges.error.message, why), "expected '%s' in '%s'", why, edges.error.message);
    cr_expect_eq(edges.error.code, QP_ERR_STAGE);
}

Test(edge, files_outside_the_roots_are_refused)
{
    struct qp_storage *storage;
    cr_assert_eq(qp_storage_map("/proc/self/exe", &storage, NULL), 0);
    edges_dial(&edges, true, 3, WINDOW);
    push(edges_unit(QP_UNIT_BLOCK, 1, SOME, storage));
    expect_failure("refused");
    qp_storage_unref(storage);
}

Test(edge, links_do_not_lead_out_of_the_roots)
{
    struct qp_storage *storage;
    cr_assert_eq(symlink("/proc/self/exe", scratch("weights")), 0);
    cr_assert_eq(qp_storage_map(scratch("weights"), &storage, NULL), 0);
    edges_dial(&edges, true, 3, WINDOW);
    push(edges_unit(QP_UNIT_BLOCK, 1, SOME, storage));
    expect_failure("refused");
    qp_storage_unref(storage);
}

Test(edge, shared_memory_of_others_is_refused)
{
    struct qp_storage *storage;
    cr_assert_eq(qp_storage_create_shm("/qp-otherrun-1-0", SOME, &storage, NULL), 0);
    edges_dial(&edges, true, 3, WINDOW);
    push(edges_unit(QP_UNIT_BLOCK, 1, SOME, storage));
    expect_failure("refused");
    qp_storage_unref(storage);
}

Test(edge, references_past_the_end_are_refused)
{
    struct qp_storage *storage = file_of(scratch("weights"), SOME);
    struct qp_unit *unit = edges_unit(QP_UNIT_BLOCK, 1, SOME, storage);
    cr_assert_eq(truncate(scratch("weights"), 4096), 0);
    edges_dial(&edges, true, 3, WINDOW);
    push(unit);
    expect_failure("lie outside");
    qp_storage_unref(storage);
}

Test(edge, credit_bounds_what_is_on_the_way)
{
    edges_dial(&edges, false, 3, 2 * SOME);
    for (int64_t seq = 0; seq < 6; seq++)
        push(edges_unit(QP_UNIT_BLOCK, seq, SOME, NULL));
    cr_expect(edges_stay_at(&edges, "sent", 2), "bytes for two units were granted");
    qp_unit_free(edges_take(&edges, 0));
    cr_expect(edges_stay_at(&edges, "sent", 3));
    for (int64_t seq = 1; seq < 6; seq++)
        qp_unit_free(edges_take(&edges, seq));
    cr_expect(edges_poll(&edges, edges_all_acknowledged));
}

Test(edge, units_are_credit_as_well)
{
    edges_dial(&edges, false, 3, WINDOW);
    for (int64_t seq = 0; seq < 6; seq++)
        push(edges_unit(QP_UNIT_BLOCK, seq, 1, NULL));
    cr_expect(edges_stay_at(&edges, "sent", 3));
}

Test(edge, a_unit_larger_than_the_window_passes_alone)
{
    edges_dial(&edges, false, 3, 1000);
    push(edges_unit(QP_UNIT_BLOCK, 0, 10, NULL));
    push(edges_unit(QP_UNIT_BLOCK, 1, 5000, NULL));
    push(edges_unit(QP_UNIT_BLOCK, 2, 10, NULL));
    cr_expect(edges_stay_at(&edges, "sent", 1));
    qp_unit_free(edges_take(&edges, 0));
    cr_expect(edges_stay_at(&edges, "sent", 2));
    qp_unit_free(edges_take(&edges, 1));
    qp_unit_free(edges_take(&edges, 2));
    cr_expect(edges_poll(&edges, edges_all_acknowledged));
}

Test(edge, a_new_consumer_gets_what_is_not_acknowledged)
{
    edges_dial(&edges, false, 3, WINDOW);
    for (int64_t seq = 0; seq < 4; seq++)
        push(edges_unit(QP_UNIT_BLOCK, seq, SOME, NULL));
    qp_unit_free(edges_take(&edges, 0));
    cr_expect(edges_stay_at(&edges, "acknowledged", 1));
    edges_dial(&edges, false, 3, WINDOW);
    push(edges_unit(QP_UNIT_END, 4, 0, NULL));
    for (int64_t seq = 1; seq < 4; seq++) {
        qp_auto_unit struct qp_unit *unit = edges_take(&edges, seq);
        cr_expect(edges_intact(unit, SOME));
    }
    expect_end(4);
    cr_expect_eq(edges_count(&edges, true, "sent"), 5);
    cr_expect_geq(edges_count(&edges, true, "resent"), 2);
}

Test(edge, seq_has_to_grow)
{
    struct qp_error err;
    push(edges_unit(QP_UNIT_BLOCK, 3, 1, NULL));
    cr_expect_eq(qp_out_push(edges.out, edges_unit(QP_UNIT_BLOCK, 3, 1, NULL), NULL, &err), QP_ERR_STAGE);
}

/* A layer of many experts: its header is longer than a message may be. */
Test(edge, long_headers_come_in_parts)
{
    enum { TENSORS = 20000 };
    struct qp_error err;
    struct qp_unit *unit = edges_unit(QP_UNIT_MODEL, 0, 1, NULL);
    for (int i = 0; i < TENSORS; i++) {
        char name[64];
        struct qp_tensor *t;
        snprintf(name, sizeof name, "model.layers.0.mlp.experts.%d.up_proj.weight", i);
        cr_assert_eq(qp_tensor_new(name, QP_I32, 1, (int64_t[]){1}, &t, &err), 0);
        memcpy(t->data, &i, sizeof i);
        cr_assert_eq(qp_unit_put(unit, t, &err), 0);
    }
    size_t count = unit->count;
    push(unit);
    push(edges_unit(QP_UNIT_BLOCK, 1, 7, NULL));
    edges_dial(&edges, true, 3, 1 << 20);
    struct qp_unit *came = edges_take(&edges, 0);
    cr_assert_eq(came->count, count);
    for (int i = 0; i < TENSORS; i += 199) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.0.mlp.experts.%d.up_proj.weight", i);
        const struct qp_tensor *t = qp_unit_find(came, name);
        cr_assert(t && memcmp(t->data, &i, sizeof i) == 0, "%s", name);
    }
    qp_unit_free(came);
    qp_unit_free(edges_take(&edges, 1));
}

Test(edge, attributes_have_a_limit)
{
    struct qp_error err;
    struct qp_unit *unit = edges_unit(QP_UNIT_MODEL, 0, 1, NULL);
    qp_auto_free char *text = malloc(QP_UNIT_HEADER_LIMIT + 1);
    memset(text, 'a', QP_UNIT_HEADER_LIMIT);
    text[QP_UNIT_HEADER_LIMIT] = '\0';
    json_object_set_new(unit->attrs, "config", json_string(text));
    cr_expect_eq(qp_out_push(edges.out, unit, NULL, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "make its attributes smaller"), "%s", err.message);
}

Test(edge, works_over_tcp)
{
    edges_close(&edges);
    edges_open(&edges, "tcp://127.0.0.1:*", scratch(""));
    cr_assert(strncmp(qp_out_endpoint(edges.out), "tcp://127.0.0.1:", 16) == 0);
    edges_dial(&edges, false, 3, WINDOW);
    for (int64_t seq = 0; seq < 5; seq++)
        push(edges_unit(QP_UNIT_BLOCK, seq, 3 << 20, NULL));
    push(edges_unit(QP_UNIT_END, 5, 0, NULL));
    for (int64_t seq = 0; seq < 5; seq++) {
        qp_auto_unit struct qp_unit *unit = edges_take(&edges, seq);
        cr_expect(edges_intact(unit, 3 << 20));
    }
    expect_end(5);
}
