#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/memory.h"
#include "libstage/formats/compressed_layout.h"
#include "libstage/formats/compressed_tensors.h"

#define SHAPE_TEXT 256

/* A linear that is being dequantized; pointers are borrowed from tensors unless they are in `owned`. */
struct unpacking {
    const char *module;
    const struct qp_linear_scheme *scheme;
    struct qp_number_format format; /* the scheme's, with the matrix's global scale */
    int64_t rows, cols, group;
    qp_find_fn *find;
    void *context;
    const struct qp_kernels *kernels;
    struct qp_error *err;
    const uint8_t *codes;
    const int8_t *zero;
    float *scale;
    void *owned[4];
    int owned_count;
};

static void *own(struct unpacking *u, int64_t bytes)
{
    void *memory = malloc((size_t)bytes);
    if (memory)
        u->owned[u->owned_count++] = memory;
    else
        qp_fail_memory(u->err, (unsigned long long)bytes, u->module);
    return memory;
}

static const struct qp_tensor *find(const struct unpacking *u, const char *suffix)
{
    qp_auto_free char *name = qp_format("%s.%s", u->module, suffix);
    return name ? u->find(u->context, name) : NULL;
}

/* Finds a tensor and checks its shape; its dtype too, unless that is QP_DTYPE_NONE. */
static int fetch(struct unpacking *u, const char *suffix, enum qp_dtype dtype, int rank, const int64_t *shape,
                 const struct qp_tensor **out)
{
    const struct qp_tensor *t = find(u, suffix);
    char found[SHAPE_TEXT], expected[SHAPE_TEXT];
    qp_shape_text(rank, shape, expected, sizeof expected);
    if (!t)
        return qp_fail(u->err, QP_ERR_INPUT, "%s.%s: is missing; expected shape %s", u->module, suffix, expected);
    if (t->rank != rank || memcmp(t->shape, shape, (size_t)rank * sizeof *shape) != 0)
        return qp_fail(u->err, QP_ERR_INPUT, "%s: shape %s; expected %s", t->name,
                       qp_shape_text(t->rank, t->shape, found, sizeof found), expected);
    if (dtype != QP_DTYPE_NONE && t->dtype != dtype)
        return qp_fail(u->err, QP_ERR_INPUT, "%s: %s; expected %s", t->name, qp_dtype_name(t->dtype),
                       qp_dtype_name(dtype));
    *out = t;
    return 0;
}

static int read_global_scale(struct unpacking *u)
{
    const struct qp_tensor *t = NULL;
    if (u->format.scale_dtype != QP_F8_E4M3)
        return 0;
    if (fetch(u, "weight_global_scale", QP_F32, 1, (const int64_t[]){1}, &t) < 0)
        return u->err->code;
    memcpy(&u->format.global, t->data, sizeof u->format.global);
    if (isfinite(u->format.global) && u->format.global > 0)
        return 0;
    return qp_fail(u->err, QP_ERR_INPUT, "%s: is %g; expected a finite number above 0", t->name,
                   (double)u->format.global);
}

/* Scales of a type of their own have that dtype; the others may have any that a model can have. */
static int check_scale_dtype(const struct unpacking *u, const struct qp_tensor *t)
{
    enum qp_dtype own_dtype = qp_compressed_scale_storage(&u->format);
    bool typed = own_dtype == QP_U8 || own_dtype == QP_F8_E4M3;
    if (typed ? t->dtype == own_dtype : t->dtype == QP_F32 || t->dtype == QP_F16 || t->dtype == QP_BF16)
        return 0;
    return qp_fail(u->err, QP_ERR_INPUT, "%s: %s; expected %s", t->name, qp_dtype_name(t->dtype),
                   typed ? qp_dtype_name(own_dtype) : "BF16, F16 or F32");
}

/* Gives each row the scales of its block, in place from the last row on: `scale` holds one row a block. */
static void spread(const struct unpacking *u, float *scale)
{
    const int64_t groups = qp_groups(u->cols, u->group), height = u->scheme->weights.block_rows;
    for (int64_t r = u->rows - 1; r > 0 && height > 1; r--)
        memmove(scale + r * groups, scale + r / height * groups, (size_t)groups * sizeof *scale);
}

static int read_scale(struct unpacking *u)
{
    int64_t shape[2];
    const struct qp_tensor *t = NULL;
    int rank = qp_compressed_scale_shape(&u->scheme->weights, u->rows, u->cols, shape);
    if (fetch(u, "weight_scale", QP_DTYPE_NONE, rank, shape, &t) < 0 || check_scale_dtype(u, t) < 0 ||
        read_global_scale(u) < 0)
        return u->err->code;
    u->scale = own(u, qp_scale_count(u->rows, u->cols, u->group) * (int64_t)sizeof(float));
    if (!u->scale)
        return u->err->code;
    u->kernels->to_f32(t->dtype == QP_U8 ? QP_F8_E8M0 : t->dtype, t->elements, t->data, u->scale);
    for (int64_t i = 0; i < t->elements; i++)
        if (!isfinite(u->scale[i]))
            return qp_fail(u->err, QP_ERR_INPUT, "%s: element %lld is %g; expected a finite number", t->name,
                           (long long)i, (double)u->scale[i]);
    qp_compressed_effective_scales(&u->format, t->elements, u->scale);
    if (u->scheme->weights.granularity == QP_PER_BLOCK)
        spread(u, u->scale);
    return 0;
}

