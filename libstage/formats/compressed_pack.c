#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/memory.h"
#include "libstage/formats/compressed_layout.h"
#include "libstage/formats/compressed_tensors.h"

/* What a call of qp_compressed_pack has made so far. */
struct packing {
    const char *module;
    const struct qp_kernels *kernels;
    const struct qp_quant_spec *spec;
    const struct qp_quantized *q;
    struct qp_tensor **out;
    size_t count;
    struct qp_error *err;
};

/* Adds a tensor MODULE.SUFFIX with contents undefined. */
static int add(struct packing *p, const char *suffix, enum qp_dtype dtype, int rank, const int64_t *shape,
               struct qp_tensor **out)
{
    qp_auto_free char *name = qp_format("%s.%s", p->module, suffix);
    if (!name)
        return qp_fail_memory(p->err, strlen(p->module), suffix);
    int r = qp_tensor_new(name, dtype, rank, shape, &p->out[p->count], p->err);
    if (r == 0)
        *out = p->out[p->count++];
    return r;
}

/* Adds MODULE.SUFFIX with the bytes of `source`, without a copy. */
static int add_view(struct packing *p, const char *suffix, enum qp_dtype dtype, const int64_t shape[2],
                    const struct qp_tensor *source)
{
    qp_auto_free char *name = qp_format("%s.%s", p->module, suffix);
    if (!name)
        return qp_fail_memory(p->err, strlen(p->module), suffix);
    int r = qp_tensor_view(name, dtype, 2, shape, (struct qp_place){source->storage, source->offset}, &p->out[p->count],
                           p->err);
    p->count += r == 0;
    return r;
}

/* Takes the scales of each block from its first row; all of its rows have to say the same. */
static int compact(const struct packing *p, const struct qp_tensor *t, float *scale)
{
    const int64_t groups = qp_groups(p->q->cols, p->q->group);
    if (p->spec->granularity != QP_PER_BLOCK) {
        memcpy(scale, p->q->scale, (size_t)t->elements * sizeof *scale);
        return 0;
    }
    for (int64_t r = 0; r < p->q->rows; r++) {
        const float *row = p->q->scale + r * groups;
        float *block = scale + r / p->spec->block_rows * groups;
        if (r % p->spec->block_rows == 0)
            memcpy(block, row, (size_t)groups * sizeof *row);
        else if (memcmp(block, row, (size_t)groups * sizeof *row) != 0)
            return qp_fail(p->err, QP_ERR_INPUT, "%s: the scales of row %lld are not those of its block", t->name,
                           (long long)r);
    }
    return 0;
}

/* Encodes scales, and checks that they come back as they were. */
static int encode(const struct packing *p, const float *scale, struct qp_tensor *t)
{
    const struct qp_number_format *format = &p->q->format;
    qp_auto_free float *stored = qp_new_floats(t->elements, t->name, p->err);
    if (!stored)
        return p->err->code;
    for (int64_t i = 0; i < t->elements; i++)
        stored[i] = format->scale_dtype == QP_F8_E4M3 ? scale[i] * format->global : scale[i];
    p->kernels->from_f32(format->scale_dtype, t->elements, stored, t->data);
    p->kernels->to_f32(format->scale_dtype, t->elements, t->data, stored);
    qp_compressed_effective_scales(format, t->elements, stored);
    for (int64_t i = 0; i < t->elements; i++)
        if (!isfinite(scale[i]) || scale[i] <= 0 || stored[i] != scale[i])
            return qp_fail(p->err, QP_ERR_INPUT,
                           "%s: element %lld is %.9g, expected a finite number above 0 that %s holds%s (%.9g)", t->name,
                           (long long)i, (double)scale[i], qp_dtype_name(format->scale_dtype),
                           format->scale_dtype == QP_F8_E4M3 ? " times the global scale" : "", (double)stored[i]);
    return 0;
}

static int add_scale(struct packing *p)
{
    int64_t shape[2];
    struct qp_tensor *t = NULL;
    int rank = qp_compressed_scale_shape(p->spec, p->q->rows, p->q->cols, shape);
    if (add(p, "weight_scale", qp_compressed_scale_storage(&p->q->format), rank, shape, &t) < 0)
        return p->err->code;
    qp_auto_free float *scale = qp_new_floats(t->elements, t->name, p->err);
    if (!scale || compact(p, t, scale) < 0)
        return p->err->code;
    return encode(p, scale, t);
}

static int add_global_scale(struct packing *p)
{
    struct qp_tensor *t = NULL;
    float global = p->q->format.global;
    if (add(p, "weight_global_scale", QP_F32, 1, (const int64_t[]){1}, &t) < 0)
        return p->err->code;
    memcpy(t->data, &global, sizeof global);
    return isfinite(global) && global > 0
               ? 0
               : qp_fail(p->err, QP_ERR_INPUT, "%s: is %g, expected a finite number above 0", t->name, (double)global);
}

static int add_shape(struct packing *p)
{
    struct qp_tensor *t = NULL;
    int r = add(p, "weight_shape", QP_I64, 1, (const int64_t[]){2}, &t);
    if (r == 0)
        memcpy(t->data, (const int64_t[]){p->q->rows, p->q->cols}, 2 * sizeof(int64_t));
    return r;
}

