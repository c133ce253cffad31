#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/formats/compressed_size.h"
#include "libstage/network/block.h"
#include "libstage/solvers/scales.h"
#include "libstage/solvers/workspace.h"
#include "runner/commands/advise.h"
#include "runner/pipeline/sizes.h"

#define ENOUGH ((int64_t)1 << 28) /* weights to judge formats by: about 10 seconds of a core */
#define FEWEST 4                  /* layers */

/* ---- schemes for this model ---- */

static int parse(const json_t *source, const struct qp_arch *arch, struct qp_scheme **out, struct qp_error *err)
{
    int r = qp_scheme_parse(source, out, err);
    if (r < 0)
        return r;
    qp_scheme_bind(*out, arch->dtype);
    r = qp_scheme_check_model(*out, arch, err);
    if (r < 0) {
        qp_scheme_free(*out);
        *out = NULL;
    }
    return r;
}

/* The preset; or, where its groups do not divide the model's rows, its mapping with the largest groups that do. */
static int fit(struct qp_candidate_figures *c, const struct qp_arch *arch, struct qp_error *err)
{
    static const int groups[] = {64, 32, 16};
    struct qp_error ignored;
    c->source = json_string(c->recipe->scheme);
    if (!c->source)
        return qp_fail_memory(err, 0, c->recipe->scheme);
    if (parse(c->source, arch, &c->scheme, err) == 0)
        return 0;
    qp_auto_json json_t *mapping = qp_preset_mapping(c->recipe->scheme, &ignored);
    json_t *weights = json_object_get(mapping, "weights");
    for (size_t i = 0; json_object_get(weights, "group") && i < sizeof groups / sizeof *groups; i++) {
        json_object_set_new(weights, "group", json_integer(groups[i]));
        if (parse(mapping, arch, &c->scheme, &ignored) < 0)
            continue;
        json_decref(c->source);
        c->source = json_incref(mapping);
        return 0;
    }
    c->refusal = strdup(err->message);
    return c->refusal ? 0 : qp_fail_memory(err, 0, "a reason");
}

/* ---- sizes ---- */

static uint64_t bytes_of(const struct qp_scheme *scheme, const struct qp_arch *arch)
{
    uint64_t element = (uint64_t)qp_dtype_bits(arch->dtype) / 8;
    uint64_t bytes = (uint64_t)qp_arch_parameters(arch) * element;
    char module[256];
    for (int64_t layer = 0; layer < arch->layers; layer++)
        for (int i = 0; i < qp_layer_type(arch, layer)->linear_count; i++) {
            const struct qp_linear *d = &qp_layer_type(arch, layer)->linears[i];
            int64_t rows = d->out, cols = d->in;
            const struct qp_linear_scheme *s =
                qp_scheme_for(scheme, qp_module_name(arch, layer, i, module, sizeof module));
            if (s)
                bytes += qp_compressed_stored(s, arch->dtype, rows, cols).bytes - (uint64_t)(rows * cols) * element;
        }
    return bytes;
}

/* ---- noise ---- */

/* Working memory for the largest linear. */
static int open_workspace(const struct qp_arch *arch, struct qp_workspace *d, struct qp_error *err)
{
    int64_t most = 0;
    for (int64_t layer = 0; layer < arch->layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(arch, layer);
        for (int i = 0; i < type->linear_count; i++) {
            int64_t size = type->linears[i].out * type->linears[i].in;
            most = size > most ? size : most;
        }
    }
    return qp_workspace_open(most, 1, d, err);
}

static double largest(const float *w, int64_t count)
{
    float most = 0.0f;
    for (int64_t i = 0; i < count; i++)
        most = fmaxf(most, fabsf(w[i]));
    return most;
}

/* Rounds d->w[rows, cols] to nearest as `spec` says, and adds signal and noise. */
static int add_noise(struct qp_workspace *d, const struct qp_quant_spec *spec, int64_t rows, int64_t cols,
                     struct qp_candidate_figures *c, struct qp_error *err)
{
    const struct qp_kernels *k = qp_kernels_open("cpu");
    struct qp_number_format format = spec->format;
    int64_t group = qp_spec_group(spec, cols);
    if (format.scale_dtype == QP_F8_E4M3)
        format.global = qp_global_scale((float)largest(d->w, rows * cols), spec->four_over_six);
    struct qp_scale_choice choice = {.method = QP_SCALES_MINMAX};
    int r =
        qp_choose_scales(k, &(struct qp_unscaled){spec, &format, rows, cols, d->w}, &choice, d->scale, d->zero, err);
    if (r < 0)
        return r;
    const int8_t *zero = format.symmetric ? NULL : d->zero;
    k->quantize(&(struct qp_grouped){&format, rows, cols, group, d->scale, zero}, d->w, d->codes);
    k->dequantize(&(struct qp_grouped){&format, rows, cols, group, d->scale, zero}, d->codes, d->q);
    for (int64_t i = 0; i < rows * cols; i++) {
        double error = (double)d->q[i] - d->w[i];
        c->signal += (double)d->w[i] * d->w[i];
        c->noise += error * error;
    }
    return 0;
}

