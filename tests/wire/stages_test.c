/* Stages as processes: what a chain of them carries, holds, survives and leaves. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/edges.h"
#include "tests/support/fake_runner.h"
#include "tests/support/scratch.h"
#include "tests/support/traces.h"

/* Freed memory that AddressSanitizer keeps would count as held. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=4";
}

/* ---- the stages ---- */

struct state {
    int64_t blocks, bytes, delay_ms, fail_at, hold_at;
    bool heap, headless;
    const char *until;
    int64_t units;
};

static const struct qp_param params[] = {
    {"blocks", QP_PARAM_INT, "8", 0, 10000, NULL, "blocks to make", offsetof(struct state, blocks), NULL},
    {"bytes", QP_PARAM_INT, "100000", 0, 1e9, NULL, "bytes of a block", offsetof(struct state, bytes), NULL},
    {"delay_ms", QP_PARAM_INT, "0", 0, 10000, NULL, "time that a unit takes", offsetof(struct state, delay_ms), NULL},
    {"fail_at", QP_PARAM_INT, NULL, 0, 0, NULL, "seq of the unit to fail at", offsetof(struct state, fail_at), NULL},
    {"hold_at", QP_PARAM_INT, NULL, 0, 0, NULL, "seq of the unit to wait at", offsetof(struct state, hold_at), NULL},
    {"until", QP_PARAM_STRING, NULL, 0, 0, NULL, "the file that ends the wait", offsetof(struct state, until), NULL},
    {"heap", QP_PARAM_BOOL, "false", 0, 0, NULL, "make tensors on the heap", offsetof(struct state, heap), NULL},
    {"headless", QP_PARAM_BOOL, "false", 0, 0, NULL, "forget the end unit", offsetof(struct state, headless), NULL},
    {.name = NULL},
};

static const struct qp_port in_ports[] = {{.name = "in", .help = "units"}, {.name = NULL}};
static const struct qp_port out_ports[] = {{.name = "out", .help = "units"}, {.name = NULL}};

/* Blocks that were begun, that the last stage is through with, and the most that lay between; shared by the processes.
 * NULL: nobody counts. */
static struct tally {
    atomic_int made, checked, most;
} * tally;

static void tally_made(void)
{
    if (!tally)
        return;
    int between = atomic_fetch_add(&tally->made, 1) + 1 - atomic_load(&tally->checked);
    if (between > atomic_load(&tally->most)) /* one process makes blocks */
        atomic_store(&tally->most, between);
}

static void rest(const struct state *s)
{
    nanosleep(&(struct timespec){.tv_sec = s->delay_ms / 1000, .tv_nsec = s->delay_ms % 1000 * 1000000}, NULL);
}

