/* What the model unit says of a network's layers. */
#include <criterion/criterion.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/network/describe.h"

static json_t *describe(const char *folder)
{
    struct qp_error err = {0};
    struct qp_arch arch;
    qp_auto_json json_t *config = NULL;
    qp_auto_free char *path = qp_format("%s/%s/config.json", SOURCE_DIR, folder);
    cr_assert_eq(qp_read_json(path, 1 << 20, &config, &err), 0, "%s", err.message);
    cr_assert_eq(qp_arch_parse(config, path, &arch, &err), 0, "%s", err.message);
    json_t *network = qp_arch_describe(&arch);
    cr_assert_not_null(network);
    return network;
}

/* Compares with JSON in which ' stands for ". */
static void expect(const json_t *found, const char *expected)
{
    qp_auto_free char *text = strdup(expected);
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    qp_auto_json json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    qp_auto_free char *dumped = json_dumps(found, JSON_COMPACT | JSON_ENCODE_ANY);
    cr_assert_not_null(value, "%s", text);
    cr_expect(json_equal(found, value), "%s", dumped);
}

static const json_t *of_type(const json_t *network, const char *list, size_t index)
{
    const json_t *type = json_array_get(json_object_get(network, "types"), 0);
    return json_array_get(json_object_get(type, list), index);
}

/* Grouped value heads: each row of v_proj makes a channel of two query heads. */
Test(describe, a_llama_with_grouped_heads)
{
    qp_auto_json json_t *network = describe("examples/tiny");
    cr_expect_eq(json_array_size(json_object_get(network, "types")), 1);
    expect(json_array_get(json_object_get(network, "layers"), 5), "{'name': 'model.layers.5', 'type': 0}");
    expect(json_object_get(network, "embedding"), "'model.embed_tokens'");
    expect(json_object_get(network, "final_norm"), "'model.norm'");
    expect(of_type(network, "sites", 0), "{'name': 'attn_in', 'in': 128, 'fold': {'norm': 'input_layernorm'}}");
    expect(of_type(network, "sites", 1), "{'name': 'attn_out', 'in': 128, 'fold': {'linear': 'self_attn.v_proj', "
                                         "'first': 0, 'head': 32, 'repeat': 2}}");
    expect(of_type(network, "linears", 3),
           "{'module': 'self_attn.o_proj', 'site': 'attn_out', 'out': 128, 'in': 128, 'bias': false}");
    expect(of_type(network, "norms", 1),
           "{'module': 'post_attention_layernorm', 'width': 128, 'offset': 0.0, 'bias': false}");
}

/* Fused matrices: values and `up` are the last rows of theirs. */
Test(describe, a_phi3_with_fused_matrices)
{
    qp_auto_json json_t *network = describe("tests/unit/golden/families/phi3");
    const json_t *attention = json_object_get(of_type(network, "sites", 1), "fold");
    const json_t *qkv = of_type(network, "linears", 0), *gate_up = of_type(network, "linears", 2);
    json_int_t out = json_integer_value(json_object_get(qkv, "out"));
    expect(json_object_get(attention, "linear"), "'self_attn.qkv_proj'");
    cr_expect_lt(json_integer_value(json_object_get(attention, "first")), out);
    cr_expect_gt(json_integer_value(json_object_get(attention, "first")), out / 3);
    const json_t *mlp = json_object_get(of_type(network, "sites", 3), "fold");
    expect(json_object_get(mlp, "linear"), "'mlp.gate_up_proj'");
    cr_expect_eq(2 * json_integer_value(json_object_get(mlp, "first")),
                 json_integer_value(json_object_get(gate_up, "out")));
}

/* Layers of two kinds are two types, whichever layers they are. */
Test(describe, a_gemma3_with_two_types_of_layers)
{
    qp_auto_json json_t *network = describe("tests/unit/golden/families/gemma3_text");
    cr_expect_eq(json_array_size(json_object_get(network, "types")), 2);
    cr_expect_float_eq(json_number_value(json_object_get(of_type(network, "norms", 0), "offset")), 1, 0);
}
