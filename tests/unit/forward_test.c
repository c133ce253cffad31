#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/golden.h"
#include "tests/support/tiny.h"

/* Against transformers' logits, which lie within +-5. */
static void same_logits(const char *model, const char *expected, const char *backend)
{
    static float logits[GOLDEN_LOGITS];
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open(model);
    cr_assert_eq(network_logits(checkpoint, golden_windows(), qp_kernels_open(backend), logits, &err), 0, "%s",
                 err.message);
    double worst = largest_difference(GOLDEN_LOGITS, logits, golden_logits(expected));
    cr_assert_leq(worst, 1e-4, "%s on %s: %g", model, backend, worst);
    qp_checkpoint_close(checkpoint);
}

Test(forward, grouped_heads_and_a_tied_head)
{
    same_logits("plain", "plain", "ref");
    same_logits("plain", "plain", "cpu");
}

Test(forward, biases_and_an_untied_head)
{
    same_logits("biased", "biased", "ref");
    same_logits("biased", "biased", "cpu");
}

Test(forward, linear_rope_in_an_old_config)
{
    same_logits("linear", "linear", "ref");
}

Test(forward, llama3_rope_in_a_sharded_checkpoint)
{
    same_logits("llama3", "llama3", "ref");
}

Test(forward, gguf_with_biases)
{
    same_logits("biased.gguf", "biased", "ref");
}

Test(forward, gguf_with_rope_factors)
{
    same_logits("llama3.gguf", "llama3", "cpu");
}

Test(forward, gguf_of_gemma3)
{
    same_logits("../gemma3/plain.gguf", "../gemma3/plain", "ref");
    same_logits("../gemma3/plain.gguf", "../gemma3/plain", "cpu");
}

Test(forward, gguf_of_gemma3_that_states_windows_theta_and_cap)
{
    same_logits("../gemma3/stated.gguf", "../gemma3/stated", "ref");
}

/* Made by golden/families_gguf.py. */
Test(forward, gguf_of_families)
{
    static const char *const cases[] = {"mistral",    "gemma",     "gemma2",       "qwen2",   "qwen3",
                                        "phi3",       "phi3.long", "glm4",         "granite", "olmo2",
                                        "starcoder2", "exaone4",   "exaone4.full", "smollm3", "gpt2"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char model[64], logits[64];
        snprintf(model, sizeof model, "../gguf/%s.gguf", cases[i]);
        snprintf(logits, sizeof logits, "../gguf/%s", cases[i]);
        same_logits(model, logits, "cpu");
    }
}

/* ---- quantized: against weights dequantized and activations rounded by hand ---- */

struct tiny {
    struct qp_arch arch;
    struct qp_unit *units[TINY_UNITS];
    struct qp_scheme *scheme;
    struct qp_block block; /* the first decoder layer */
    struct qp_rotations rotations;
    struct qp_workspace *workspace;
};

