#include "tests/support/tiny.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/random.h"
#include "libstage/formats/safetensors.h"
#include "libstage/network/model_unit.h"
#include "libstage/network/sequential.h"

char tiny_message[QP_ERROR_SIZE];

json_t *tiny_config(void)
{
    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:s, s:b, s:i, s:i, s:s}",
                     "architectures", "LlamaForCausalLM", "model_type", "llama", "hidden_size", TINY_HIDDEN,
                     "intermediate_size", TINY_FFN, "num_hidden_layers", TINY_LAYERS, "num_attention_heads", 4,
                     "num_key_value_heads", 2, "head_dim", 16, "vocab_size", TINY_VOCAB, "max_position_embeddings", 256,
                     "rms_norm_eps", 1e-5, "rope_theta", 10000.0, "hidden_act", "silu", "tie_word_embeddings", 1,
                     "bos_token_id", 1, "eos_token_id", 2, "torch_dtype", "float32");
}

/* A sum of twelve uniform numbers: normal enough for weights. */
void tiny_random(uint64_t seed, int64_t count, float deviation, float *out)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (int64_t i = 0; i < count; i++) {
        double sum = -6.0;
        for (int k = 0; k < 12; k++)
            sum += (double)(qp_random(&state) >> 11) * 0x1p-53;
        out[i] = (float)sum * deviation;
    }
}

static struct qp_tensor *random_tensor(const char *name, int rank, int64_t rows, int64_t cols, float mean,
                                       float deviation, uint64_t seed)
{
    struct qp_error err;
    struct qp_tensor *t;
    int64_t shape[2] = {rows, cols};
    cr_assert_eq(qp_tensor_new(name, QP_F32, rank, shape, &t, &err), 0);
    tiny_random(seed, t->elements, deviation, t->data);
    for (int64_t i = 0; i < t->elements; i++)
        ((float *)t->data)[i] += mean;
    return t;
}

static void put(struct qp_unit *unit, struct qp_tensor *tensor)
{
    struct qp_error err;
    cr_assert_eq(qp_unit_put(unit, tensor, &err), 0);
}

/* Statistics of 4 n tokens whose channels share a common factor: correlated, and well conditioned. */
static void put_statistics(struct qp_unit *unit, const char *prefix, const struct qp_site *site, int64_t n,
                           uint64_t seed)
{
    char name[256];
    int64_t rows = 4 * n;
    float *x = malloc((size_t)(rows * (n + 1)) * sizeof *x), *common = x + rows * n;
    tiny_random(seed, rows * n, 1.0f, x);
    tiny_random(seed + 1, rows, 1.0f, common);
    for (int64_t i = 0; i < rows * n; i++)
        x[i] += common[i / n] * (i % n % 5 == 0 ? 3.0f : 0.7f);
    const struct qp_kernels *k = qp_kernels_open("ref");
    snprintf(name, sizeof name, "%s.%s.hessian", prefix, site->name);
    struct qp_tensor *h = random_tensor(name, 2, n, n, 0.0f, 0.0f, 0);
    k->hessian(rows, n, x, h->data);
    k->mirror(n, h->data);
    snprintf(name, sizeof name, "%s.%s.absmax", prefix, site->name);
    struct qp_tensor *absmax = random_tensor(name, 1, n, 0, 0.0f, 0.0f, 0);
    snprintf(name, sizeof name, "%s.%s.absmean", prefix, site->name);
    struct qp_tensor *absmean = random_tensor(name, 1, n, 0, 0.0f, 0.0f, 0);
    double *sum = calloc((size_t)n, sizeof *sum);
    k->column_stats(rows, n, x, absmax->data, sum, NULL, NULL);
    for (int64_t i = 0; i < n; i++)
        ((float *)absmean->data)[i] = (float)(sum[i] / (double)rows);
    put(unit, h);
    put(unit, absmax);
    put(unit, absmean);
    free(sum);
    free(x);
}

static void fill_layer(struct qp_unit *unit, const struct qp_arch *arch, int layer, bool hessians)
{
    char prefix[128], name[256];
    snprintf(prefix, sizeof prefix, arch->block, layer);
    for (int i = 0; i < QP_LINEARS; i++) {
        const struct qp_linear *d = &arch->layer_types[0]->linears[i];
        int64_t rows = d->out, cols = d->in;
        snprintf(name, sizeof name, "%s.%s.weight", prefix, d->module);
        put(unit, random_tensor(name, 2, rows, cols, 0.0f, 0.1f, (uint64_t)(100 * layer + i + 1)));
    }
    for (int i = 0; i < QP_NORMS; i++) {
        snprintf(name, sizeof name, "%s.%s.weight", prefix, arch->layer_types[0]->norms[i].module);
        put(unit, random_tensor(name, 1, arch->hidden, 0, 1.0f, 0.1f, (uint64_t)(100 * layer + 50 + i)));
    }
    for (int i = 0; i < QP_SITES && hessians; i++)
        put_statistics(unit, prefix, &arch->layer_types[0]->sites[i], arch->layer_types[0]->sites[i].in,
                       (uint64_t)(1000 * layer + i));
}

