#include "libstage/network/block.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/work.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/network/block_content.h"
#include "libstage/network/block_internal.h"
#include "libstage/network/parts.h"
#include "libstage/network/sequential.h"
#include "libstage/tensor/operations.h"

int qp_block_of(const struct qp_arch *arch, const struct qp_kernels *kernels, struct qp_unit *unit,
                struct qp_block *out, struct qp_error *err)
{
    const json_t *attr = json_object_get(unit->attrs, "block");
    int64_t number = attr ? json_integer_value(attr) : unit->seq;
    int64_t step = json_integer_value(json_object_get(unit->attrs, "step"));
    if (unit->kind != QP_UNIT_BLOCK || number < 1 || number > qp_arch_blocks(arch))
        return qp_fail(err, QP_ERR_INPUT, "found %s unit %lld, expected block 1 to %lld of this model",
                       qp_unit_kind_name(unit->kind), (long long)number, (long long)qp_arch_blocks(arch));
    int steps = qp_sequential_steps(arch, number - 1);
    if (step < 0 || step > (steps > 1 ? steps : 0))
        return qp_fail(err, QP_ERR_INPUT, "found block unit %lld in step %lld, which it has not", (long long)number,
                       (long long)step);
    *out = (struct qp_block){arch, NULL, kernels, unit, number - 2, (int)step, QP_F32};
    if (qp_block_is_layer(out))
        out->type = qp_layer_type(arch, out->layer);
    return 0;
}

bool qp_block_is_layer(const struct qp_block *block)
{
    return block->layer >= 0 && block->layer < block->arch->layers;
}

bool qp_block_has_step(const struct qp_block *block, int site)
{
    return block->step == 0 || block->step == (int)site + 1;
}

const char *qp_block_name(const struct qp_block *block, const char *module, const char *what, char *text, size_t size)
{
    size_t n = strlen(qp_layer_name(block->arch, block->layer, module, text, size));
    snprintf(text + n, size - n, ".%s", what);
    return text;
}

struct qp_tensor *qp_block_find(const struct qp_block *block, const char *module, const char *what)
{
    char name[256];
    return qp_unit_find(block->unit, qp_block_name(block, module, what, name, sizeof name));
}

int qp_block_get(const struct qp_block *block, const char *module, const char *what, enum qp_dtype dtype,
                 const int64_t shape[2], const struct qp_tensor **out, struct qp_error *err)
{
    char name[256], found[128], expected[64];
    int rank = shape[1] ? 2 : 1;
    const struct qp_tensor *t = qp_block_find(block, module, what);
    qp_block_name(block, module, what, name, sizeof name);
    if (!t)
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld has no tensor %s", (long long)block->unit->seq, name);
    if (t->rank != rank || t->shape[0] != shape[0] || (rank == 2 && t->shape[1] != shape[1]))
        return qp_fail(err, QP_ERR_INPUT, "%s: found shape %s, expected %s", name,
                       qp_shape_text(t->rank, t->shape, found, sizeof found),
                       qp_shape_text(rank, shape, expected, sizeof expected));
    if (dtype == QP_DTYPE_NONE ? !qp_dtype_is_plain_float(t->dtype) : t->dtype != dtype)
        return qp_fail(err, QP_ERR_INPUT, "%s: found dtype %s, expected %s", name, qp_dtype_name(t->dtype),
                       dtype == QP_DTYPE_NONE ? "F32, F16, BF16 or F64" : qp_dtype_name(dtype));
    *out = t;
    return 0;
}

static int get_f32(const struct qp_block *block, const char *module, const char *what, int64_t rows, int64_t cols,
                   float *v, struct qp_error *err)
{
    const struct qp_tensor *t;
    int r = qp_block_get(block, module, what, QP_DTYPE_NONE, (const int64_t[2]){rows, cols}, &t, err);
    if (r < 0)
        return r;
    qp_work_add_read((double)t->bytes);
    block->kernels->to_f32(t->dtype, t->elements, t->data, v);
    return 0;
}

static int64_t site_dim(const struct qp_block *block, int site)
{
    return block->type->sites[site].in;
}

int qp_block_site_fold(const struct qp_block *block, int site, const float **fold, struct qp_error *err)
{
    const char *name = block->type->sites[site].name;
    const struct qp_tensor *t;
    if (!qp_block_find(block, name, "fold"))
        return 0;
    int r = qp_block_get(block, name, "fold", QP_F32, (const int64_t[2]){site_dim(block, site), 0}, &t, err);
    if (r < 0)
        return r;
    *fold = t->data;
    for (int64_t i = 0; i < t->elements; i++)
        if (!isfinite((*fold)[i]) || (*fold)[i] <= 0.0f)
            return qp_fail(err, QP_ERR_INPUT, "%s: element %lld is %g, expected a finite number above 0", t->name,
                           (long long)i, (double)(*fold)[i]);
    return 1;
}