static void tiny_open(struct tiny *t, const char *scheme, int64_t length)
{
    struct qp_error err;
    json_t *config = tiny_config(), *value = json_loads(scheme, JSON_DECODE_ANY, NULL);
    tiny_units(scheme, false, t->units);
    cr_assert_eq(qp_arch_parse(config, "tiny", &t->arch, &err), 0);
    cr_assert_eq(qp_scheme_parse(value, &t->scheme, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_of(&t->arch, qp_kernels_open("ref"), t->units[2], &t->block, &err), 0);
    cr_assert_eq(qp_rotations_open(&t->arch, length, &t->rotations, &err), 0);
    cr_assert_eq(qp_workspace_new(&t->workspace, &err), 0);
    json_decref(config);
    json_decref(value);
}

static void tiny_close(struct tiny *t)
{
    qp_scheme_free(t->scheme);
    tiny_free(t->units, TINY_UNITS);
    qp_workspace_free(t->workspace);
    qp_rotations_close(&t->rotations);
}

/* Round-to-nearest codes of a linear into the unit. */
static void quantize(struct tiny *t, int linear)
{
    struct qp_error err;
    char module[128];
    const struct qp_linear *d = &t->arch.layer_types[0]->linears[linear];
    int64_t rows = d->out, cols = d->in;
    const struct qp_linear_scheme *s =
        qp_scheme_for(t->scheme, qp_module_name(&t->arch, t->block.layer, linear, module, sizeof module));
    const struct qp_number_format *format = &s->weights.format;
    int64_t group = qp_spec_group(&s->weights, cols), count = qp_scale_count(rows, cols, group);
    float *w = malloc((size_t)(rows * cols) * sizeof *w), *scale = malloc((size_t)count * sizeof *scale);
    uint8_t *codes = malloc((size_t)(rows * cols));
    int8_t *zero = format->symmetric ? NULL : malloc((size_t)count);
    cr_assert_eq(qp_block_weight(&t->block, linear, true, w, &err), 0);
    t->block.kernels->qparams(format, rows, cols, group, w, scale, zero);
    t->block.kernels->quantize(&(struct qp_grouped){format, rows, cols, group, scale, zero}, w, codes);
    struct qp_quantized q = {*format, rows, cols, group, codes, scale, zero, NULL, NULL};
    cr_assert_eq(qp_block_set_quantized(&t->block, linear, &q, NULL, &err), 0);
    free(w);
    free(scale);
    free(codes);
    free(zero);
}

static int round_by_hand(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)site;
    (void)err;
    const struct qp_quant_spec *spec = context;
    float *values = (float *)x; /* the forward's own buffer: what quantization would change */
    int64_t span = !spec ? rows * in : spec->granularity == QP_PER_TENSOR ? rows / 2 * in : in; /* 2 sequences */
    for (int64_t at = 0; spec && at < rows * in; at += span) {
        float largest = 0.0f;
        for (int64_t i = 0; i < span; i++)
            largest = fmaxf(largest, fabsf(values[at + i]));
        float scale = largest / 127.5f;
        for (int64_t i = 0; i < span; i++)
            values[at + i] = rintf(fminf(fmaxf(values[at + i] / scale, -128.0f), 127.0f)) * scale;
    }
    return 0;
}

static void run(struct tiny *t, const struct qp_layer *layer, int64_t length, float *x, qp_site_fn *site, void *context)
{
    struct qp_error err;
    tiny_random(3, 2 * length * TINY_HIDDEN, 1.0f, x);
    cr_assert_eq(qp_layer_forward(layer, &(struct qp_sequences){2, length, x}, &t->rotations, t->workspace,
                                  &(struct qp_taps){.site = site, .context = context}, &err),
                 0);
}

static void quantized_is_dequantized(const char *scheme, bool activations)
{
    enum { LENGTH = 9, COUNT = 2 * LENGTH * TINY_HIDDEN };
    static float simulated[COUNT], by_hand[COUNT], original[COUNT];
    struct qp_error err;
    struct tiny t;
    struct qp_layer layer;
    tiny_open(&t, scheme, LENGTH);
    for (int l = 0; l < QP_LINEARS; l++)
        quantize(&t, l);
    cr_assert_eq(qp_layer_load(&t.block, QP_QUANTIZED, t.scheme, &layer, &err), 0, "%s", err.message);
    run(&t, &layer, LENGTH, simulated, NULL, NULL);
    qp_layer_free(&layer);

    cr_assert_eq(qp_layer_load(&t.block, QP_ORIGINAL, NULL, &layer, &err), 0);
    run(&t, &layer, LENGTH, original, NULL, NULL);
    for (int l = 0; l < QP_LINEARS; l++) {
        struct qp_quantized q;
        cr_assert_eq(qp_block_quantized(&t.block, l, &t.scheme->base, &q, &err), 1, "%s", err.message);
        for (int64_t i = 0; i < q.rows * q.cols; i++) {
            int64_t s = i / q.cols * qp_groups(q.cols, q.group) + i % q.cols / q.group;
            layer.weight[l][i] = (float)((int8_t)q.codes[i] - (q.zero ? q.zero[s] : 0)) * q.scale[s];
        }
    }
    run(&t, &layer, LENGTH, by_hand, round_by_hand, activations ? &t.scheme->base.activations : NULL);
    qp_layer_free(&layer);
    cr_assert_leq(largest_difference(COUNT, simulated, by_hand), 0.0, "%s", scheme);
    cr_assert_gt(largest_difference(COUNT, simulated, original), 1e-3, "%s", scheme);
    tiny_close(&t);
}

