#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/network/arch.h"
#include "tests/support/llama.h"

#define SIZES                                                                                                \
    "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 3, \"num_attention_heads\": 4, " \
    "\"vocab_size\": 100"
#define SMALL "\"model_type\": \"llama\", " SIZES

static int parse(const char *text, struct qp_arch *arch, struct qp_error *err)
{
    json_error_t at;
    qp_auto_json json_t *config = json_loads(text, 0, &at);
    cr_assert_not_null(config, "%s: %s", text, at.text);
    return qp_arch_parse(config, "config.json", arch, err);
}

static struct qp_arch parsed(const char *text)
{
    struct qp_error err;
    struct qp_arch arch;
    cr_assert_eq(parse(text, &arch, &err), 0, "%s", err.message);
    return arch;
}

Test(arch, defaults_are_those_of_transformers)
{
    struct qp_arch a = parsed("{" SMALL "}");
    cr_assert_str_eq(a.model_type, "llama");
    cr_assert_eq(a.kv_heads, 4);
    cr_assert_eq(a.head_dim, 16);
    cr_assert_eq(a.max_length, 2048);
    cr_assert_eq(a.output_norm.eps, 1e-6f);
    cr_assert_eq(a.ropes[0].kind, QP_ROPE_DEFAULT);
    cr_assert_eq(a.ropes[0].theta, 10000.0);
    cr_assert(!a.tied);
    for (int l = 0; l < QP_LINEARS; l++)
        cr_assert(!a.layer_types[0]->linears[l].bias);
    cr_assert_eq(a.dtype, QP_F32);
    cr_assert_eq(a.bos, -1);
    cr_assert_eq(a.eos, -1);
}

Test(arch, every_key_is_read)
{
    struct qp_arch a =
        parsed("{\"architectures\": [\"LlamaForCausalLM\"], " SMALL ", \"num_key_value_heads\": 2, \"head_dim\": 20, "
               "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-5, \"rope_theta\": 500000, "
               "\"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": true, \"hidden_act\": \"silu\", "
               "\"dtype\": \"bfloat16\", \"torch_dtype\": \"float16\", \"bos_token_id\": 5, \"eos_token_id\": [7, 8]}");
    cr_assert_eq(a.kv_heads, 2);
    cr_assert_eq(a.head_dim, 20);
    cr_assert_eq(a.max_length, 512);
    cr_assert_eq(a.ropes[0].theta, 500000.0);
    cr_assert(a.tied);
    for (int l = 0; l < QP_LINEARS; l++)
        cr_assert(a.layer_types[2]->linears[l].bias);
    cr_assert_eq(a.dtype, QP_BF16);
    cr_assert_eq(a.bos, 5);
    cr_assert_eq(a.eos, 7);
    cr_assert_eq(a.layer_types[0]->linears[QP_Q].out, 80);
    cr_assert_eq(a.layer_types[0]->linears[QP_K].out, 40);
    cr_assert_eq(qp_arch_blocks(&a), 5);
}

Test(arch, parameters_are_counted)
{
    /* q, k, v, o: 64 x 64; gate, up, down: 64 x 96; two gains; embedding, head, final gain. */
    struct qp_arch a = parsed("{" SMALL "}");
    int64_t layer = 4 * 64 * 64 + 3 * 64 * 96 + 2 * 64;
    cr_assert_eq(qp_arch_parameters(&a), 3 * layer + 2 * 100 * 64 + 64);
    a = parsed("{" SMALL ", \"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": true}");
    cr_assert_eq(qp_arch_parameters(&a), 3 * (layer + 4 * 64 + 96 + 96 + 64) + 100 * 64 + 64);
}

Test(arch, modules_have_names)
{
    char text[64];
    struct qp_arch a = parsed("{" SMALL "}");
    cr_assert_str_eq(qp_module_name(&a, 2, QP_DOWN, text, sizeof text), "model.layers.2.mlp.down_proj");
    cr_assert_str_eq(qp_module_name(&a, 0, QP_Q, text, 8), "model.l");
}

Test(arch, mistral_is_llama_with_windows)
{
    const char *base = "\"model_type\": \"mistral\", \"hidden_size\": 64, \"intermediate_size\": 96, "
                       "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"vocab_size\": 100, "
                       "\"max_position_embeddings\": 32768";
    char text[1024];
    snprintf(text, sizeof text, "{%s, \"sliding_window\": null}", base);
    cr_assert_eq(parsed(text).max_length, 32768);
    cr_assert_eq(parsed(text).layer_types[0]->attention.window, 0);
    snprintf(text, sizeof text, "{%s, \"sliding_window\": 1000}", base);
    cr_assert_eq(parsed(text).max_length, 32768);
    cr_assert_eq(parsed(text).layer_types[2]->attention.window, 1000);
    snprintf(text, sizeof text, "{%s}", base);
    cr_assert_eq(parsed(text).layer_types[0]->attention.window, 4096);
}