static void fill_model(struct qp_unit *unit, const char *scheme)
{
    json_t *parsed = json_loads(scheme, JSON_DECODE_ANY, NULL);
    cr_assert_not_null(parsed, "scheme %s is no JSON", scheme);
    json_object_set_new(unit->attrs, "path", json_string("tiny"));
    json_object_set_new(unit->attrs, "config", tiny_config());
    json_object_set_new(unit->attrs, "tokenizer", json_null());
    json_object_set_new(unit->attrs, "scheme", parsed);
    json_object_set_new(unit->attrs, "blocks", json_integer(TINY_LAYERS + 2));
}

static void tiny_arch(struct qp_arch *arch)
{
    struct qp_error err;
    qp_auto_json json_t *config = tiny_config();
    cr_assert_eq(qp_arch_parse(config, "tiny", arch, &err), 0, "%s", err.message);
}

void tiny_units(const char *scheme, bool hessians, struct qp_unit *units[TINY_UNITS])
{
    struct qp_error err;
    struct qp_arch arch;
    char name[256];
    tiny_arch(&arch);
    for (int i = 0; i < TINY_UNITS; i++) {
        enum qp_unit_kind kind = i == 0 ? QP_UNIT_MODEL : i == TINY_UNITS - 1 ? QP_UNIT_END : QP_UNIT_BLOCK;
        cr_assert_eq(qp_unit_new(kind, i, &units[i], &err), 0);
    }
    json_object_set_new(units[TINY_UNITS - 1]->attrs, "blocks", json_integer(TINY_UNITS - 2));
    fill_model(units[0], scheme);
    snprintf(name, sizeof name, "%s.weight", arch.embedding);
    struct qp_tensor *embedding = random_tensor(name, 2, TINY_VOCAB, TINY_HIDDEN, 0.0f, 1.0f, 7);
    put(units[1], embedding);
    for (int l = 0; l < TINY_LAYERS; l++)
        fill_layer(units[2 + l], &arch, l, hessians);
    put(units[TINY_LAYERS + 2], qp_tensor_ref(embedding));
    snprintf(name, sizeof name, "%s.weight", arch.final_norm);
    put(units[TINY_LAYERS + 2], random_tensor(name, 1, TINY_HIDDEN, 0, 1.0f, 0.1f, 8));
}

/* Gives the rows of each block the largest of their scales. */
static void share_blocks(const struct qp_quant_spec *spec, int64_t rows, int64_t groups, float *scale)
{
    for (int64_t top = 0; spec->granularity == QP_PER_BLOCK && top < rows; top += spec->block_rows)
        for (int64_t g = 0; g < groups; g++) {
            int64_t end = top + spec->block_rows < rows ? top + spec->block_rows : rows;
            float most = 0;
            for (int64_t r = top; r < end; r++)
                most = fmaxf(most, scale[r * groups + g]);
            for (int64_t r = top; r < end; r++)
                scale[r * groups + g] = most;
        }
}

static void quantize_linear(struct qp_block *block, int linear, const struct qp_linear_scheme *scheme)
{
    struct qp_error err;
    const struct qp_linear *d = &block->type->linears[linear];
    int64_t rows = d->out, cols = d->in;
    float *w = malloc((size_t)(2 * rows * cols) * sizeof *w), *scale = w + rows * cols;
    int8_t *zero = malloc((size_t)(rows * cols));
    uint8_t *codes = malloc((size_t)(rows * cols));
    struct qp_number_format own = scheme->weights.format, *format = &own;
    int64_t group = qp_spec_group(&scheme->weights, cols);
    own.global = format->scale_dtype == QP_F8_E4M3 ? 1000.0f : 0.0f;
    cr_assert_eq(qp_block_weight(block, linear, true, w, &err), 0, "%s", err.message);
    block->kernels->qparams(format, rows, cols, group, w, scale, zero);
    share_blocks(&scheme->weights, rows, qp_groups(cols, group), scale);
    block->kernels->quantize(&(struct qp_grouped){format, rows, cols, group, scale, format->symmetric ? NULL : zero}, w,
                             codes);
    struct qp_quantized q = {*format, rows, cols, group, codes, scale, format->symmetric ? NULL : zero, NULL, NULL};
    cr_assert_eq(qp_block_set_quantized(block, linear, &q, NULL, &err), 0, "%s", err.message);
    free(w);
    free(zero);
    free(codes);
}