/* Waits at one unit, until a file is there or the run is stopped. */
static int hold(struct qp_stage *stage, const struct state *s, int64_t seq, struct qp_error *err)
{
    while (seq == s->hold_at && !(s->until && access(s->until, F_OK) == 0)) {
        if (qp_stage_cancelled(stage))
            return qp_fail(err, QP_ERR_INTERRUPTED, "cancelled");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return 0;
}

static int make_block(struct qp_stage *stage, const struct state *s, int64_t seq, struct qp_error *err)
{
    struct qp_tensor *tensor;
    int64_t shape[] = {s->bytes};
    tally_made();
    int r = qp_allocate(s->heap ? NULL : qp_stage_allocator(stage), "t", QP_U8, 1, shape, &tensor, err);
    if (r < 0)
        return r;
    qp_auto_tensor struct qp_tensor *owned = tensor;
    (void)owned; /* clang counts no clean-up as a use */
    for (int64_t i = 0; i < s->bytes; i++)
        ((unsigned char *)tensor->data)[i] = (unsigned char)(i + seq);
    struct qp_unit *unit;
    r = qp_unit_new(QP_UNIT_BLOCK, seq, &unit, err);
    if (r < 0)
        return r;
    json_object_set_new(unit->attrs, "name", json_pack("{s:I}", "seq", (json_int_t)seq));
    qp_unit_put(unit, qp_tensor_ref(tensor), err);
    rest(s);
    return qp_stage_pass(stage, unit, hold(stage, s, seq, err), err);
}

static int emit_bare(struct qp_stage *stage, enum qp_unit_kind kind, int64_t seq, struct qp_error *err)
{
    struct qp_unit *unit;
    int r = qp_unit_new(kind, seq, &unit, err);
    return r < 0 ? r : qp_stage_emit(stage, "out", unit, err);
}

static int make(struct qp_stage *stage, void *state, struct qp_unit *none, struct qp_error *err)
{
    const struct state *s = state;
    cr_assert_null(none);
    int r = emit_bare(stage, QP_UNIT_MODEL, 0, err);
    for (int64_t i = 1; r == 0 && i <= s->blocks; i++)
        r = qp_stage_cancelled(stage) ? qp_fail(err, QP_ERR_INTERRUPTED, "cancelled") : make_block(stage, s, i, err);
    return r == 0 && !s->headless ? emit_bare(stage, QP_UNIT_END, s->blocks + 1, err) : r;
}

static int pass(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    const struct state *s = state;
    rest(s);
    int r = unit->seq == s->fail_at ? qp_fail(err, QP_ERR_INPUT, "unit %lld is not liked", (long long)unit->seq) : 0;
    return qp_stage_pass(stage, unit, r, err);
}

/* Checks each byte. */
static int check(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    qp_auto_unit struct qp_unit *owned = unit;
    (void)owned;
    rest(s);
    s->units++;
    if (hold(stage, s, unit->seq, err) < 0)
        return err->code;
    if (unit->kind == QP_UNIT_BLOCK && !edges_intact(unit, (size_t)s->bytes))
        return qp_fail(err, QP_ERR_INPUT, "unit %lld is not what was sent", (long long)unit->seq);
    qp_stage_progress(stage, unit->seq, unit->seq);
    if (unit->kind == QP_UNIT_END) {
        qp_stage_report(stage, "units", json_integer(s->units));
        qp_stage_warn(stage, "nothing", "t", "%d reasons", 0);
        qp_stage_log(stage, QP_INFO, "the end");
    }
    if (tally && unit->kind == QP_UNIT_BLOCK)
        atomic_fetch_add(&tally->checked, 1);
    return 0;
}

static const struct qp_stage_desc make_desc = {.name = "make",
                                               .version = 1,
                                               .state_size = sizeof(struct state),
                                               .params = params,
                                               .outputs = out_ports,
                                               .process = make};
static const struct qp_stage_desc pass_desc = {.name = "pass",
                                               .version = 1,
                                               .state_size = sizeof(struct state),
                                               .params = params,
                                               .inputs = in_ports,
                                               .outputs = out_ports,
                                               .process = pass};
static const struct qp_stage_desc check_desc = {.name = "check",
                                                .version = 1,
                                                .state_size = sizeof(struct state),
                                                .params = params,
                                                .inputs = in_ports,
                                                .process = check};

/* ---- the tests ---- */

#define MAKE(...)                                                   \
    {                                                               \
        .desc = &make_desc, .name = "make", .from = -1, __VA_ARGS__ \
    }
#define PASS(...)                                       \
    {                                                   \
        .desc = &pass_desc, .name = "pass", __VA_ARGS__ \
    }
#define CHECK(...)                       \
    {                                    \
        .desc = &check_desc, __VA_ARGS__ \
    }

TestSuite(stages, .init = scratch_make, .fini = scratch_drop, .timeout = 120);

static void run_all(struct fake_run *run)
{
    fake_run(run, scratch(""));
    cr_assert_not(run->timed_out, "the run does not end");
    for (int i = 0; i < run->count; i++)
        cr_expect_neq(run->stages[i].exit_code, 98, "%s leaks", run->stages[i].name);
    if (!run->replaced)
        cr_expect_eq(traces_segments(run->id), 0, "shared memory is left");
}

static void expect_success(const struct fake_run *run)
{
    for (int i = 0; i < run->count; i++) {
        const struct fake_stage *stage = &run->stages[i];
        if (stage->spare)
            continue;
        cr_expect_eq(stage->exit_code, 0, "%s exits with %d: %s", stage->name, stage->exit_code,
                     stage->failed ? json_string_value(json_object_get(stage->failed, "message")) : "");
        cr_expect_not_null(stage->done, "%s is not done", stage->name);
        cr_expect_eq(stage->ready, 1);
    }
}

static long measure(const struct fake_stage *stage, const char *key)
{
    return (long)json_number_value(json_object_get(json_object_get(stage->done, "stage"), key));
}

Test(stages, same_host_hops_copy_nothing)
{
    struct fake_stage list[] = {MAKE(), PASS(.from = 0), CHECK(.name = "check", .from = 1)};
    struct fake_run run = {.stages = list, .count = 3};
    run_all(&run);
    expect_success(&run);
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(fake_edge(&run, i, i, i + 1, "sent"), 10);
        cr_expect_eq(fake_edge(&run, i, i, i + 1, "acknowledged"), 10);
        cr_expect_eq(fake_edge(&run, i, i, i + 1, "resent"), 0);
        cr_expect_eq(fake_edge(&run, i, i, i + 1, "bytes_inline"), 0);
        cr_expect_eq(fake_edge(&run, i, i, i + 1, "bytes_by_reference"), 800000);
        cr_expect_eq(fake_edge(&run, i + 1, i, i + 1, "received"), 10);
        cr_expect_eq(fake_edge(&run, i + 1, i, i + 1, "duplicates"), 0);
    }
    cr_expect_eq(json_integer_value(json_object_get(list[2].report, "units")), 10);
    cr_expect_eq(list[2].warnings, 1);
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(measure(&list[i], "units"), 10);
        cr_expect_gt(measure(&list[i], "peak_rss_bytes"), 1 << 20);
    }
    cr_expect_eq(traces_entries(scratch("")), 3, "only the scratch folders are left");
    fake_drop(&run);
}