/* The folds that touch a linear: `in` scales its columns, `out` divides its rows as `of` says; NULL for none. */
struct linear_folds {
    const float *in, *out;
    const struct qp_site *of;
};

static int get_folds(const struct qp_block *block, int linear, struct linear_folds *folds, struct qp_error *err)
{
    int rows = qp_site_of_rows(block->type, linear);
    *folds = (struct linear_folds){0};
    int r = qp_block_site_fold(block, block->type->linears[linear].site, &folds->in, err);
    if (r >= 0 && rows >= 0) {
        r = qp_block_site_fold(block, rows, &folds->out, err);
        folds->of = &block->type->sites[rows];
    }
    return r < 0 ? r : 0;
}

static float row_divisor(const struct linear_folds *folds, int64_t row)
{
    int64_t i = folds->out ? qp_fold_index(folds->of, row) : -1;
    return i < 0 ? 1.0f : folds->out[i];
}

int qp_block_weight(const struct qp_block *block, int linear, bool transformed, float *w, struct qp_error *err)
{
    const struct qp_linear *d = &block->type->linears[linear];
    int64_t rows = d->out, cols = d->in;
    struct linear_folds folds = {0};
    int r = qp_operations_go_on(err);
    if (r == 0)
        r = get_f32(block, d->module, "weight", rows, cols, w, err);
    if (r == 0 && transformed)
        r = get_folds(block, linear, &folds, err);
    if (r < 0 || (!folds.in && !folds.out))
        return r;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        float divisor = row_divisor(&folds, i);
        for (int64_t j = 0; j < cols; j++)
            w[i * cols + j] = w[i * cols + j] * (folds.in ? folds.in[j] : 1.0f) / divisor;
    }
    return 0;
}

int qp_block_stored_weight(const struct qp_block *block, int linear, const struct qp_tensor **out, struct qp_error *err)
{
    const struct qp_linear *d = &block->type->linears[linear];
    struct linear_folds folds;
    int r = get_folds(block, linear, &folds, err);
    if (r < 0 || folds.in || folds.out)
        return r;
    r = qp_block_get(block, d->module, "weight", QP_DTYPE_NONE, (const int64_t[2]){d->out, d->in}, out, err);
    return r < 0 ? r : 1;
}

int qp_block_bias(const struct qp_block *block, int linear, bool transformed, float *b, struct qp_error *err)
{
    const struct qp_linear *d = &block->type->linears[linear];
    int64_t rows = d->out;
    struct linear_folds folds = {0};
    if (!d->bias)
        return 0;
    int r = get_f32(block, d->module, "bias", rows, 0, b, err);
    if (r == 0 && transformed)
        r = get_folds(block, linear, &folds, err);
    for (int64_t i = 0; r == 0 && folds.out && i < rows; i++)
        b[i] /= row_divisor(&folds, i);
    return r < 0 ? r : 1;
}

int qp_block_norm(const struct qp_block *block, int norm, bool transformed, float *gain, struct qp_error *err)
{
    const struct qp_norm *d = &block->type->norms[norm];
    const float *fold = NULL;
    int site = qp_site_of_norm(block->type, norm);
    int r = get_f32(block, d->module, "weight", d->width, 0, gain, err);
    if (r == 0 && transformed && site >= 0)
        r = qp_block_site_fold(block, site, &fold, err);
    for (int64_t i = 0; r >= 0 && d->offset != 0 && i < d->width; i++)
        gain[i] += d->offset;
    if (r <= 0)
        return r;
    for (int64_t i = 0; i < d->width; i++)
        gain[i] /= fold[i];
    qp_round_gain(block, d, gain);
    return 0;
}

int qp_block_norm_bias(const struct qp_block *block, int norm, bool transformed, float *bias, struct qp_error *err)
{
    const struct qp_norm *d = &block->type->norms[norm];
    const float *fold = NULL;
    int site = qp_site_of_norm(block->type, norm);
    if (!d->bias)
        return 0;
    int r = get_f32(block, d->module, "bias", d->width, 0, bias, err);
    if (r == 0 && transformed && site >= 0)
        r = qp_block_site_fold(block, site, &fold, err);
    for (int64_t i = 0; r > 0 && i < d->width; i++)
        bias[i] /= fold[i];
    if (r > 0)
        qp_round_to(block->kernels, block->arch->dtype, d->width, bias);
    return r < 0 ? r : 1;
}

