/* A cycle of stages: units come back, one at a time, in order, whatever their number and size; and it ends. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "tests/support/fake_runner.h"
#include "tests/support/scratch.h"
#include "tests/support/traces.h"

/* ---- the stages ---- */

struct state {
    int64_t blocks, bytes, fail_at;
    int64_t forth, back; /* seq of the units that are expected next */
};

static const struct qp_param params[] = {
    {"blocks", QP_PARAM_INT, "8", 0, 1e9, NULL, "blocks to make", offsetof(struct state, blocks), NULL},
    {"bytes", QP_PARAM_INT, "100000", 0, 1e9, NULL, "bytes that the entry adds", offsetof(struct state, bytes), NULL},
    {"fail_at", QP_PARAM_INT, NULL, 0, 0, NULL, "seq of the unit to fail at", offsetof(struct state, fail_at), NULL},
    {.name = NULL},
};
static const struct qp_port in_ports[] = {{.name = "in"}, {.name = NULL}};
static const struct qp_port entry_ports[] = {
    {.name = "in"}, {.name = "back", .feedback = true, .optional = true}, {.name = NULL}};
static const struct qp_port wrong_ports[] = {{.name = "in"}, {.name = "back"}, {.name = NULL}};
static const struct qp_port out_ports[] = {{.name = "out"}, {.name = NULL}};

static int make(struct qp_stage *stage, void *state, struct qp_unit *none, struct qp_error *err)
{
    const struct state *s = state;
    cr_assert_null(none);
    cr_assert_null(qp_stage_port(stage));
    int r = 0;
    for (int64_t seq = 0; r == 0 && seq <= s->blocks + 1; seq++) {
        struct qp_unit *unit = NULL;
        enum qp_unit_kind kind = seq == 0 ? QP_UNIT_MODEL : seq <= s->blocks ? QP_UNIT_BLOCK : QP_UNIT_END;
        r = qp_unit_new(kind, seq, &unit, err);
        if (r == 0)
            r = qp_stage_emit(stage, NULL, unit, err);
    }
    return r;
}

/* Adds shared memory that comes back with the unit. */
static int add_bytes(struct qp_stage *stage, const struct state *s, struct qp_unit *unit, struct qp_error *err)
{
    struct qp_tensor *tensor;
    int r = qp_allocate(qp_stage_allocator(stage), "t", QP_U8, 1, &s->bytes, &tensor, err);
    if (r < 0)
        return r;
    memset(tensor->data, (int)(unit->seq & 0xff), (size_t)s->bytes);
    return qp_unit_put(unit, tensor, err);
}

static int come_back(struct qp_stage *stage, struct state *s, struct qp_unit *unit, struct qp_error *err)
{
    qp_auto_unit struct qp_unit *owned = unit;
    const struct qp_tensor *tensor = qp_unit_find(unit, "t");
    if (unit->seq != s->back++ || s->back != s->forth)
        return qp_fail(err, QP_ERR_STAGE, "unit %lld came back out of order", (long long)unit->seq);
    if (unit->kind == QP_UNIT_BLOCK && (!tensor || ((unsigned char *)tensor->data)[s->bytes - 1] != (unit->seq & 0xff)))
        return qp_fail(err, QP_ERR_STAGE, "unit %lld came back as another", (long long)unit->seq);
    qp_stage_progress(stage, unit->seq, unit->seq + 1);
    if (unit->kind == QP_UNIT_END)
        qp_stage_report(stage, "back", json_integer(s->back));
    return 0;
}

/* Where the cycle begins: unit n is there before n - 1 has come back only when nothing comes back at all. */
static int enter(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    if (strcmp(qp_stage_port(stage), "back") == 0)
        return come_back(stage, s, unit, err);
    int r = 0;
    if (unit->seq != s->forth++ || (qp_stage_connected(stage, "back") && s->back != unit->seq))
        r = qp_fail(err, QP_ERR_STAGE, "unit %lld came before unit %lld was back", (long long)unit->seq,
                    (long long)s->back);
    if (r == 0 && unit->kind == QP_UNIT_BLOCK)
        r = add_bytes(stage, s, unit, err);
    return qp_stage_pass(stage, unit, r, err);
}

