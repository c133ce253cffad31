#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/network/checkpoint_gguf.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/compressed_tensors.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"

TestSuite(checkpoint, .init = scratch_make, .fini = scratch_drop);

static struct qp_scheme *scheme_of(const char *text)
{
    struct qp_error err;
    struct qp_scheme *scheme;
    qp_auto_json json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    cr_assert_eq(qp_scheme_parse(value, &scheme, &err), 0, "%s", err.message);
    return scheme;
}

/* ---- what is there ---- */

Test(checkpoint, units_hold_the_tensors_of_their_block)
{
    static const char *const layer[] = {
        "input_layernorm.weight",  "post_attention_layernorm.weight",
        "self_attn.q_proj.weight", "self_attn.q_proj.bias",
        "self_attn.k_proj.weight", "self_attn.k_proj.bias",
        "self_attn.v_proj.weight", "self_attn.v_proj.bias",
        "self_attn.o_proj.weight", "self_attn.o_proj.bias",
        "mlp.gate_proj.weight",    "mlp.gate_proj.bias",
        "mlp.up_proj.weight",      "mlp.up_proj.bias",
        "mlp.down_proj.weight",    "mlp.down_proj.bias",
    };
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("biased");
    struct qp_block block = golden_block(checkpoint, 2);
    cr_assert_eq(block.layer, 1);
    cr_assert_eq(block.unit->seq, 3);
    cr_assert_eq(block.unit->count, sizeof layer / sizeof *layer);
    for (size_t i = 0; i < block.unit->count; i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.1.%s", layer[i]);
        cr_assert_str_eq(block.unit->tensors[i]->name, name);
        cr_assert_eq(block.unit->tensors[i]->storage->where, QP_WHERE_FILE);
    }
    qp_unit_free(block.unit);
    block = golden_block(checkpoint, 3);
    cr_assert_eq(block.unit->count, 2);
    cr_assert_not_null(qp_unit_find(block.unit, "model.norm.weight"));
    cr_assert_not_null(qp_unit_find(block.unit, "lm_head.weight"));
    qp_unit_free(block.unit);
    struct qp_unit *unit;
    cr_assert_eq(qp_checkpoint_block(checkpoint, 4, NULL, &unit, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_checkpoint_block(checkpoint, -1, NULL, &unit, &err), QP_ERR_INPUT);
    qp_checkpoint_close(checkpoint);
}

Test(checkpoint, a_tied_head_carries_the_embedding)
{
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 3);
    cr_assert_not_null(qp_unit_find(block.unit, "model.embed_tokens.weight"));
    cr_assert_eq(block.unit->count, 2);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

Test(checkpoint, the_model_unit_says_where_and_what)
{
    struct qp_error err;
    struct qp_unit *unit;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_scheme *scheme = scheme_of("\"int8\"");
    cr_assert_eq(qp_checkpoint_model(checkpoint, scheme, &unit, &err), 0, "%s", err.message);
    cr_assert_eq(unit->kind, QP_UNIT_MODEL);
    cr_assert_eq(unit->seq, 0);
    cr_assert_eq(unit->count, 0);
    cr_assert_str_eq(json_string_value(json_object_get(unit->attrs, "path")), golden_path("plain"));
    cr_assert(json_is_null(json_object_get(unit->attrs, "tokenizer")));
    cr_assert_eq(json_integer_value(json_object_get(unit->attrs, "blocks")), 4);
    cr_assert(json_equal(json_object_get(unit->attrs, "config"), checkpoint->config));
    cr_assert(json_equal(json_object_get(unit->attrs, "scheme"), scheme->source));
    qp_unit_free(unit);
    qp_scheme_free(scheme);
    qp_checkpoint_close(checkpoint);
}

static void tokenizer_is(const char *model, const char *expected)
{
    struct qp_error err;
    struct qp_checkpoint *checkpoint;
    char *path;
    cr_assert_eq(qp_checkpoint_open(model, &checkpoint, &err), 0, "%s", err.message);
    cr_assert_eq(qp_checkpoint_tokenizer(checkpoint, &path, &err), 0);
    cr_expect(expected ? path && strcmp(path, expected) == 0 : !path, "%s: found %s", model, path ? path : "none");
    free(path);
    qp_checkpoint_close(checkpoint);
}

Test(checkpoint, a_tokenizer_is_found_where_there_is_one)
{
    tokenizer_is(SOURCE_DIR "/examples/tiny", SOURCE_DIR "/examples/tiny/tokenizer.json");
    tokenizer_is(golden_path("biased"), NULL);
    tokenizer_is(golden_path("biased.gguf"), NULL);
}

Test(checkpoint, tensors_are_found_by_name)
{
    struct qp_error err;
    struct qp_tensor *t;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    cr_assert_eq(qp_checkpoint_tensor(checkpoint, "model.layers.1.mlp.down_proj.weight", NULL, &t, &err), 0);
    cr_assert(t->shape[0] == 24 && t->shape[1] == 40 && t->dtype == QP_BF16);
    qp_tensor_unref(t);
    static const char *const absent[] = {"model.layers.2.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.bias",
                                         "model.layers.x.mlp.down_proj.weight", "lm_head.weight", ""};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        cr_assert_eq(qp_checkpoint_tensor(checkpoint, absent[i], NULL, &t, &err), QP_ERR_INPUT, "%s", absent[i]);
    qp_checkpoint_close(checkpoint);
}

/* ---- GGUF ---- */

static void same_model(const char *folder, const char *gguf)
{
    struct qp_error err;
    struct qp_checkpoint *a = golden_open(folder), *b = golden_open(gguf);
    const struct qp_arch *x = &a->arch, *y = &b->arch;
    cr_assert(x->hidden == y->hidden && x->ffn == y->ffn && x->vocab == y->vocab && x->layers == y->layers);
    cr_assert(x->max_length == y->max_length && x->heads == y->heads && x->kv_heads == y->kv_heads);
    cr_assert(x->head_dim == y->head_dim && x->output_norm.eps == y->output_norm.eps && x->tied == y->tied);
    cr_assert(x->layer_types[0] == y->layer_types[0] && x->bos == y->bos && x->eos == y->eos);
    cr_assert_eq(x->dtype, y->dtype);
    const struct qp_rope_config *r = &x->ropes[0], *s = &y->ropes[0];
    cr_assert(r->kind == s->kind && r->theta == s->theta && r->factor == s->factor);
    cr_assert_eq(r->original_length, s->original_length);
    for (int64_t i = 0; i < qp_arch_blocks(x); i++) {
        struct qp_block p = golden_block(a, i), q = golden_block(b, i);
        cr_assert_eq(p.unit->count, q.unit->count);
        for (size_t t = 0; t < p.unit->count; t++) {
            const struct qp_tensor *u = p.unit->tensors[t], *v = q.unit->tensors[t];
            cr_assert_str_eq(u->name, v->name);
            cr_assert(u->dtype == v->dtype && u->bytes == v->bytes);
            cr_assert_eq(memcmp(u->data, v->data, u->bytes), 0, "%s", u->name);
        }
        qp_unit_free(p.unit);
        qp_unit_free(q.unit);
    }
    cr_assert_eq(qp_arch_parse(b->config, "config.json", &a->arch, &err), 0, "%s", err.message);
    qp_checkpoint_close(a);
    qp_checkpoint_close(b);
}

Test(checkpoint, gguf_in_float16_is_the_same_model)
{
    same_model("biased", "biased.gguf");
}

Test(checkpoint, gguf_in_bfloat16_with_rope_factors_is_the_same_model)
{
    same_model("llama3", "llama3.gguf");
}

/* ---- what is wrong ---- */

static void refused(const char *path, const char *message)
{
    struct qp_error err = {0};
    struct qp_checkpoint *checkpoint;
    cr_assert_eq(qp_checkpoint_open(path, &checkpoint, &err), QP_ERR_INPUT, "%s", path);
    cr_assert_not_null(strstr(err.message, message), "%s", err.message);
}

/* A GGUF in which the first occurrence of `from` after `offset` is overwritten. */
static void gguf_is_refused(const char *name, uint64_t offset, const void *from, const void *to, size_t size,
                            const char *message)
{
    size_t total;
    qp_auto_free char *bytes = scratch_read(golden_path(name), &total);
    char *at = memmem(bytes + offset, total - offset, from, size);
    cr_assert_not_null(at);
    memcpy(at, to, size);
    refused(scratch_write("model.gguf", bytes, total), message);
}

Test(checkpoint, gguf_metadata_must_be_there_and_known)
{
    const char *g = "biased.gguf";
    gguf_is_refused(g, 0, "\5\0\0\0\0\0\0\0llama", "\5\0\0\0\0\0\0\0mamba", 13,
                    "general.architecture: mamba is not supported; supported: llama");
    gguf_is_refused(g, 0, "llama.block_count", "llama.block_cound", 17,
                    "llama.block_count: found nothing, expected one number");
    gguf_is_refused(g, 0, "token_embd.weight", "token_embs.weight", 17, "token_embd.weight: expected a matrix");
    gguf_is_refused(g, 0, "blk.1.attn_q.bias", "blk.1.attn_x.bias", 17, "blk.1.attn_q.bias is missing, expected [32]");
    gguf_is_refused(g, 0, "attention.head_count_kv\4\0\0\0\2", "attention.head_count_kv\4\0\0\0\4", 28,
                    "blk.0.attn_k.weight: found shape [16, 24], expected [32, 24] from the metadata");
}

Test(checkpoint, gguf_windows_must_be_said)
{
    gguf_is_refused("../gemma3/plain.gguf", 0, "attention.sliding_window", "attention.sliding_windom", 24,
                    "gemma3.attention.sliding_window: found nothing, expected one number");
    gguf_is_refused("../gemma3/stated.gguf", 0, "sliding_window_pattern\t\0\0\0\7", "sliding_window_pattern\t\0\0\0\0",
                    27,
                    "gemma3.attention.sliding_window_pattern: found something else, expected one number, or true or");
}

/* The golden file `gguf` with another number of layers, at `key`, says that many for query_pre_attn_scalar. */
static void scale_is(const char *gguf, const char *key, size_t length, int layers, int expected)
{
    struct qp_error err = {0};
    size_t total;
    qp_auto_free char *bytes = scratch_read(golden_path(gguf), &total);
    qp_auto_json json_t *config = NULL;
    struct qp_gguf *file;
    char *at = memmem(bytes, total, key, length);
    cr_assert_not_null(at, "%s", gguf);
    at[length] = (char)layers;
    cr_assert_eq(qp_gguf_open(scratch_write("model.gguf", bytes, total), &file, &err), 0, "%s", err.message);
    cr_assert_eq(qp_gguf_config(file, &config, &err), 0, "%s", err.message);
    cr_expect(json_is_integer(json_object_get(config, "query_pre_attn_scalar"))); /* transformers refuses 12.0 */
    cr_expect_eq(json_integer_value(json_object_get(config, "query_pre_attn_scalar")), expected, "%s of %d layers",
                 gguf, layers);
    qp_gguf_close(file);
}

/* GGUF has no query_pre_attn_scalar: it is the heads' size, but hidden / heads in the largest models. */
Test(checkpoint, gguf_scale_of_gemma_goes_by_layers)
{
    static const char two[] = "gemma2.block_count\4\0\0\0", three[] = "gemma3.block_count\4\0\0\0";
    scale_is("../gemma3/plain.gguf", three, sizeof three - 1, 61, 12);
    scale_is("../gemma3/plain.gguf", three, sizeof three - 1, 62, 8);
    scale_is("../gguf/gemma2.gguf", two, sizeof two - 1, 45, 12);
    scale_is("../gguf/gemma2.gguf", two, sizeof two - 1, 46, 8);
}

/* OLMo 3 has the same GGUF name, and windows that this does not read. */
Test(checkpoint, gguf_with_windows_that_the_family_has_not_is_refused)
{
    static const char from[] = "olmo2.context_length\4\0\0\0", to[] = "olmo2.attention.sliding_window\4\0\0\0";
    size_t total;
    qp_auto_free char *bytes = scratch_read(golden_path("../gguf/olmo2.gguf"), &total);
    char *at = memmem(bytes, total, from, sizeof from - 1);
    cr_assert_not_null(at);
    size_t before = (size_t)(at - bytes), longer = sizeof to - sizeof from;
    qp_auto_free char *changed = calloc(1, total + longer);
    memcpy(changed, bytes, before);
    memcpy(changed + before, to, sizeof to - 1);
    memcpy(changed + before + sizeof to - 1, at + sizeof from - 1, total - before - sizeof from + 1);
    changed[before - 8] = (char)(changed[before - 8] + (char)longer); /* the key's length */
    refused(scratch_write("model.gguf", changed, total + longer),
            "olmo2.attention.sliding_window: windows of this architecture are not supported");
}

Test(checkpoint, rope_factors_must_be_those_of_llama3)
{
    struct qp_error err;
    struct qp_gguf *file;
    cr_assert_eq(qp_gguf_open(golden_path("llama3.gguf"), &file, &err), 0, "%s", err.message);
    uint64_t at = qp_gguf_find(file, "rope_freqs.weight")->offset;
    qp_gguf_close(file);
    float one = 1.0f, two = 2.0f;
    gguf_is_refused("llama3.gguf", at, &one, &two, sizeof one, "rope_freqs.weight: factor 0 is 2");
}

/* A copy of the golden model "plain" with one key of its config changed. */
static const char *changed(const char *key, json_t *value)
{
    struct qp_error err;
    json_t *json;
    cr_assert_eq(qp_read_json(golden_path("plain/config.json"), 1 << 20, &json, &err), 0);
    json_object_set_new(json, key, value);
    cr_assert_eq(qp_write_json(scratch("config.json"), json, &err), 0);
    cr_assert_eq(qp_copy_file(golden_path("plain/model.safetensors"), scratch("model.safetensors"), &err), 0);
    json_decref(json);
    return scratch("");
}

static void change_is_refused(const char *key, json_t *value, const char *message)
{
    refused(changed(key, value), message);
}

Test(checkpoint, paths_that_are_no_model_are_refused)
{
    refused("/nonexistent/model", "no such file or folder; a model is a Hugging Face folder or a .gguf file");
    refused(golden_path("plain/config.json"), "neither a folder nor named .gguf");
    refused(golden_path(""), "config.json");
}

Test(checkpoint, tensors_must_be_what_config_says)
{
    change_is_refused("num_hidden_layers", json_integer(3), "tensor model.layers.2.input_layernorm.weight is missing");
    change_is_refused("tie_word_embeddings", json_false(), "tensor lm_head.weight is missing");
    change_is_refused("attention_bias", json_true(), "tensor model.layers.0.self_attn.q_proj.bias is missing");
    change_is_refused("vocab_size", json_integer(50),
                      "model.embed_tokens.weight: found shape [48, 24], expected [50, 24] from config.json");
    change_is_refused("num_key_value_heads", json_integer(4),
                      "self_attn.k_proj.weight: found shape [16, 24], expected [32, 24]");
}

Test(checkpoint, the_stored_dtype_counts)
{
    struct qp_error err;
    struct qp_checkpoint *checkpoint;
    cr_assert_eq(qp_checkpoint_open(changed("dtype", json_string("float32")), &checkpoint, &err), 0, "%s", err.message);
    cr_assert_eq(checkpoint->arch.dtype, QP_BF16);
    cr_assert_str_eq(json_string_value(json_object_get(checkpoint->config, "dtype")), "bfloat16");
    qp_checkpoint_close(checkpoint);
}

Test(checkpoint, schemes_are_checked_against_the_model)
{
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    static const struct {
        const char *scheme, *message;
    } cases[] = {
        {"\"int8\"", NULL},
        {"{\"weights\": {\"format\": \"int4\", \"group\": 8}}", NULL},
        {"{\"weights\": {\"format\": \"int4\", \"group\": 16}}", "model.layers.0.self_attn.q_proj"},
        {"{\"weights\": {\"format\": \"int4\", \"group\": 8}, \"ignore\": []}", "lm_head"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct qp_scheme *scheme = scheme_of(cases[i].scheme);
        int r = qp_scheme_check_model(scheme, &checkpoint->arch, &err);
        cr_assert_eq(r, cases[i].message ? QP_ERR_INPUT : 0, "%s: %s", cases[i].scheme, err.message);
        cr_assert(!cases[i].message || strstr(err.message, cases[i].message), "%s", err.message);
        qp_scheme_free(scheme);
    }
    qp_checkpoint_close(checkpoint);
}

/* ---- a checkpoint that is quantized already ---- */

static void put_packed(struct qp_safetensors_writer *writer, const char *module, const struct qp_linear_scheme *scheme,
                       const struct qp_quantized *q)
{
    struct qp_error err;
    struct qp_tensor *packed[QP_COMPRESSED_MAX];
    size_t count;
    cr_assert_eq(qp_compressed_pack(module, scheme, q, packed, &count, &err), 0, "%s", err.message);
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(qp_safetensors_put(writer, packed[i], &err), 0, "%s", err.message);
        qp_tensor_unref(packed[i]);
    }
}

/* A weight as it is, or quantized to nearest; *down gets what layer 1's down_proj then stands for. */
static void put_weight(struct qp_safetensors_writer *writer, const struct qp_scheme *scheme, struct qp_tensor *t,
                       float *down)
{
    float w[24 * 40], scale[24 * 40];
    uint8_t codes[24 * 40];
    char module[128];
    struct qp_error err;
    const struct qp_kernels *k = qp_kernels_open("ref");
    snprintf(module, sizeof module, "%.*s", (int)(strlen(t->name) - strlen(".weight")), t->name);
    const struct qp_linear_scheme *s = strstr(module, "_proj") ? qp_scheme_for(scheme, module) : NULL;
    if (!s) {
        cr_assert_eq(qp_safetensors_put(writer, t, &err), 0, "%s", err.message);
        return;
    }
    int64_t rows = t->shape[0], cols = t->shape[1], group = qp_spec_group(&s->weights, cols);
    k->to_f32(t->dtype, t->elements, t->data, w);
    k->qparams(&s->weights.format, rows, cols, group, w, scale, NULL);
    k->quantize(&(struct qp_grouped){&s->weights.format, rows, cols, group, scale, NULL}, w, codes);
    struct qp_quantized q = {s->weights.format, rows, cols, group, codes, scale, NULL, NULL, NULL};
    put_packed(writer, module, s, &q);
    if (strcmp(module, "model.layers.1.mlp.down_proj") == 0)
        k->dequantize(&(struct qp_grouped){&q.format, rows, cols, group, scale, NULL}, codes, down);
}

/* Golden model "plain" in the compressed-tensors layout. */
static void write_quantized(const struct qp_scheme *scheme, float *down)
{
    struct qp_error err;
    struct qp_safetensors_writer *writer;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    cr_assert_eq(qp_safetensors_create(scratch(""), 1 << 30, 128, &writer, &err), 0, "%s", err.message);
    for (int64_t b = 0; b < 4; b++) {
        struct qp_block block = golden_block(checkpoint, b);
        for (size_t i = 0; i < block.unit->count; i++)
            if (b < 3 || strcmp(block.unit->tensors[i]->name, "model.norm.weight") == 0)
                put_weight(writer, scheme, block.unit->tensors[i], down);
        qp_unit_free(block.unit);
    }
    cr_assert_eq(qp_safetensors_finish(writer, NULL, &err), 0, "%s", err.message);
    json_t *config = json_deep_copy(checkpoint->config), *ignore = json_pack("[s]", "lm_head"), *quantization;
    cr_assert_eq(qp_compressed_config(scheme, ignore, &quantization, &err), 0, "%s", err.message);
    json_object_set_new(config, "quantization_config", quantization);
    cr_assert_eq(qp_write_json(scratch("config.json"), config, &err), 0);
    json_decref(config);
    json_decref(ignore);
    qp_checkpoint_close(checkpoint);
}

static void reads_quantized(const char *text)
{
    static float expected[24 * 40];
    struct qp_error err;
    struct qp_checkpoint *checkpoint;
    struct qp_tensor *t;
    struct qp_scheme *scheme = scheme_of(text);
    qp_scheme_bind(scheme, QP_BF16);
    write_quantized(scheme, expected);
    cr_assert_eq(qp_checkpoint_open(scratch(""), &checkpoint, &err), 0, "%s", err.message);
    cr_assert_not_null(checkpoint->scheme);
    cr_assert_eq(checkpoint->arch.dtype, QP_BF16);
    cr_assert_eq(qp_checkpoint_tensor(checkpoint, "model.layers.1.mlp.down_proj.weight", NULL, &t, &err), 0, "%s",
                 err.message);
    cr_assert_eq(t->dtype, QP_F32);
    cr_assert_eq(memcmp(t->data, expected, t->bytes), 0);
    qp_tensor_unref(t);
    struct qp_metrics plain, quantized, weights_only;
    struct qp_checkpoint *original = golden_open("plain");
    const struct qp_kernels *k = qp_kernels_open("cpu");
    cr_assert_eq(qp_evaluate(original, golden_windows(), k, NULL, NULL, &plain, &err), 0, "%s", err.message);
    cr_assert_eq(qp_evaluate(checkpoint, golden_windows(), k, NULL, NULL, &quantized, &err), 0, "%s", err.message);
    cr_assert_neq(plain.perplexity, quantized.perplexity);
    bool activations = checkpoint->scheme->base.activations.enabled;
    checkpoint->scheme->base.activations.enabled = false;
    cr_assert_eq(qp_evaluate(checkpoint, golden_windows(), k, NULL, NULL, &weights_only, &err), 0);
    cr_assert_eq(weights_only.perplexity != quantized.perplexity, activations);
    cr_assert_float_eq(quantized.perplexity / plain.perplexity, 1.0, 0.3, "%g %g", quantized.perplexity,
                       plain.perplexity);
    qp_checkpoint_close(original);
    qp_checkpoint_close(checkpoint);
    qp_scheme_free(scheme);
}

Test(checkpoint, packed_integers_are_read_back)
{
    reads_quantized("{\"weights\": {\"format\": \"int8\", \"group\": 8}}");
}

Test(checkpoint, integers_with_activations_are_read_back)
{
    reads_quantized("\"int8\"");
}

Test(checkpoint, a_quantized_tensor_that_is_missing_is_named)
{
    json_t *quantization;
    struct qp_error err;
    struct qp_scheme *scheme = scheme_of("\"int8\"");
    json_t *ignore = json_pack("[s]", "lm_head");
    cr_assert_eq(qp_compressed_config(scheme, ignore, &quantization, &err), 0, "%s", err.message);
    change_is_refused("quantization_config", quantization, "q_proj.weight_scale is missing");
    json_decref(ignore);
    qp_scheme_free(scheme);
}