bool qp_tensor_is_own(const struct qp_arch *arch, const struct qp_tensor *tensor)
{
    struct qp_part part;
    return qp_part_find(arch, tensor->name, &part);
}

bool qp_block_has_stat(const struct qp_block *block, int site, const char *stat)
{
    return qp_block_find(block, block->type->sites[site].name, stat) != NULL;
}

void qp_block_drop(const struct qp_block *block, int site, const char *stat)
{
    char name[256];
    qp_unit_remove(block->unit, qp_block_name(block, block->type->sites[site].name, stat, name, sizeof name));
}

static void unpack_triangle(const struct qp_kernels *kernels, int64_t n, const float *rows, float *h)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        memcpy(h + i * n + i, rows + qp_triangle_row(n, i), (size_t)(n - i) * sizeof *h);
    kernels->mirror(n, h);
}

int qp_block_site_matrix(const struct qp_block *block, int site, const char *stat, float *h, struct qp_error *err)
{
    int64_t n = site_dim(block, site);
    const char *module = block->type->sites[site].name;
    const float *fold = NULL;
    const struct qp_tensor *t = qp_block_find(block, module, stat);
    bool packed = t && t->rank == 1;
    int r = qp_block_get(block, module, stat, QP_F32,
                         (const int64_t[2]){packed ? qp_triangle_row(n, n) : n, packed ? 0 : n}, &t, err);
    if (r == 0)
        r = qp_block_site_fold(block, site, &fold, err);
    if (r < 0)
        return r;
    qp_work_add_read((double)t->bytes);
    if (packed)
        unpack_triangle(block->kernels, n, t->data, h);
    else
        memcpy(h, t->data, t->bytes);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < (fold ? n : 0); i++)
        for (int64_t j = 0; j < n; j++)
            h[i * n + j] /= fold[i] * fold[j];
    return 0;
}

int qp_block_packed_hessian(const struct qp_block *block, int site, struct qp_packed_hessian *h, struct qp_error *err)
{
    int64_t n = site_dim(block, site);
    const struct qp_tensor *t = qp_block_find(block, block->type->sites[site].name, "hessian");
    if (!t || t->rank != 1)
        return 0;
    int r = qp_block_get(block, block->type->sites[site].name, "hessian", QP_F32,
                         (const int64_t[2]){qp_triangle_row(n, n), 0}, &t, err);
    *h = (struct qp_packed_hessian){r == 0 ? t->data : NULL, NULL};
    if (r == 0)
        r = qp_block_site_fold(block, site, &h->fold, err);
    if (r < 0)
        return r;
    qp_work_add_read((double)t->bytes);
    return 1;
}

int qp_block_hessian(const struct qp_block *block, int site, float *h, struct qp_error *err)
{
    return qp_block_site_matrix(block, site, "hessian", h, err);
}

int qp_block_stat(const struct qp_block *block, int site, const char *stat, float *v, struct qp_error *err)
{
    int64_t n = site_dim(block, site);
    const float *fold = NULL;
    const struct qp_tensor *t;
    int r = qp_block_get(block, block->type->sites[site].name, stat, QP_F32, (const int64_t[2]){n, 0}, &t, err);
    if (r == 0)
        r = qp_block_site_fold(block, site, &fold, err);
    if (r < 0)
        return r;
    memcpy(v, t->data, t->bytes);
    for (int64_t i = 0; fold && i < n; i++)
        v[i] /= fold[i];
    return 0;
}

int qp_block_samples(const struct qp_block *block, int site, int64_t *count, float **x, struct qp_error *err)
{
    int64_t n = site_dim(block, site);
    const char *name = block->type->sites[site].name;
    const struct qp_tensor *t = qp_block_find(block, name, "samples");
    const float *fold = NULL;
    int64_t rows = t && t->rank > 0 && t->shape[0] > 0 ? t->shape[0] : 1;
    int r = qp_block_get(block, name, "samples", QP_F32, (const int64_t[2]){rows, n}, &t, err);
    if (r == 0)
        r = qp_block_site_fold(block, site, &fold, err);
    if (r < 0)
        return r;
    *count = rows;
    *x = qp_new_floats(t->elements, "samples", err);
    if (!*x)
        return QP_ERR_SPACE;
    for (int64_t i = 0; i < t->elements; i++)
        (*x)[i] = ((const float *)t->data)[i] / (fold ? fold[i % n] : 1.0f);
    return 0;
}