Test(stages, bytes_travel_over_tcp)
{
    struct fake_stage list[] = {MAKE(.params = "{\"heap\": true, \"bytes\": 3000001}"), PASS(.from = 0),
                                CHECK(.name = "check", .from = 1, .params = "{\"bytes\": 3000001}")};
    struct fake_run run = {.stages = list, .count = 3, .tcp = true};
    run_all(&run);
    expect_success(&run);
    cr_expect_eq(fake_edge(&run, 0, 0, 1, "bytes_inline"), 8 * 3000001);
    cr_expect_eq(strncmp(json_string_value(json_object_get(json_object_get(list[0].hello, "endpoints"), "out")),
                         "tcp://127.0.0.1:", 16),
                 0);
    fake_drop(&run);
}

/* What comes inline is written to shared memory where the next consumer is local, so the second hop is by reference. */
Test(stages, bytes_that_came_inline_go_on_by_reference)
{
    struct fake_stage list[] = {MAKE(.params = "{\"heap\": true}"), PASS(.from = 0), CHECK(.name = "check", .from = 1)};
    struct fake_run run = {.stages = list, .count = 3};
    run_all(&run);
    expect_success(&run);
    cr_expect_eq(fake_edge(&run, 0, 0, 1, "bytes_inline"), 800000);
    cr_expect_eq(fake_edge(&run, 1, 1, 2, "bytes_by_reference"), 800000);
    fake_drop(&run);
}

static void slow_consumer(const char *make_params)
{
    struct fake_stage list[] = {
        MAKE(.params = make_params, .memory = 16 << 20), PASS(.from = 0, .memory = 16 << 20),
        CHECK(.name = "check", .from = 1, .params = "{\"bytes\": 4000000, \"delay_ms\": 20}", .memory = 16 << 20)};
    struct fake_run run = {.stages = list, .count = 3};
    run_all(&run);
    expect_success(&run);
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(fake_edge(&run, i, i, i + 1, "acknowledged"), 62);
        cr_expect_lt(measure(&list[i], "peak_anonymous_bytes"), 120 << 20, "%s holds %ld bytes of 240000000",
                     list[i].name, measure(&list[i], "peak_anonymous_bytes"));
    }
    fake_drop(&run);
}

Test(stages, a_slow_consumer_bounds_shared_memory)
{
    slow_consumer("{\"bytes\": 4000000, \"blocks\": 60}");
}

Test(stages, a_slow_consumer_bounds_the_heap)
{
    slow_consumer("{\"bytes\": 4000000, \"blocks\": 60, \"heap\": true}");
}

static void end_the_wait_at_two_heartbeats(struct fake_run *run)
{
    if (run->stages[0].heartbeats >= 2)
        scratch_text("beaten", "");
}

/* The last stage waits at a block for as long as the first one beats twice. */
static void count_blocks(int64_t blocks, int most)
{
    qp_auto_free char *until = qp_format("{\"hold_at\": 3, \"until\": \"%s\"}", scratch("beaten"));
    struct fake_stage list[] = {MAKE(.params = "{\"blocks\": 20}"),
                                {.desc = &pass_desc, .name = "one", .from = 0},
                                {.desc = &pass_desc, .name = "two", .from = 1},
                                CHECK(.name = "check", .from = 2, .params = until)};
    struct fake_run run = {.stages = list, .count = 4, .blocks = blocks, .hook = end_the_wait_at_two_heartbeats};
    tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(tally, MAP_FAILED);
    run_all(&run);
    expect_success(&run);
    cr_expect_eq(atomic_load(&tally->checked), 20);
    cr_expect_leq(atomic_load(&tally->most), most, "%d blocks on their way", atomic_load(&tally->most));
    munmap(tally, sizeof *tally);
    tally = NULL;
    fake_drop(&run);
}

Test(stages, blocks_on_their_way_are_bounded_from_end_to_end)
{
    count_blocks(0, 3);
}

Test(stages, one_block_at_a_time_goes_all_the_way)
{
    count_blocks(1, 1);
}

static void kill_the_sink(struct fake_run *run)
{
    if (!run->replaced && run->stages[1].progress >= 3)
        fake_replace(run, 1, 2);
}