static int check_shape(struct unpacking *u)
{
    const struct qp_tensor *t = NULL;
    if (fetch(u, "weight_shape", QP_I64, 1, (const int64_t[]){2}, &t) < 0)
        return u->err->code;
    const int64_t *shape = t->data;
    if (shape[0] == u->rows && shape[1] == u->cols)
        return 0;
    return qp_fail(u->err, QP_ERR_INPUT, "%s: says [%lld, %lld]; expected [%lld, %lld]", t->name, (long long)shape[0],
                   (long long)shape[1], (long long)u->rows, (long long)u->cols);
}

static int read_packed(struct unpacking *u)
{
    const int bits = u->format.bits;
    const struct qp_tensor *t = NULL;
    if (fetch(u, "weight_packed", QP_I32, 2, (const int64_t[]){u->rows, qp_packed_words(bits, u->cols)}, &t) < 0 ||
        check_shape(u) < 0)
        return u->err->code;
    int8_t *codes = own(u, u->rows * u->cols);
    if (!codes)
        return u->err->code;
    u->kernels->unpack(bits, u->rows, u->cols, t->data, codes);
    u->codes = (const uint8_t *)codes;
    return 0;
}

static int read_packed_zero(struct unpacking *u)
{
    const int bits = u->format.bits;
    const int64_t groups = qp_groups(u->cols, u->group), words = qp_packed_words(bits, u->rows);
    const struct qp_tensor *t = NULL;
    if (fetch(u, "weight_zero_point", QP_I32, 2, (const int64_t[]){words, groups}, &t) < 0)
        return u->err->code;
    int8_t *zero = own(u, u->rows * groups);
    qp_auto_free int32_t *turned = malloc(t->bytes);
    qp_auto_free int8_t *unpacked = malloc((size_t)(u->rows * groups));
    if (!zero || !turned || !unpacked)
        return qp_fail_memory(u->err, t->bytes, u->module);
    qp_compressed_transpose_words(words, groups, t->data, turned);
    u->kernels->unpack(bits, groups, u->rows, turned, unpacked);
    qp_compressed_transpose_bytes(groups, u->rows, unpacked, zero);
    u->zero = zero;
    return 0;
}

static int read_zero(struct unpacking *u, bool packed)
{
    if (u->format.symmetric)
        return 0;
    if (packed && u->group != 0)
        return read_packed_zero(u);
    int64_t shape[2];
    const struct qp_tensor *t = NULL;
    int rank = qp_compressed_scale_shape(&u->scheme->weights, u->rows, u->cols, shape);
    int r = fetch(u, "weight_zero_point", QP_I8, rank, shape, &t);
    if (r == 0)
        u->zero = t->data;
    return r;
}

static int read_bits(struct unpacking *u, int bits)
{
    const struct qp_tensor *t = NULL;
    if (u->cols * bits % 8 != 0)
        return qp_fail(u->err, QP_ERR_INPUT, "%s.weight_packed: %lld columns of %d bits fill no whole bytes", u->module,
                       (long long)u->cols, bits);
    if (fetch(u, "weight_packed", QP_U8, 2, (const int64_t[]){u->rows, u->cols * bits / 8}, &t) < 0)
        return u->err->code;
    uint8_t *codes = own(u, u->rows * u->cols);
    if (!codes)
        return u->err->code;
    qp_compressed_unpack_bits(bits, u->rows, u->cols, t->data, codes);
    u->codes = codes;
    return 0;
}

static int read_bytes(struct unpacking *u)
{
    const struct qp_tensor *t = NULL;
    int r = fetch(u, "weight", u->format.codes, 2, (const int64_t[]){u->rows, u->cols}, &t);
    if (r == 0)
        u->codes = t->data;
    return r;
}

static int read_codes(struct unpacking *u, bool words)
{
    const int bits = qp_compressed_code_bits(&u->format);
    return bits ? read_bits(u, bits) : words ? read_packed(u) : read_bytes(u);
}

static int read_parts(struct unpacking *u)
{
    bool words = u->format.codes == QP_I8 && find(u, "weight_packed");
    if (find(u, "weight_g_idx"))
        return qp_fail(u->err, QP_ERR_INPUT,
                       "%s.weight_g_idx: columns in activation order (actorder: group) cannot be read", u->module);
    if (read_codes(u, words) < 0 || read_scale(u) < 0)
        return u->err->code;
    return read_zero(u, words);
}

int qp_compressed_unpack(const char *module, const struct qp_linear_scheme *scheme, int64_t rows, int64_t cols,
                         struct qp_finder finder, float *w, struct qp_error *err)
{
    struct qp_error local;
    struct unpacking u = {.module = module,
                          .scheme = scheme,
                          .format = scheme->weights.format,
                          .rows = rows,
                          .cols = cols,
                          .group = qp_spec_group(&scheme->weights, cols),
                          .find = finder.find,
                          .context = finder.context,
                          .kernels = qp_kernels_open("cpu"),
                          .err = err ? err : &local};
    int r = read_parts(&u);
    if (r == 0)
        u.kernels->dequantize(&(struct qp_grouped){&u.format, rows, cols, u.group, u.scale, u.zero}, u.codes, w);
    while (u.owned_count > 0)
        free(u.owned[--u.owned_count]);
    return r;
}
