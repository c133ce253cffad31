/* load: a folder becomes units; what cannot be loaded is refused before anything is sent. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "tests/support/scratch.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

TestSuite(load, .init = scratch_make, .fini = scratch_drop);

static struct qp_unit **load_with(const char *params, const char *model, const char *scheme, int expected,
                                  size_t *count, json_t **report)
{
    char context[512];
    snprintf(context, sizeof context, "{\"model\": \"%s\", \"scheme\": %s}", model, scheme);
    return tiny_call(&qp_stage_desc, &(struct tiny_call){.params = params, .context = context, .expected = expected},
                     count, report);
}

static struct qp_unit **load(const char *model, const char *scheme, int expected, size_t *count, json_t **report)
{
    return load_with(NULL, model, scheme, expected, count, report);
}

Test(load, sends_the_model_block_by_block)
{
    struct qp_unit **out, *expected[TINY_UNITS];
    json_t *report = NULL;
    size_t count;
    tiny_write(scratch(""));
    tiny_units("\"int8\"", false, expected);
    out = load(scratch(""), "\"int8\"", 0, &count, &report);
    cr_assert_eq(count, TINY_UNITS);
    for (size_t u = 0; u < count; u++) {
        cr_expect_eq(out[u]->kind, expected[u]->kind);
        cr_expect_eq(out[u]->seq, expected[u]->seq);
        for (size_t t = 0; t < expected[u]->count; t++) {
            const struct qp_tensor *want = expected[u]->tensors[t], *have = qp_unit_find(out[u], want->name);
            cr_assert_not_null(have, "%s is missing", want->name);
            cr_expect_eq(have->storage->where, QP_WHERE_FILE, "%s was copied", want->name);
            cr_expect_arr_eq(have->data, want->data, want->bytes, "%s differs", want->name);
        }
    }
    const json_t *model = json_object_get(report, "model");
    cr_expect_str_eq(json_string_value(json_object_get(model, "architecture")), "LlamaForCausalLM");
    /* embedding, and a layer's q, k, v, o, gate, up, down and two norms, and the final norm */
    cr_expect_eq(json_integer_value(json_object_get(model, "parameters")),
                 128 * 64 + 2 * (64 * 64 * 2 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64) + 64);
    json_decref(report);
    tiny_free(out, count);
    tiny_free(expected, TINY_UNITS);
    free(out);
}

Test(load, refuses_a_group_that_does_not_divide_before_sending_anything)
{
    size_t count;
    tiny_write(scratch(""));
    struct qp_unit **out =
        load(scratch(""), "{\"weights\": {\"format\": \"int4\", \"group\": 64}}", QP_ERR_INPUT, &count, NULL);
    cr_expect_eq(count, 0);
    cr_expect(strstr(tiny_message, "model.layers.0.mlp.down_proj"), "%s", tiny_message);
    cr_expect(strstr(tiny_message, "32"), "%s", tiny_message);
    free(out);
}

Test(load, names_a_model_that_is_not_there)
{
    size_t count;
    struct qp_unit **out = load("/nonexistent/model", "\"int8\"", QP_ERR_INPUT, &count, NULL);
    cr_expect(strstr(tiny_message, "/nonexistent/model"), "%s", tiny_message);
    free(out);
}

/* Four units a layer, which share its tensors. */
Test(load, sends_layers_in_steps_when_asked_to)
{
    const char *folder = scratch("model");
    struct qp_unit **out, *units[TINY_UNITS], *expected[TINY_STEPS];
    size_t count;
    tiny_write(folder);
    tiny_units("\"int8\"", false, units);
    tiny_steps(units, expected);
    out = load_with("{\"true_sequential\": true}", folder, "\"int8\"", 0, &count, NULL);
    cr_assert_eq(count, TINY_STEPS);
    for (size_t u = 0; u < count; u++) {
        cr_expect_eq(out[u]->kind, expected[u]->kind);
        cr_expect_eq(out[u]->seq, (int64_t)u);
        cr_expect_eq(out[u]->count, expected[u]->count);
        cr_expect(u == 0 || json_equal(out[u]->attrs, expected[u]->attrs), "unit %zu", u);
        for (size_t t = 0; t < out[u]->count; t++)
            cr_expect_eq(out[u]->tensors[t]->storage->where, QP_WHERE_FILE);
    }
    cr_expect_eq(json_integer_value(json_object_get(out[0]->attrs, "steps")), QP_SITES);
    cr_expect_eq(json_integer_value(json_object_get(out[5]->attrs, "block")), 2);
    cr_expect_eq(json_integer_value(json_object_get(out[5]->attrs, "step")), 4);
    tiny_free(out, count);
    tiny_free(expected, TINY_STEPS);
    free(out);
}