Test(stages, a_killed_consumer_is_replaced_and_nothing_is_lost)
{
    struct fake_stage list[] = {MAKE(.params = "{\"blocks\": 20}"),
                                CHECK(.name = "check", .from = 0, .params = "{\"hold_at\": 5}"),
                                CHECK(.name = "check", .from = 0, .params = "{\"delay_ms\": 5}", .spare = true)};
    struct fake_run run = {.stages = list, .count = 3, .hook = kill_the_sink};
    run_all(&run);
    cr_assert(run.replaced);
    expect_success(&run);
    cr_expect_eq(list[1].exit_code, 128 + SIGKILL);
    cr_expect_eq(fake_edge(&run, 0, 0, 1, "sent"), 22);
    cr_expect_eq(fake_edge(&run, 0, 0, 1, "acknowledged"), 22);
    cr_expect_geq(fake_edge(&run, 0, 0, 1, "resent"), 1);
    cr_expect_geq(fake_edge(&run, 2, 0, 1, "received"), 22 - 1 - list[1].progress - 3);
    cr_expect_eq(traces_segments(run.id), 0);
    fake_drop(&run);
}

Test(stages, a_copy_goes_to_each_consumer)
{
    struct fake_stage list[] = {MAKE(), CHECK(.from = 0, .name = "one"),
                                CHECK(.from = 0, .name = "two", .params = "{\"delay_ms\": 3}")};
    struct fake_run run = {.stages = list, .count = 3};
    run_all(&run);
    expect_success(&run);
    for (int i = 1; i < 3; i++)
        cr_expect_eq(json_integer_value(json_object_get(list[i].report, "units")), 10);
    fake_drop(&run);
}

static json_int_t failed_code(const struct fake_stage *stage)
{
    return json_integer_value(json_object_get(stage->failed, "code"));
}

Test(stages, a_failure_has_a_cause_and_stops_the_others)
{
    struct fake_stage list[] = {MAKE(.params = "{\"blocks\": 1000, \"bytes\": 100000}"),
                                PASS(.from = 0, .params = "{\"fail_at\": 3}"), CHECK(.name = "check", .from = 1)};
    struct fake_run run = {.stages = list, .count = 3};
    run_all(&run);
    cr_expect_eq(list[1].exit_code, 3);
    cr_expect_eq(failed_code(&list[1]), 3);
    cr_expect_eq(json_integer_value(json_object_get(list[1].failed, "seq")), 3);
    cr_expect_str_eq(json_string_value(json_object_get(list[1].failed, "message")), "unit 3 is not liked");
    cr_expect_eq(list[0].exit_code, 130);
    cr_expect_eq(list[2].exit_code, 130);
    fake_drop(&run);
}

static void terminate_the_source(struct fake_run *run)
{
    if (run->stages[1].progress >= 3)
        kill(run->stages[0].pid, SIGTERM);
}

Test(stages, a_signal_ends_cleanly)
{
    struct fake_stage list[] = {MAKE(.params = "{\"blocks\": 1000}"),
                                CHECK(.name = "check", .from = 0, .params = "{\"delay_ms\": 10}")};
    struct fake_run run = {.stages = list, .count = 2, .hook = terminate_the_source};
    run_all(&run);
    cr_expect_eq(list[0].exit_code, 130);
    cr_expect_eq(failed_code(&list[0]), 130);
    cr_expect_eq(list[1].exit_code, 130);
    fake_drop(&run);
}

Test(stages, bad_parameters_fail_before_anything_moves)
{
    struct fake_stage list[] = {MAKE(.params = "{\"blocs\": 3}"), CHECK(.name = "check", .from = 0)};
    struct fake_run run = {.stages = list, .count = 2};
    run_all(&run);
    cr_expect_eq(list[0].exit_code, 3);
    const char *message = json_string_value(json_object_get(list[0].failed, "message"));
    cr_expect(strstr(message, "did you mean 'blocks'"), "%s", message);
    fake_drop(&run);
}

Test(stages, an_end_unit_is_owed)
{
    struct fake_stage list[] = {MAKE(.params = "{\"headless\": true}"), CHECK(.name = "check", .from = 0)};
    struct fake_run run = {.stages = list, .count = 2};
    run_all(&run);
    cr_expect_eq(list[0].exit_code, 4);
    const char *message = json_string_value(json_object_get(list[0].failed, "message"));
    cr_expect(strstr(message, "without an end unit for its output port out"), "%s", message);
    fake_drop(&run);
}

Test(stages, heartbeats_come_while_process_runs)
{
    qp_auto_free char *until = qp_format("{\"blocks\": 1, \"hold_at\": 1, \"until\": \"%s\"}", scratch("beaten"));
    struct fake_stage list[] = {MAKE(.params = until), CHECK(.name = "check", .from = 0)};
    struct fake_run run = {.stages = list, .count = 2, .hook = end_the_wait_at_two_heartbeats};
    run_all(&run);
    expect_success(&run);
    cr_expect_geq(list[0].heartbeats, 2);
    fake_drop(&run);
}