static int pass(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    const struct state *s = state;
    int r = unit->seq == s->fail_at ? qp_fail(err, QP_ERR_INPUT, "unit %lld is not liked", (long long)unit->seq) : 0;
    return qp_stage_pass(stage, unit, r, err);
}

static int drop(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    const struct state *s = state;
    (void)stage;
    int r = unit->seq == s->fail_at ? qp_fail(err, QP_ERR_INPUT, "unit %lld is not liked", (long long)unit->seq) : 0;
    qp_unit_free(unit);
    return r;
}

#define DESC(...)                                                                       \
    {                                                                                   \
        .version = 1, .state_size = sizeof(struct state), .params = params, __VA_ARGS__ \
    }
static const struct qp_stage_desc make_desc = DESC(.name = "make", .outputs = out_ports, .process = make);
static const struct qp_stage_desc enter_desc =
    DESC(.name = "enter", .inputs = entry_ports, .outputs = out_ports, .process = enter);
static const struct qp_stage_desc wrong_desc =
    DESC(.name = "enter", .inputs = wrong_ports, .outputs = out_ports, .process = enter);
static const struct qp_stage_desc pass_desc =
    DESC(.name = "pass", .inputs = in_ports, .outputs = out_ports, .process = pass);
static const struct qp_stage_desc drop_desc = DESC(.name = "drop", .inputs = in_ports, .process = drop);

/* ---- the tests ---- */

TestSuite(feedback, .init = scratch_make, .fini = scratch_drop, .timeout = 120);

enum { MAKE, ENTER, FIRST, SECOND, SINK, STAGES };

/* make -> enter -> first -> second -> sink, and second -> enter. */
static struct fake_run cycle(struct fake_stage *stages, const char *make_params, const char *enter_params)
{
    stages[MAKE] = (struct fake_stage){.desc = &make_desc, .name = "make", .from = -1, .params = make_params};
    stages[ENTER] =
        (struct fake_stage){.desc = &enter_desc, .name = "enter", .from = MAKE, .back = SECOND, .params = enter_params};
    stages[FIRST] = (struct fake_stage){.desc = &pass_desc, .name = "first", .from = ENTER};
    stages[SECOND] = (struct fake_stage){.desc = &pass_desc, .name = "second", .from = FIRST};
    stages[SINK] = (struct fake_stage){.desc = &drop_desc, .name = "sink", .from = SECOND};
    return (struct fake_run){.stages = stages, .count = STAGES};
}

static void run_all(struct fake_run *run)
{
    fake_run(run, scratch(""));
    cr_assert_not(run->timed_out, "the run does not end");
    for (int i = 0; i < run->count; i++)
        cr_expect_neq(run->stages[i].exit_code, 98, "%s leaks", run->stages[i].name);
    cr_expect_eq(traces_segments(run->id), 0, "shared memory is left");
}

static void expect_units(const struct fake_run *run, int from, int to, long units)
{
    static const char *const keys[] = {"sent", "acknowledged"};
    for (int k = 0; k < 2; k++)
        cr_expect_eq(fake_edge(run, from, from, to, keys[k]), units, "%s of %s to %s: %ld", keys[k],
                     run->stages[from].name, run->stages[to].name, fake_edge(run, from, from, to, keys[k]));
    cr_expect_eq(fake_edge(run, to, from, to, "received"), units);
    cr_expect_eq(fake_edge(run, to, from, to, "duplicates"), 0);
}

