/* quantize: layers that come in steps. */
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

#define SCHEME                                                                                                       \
    "{\"weights\": {\"format\": \"int4\", \"group\": 32}, \"activations\": {\"format\": \"int8\", \"granularity\": " \
    "\"tensor\", \"dynamic\": false}}"
#define GPTQ "{\"method\": \"gptq\"}"

static struct qp_tensor *find(const struct qp_unit *unit, int layer, const char *module, const char *what)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%d.%s.%s", layer, module, what);
    return qp_unit_find(unit, name);
}

static void expect_same(const struct qp_tensor *a, const struct qp_tensor *b)
{
    cr_assert(a && b);
    cr_expect_eq(a->bytes, b->bytes);
    cr_expect_arr_eq(a->data, b->data, a->bytes, "%s", a->name);
}

/* In a layer's last step down_proj is quantized, as in a layer that comes whole, and nothing else is; what leaves then
 * looks as if layers had come whole. */
Test(quantize_sequential, the_last_step_quantizes_its_own_linear_and_leaves_as_the_layer)
{
    static const char *const others[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                         "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj"};
    struct qp_unit *units[TINY_UNITS], *steps[TINY_STEPS], **whole, **out;
    size_t count;
    tiny_units(SCHEME, true, units);
    whole = tiny_call(&qp_stage_desc, &(struct tiny_call){.params = GPTQ, .units = units, .count = TINY_UNITS}, &count,
                      NULL);
    tiny_units(SCHEME, true, units);
    tiny_steps(units, steps);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.params = GPTQ, .units = steps, .count = TINY_STEPS}, &count,
                    NULL);
    cr_assert_eq(count, TINY_UNITS);
    for (size_t u = 0; u < count; u++) {
        cr_expect_eq(out[u]->kind, whole[u]->kind);
        cr_expect_eq(out[u]->seq, whole[u]->seq);
        cr_expect(json_equal(out[u]->attrs, whole[u]->attrs), "unit %zu", u);
    }
    for (int l = 0; l < TINY_LAYERS; l++) {
        expect_same(find(out[2 + l], l, "mlp.down_proj", "weight_codes"),
                    find(whole[2 + l], l, "mlp.down_proj", "weight_codes"));
        expect_same(find(out[2 + l], l, "mlp_out", "input_scale"), find(whole[2 + l], l, "mlp_out", "input_scale"));
        cr_expect_null(find(out[2 + l], l, "mlp_in", "input_scale"));
        for (int i = 0; i < 6; i++)
            cr_expect_null(find(out[2 + l], l, others[i], "weight_codes"), "%s", others[i]);
    }
    tiny_free(whole, TINY_UNITS);
    tiny_free(out, count);
    free(whole);
    free(out);
}

static void refuse(const char *params, const char *message)
{
    struct qp_unit *units[TINY_UNITS], *steps[TINY_STEPS];
    size_t count;
    tiny_units(SCHEME, true, units);
    tiny_steps(units, steps);
    tiny_call(&qp_stage_desc,
              &(struct tiny_call){.params = params, .units = steps, .count = TINY_STEPS, .expected = QP_ERR_INPUT},
              &count, NULL);
    cr_expect(strstr(tiny_message, message), "%s", tiny_message);
}

Test(quantize_sequential, are_for_methods_that_learn)
{
    size_t count;
    struct qp_unit *units[TINY_UNITS], *steps[TINY_STEPS], **out;
    refuse("{\"method\": \"rtn\"}", "true_sequential: found method: rtn, scales: auto without coordinate descent");
    refuse("{\"method\": \"hqq\", \"scales\": \"mse\"}", "found method: hqq, scales: mse");
    tiny_units(SCHEME, true, units);
    tiny_steps(units, steps);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{\"method\": \"rtn\", \"coordinate_descent\": 1}",
                                        .units = steps,
                                        .count = TINY_STEPS},
                    &count, NULL);
    tiny_free(out, count);
    free(out);
}
