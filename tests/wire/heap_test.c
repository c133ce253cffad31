/* The heap of a stage's process: what is freed after a block goes back to the system. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "libstage/base/memory.h"
#include "tests/support/fake_runner.h"
#include "tests/support/scratch.h"

TestSuite(heap, .init = scratch_make, .fini = scratch_drop, .timeout = 60);

enum { BLOCKS = 400, ARRAY = 100000 };

/* A small thing that stays for each block, in a list. */
struct pin {
    struct pin *next;
    char text[40];
};

struct state {
    struct pin *pins;
};

static const struct qp_port inputs[] = {{.name = "in", .help = "units"}, {.name = NULL}};
static const struct qp_port outputs[] = {{.name = "out", .help = "units"}, {.name = NULL}};

static int emit(struct qp_stage *stage, enum qp_unit_kind kind, int64_t seq, struct qp_error *err)
{
    struct qp_unit *unit;
    int r = qp_unit_new(kind, seq, &unit, err);
    return r < 0 ? r : qp_stage_emit(stage, "out", unit, err);
}

static int make(struct qp_stage *stage, void *state, struct qp_unit *none, struct qp_error *err)
{
    (void)state;
    (void)none;
    int r = emit(stage, QP_UNIT_MODEL, 0, err);
    for (int64_t i = 1; r == 0 && i <= BLOCKS; i++)
        r = emit(stage, QP_UNIT_BLOCK, i, err);
    return r < 0 ? r : emit(stage, QP_UNIT_END, BLOCKS + 1, err);
}

/* An aligned array, then a pin beside it: the gap that the array leaves is too short for the next one. */
static int leave_gap(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    (void)stage;
    qp_unit_free(unit);
    char *array = aligned_alloc(64, ARRAY / 64 * 64);
    struct pin *pin = calloc(1, sizeof *pin);
    if (!array || !pin)
        return qp_fail_memory(err, ARRAY, "a test's array");
    for (volatile char *page = array; page < array + ARRAY / 64 * 64; page += 4096)
        *page = 1;
    pin->next = s->pins;
    s->pins = pin;
    free(array);
    return 0;
}

static void drop_pins(struct qp_stage *stage, void *state)
{
    struct state *s = state;
    (void)stage;
    for (struct pin *pin = s->pins, *next; pin; pin = next) {
        next = pin->next;
        free(pin);
    }
}

Test(heap, gaps_between_what_stays_are_given_back)
{
    static const struct qp_stage_desc source = {
        .name = "source", .version = 1, .state_size = 1, .outputs = outputs, .process = make};
    static const struct qp_stage_desc gaps = {.name = "gaps",
                                              .version = 1,
                                              .state_size = sizeof(struct state),
                                              .inputs = inputs,
                                              .process = leave_gap,
                                              .close = drop_pins};
    struct fake_stage list[] = {{.desc = &source, .name = "source", .from = -1}, {.desc = &gaps, .name = "gaps"}};
    struct fake_run run = {.stages = list, .count = 2};
    fake_run(&run, scratch(""));
    cr_assert_not(run.timed_out);
    cr_assert_eq(list[1].exit_code, 0);
    double peak = json_number_value(json_object_get(json_object_get(list[1].done, "stage"), "peak_anonymous_bytes"));
    cr_expect_gt(peak, 0);
    cr_expect_lt(peak, BLOCKS * ARRAY / 2, "%g bytes of %d", peak, BLOCKS * ARRAY);
    fake_drop(&run);
}