static void expect_round(struct fake_run *run, long units)
{
    for (int i = 0; i < run->count; i++) {
        const json_t *message = json_object_get(run->stages[i].failed, "message");
        cr_expect_eq(run->stages[i].exit_code, 0, "%s: %s", run->stages[i].name, json_string_value(message));
    }
    for (int i = ENTER; i < STAGES; i++)
        expect_units(run, i - 1, i, units);
    expect_units(run, SECOND, ENTER, units);
    cr_expect_eq(json_integer_value(json_object_get(run->stages[ENTER].report, "back")), units);
    cr_expect_eq(json_integer_value(json_object_get(json_object_get(run->stages[ENTER].done, "stage"), "units")),
                 2 * units);
}

Test(feedback, thousands_of_units_go_round)
{
    struct fake_stage stages[STAGES];
    struct fake_run run = cycle(stages, "{\"blocks\": 3000}", "{\"bytes\": 1000}");
    run_all(&run);
    expect_round(&run, 3002);
    fake_drop(&run);
}

/* Shared memory that its own maker holds again is no reason to wait for ever. */
Test(feedback, blocks_larger_than_the_budgets_go_round)
{
    struct fake_stage stages[STAGES];
    struct fake_run run = cycle(stages, "{\"blocks\": 40}", "{\"bytes\": 6000000}");
    for (int i = 0; i < STAGES; i++)
        stages[i].memory = 8 << 20;
    run_all(&run);
    expect_round(&run, 42);
    cr_expect_geq(fake_edge(&run, SECOND, SECOND, ENTER, "bytes_by_reference"), 40 * 6000000);
    fake_drop(&run);
}

Test(feedback, bytes_go_round_over_tcp)
{
    struct fake_stage stages[STAGES];
    struct fake_run run = cycle(stages, "{\"blocks\": 30}", "{\"bytes\": 300000}");
    run.tcp = true;
    run_all(&run);
    expect_round(&run, 32);
    fake_drop(&run);
}

Test(feedback, an_input_that_may_be_fed_back_need_not_be)
{
    struct fake_stage stages[STAGES];
    struct fake_run run = cycle(stages, "{\"blocks\": 30}", NULL);
    stages[ENTER].back = 0;
    run_all(&run);
    for (int i = ENTER; i < STAGES; i++)
        expect_units(&run, i - 1, i, 32);
    fake_drop(&run);
}

static void expect_stop(struct fake_run *run, int culprit, int code)
{
    run_all(run);
    for (int i = 0; i < run->count; i++)
        cr_expect_eq(run->stages[i].exit_code, i == culprit ? code : 130, "%s: %d", run->stages[i].name,
                     run->stages[i].exit_code);
    fake_drop(run);
}

Test(feedback, a_failure_in_the_cycle_stops_all)
{
    struct fake_stage stages[STAGES];
    struct fake_run run = cycle(stages, "{\"blocks\": 1000000000}", NULL);
    stages[SECOND].params = "{\"fail_at\": 5}";
    expect_stop(&run, SECOND, 3);
}

Test(feedback, a_failure_after_the_cycle_stops_all)
{
    struct fake_stage stages[STAGES];
    struct fake_run run = cycle(stages, "{\"blocks\": 1000000000}", NULL);
    stages[SINK].params = "{\"fail_at\": 5}";
    expect_stop(&run, SINK, 3);
}

static void terminate(struct fake_run *run)
{
    if (run->stages[ENTER].progress >= 3)
        kill(run->stages[FIRST].pid, SIGTERM);
}

Test(feedback, a_signal_to_a_member_stops_all)
{
    struct fake_stage stages[STAGES];
    struct fake_run run = cycle(stages, "{\"blocks\": 1000000000}", NULL);
    run.hook = terminate;
    expect_stop(&run, FIRST, 130);
}

Test(feedback, a_delay_at_a_port_without_feedback_is_refused)
{
    struct fake_stage stages[STAGES];
    struct fake_run run = cycle(stages, NULL, NULL);
    stages[ENTER].desc = &wrong_desc;
    run_all(&run);
    cr_expect_eq(stages[ENTER].exit_code, 4);
    const char *message = json_string_value(json_object_get(stages[ENTER].failed, "message"));
    cr_expect(strstr(message, "delay 1 at input port back; expected 0"), "%s", message);
    fake_drop(&run);
}