Test(forward, quantized_weights)
{
    quantized_is_dequantized("{\"weights\": {\"format\": \"int4\", \"group\": 32, \"symmetric\": false}}", false);
}

Test(forward, quantized_activations)
{
    quantized_is_dequantized("\"int8\"", true);
}

Test(forward, quantized_activations_with_a_range_for_each_sequence)
{
    quantized_is_dequantized("{\"weights\": {\"format\": \"int8\", \"granularity\": \"channel\"}, \"activations\": "
                             "{\"format\": \"int8\", \"granularity\": \"tensor\"}}",
                             true);
}

/* ---- codes multiplied as codes: what the simulation comes to, but for rounding ---- */

static void forward_with(struct tiny *t, const struct qp_kernels *kernels, enum qp_dtype compute, unsigned coded,
                         int64_t length, float *x)
{
    struct qp_error err;
    struct qp_layer layer;
    t->block.kernels = kernels;
    t->block.compute = compute;
    cr_assert_eq(qp_layer_load(&t->block, QP_QUANTIZED, t->scheme, &layer, &err), 0, "%s", err.message);
    for (int l = 0; l < QP_LINEARS; l++) {
        bool codes = kernels->int8 && coded >> l & 1;
        cr_assert_eq(layer.int8[l].codes != NULL, codes, "linear %d", l);
        cr_assert_eq(layer.weight[l] == NULL && layer.bf16[l] == NULL, codes, "no copy of linear %d", l);
    }
    run(t, &layer, length, x, NULL, NULL);
    qp_layer_free(&layer);
}

/* Of the differences, relative to the first. */
static double relative_error(int64_t count, const float *a, const float *b)
{
    double squares = 0.0, all = 0.0;
    for (int64_t i = 0; i < count; i++) {
        squares += pow((double)a[i] - b[i], 2);
        all += pow(a[i], 2);
    }
    return sqrt(squares / all);
}

/* A last place may decide how an input of 8 bits, or a BF16 number, rounds: in float32 few do, in BF16 many. What is
 * computed wrongly is off by as much as it is.
 * coded: the linears whose codes are multiplied, a bit each. */
static void codes_are_simulated(const char *scheme, const char *backend, unsigned quantized, unsigned coded)
{
    enum { LENGTH = 9, COUNT = 2 * LENGTH * TINY_HIDDEN };
    static float real[COUNT], simulated[COUNT];
    struct qp_error err;
    struct tiny t;
    tiny_open(&t, scheme, LENGTH);
    for (int l = 0; l < QP_LINEARS; l++)
        if (quantized >> l & 1)
            quantize(&t, l);
    for (int s = 0; s < QP_SITES; s++)
        cr_assert_eq(
            qp_block_set_number(&t.block, t.arch.layer_types[0]->sites[s].name, "input_scale", 0.02f, NULL, &err), 0);
    struct qp_kernels with = *qp_kernels_open(backend), without = with;
    with.int8 = true;
    without.int8 = false;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        enum qp_dtype compute = bf16 ? QP_BF16 : QP_F32;
        forward_with(&t, &with, compute, coded, LENGTH, real);
        forward_with(&t, &without, compute, coded, LENGTH, simulated);
        double off = relative_error(COUNT, real, simulated);
        cr_assert_leq(off, bf16 ? 3e-2 : 1e-3, "%s on %s: %g", scheme, backend, off);
    }
    tiny_close(&t);
}

#define INT8_WEIGHTS "\"weights\": {\"format\": \"int8\", \"granularity\": \"channel\"}"
#define INT8_ACTIVATIONS "\"activations\": {\"format\": \"int8\", "

