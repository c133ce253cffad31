#include "stages/smooth/outputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/solvers/scales.h"
#include "libstage/tensor/operations.h"

void outputs_close(struct outputs *o)
{
    for (int i = 0; i < o->count; i++) {
        free(o->linears[i].w);
        free(o->linears[i].outputs);
    }
    free(o->x);
    free(o->scaled_x);
    free(o->scaled_w);
    free(o->products);
    free(o->scale);
    free(o->zero);
    free(o->codes);
}

static int load_linear(struct outputs *o, const struct qp_block *block, int linear,
                       const struct qp_linear_scheme *scheme, struct qp_error *err)
{
    int64_t rows = block->type->linears[linear].out;
    struct smoothed *l = &o->linears[o->count++];
    *l = (struct smoothed){.weights = &scheme->weights,
                           .rows = rows,
                           .w = qp_new_floats(rows * o->in, "a linear's weights", err),
                           .outputs = qp_new_floats(o->n * rows, "a linear's outputs", err)};
    o->activations = scheme->activations;
    int r = l->w && l->outputs ? qp_block_weight(block, linear, true, l->w, err) : QP_ERR_SPACE;
    if (r == 0)
        o->kernels->gemm(
            &(struct qp_gemm){false, true, o->n, rows, o->in, 1.0f, o->x, o->in, l->w, o->in, 0.0f, l->outputs, rows});
    return r;
}

static int allocate(struct outputs *o, struct qp_error *err)
{
    int64_t rows = 0, scales = 0;
    for (int i = 0; i < o->count; i++) {
        const struct smoothed *l = &o->linears[i];
        int64_t count = qp_scale_count(l->rows, o->in, qp_spec_group(l->weights, o->in));
        rows = l->rows > rows ? l->rows : rows;
        scales = count > scales ? count : scales;
    }
    o->scaled_x = qp_new_floats(o->n * o->in, "scaled samples", err);
    o->scaled_w = qp_new_floats(rows * o->in, "scaled weights", err);
    o->products = qp_new_floats(o->n * rows, "outputs", err);
    o->scale = qp_new_floats(scales, "scales", err);
    o->zero = qp_new_array(scales, 1, "zero points", err);
    o->codes = qp_new_array(rows * o->in, 1, "codes", err);
    return o->scaled_x && o->scaled_w && o->products && o->scale && o->zero && o->codes ? 0 : QP_ERR_SPACE;
}

int outputs_open(struct outputs *o, const struct qp_model *model, const struct qp_block *block, int site,
                 struct qp_error *err)
{
    *o = (struct outputs){.kernels = block->kernels, .in = block->type->sites[site].in};
    int r = qp_block_samples(block, site, &o->n, &o->x, err);
    for (int i = 0; i < block->type->linear_count && r == 0; i++) {
        const struct qp_linear_scheme *scheme = qp_model_scheme(model, block->layer, i);
        if (block->type->linears[i].site == site && scheme && scheme->weights.enabled)
            r = load_linear(o, block, i, scheme, err);
    }
    return r == 0 ? allocate(o, err) : r;
}

static float absmax(int64_t count, const float *v)
{
    float most = 0.0f;
    for (int64_t i = 0; i < count; i++)
        most = fmaxf(most, fabsf(v[i]));
    return most;
}

/* w = diag-scaled weights; in place their rounded values. */
static int round_weights(const struct outputs *o, const struct smoothed *l, float global, float *w,
                         struct qp_error *err)
{
    const struct qp_scale_choice choice = {.method = QP_SCALES_MINMAX};
    struct qp_number_format format = l->weights->format;
    int64_t group = qp_spec_group(l->weights, o->in);
    const int8_t *zero = format.symmetric ? NULL : o->zero;
    format.global = format.scale_dtype == QP_F8_E4M3 ? global : 0.0f;
    if (qp_choose_scales(o->kernels, &(struct qp_unscaled){l->weights, &format, l->rows, o->in, w}, &choice, o->scale,
                         o->zero, err) < 0)
        return err->code;
    o->kernels->quantize(&(struct qp_grouped){&format, l->rows, o->in, group, o->scale, zero}, w, o->codes);
    o->kernels->dequantize(&(struct qp_grouped){&format, l->rows, o->in, group, o->scale, zero}, o->codes, w);
    return 0;
}

static void scale_inputs(const struct outputs *o, const float *s)
{
    struct qp_number_format format = o->activations.format;
    for (int64_t i = 0; i < o->n * o->in; i++)
        o->scaled_x[i] = o->x[i] / s[i % o->in];
    if (!o->activations.enabled)
        return;
    if (format.scale_dtype == QP_F8_E4M3)
        format.global = qp_global_scale(absmax(o->n * o->in, o->scaled_x), false);
    o->kernels->fake_quantize(&format, o->n, o->in, qp_spec_group(&o->activations, o->in), o->scaled_x);
}

/* The global scale that engines give the fused linears of a site. */
static float shared_global(const struct outputs *o, const float *s)
{
    float largest = 0.0f;
    bool four_over_six = false;
    for (int i = 0; i < o->count; i++) {
        four_over_six |= o->linears[i].weights->four_over_six;
        if (o->linears[i].weights->format.scale_dtype == QP_F8_E4M3)
            for (int64_t k = 0; k < o->linears[i].rows * o->in; k++)
                largest = fmaxf(largest, fabsf(o->linears[i].w[k] * s[k % o->in]));
    }
    return qp_global_scale(largest, four_over_six);
}

int outputs_loss(const struct outputs *o, const float *s, double *loss, struct qp_error *err)
{
    *loss = 0.0;
    if (qp_operations_go_on(err) < 0)
        return err->code;
    float global = shared_global(o, s);
    scale_inputs(o, s);
    for (int i = 0; i < o->count; i++) {
        const struct smoothed *l = &o->linears[i];
        for (int64_t k = 0; k < l->rows * o->in; k++)
            o->scaled_w[k] = l->w[k] * s[k % o->in];
        if (round_weights(o, l, global, o->scaled_w, err) < 0)
            return err->code;
        memcpy(o->products, l->outputs, (size_t)(o->n * l->rows) * sizeof(float));
        o->kernels->gemm(&(struct qp_gemm){false, true, o->n, l->rows, o->in, 1.0f, o->scaled_x, o->in, o->scaled_w,
                                           o->in, -1.0f, o->products, l->rows});
        for (int64_t k = 0; k < o->n * l->rows; k++)
            *loss += (double)o->products[k] * o->products[k];
    }
    return 0;
}
