/* Layers in true-sequential steps: numbers there and back, and who takes them. */
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/network/model_unit.h"
#include "libstage/network/sequential.h"
#include "tests/support/tiny.h"

static struct qp_arch arch_of(const struct qp_unit *model)
{
    struct qp_arch arch;
    struct qp_error err;
    cr_assert_eq(qp_arch_parse(json_object_get(model->attrs, "config"), "tiny", &arch, &err), 0, "%s", err.message);
    return arch;
}

Test(steps, become_blocks_again)
{
    static const int64_t seqs[TINY_STEPS] = {0, 1, -1, -1, -1, 2, -1, -1, -1, 3, 4, 5};
    static const int64_t layers[TINY_STEPS] = {-2, -1, 0, 0, 0, 0, 1, 1, 1, 1, 2, -2};
    static const int steps_of[TINY_STEPS] = {0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 0, 0};
    struct qp_error err;
    struct qp_unit *units[TINY_UNITS], *steps[TINY_STEPS];
    tiny_units("\"int8\"", false, units);
    struct qp_arch arch = arch_of(units[0]);
    tiny_steps(units, steps);
    for (int u = 0; u < TINY_STEPS; u++) {
        struct qp_block block;
        struct qp_unit *whole;
        if (steps[u]->kind == QP_UNIT_BLOCK) {
            cr_assert_eq(qp_block_of(&arch, NULL, steps[u], &block, &err), 0, "%s", err.message);
            cr_expect(block.layer == layers[u] && block.step == steps_of[u], "unit %d", u);
            for (int s = 0; s < QP_SITES; s++)
                cr_expect_eq(qp_block_has_step(&block, s), block.step == 0 || block.step == s + 1);
        }
        cr_assert_eq(qp_sequential_whole(&arch, steps[u], &whole, &err), 0, "%s", err.message);
        cr_expect_eq(whole != NULL, seqs[u] >= 0, "unit %d", u);
        if (!whole)
            continue;
        cr_expect_eq(whole->seq, seqs[u]);
        cr_expect_eq(whole->count, steps[u]->count);
        cr_expect_null(json_object_get(whole->attrs, "steps"));
        cr_expect_null(json_object_get(whole->attrs, "step"));
        cr_expect_null(json_object_get(whole->attrs, "block"));
        qp_unit_free(whole);
    }
    tiny_free(steps, TINY_STEPS);
}

Test(steps, attributes_that_cannot_be_are_refused)
{
    static const struct {
        const char *key;
        int64_t value;
    } wrong[] = {{"block", 0}, {"block", 5}, {"block", 1}, {"block", -3}, {"step", 5}, {"step", -1}};
    struct qp_error err;
    struct qp_unit *units[TINY_UNITS], *steps[TINY_STEPS];
    tiny_units("\"int8\"", false, units);
    struct qp_arch arch = arch_of(units[0]);
    tiny_steps(units, steps);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct qp_block block;
        struct qp_unit *unit;
        cr_assert_eq(qp_unit_copy(steps[3], &unit, &err), 0);
        json_object_set_new(unit->attrs, wrong[i].key, json_integer(wrong[i].value));
        cr_expect_eq(qp_block_of(&arch, NULL, unit, &block, &err), QP_ERR_INPUT, "%s %lld", wrong[i].key,
                     (long long)wrong[i].value);
        qp_unit_free(unit);
    }
    tiny_free(steps, TINY_STEPS);
}

Test(steps, are_told_to_those_who_need_whole_layers)
{
    struct qp_error err;
    struct qp_unit *units[TINY_UNITS], *steps[TINY_STEPS];
    struct qp_model model;
    tiny_units("\"int8\"", false, units);
    tiny_steps(units, steps);
    cr_expect_eq(qp_model_open(steps[0], &model, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "put it after quantize"), "%s", err.message);
    qp_model_close(&model);
    cr_expect_eq(qp_model_open_any(steps[0], &model, &err), 0);
    cr_expect(model.sequential);
    qp_model_close(&model);
    tiny_free(steps, TINY_STEPS);
}