static int add_words(struct packing *p)
{
    const struct qp_quantized *q = p->q;
    struct qp_tensor *t = NULL;
    const int64_t shape[] = {q->rows, qp_packed_words(q->format.bits, q->cols)};
    if (q->packed)
        return add_view(p, "weight_packed", QP_I32, shape, q->tensor);
    int r = add(p, "weight_packed", QP_I32, 2, shape, &t);
    if (r == 0)
        p->kernels->pack(q->format.bits, q->rows, q->cols, (const int8_t *)q->codes, t->data);
    return r;
}

/* Zero points as bytes, in the shape of the scales. */
static int add_zero(struct packing *p)
{
    int64_t shape[2];
    struct qp_tensor *t = NULL;
    int rank = qp_compressed_scale_shape(p->spec, p->q->rows, p->q->cols, shape);
    int r = add(p, "weight_zero_point", QP_I8, rank, shape, &t);
    if (r == 0)
        memcpy(t->data, p->q->zero, (size_t)t->elements);
    return r;
}

/* Zero points [rows, groups] packed down the rows: [words of `rows` values, groups]. */
static int add_packed_zero(struct packing *p)
{
    const struct qp_quantized *q = p->q;
    const int64_t groups = qp_groups(q->cols, q->group), words = qp_packed_words(q->format.bits, q->rows);
    struct qp_tensor *t = NULL;
    if (add(p, "weight_zero_point", QP_I32, 2, (const int64_t[]){words, groups}, &t) < 0)
        return p->err->code;
    qp_auto_free int8_t *turned = malloc((size_t)(groups * q->rows));
    qp_auto_free int32_t *packed = malloc(t->bytes);
    if (!turned || !packed)
        return qp_fail_memory(p->err, t->bytes, p->module);
    qp_compressed_transpose_bytes(q->rows, groups, q->zero, turned);
    p->kernels->pack(q->format.bits, groups, q->rows, turned, packed);
    qp_compressed_transpose_words(groups, words, packed, t->data);
    return 0;
}

static int pack_words(struct packing *p)
{
    if (add_words(p) < 0 || add_scale(p) < 0 || add_shape(p) < 0)
        return p->err->code;
    if (!p->q->zero)
        return 0;
    return p->q->group == 0 ? add_zero(p) : add_packed_zero(p);
}

static int pack_bits(struct packing *p, int bits)
{
    struct qp_tensor *t = NULL;
    if (add(p, "weight_packed", QP_U8, 2, (const int64_t[]){p->q->rows, p->q->cols * bits / 8}, &t) < 0)
        return p->err->code;
    qp_compressed_pack_bits(bits, p->q->rows, p->q->cols, p->q->codes, t->data);
    if (p->q->format.scale_dtype == QP_F8_E4M3 && add_global_scale(p) < 0)
        return p->err->code;
    return add_scale(p);
}

static int pack_bytes(struct packing *p)
{
    struct qp_tensor *t = NULL;
    const int64_t shape[] = {p->q->rows, p->q->cols};
    int r = p->q->tensor ? add_view(p, "weight", p->q->format.codes, shape, p->q->tensor)
                         : add(p, "weight", p->q->format.codes, 2, shape, &t);
    if (r < 0)
        return r;
    if (t)
        memcpy(t->data, p->q->codes, t->bytes);
    r = add_scale(p);
    return r < 0 || !p->q->zero ? r : add_zero(p);
}

bool qp_compressed_packs_words(const struct qp_linear_scheme *scheme)
{
    return strcmp(qp_compressed_format(scheme), "pack-quantized") == 0;
}

int qp_compressed_pack(const char *module, const struct qp_linear_scheme *scheme, const struct qp_quantized *q,
                       struct qp_tensor *out[QP_COMPRESSED_MAX], size_t *count, struct qp_error *err)
{
    struct qp_error local;
    struct packing p = {.module = module,
                        .kernels = qp_kernels_open("cpu"),
                        .spec = &scheme->weights,
                        .q = q,
                        .out = out,
                        .err = err ? err : &local};
    const int bits = qp_compressed_code_bits(&q->format);
    bool words = qp_compressed_packs_words(scheme);
    *count = 0;
    if (qp_compressed_check(scheme, module, q->rows, q->cols, p.err) < 0)
        return p.err->code;
    if (q->packed && !(words && q->tensor))
        return qp_fail(p.err, QP_ERR_INPUT, "%s: found packed codes, expected a byte a code for %s", module,
                       qp_compressed_format(scheme));
    int r = bits ? pack_bits(&p, bits) : words ? pack_words(&p) : pack_bytes(&p);
    if (r < 0)
        while (p.count > 0)
            qp_tensor_unref(out[--p.count]);
    *count = p.count;
    return r;
}

int qp_compressed_fixed_scale(const char *name, enum qp_dtype dtype, float value, struct qp_tensor **out,
                              struct qp_error *err)
{
    const struct qp_kernels *kernels = qp_kernels_open("cpu");
    float back = 0;
    qp_auto_tensor struct qp_tensor *t = NULL;
    int r = qp_tensor_new(name, dtype, 1, (const int64_t[]){1}, &t, err);
    if (r < 0)
        return r;
    kernels->from_f32(dtype, 1, &value, t->data);
    kernels->to_f32(dtype, 1, t->data, &back);
    if (!isfinite(value) || value <= 0 || back != value)
        return qp_fail(err, QP_ERR_INPUT, "%s: is %.9g, expected a finite number above 0 that %s holds", name,
                       (double)value, qp_dtype_name(dtype));
    *out = t;
    t = NULL;
    return 0;
}