struct form {
    enum qp_dtype dtype;
    int rank;
    const int64_t *shape;
};

/* Puts a tensor B.M.what of undefined contents into the unit; *data is where they go. */
static int put_new(struct qp_block *block, const char *module, const char *what, const struct form *form,
                   const struct qp_allocator *allocator, void **data, struct qp_error *err)
{
    char name[256];
    struct qp_tensor *t;
    qp_block_name(block, module, what, name, sizeof name);
    int r = qp_allocate(allocator, name, form->dtype, form->rank, form->shape, &t, err);
    if (r < 0)
        return r;
    *data = t->data;
    return qp_unit_put(block->unit, t, err);
}

/* The same with a copy of `data`. */
static int put_copy(struct qp_block *block, int linear, const char *what, const struct form *form, const void *data,
                    const struct qp_allocator *allocator, struct qp_error *err)
{
    void *copy;
    int64_t elements;
    size_t bytes;
    int r = put_new(block, block->type->linears[linear].module, what, form, allocator, &copy, err);
    if (r == 0)
        r = qp_tensor_size(form->dtype, form->rank, form->shape, &elements, &bytes, err);
    if (r == 0)
        memcpy(copy, data, bytes);
    return r;
}

/* Shape of a linear's scales: [out, groups], or [1]; returns the rank. */
static int scale_shape(int64_t rows, int64_t cols, int64_t group, int64_t shape[2])
{
    shape[0] = group ? rows : 1;
    shape[1] = group ? qp_groups(cols, group) : 0;
    return group ? 2 : 1;
}

int qp_block_new_quantized(struct qp_block *block, int linear, const struct qp_allocator *allocator, struct qp_rtn *job,
                           struct qp_error *err)
{
    char name[256];
    const char *module = block->type->linears[linear].module;
    int64_t scales[2], shape[2] = {job->rows, job->packed ? qp_packed_words(job->format->bits, job->cols) : job->cols};
    int rank = scale_shape(job->rows, job->cols, job->group, scales);
    enum qp_dtype dtype = job->packed ? QP_I32 : qp_format_storage(job->format);
    void *codes = NULL, *scale = NULL, *zero = NULL;
    int r = put_new(block, module, job->packed ? "weight_packed" : "weight_codes", &(struct form){dtype, 2, shape},
                    allocator, &codes, err);
    if (r == 0)
        r = put_new(block, module, "weight_scale", &(struct form){QP_F32, rank, scales}, allocator, &scale, err);
    if (r == 0 && !job->format->symmetric)
        r = put_new(block, module, "weight_zero_point", &(struct form){QP_I8, rank, scales}, allocator, &zero, err);
    if (r == 0 && job->format->symmetric)
        qp_unit_remove(block->unit, qp_block_name(block, module, "weight_zero_point", name, sizeof name));
    job->codes = codes;
    job->scale = scale;
    job->zero = zero;
    return r;
}

int qp_block_set_quantized(struct qp_block *block, int linear, const struct qp_quantized *q,
                           const struct qp_allocator *allocator, struct qp_error *err)
{
    char name[256];
    const char *module = block->type->linears[linear].module;
    int64_t shape[2] = {q->rows, q->cols}, scales[2], one = 1;
    int rank = scale_shape(q->rows, q->cols, q->group, scales);
    int r = put_copy(block, linear, "weight_codes", &(struct form){qp_format_storage(&q->format), 2, shape}, q->codes,
                     allocator, err);
    if (r == 0)
        r = put_copy(block, linear, "weight_scale", &(struct form){QP_F32, rank, scales}, q->scale, allocator, err);
    if (r == 0 && q->format.scale_dtype == QP_F8_E4M3)
        r = put_copy(block, linear, "weight_global_scale", &(struct form){QP_F32, 1, &one}, &q->format.global,
                     allocator, err);
    if (r == 0 && q->zero)
        return put_copy(block, linear, "weight_zero_point", &(struct form){QP_I8, rank, scales}, q->zero, allocator,
                        err);
    if (r == 0)
        qp_unit_remove(block->unit, qp_block_name(block, module, "weight_zero_point", name, sizeof name));
    return r;
}