static int judge_linear(struct qp_workspace *d, const struct qp_block *block, int linear, struct qp_figures *f,
                        struct qp_error *err)
{
    const struct qp_linear *desc = &block->type->linears[linear];
    int64_t rows = desc->out, cols = desc->in;
    char module[256];
    qp_module_name(block->arch, block->layer, linear, module, sizeof module);
    int r = qp_block_weight(block, linear, false, d->w, err);
    for (size_t i = 0; r == 0 && i < f->count; i++) {
        const struct qp_scheme *scheme = f->list[i].scheme;
        const struct qp_linear_scheme *s = scheme ? qp_scheme_for(scheme, module) : NULL;
        if (s)
            r = add_noise(d, &s->weights, rows, cols, &f->list[i], err);
    }
    return r;
}

static int judge_layer(struct qp_checkpoint *model, struct qp_workspace *d, int64_t index, struct qp_figures *f,
                       struct qp_error *err)
{
    qp_auto_unit struct qp_unit *unit = NULL;
    struct qp_block block;
    int r = qp_checkpoint_block(model, index, NULL, &unit, err);
    if (r == 0)
        r = qp_block_of(&model->arch, qp_kernels_open("cpu"), unit, &block, err);
    for (int i = 0; r == 0 && i < block.type->linear_count; i++)
        r = judge_linear(d, &block, i, f, err);
    return r;
}

static void show(int64_t done, int64_t total)
{
    if (isatty(2))
        fprintf(stderr, done < total ? "\r\033[Klayer %lld of %lld" : "\r\033[K", (long long)done, (long long)total);
}

/* Every layer of a small model; of a large one some, evenly spread: its layers are alike enough. */
static int64_t layers_to_judge(const struct qp_arch *arch)
{
    int64_t fit = ENOUGH / qp_layer_weights(qp_layer_type(arch, 0));
    fit = fit < FEWEST ? FEWEST : fit;
    return fit < arch->layers ? fit : arch->layers;
}

static int judge_all(struct qp_checkpoint *model, struct qp_figures *f, struct qp_error *err)
{
    struct qp_workspace workspace;
    int64_t count = layers_to_judge(&model->arch);
    int r = open_workspace(&model->arch, &workspace, err);
    for (int64_t i = 0; r == 0 && i < count; i++) {
        r = judge_layer(model, &workspace, 1 + i * model->arch.layers / count, f, err);
        show(i + 1, count);
    }
    qp_workspace_close(&workspace);
    return r;
}

int qp_figures_make(struct qp_checkpoint *model, struct qp_figures *out, struct qp_error *err)
{
    const struct qp_arch *arch = &model->arch;
    int r = 0;
    *out = (struct qp_figures){.perplexity = NAN};
    out->original_bytes = (uint64_t)qp_arch_parameters(arch) * (uint64_t)qp_dtype_bits(arch->dtype) / 8;
    for (const struct qp_recipe *recipe = qp_advice_recipes; r == 0 && recipe->scheme; recipe++) {
        struct qp_candidate_figures *c = &out->list[out->count++];
        *c = (struct qp_candidate_figures){.recipe = recipe, .perplexity = NAN, .kl = NAN};
        r = fit(c, arch, err);
        if (r == 0 && c->scheme)
            c->bytes = bytes_of(c->scheme, arch);
    }
    if (r == 0)
        r = judge_all(model, out, err);
    if (r < 0)
        qp_figures_free(out);
    return r;
}

void qp_figures_free(struct qp_figures *figures)
{
    for (size_t i = 0; i < figures->count; i++) {
        qp_scheme_free(figures->list[i].scheme);
        json_decref(figures->list[i].source);
        free(figures->list[i].refusal);
    }
    figures->count = 0;
}

double qp_figures_sqnr(const struct qp_candidate_figures *candidate)
{
    return candidate->noise > 0 ? fmin(10.0 * log10(candidate->signal / candidate->noise), 999.0) : 999.0;
}