Test(forward, int8_codes_are_multiplied)
{
    static const char *const schemes[] = {
        "\"int8\"", "\"int8-static\"", "{" INT8_WEIGHTS ", " INT8_ACTIVATIONS "\"granularity\": \"tensor\"}}",
        "{" INT8_WEIGHTS ", " INT8_ACTIVATIONS "\"symmetric\": false}}",
        "{\"weights\": {\"format\": \"int4\", \"granularity\": \"channel\", \"symmetric\": false}, " INT8_ACTIVATIONS
        "\"granularity\": \"token\"}}"};
    const unsigned all = (1u << QP_LINEARS) - 1;
    for (size_t s = 0; s < sizeof schemes / sizeof *schemes; s++) {
        codes_are_simulated(schemes[s], "ref", all, all);
        codes_are_simulated(schemes[s], "cpu", all, all);
        codes_are_simulated(schemes[s], "ref", all & ~(1u << QP_K), all & ~(1u << QP_K));
    }
}

Test(forward, int8_codes_are_not_multiplied_where_scales_change_within_a_sum)
{
    codes_are_simulated("{\"weights\": {\"format\": \"int8\", \"group\": 32}, " INT8_ACTIVATIONS
                        "\"granularity\": \"token\"}}",
                        "cpu", (1u << QP_LINEARS) - 1, 0);
    codes_are_simulated("{" INT8_WEIGHTS "}", "cpu", (1u << QP_LINEARS) - 1, 0);
    codes_are_simulated("{" INT8_WEIGHTS ", \"activations\": {\"format\": \"fp8_e4m3\"}}", "cpu",
                        (1u << QP_LINEARS) - 1, 0);
}

/* What is folded but not quantized is exported in the model's dtype. */
Test(forward, folded_weights_are_rounded_as_they_are_exported)
{
    struct qp_error err;
    float s[40];
    struct qp_layer transformed, exported;
    struct qp_checkpoint *checkpoint = golden_open("biased");
    struct qp_block block = golden_block(checkpoint, 1);
    struct qp_scheme *scheme;
    json_t *preset = json_string("int8");
    cr_assert_eq(qp_scheme_parse(preset, &scheme, &err), 0);
    tiny_random(1, 40, 0.1f, s);
    for (int i = 0; i < 40; i++)
        s[i] += 1.0f;
    cr_assert_eq(qp_block_fold(&block, QP_SITE_MLP_OUT, s, &err), 0, "%s", err.message);
    cr_assert_eq(qp_layer_load(&block, QP_TRANSFORMED, NULL, &transformed, &err), 0);
    cr_assert_eq(qp_layer_load(&block, QP_QUANTIZED, scheme, &exported, &err), 0);
    for (int l = 0; l < QP_LINEARS; l++) {
        bool folded = l == QP_UP || l == QP_DOWN;
        double worst = largest_difference(24 * 16, transformed.weight[l], exported.weight[l]);
        cr_assert_eq(worst > 0.0, folded, "linear %d", l);
        cr_assert_leq(worst, 2e-3);
        cr_assert_eq(largest_difference(16, transformed.bias[l], exported.bias[l]) > 0.0, l == QP_UP);
    }
    qp_layer_free(&transformed);
    qp_layer_free(&exported);
    qp_scheme_free(scheme);
    json_decref(preset);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

Test(forward, activations_stay_where_nothing_is_quantized)
{
    struct qp_error err;
    struct tiny t;
    struct qp_layer layer;
    tiny_open(&t, "\"int8\"", 8);
    quantize(&t, QP_DOWN);
    cr_assert_eq(qp_layer_load(&t.block, QP_QUANTIZED, t.scheme, &layer, &err), 0, "%s", err.message);
    for (int s = 0; s < QP_SITES; s++)
        cr_assert_eq(layer.activations[s].enabled, s == QP_SITE_MLP_OUT);
    qp_layer_free(&layer);
    tiny_close(&t);
}

Test(forward, activations_that_differ_at_a_site_are_refused)
{
    struct qp_error err;
    struct tiny t;
    struct qp_layer layer;
    tiny_open(&t,
              "{\"weights\": {\"format\": \"int8\", \"granularity\": \"channel\"}, \"activations\": {\"format\": "
              "\"int8\", \"granularity\": \"token\", \"dynamic\": true}, \"rules\": [{\"match\": \"*.up_proj\", "
              "\"weights\": {\"format\": \"int8\", \"granularity\": \"channel\"}, \"activations\": {\"format\": "
              "\"fp8_e4m3\", \"granularity\": \"token\", \"dynamic\": true}}]}",
              8);
    for (int l = 0; l < QP_LINEARS; l++)
        quantize(&t, l);
    cr_assert_eq(qp_layer_load(&t.block, QP_QUANTIZED, t.scheme, &layer, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "gate_proj and model.layers.0.mlp.up_proj"), "%s", err.message);
    cr_assert_eq(qp_scheme_check_model(t.scheme, &t.arch, &err), QP_ERR_INPUT);
    tiny_close(&t);
}

/* ---- chunks and sites ---- */

static int count_rows(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)err;
    int64_t *seen = context;
    seen[site] += rows;
    return x[rows * in - 1] == x[rows * in - 1] ? 0 : QP_ERR_STAGE;
}