int qp_block_scales(const struct qp_block *block, int linear, const struct qp_linear_scheme *scheme,
                    struct qp_quantized *q, struct qp_error *err)
{
    const struct qp_linear *d = &block->type->linears[linear];
    const struct qp_tensor *scale, *global = NULL, *zero = NULL;
    const struct qp_number_format *format = &scheme->weights.format;
    int64_t rows = d->out, cols = d->in, scales[2];
    int64_t group = qp_spec_group(&scheme->weights, cols);
    if (!qp_block_find(block, d->module, "weight_scale"))
        return 0;
    scale_shape(rows, cols, group, scales);
    int r =
        qp_block_get(block, d->module, "weight_scale", QP_F32, (const int64_t[2]){scales[0], scales[1]}, &scale, err);
    if (r == 0 && !format->symmetric)
        r = qp_block_get(block, d->module, "weight_zero_point", QP_I8, (const int64_t[2]){scales[0], scales[1]}, &zero,
                         err);
    if (r == 0 && format->scale_dtype == QP_F8_E4M3)
        r = qp_block_get(block, d->module, "weight_global_scale", QP_F32, (const int64_t[2]){1, 0}, &global, err);
    if (r < 0)
        return r;
    *q = (struct qp_quantized){*format, rows, cols, group, NULL, scale->data, zero ? zero->data : NULL, NULL, NULL};
    if (global)
        q->format.global = *(const float *)global->data;
    return 1;
}

/* Points *q, which has its size, to codes in either form; one of them is there. */
static int find_codes(const struct qp_block *block, const char *module, const struct qp_number_format *format,
                      struct qp_quantized *q, struct qp_error *err)
{
    bool packed = qp_block_find(block, module, "weight_packed");
    if (packed && format->codes != QP_I8)
        return qp_fail(err, QP_ERR_INPUT,
                       "block unit %lld: %s.weight_packed: expected weight_codes, for %s is not packed",
                       (long long)block->unit->seq, module, qp_dtype_name(format->codes));
    int r = packed ? qp_block_get(block, module, "weight_packed", QP_I32,
                                  (const int64_t[2]){q->rows, qp_packed_words(format->bits, q->cols)}, &q->tensor, err)
                   : qp_block_get(block, module, "weight_codes", qp_format_storage(format),
                                  (const int64_t[2]){q->rows, q->cols}, &q->tensor, err);
    if (r < 0)
        return r;
    q->packed = packed ? q->tensor->data : NULL;
    q->codes = packed ? NULL : q->tensor->data;
    return 0;
}

bool qp_block_has_codes(const struct qp_block *block, int linear)
{
    const char *module = block->type->linears[linear].module;
    return qp_block_find(block, module, "weight_codes") || qp_block_find(block, module, "weight_packed");
}

int qp_block_quantized(const struct qp_block *block, int linear, const struct qp_linear_scheme *scheme,
                       struct qp_quantized *q, struct qp_error *err)
{
    const struct qp_linear *d = &block->type->linears[linear];
    struct qp_quantized codes = {.rows = d->out, .cols = d->in};
    if (!qp_block_has_codes(block, linear))
        return 0;
    if (!scheme || !scheme->weights.enabled)
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld: %s has codes, though its scheme does not quantize it",
                       (long long)block->unit->seq, d->module);
    int r = find_codes(block, d->module, &scheme->weights.format, &codes, err);
    if (r < 0)
        return r;
    r = qp_block_scales(block, linear, scheme, q, err);
    if (r == 0)
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld: %s has codes but no scales", (long long)block->unit->seq,
                       d->module);
    q->codes = codes.codes;
    q->packed = codes.packed;
    q->tensor = codes.tensor;
    if (r < 0)
        return r;
    char module[256];
    r = qp_codes_check(q, qp_layer_name(block->arch, block->layer, d->module, module, sizeof module), err);
    return r < 0 ? qp_wrap(err, "block unit %lld", (long long)block->unit->seq) : 1;
}

int qp_dequantize(const struct qp_kernels *kernels, const struct qp_quantized *q, float *w, struct qp_error *err)
{
    qp_auto_free uint8_t *unpacked = q->packed ? qp_new_array(q->rows * q->cols, 1, "codes", err) : NULL;
    if (q->packed && !unpacked)
        return QP_ERR_SPACE;
    if (q->packed)
        kernels->unpack(q->format.bits, q->rows, q->cols, q->packed, (int8_t *)unpacked);
    kernels->dequantize(&(struct qp_grouped){&q->format, q->rows, q->cols, q->group, q->scale, q->zero},
                        q->packed ? unpacked : q->codes, w);
    return 0;
}