void tiny_quantize(struct qp_unit *units[TINY_UNITS])
{
    struct qp_error err;
    struct qp_model model;
    cr_assert_eq(qp_model_open(units[0], &model, &err), 0, "%s", err.message);
    for (int u = 2; u < 2 + TINY_LAYERS; u++) {
        struct qp_block block;
        cr_assert_eq(qp_block_of(&model.arch, qp_kernels_open("ref"), units[u], &block, &err), 0, "%s", err.message);
        for (int i = 0; i < QP_LINEARS; i++)
            if (qp_model_scheme(&model, block.layer, i))
                quantize_linear(&block, i, qp_model_scheme(&model, block.layer, i));
    }
    qp_model_close(&model);
}

void tiny_steps(struct qp_unit *units[TINY_UNITS], struct qp_unit *out[TINY_STEPS])
{
    struct qp_error err;
    struct qp_arch arch;
    json_t *config = tiny_config();
    cr_assert_eq(qp_arch_parse(config, "tiny", &arch, &err), 0, "%s", err.message);
    json_decref(config);
    cr_assert_eq(qp_sequential_announce(&arch, units[0], &err), 0);
    int to = 0;
    for (int u = 0; u < TINY_UNITS; u++) {
        int steps = units[u]->kind == QP_UNIT_BLOCK ? qp_sequential_steps(&arch, u - 1) : 1;
        for (int step = 1; step <= steps; step++, to++) {
            cr_assert_eq(qp_unit_copy(units[u], &out[to], &err), 0);
            cr_assert(u == 0 || qp_sequential_label(&arch, step, out[to], &err) == 0);
            cr_assert_eq(out[to]->seq, to);
        }
    }
    cr_assert_eq(to, TINY_STEPS);
    tiny_free(units, TINY_UNITS);
}

void tiny_write(const char *folder)
{
    struct qp_error err;
    struct qp_unit *units[TINY_UNITS];
    struct qp_safetensors_writer *writer;
    char path[4096];
    cr_assert_eq(qp_make_folders(folder, &err), 0, "%s", err.message);
    tiny_units("\"int8\"", false, units);
    cr_assert_eq(qp_safetensors_create(folder, 1u << 30, 64, &writer, &err), 0, "%s", err.message);
    for (int u = 1; u < TINY_UNITS - 1; u++)
        for (size_t i = 0; i < units[u]->count; i++)
            if (u == 1 || strcmp(units[u]->tensors[i]->name, units[1]->tensors[0]->name) != 0)
                cr_assert_eq(qp_safetensors_put(writer, units[u]->tensors[i], &err), 0, "%s", err.message);
    cr_assert_eq(qp_safetensors_finish(writer, NULL, &err), 0, "%s", err.message);
    snprintf(path, sizeof path, "%s/config.json", folder);
    qp_auto_json json_t *config = tiny_config();
    cr_assert_eq(qp_write_json(path, config, &err), 0, "%s", err.message);
    tiny_free(units, TINY_UNITS);
}

void tiny_free(struct qp_unit **units, size_t count)
{
    for (size_t i = 0; i < count; i++)
        qp_unit_free(units[i]);
}

struct qp_unit **tiny_call(const struct qp_stage_desc *desc, const struct tiny_call *call, size_t *count,
                           json_t **report)
{
    struct qp_error err = {0};
    struct qp_unit **out = NULL;
    json_error_t at;
    *count = 0;
    qp_auto_json json_t *parameters = json_loads(call->params ? call->params : "{}", 0, &at);
    qp_auto_json json_t *surroundings = json_loads(call->context ? call->context : "{}", 0, &at);
    cr_assert(parameters && surroundings, "%s", at.text);
    int r = qp_stage_call(desc,
                          &(struct qp_call){.params = parameters,
                                            .context = surroundings,
                                            .wants = call->wants,
                                            .units = call->units,
                                            .count = call->count},
                          &out, count, report, &err);
    memcpy(tiny_message, err.message, sizeof tiny_message);
    cr_assert_eq(r, call->expected, "%s returned %d: %s", desc->name, r, err.message);
    return out;
}

float tiny_hessian(const float *packed, int64_t n, int64_t i, int64_t j)
{
    int64_t row = i < j ? i : j, col = i < j ? j : i, at = 0;
    for (int64_t r = 0; r < row; r++)
        at += n - r;
    return packed[at + col - row];
}