Test(forward, sequences_do_not_see_each_other_and_sites_see_every_row)
{
    enum { LENGTH = 250, SEQUENCES = 19, SIZE = LENGTH * TINY_HIDDEN };
    struct qp_error err;
    struct tiny t;
    struct qp_layer layer;
    int64_t seen[QP_SITES] = {0};
    float *all = malloc(2 * SEQUENCES * SIZE * sizeof *all), *alone = all + SEQUENCES * SIZE;
    tiny_open(&t, "\"int8\"", LENGTH);
    cr_assert_eq(qp_layer_load(&t.block, QP_ORIGINAL, NULL, &layer, &err), 0);
    tiny_random(4, SEQUENCES * SIZE, 1.0f, all);
    memcpy(alone, all, SEQUENCES * SIZE * sizeof *all);
    cr_assert_eq(qp_layer_forward(&layer, &(struct qp_sequences){SEQUENCES, LENGTH, all}, &t.rotations, t.workspace,
                                  &(struct qp_taps){.site = count_rows, .context = seen}, &err),
                 0);
    for (int s = 0; s < QP_SITES; s++)
        cr_assert_eq(seen[s], SEQUENCES * LENGTH);
    for (int i = 0; i < SEQUENCES; i++)
        cr_assert_eq(qp_layer_forward(&layer, &(struct qp_sequences){1, LENGTH, alone + i * SIZE}, &t.rotations,
                                      t.workspace, NULL, &err),
                     0);
    cr_assert_leq(largest_difference(SEQUENCES * SIZE, all, alone), 1e-5);
    qp_layer_free(&layer);
    tiny_close(&t);
    free(all);
}

static int refuse(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)context;
    (void)x;
    (void)rows;
    (void)in;
    return site == QP_SITE_MLP_IN ? qp_fail(err, QP_ERR_SPACE, "full") : 0;
}

Test(forward, what_a_site_callback_returns_ends_it)
{
    static float x[8 * TINY_HIDDEN];
    struct qp_error err;
    struct tiny t;
    struct qp_layer layer;
    tiny_open(&t, "\"int8\"", 8);
    cr_assert_eq(qp_layer_load(&t.block, QP_ORIGINAL, NULL, &layer, &err), 0);
    cr_assert_eq(qp_layer_forward(&layer, &(struct qp_sequences){1, 8, x}, &t.rotations, t.workspace,
                                  &(struct qp_taps){.site = refuse}, &err),
                 QP_ERR_SPACE);
    cr_assert_str_eq(err.message, "full");
    qp_layer_free(&layer);
    tiny_close(&t);
}

Test(forward, ids_outside_the_vocabulary_are_refused)
{
    static float x[2 * 24];
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 0);
    cr_assert_eq(qp_embed(&block, QP_ORIGINAL, 2, 2, (int32_t[]){3, GOLDEN_VOCAB}, x, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "token 1 of the data is id 48"), "%s", err.message);
    cr_assert_eq(qp_embed(&block, QP_ORIGINAL, 2, 2, (int32_t[]){-1, 0}, x, &err), QP_ERR_INPUT);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}