Test(arch, both_ways_to_write_rope_are_read)
{
    static const char *const same[] = {
        "{" SMALL ", \"rope_theta\": 5000.0, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}}",
        "{" SMALL ", \"rope_theta\": 5000.0, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 4}}",
        "{" SMALL ", \"rope_parameters\": {\"rope_theta\": 5000.0, \"rope_type\": \"linear\", \"factor\": 4.0}}",
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct qp_arch a = parsed(same[i]);
        cr_assert_eq(a.ropes[0].kind, QP_ROPE_LINEAR);
        cr_assert_eq(a.ropes[0].theta, 5000.0);
        cr_assert_eq(a.ropes[0].factor, 4.0);
    }
    struct qp_arch a = parsed("{" SMALL ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 32.0, "
                              "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                              "\"original_max_position_embeddings\": 8192}}");
    cr_assert_eq(a.ropes[0].kind, QP_ROPE_LLAMA3);
    cr_assert_eq(a.ropes[0].original_length, 8192);
    a = parsed("{" SMALL ", \"rope_parameters\": null}");
    cr_assert(a.rope_count == 1 && a.ropes[0].kind == QP_ROPE_DEFAULT && a.ropes[0].theta == 10000.0,
              "null says nothing, not that nothing rotates");
}

Test(arch, what_is_wrong_is_named)
{
    static const struct {
        const char *config, *message;
    } cases[] = {
        {"{" SMALL ", \"hidden_act\": \"mish\"}", "hidden_act: found \"mish\", expected silu, gelu"},
        {"{\"model_type\": \"bert\"}", "architecture bert (no class) is not supported; supported: llama"},
        {"{\"model_type\": \"llama\", \"architectures\": [\"LlamaForSequenceClassification\"]}",
         "llama (LlamaForSequenceClassification) is not supported"},
        {"{}", "without model_type"},
        {"{\"model_type\": \"llama\"}", "hidden_size: found nothing, expected a whole number of 1 to 4194304"},
        {"{" SMALL ", \"num_key_value_heads\": 3}", "num_key_value_heads: found 3, expected a divisor"},
        {"{" SMALL ", \"num_key_value_heads\": 0}", "num_key_value_heads: found 0"},
        {"{" SMALL ", \"head_dim\": 15}", "head_dim: found 15, expected an even number"},
        {"{" SMALL ", \"head_dim\": \"big\"}", "head_dim: found \"big\""},
        {"{" SMALL ", \"rms_norm_eps\": -1e-5}", "rms_norm_eps"},
        {"{" SMALL ", \"tie_word_embeddings\": 1}", "tie_word_embeddings: found 1, expected true or false"},
        {"{" SMALL ", \"max_position_embeddings\": 1e30}", "max_position_embeddings: found"},
        {"{" SMALL ", \"rope_scaling\": {\"type\": \"ntk\", \"factor\": 2}}",
         "rope_scaling.rope_type: found ntk; supported: default, linear, dynamic, llama3, yarn, longrope"},
        {"{" SMALL ", \"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1]}}",
         "rope_scaling.short_factor: found [1], expected a list with a number for each rotated pair"},
        {"{" SMALL ", \"rope_scaling\": {\"type\": \"linear\"}}", "rope_scaling.factor: found nothing"},
        {"{" SMALL ", \"rope_parameters\": {\"partial_rotary_factor\": 1.5}}", "partial_rotary_factor: found 1.5"},
        {"{" SMALL ", \"rope_parameters\": {\"full_attention\": 5}}", "a layer type's entry is no object"},
        {"{\"model_type\": \"ministral3\", " SIZES ", \"head_dim\": 16, \"partial_rotary_factor\": 0.5, "
         "\"rope_parameters\": {\"llama_4_scaling_beta\": 0.1}}",
         "rope_parameters.llama_4_scaling_beta: heads of which 8 numbers of 16 are rotated cannot be scaled by it"},
        {"{\"model_type\": \"gemma3\", " SIZES "}", "text_config: found nothing, expected an object"},
        {"{\"model_type\": \"gemma3\", \"architectures\": [\"Gemma3ForSequenceClassification\"]}",
         "gemma3 (Gemma3ForSequenceClassification) is not supported"},
        {"{\"model_type\": \"mistral3\", \"text_config\": {\"model_type\": \"bert\"}}", "architecture bert"},
        {"{" SMALL ", \"hidden_act\": \"xielu\"}", "hidden_act: found \"xielu\", expected silu"},
        {"{" SMALL ", \"dtype\": \"int8\"}", "dtype: found \"int8\""},
        {"{" SMALL ", \"eos_token_id\": 100}", "eos_token_id: found 100"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct qp_error err = {0};
        struct qp_arch arch;
        cr_assert_eq(parse(cases[i].config, &arch, &err), QP_ERR_INPUT, "%s", cases[i].config);
        cr_assert_not_null(strstr(err.message, cases[i].message), "%s: %s", cases[i].config, err.message);
        cr_assert_eq(strncmp(err.message, "config.json: ", 13), 0, "%s", err.message);
    }
}

Test(arch, rope_tables_hold_angles)
{
    struct qp_error err;
    struct qp_arch a = parsed("{" SMALL "}");
    struct qp_rotations tables;
    cr_assert_eq(qp_rotations_open(&a, 100, &tables, &err), 0);
    const float *c = tables.cos[0], *s = tables.sin[0];
    for (int i = 0; i < 8; i++) {
        double angle = 99.0 / pow(10000.0, i / 8.0);
        cr_assert_float_eq(c[99 * 8 + i], cos(angle), 1e-6);
        cr_assert_float_eq(s[99 * 8 + i], sin(angle), 1e-6);
        cr_assert_eq(c[i], 1.0f);
        cr_assert_eq(s[i], 0.0f);
    }
    qp_rotations_close(&tables);
    cr_assert_eq(qp_rotations_open(&a, 2049, &tables, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "2049 tokens"), "%s", err.message);
}
