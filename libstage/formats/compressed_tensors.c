#include "libstage/formats/compressed_tensors.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"

/* The layout is that of compressed-tensors 0.20: compressors/pack_quantized and compressors/naive_quantized. */

#define SHAPE_TEXT 256

const char *qp_compressed_format(const struct qp_linear_scheme *scheme)
{
    bool integers = scheme->weights.grid.codes == QP_I8;
    if (scheme->activations.enabled)
        return integers ? "int-quantized" : "float-quantized";
    return integers ? "pack-quantized" : "naive-quantized";
}

/* What the layout has no place for: FP8 E5M2, and a last group that is shorter than the others. */
static int check_layout(const char *module, enum qp_dtype codes, int64_t cols, int64_t group, struct qp_error *err)
{
    if (codes == QP_F8_E5M2)
        return qp_fail(err, QP_ERR_INPUT, "%s: compressed-tensors has no fp8_e5m2; use fp8_e4m3", module);
    if (group > 0 && cols % group != 0)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: compressed-tensors cannot hold %lld columns in groups of %lld, for the last group is "
                       "short; use a group that divides %lld",
                       module, (long long)cols, (long long)group, (long long)cols);
    return 0;
}

int qp_compressed_check(const struct qp_linear_scheme *scheme, const char *module, int64_t rows, int64_t cols,
                        struct qp_error *err)
{
    (void)rows; /* packing pads rows */
    const struct qp_quant_spec *w = &scheme->weights, *a = &scheme->activations;
    const int64_t group = w->granularity == QP_PER_GROUP ? w->group : 0;
    int r = w->enabled ? check_layout(module, w->grid.codes, cols, group, err) : 0;
    return r < 0 || !a->enabled ? r : check_layout(module, a->grid.codes, cols, 0, err);
}

/* ---- packing ---- */

/* What a call of qp_compressed_pack has made so far. */
struct packing {
    const char *module;
    const struct qp_kernels *kernels;
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

/* The shape of the scales: [1], or [rows, groups]. Returns the rank. */
static int scale_shape(int64_t rows, int64_t cols, int64_t group, int64_t shape[2])
{
    shape[0] = group == 0 ? 1 : rows;
    shape[1] = qp_groups(cols, group);
    return group == 0 ? 1 : 2;
}

static int add_scale(struct packing *p)
{
    int64_t shape[2];
    struct qp_tensor *t = NULL;
    int rank = scale_shape(p->q->rows, p->q->cols, p->q->group, shape);
    int r = add(p, "weight_scale", p->q->grid.scale_dtype, rank, shape, &t);
    if (r == 0)
        p->kernels->from_f32(t->dtype, t->elements, p->q->scale, t->data);
    return r;
}

static int add_shape(struct packing *p)
{
    struct qp_tensor *t = NULL;
    int r = add(p, "weight_shape", QP_I64, 1, (const int64_t[]){2}, &t);
    if (r == 0)
        memcpy(t->data, (const int64_t[]){p->q->rows, p->q->cols}, 2 * sizeof(int64_t));
    return r;
}

static int add_packed(struct packing *p)
{
    const struct qp_quantized *q = p->q;
    struct qp_tensor *t = NULL;
    const int64_t shape[] = {q->rows, qp_packed_words(q->grid.bits, q->cols)};
    int r = add(p, "weight_packed", QP_I32, 2, shape, &t);
    if (r == 0)
        p->kernels->pack(q->grid.bits, q->rows, q->cols, (const int8_t *)q->codes, t->data);
    return r;
}

/* Zero points as bytes, in the shape of the scales. */
static int add_zero(struct packing *p)
{
    int64_t shape[2];
    struct qp_tensor *t = NULL;
    int rank = scale_shape(p->q->rows, p->q->cols, p->q->group, shape);
    int r = add(p, "weight_zero_point", QP_I8, rank, shape, &t);
    if (r == 0)
        memcpy(t->data, p->q->zero, (size_t)t->elements);
    return r;
}

static void transpose_bytes(int64_t rows, int64_t cols, const int8_t *in, int8_t *out)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            out[c * rows + r] = in[r * cols + c];
}

static void transpose_words(int64_t rows, int64_t cols, const int32_t *in, int32_t *out)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            out[c * rows + r] = in[r * cols + c];
}

/* Zero points [rows, groups] packed down the rows: [words of `rows` values, groups]. */
static int add_packed_zero(struct packing *p)
{
    const struct qp_quantized *q = p->q;
    const int64_t groups = qp_groups(q->cols, q->group), words = qp_packed_words(q->grid.bits, q->rows);
    struct qp_tensor *t = NULL;
    if (add(p, "weight_zero_point", QP_I32, 2, (const int64_t[]){words, groups}, &t) < 0)
        return p->err->code;
    qp_auto_free int8_t *turned = malloc((size_t)(groups * q->rows));
    qp_auto_free int32_t *packed = malloc(t->bytes);
    if (!turned || !packed)
        return qp_fail_memory(p->err, t->bytes, p->module);
    transpose_bytes(q->rows, groups, q->zero, turned);
    p->kernels->pack(q->grid.bits, groups, q->rows, turned, packed);
    transpose_words(groups, words, packed, t->data);
    return 0;
}

static int pack_words(struct packing *p)
{
    if (add_packed(p) < 0 || add_scale(p) < 0 || add_shape(p) < 0)
        return p->err->code;
    if (!p->q->zero)
        return 0;
    return p->q->group == 0 ? add_zero(p) : add_packed_zero(p);
}

static int pack_bytes(struct packing *p)
{
    struct qp_tensor *t = NULL;
    if (add(p, "weight", p->q->grid.codes, 2, (const int64_t[]){p->q->rows, p->q->cols}, &t) < 0)
        return p->err->code;
    memcpy(t->data, p->q->codes, t->bytes);
    int r = add_scale(p);
    return r < 0 || !p->q->zero ? r : add_zero(p);
}

int qp_compressed_pack(const char *module, const char *format, const struct qp_quantized *q,
                       struct qp_tensor *out[QP_COMPRESSED_MAX], size_t *count, struct qp_error *err)
{
    struct qp_error local;
    struct packing p = {
        .module = module, .kernels = qp_kernels_open("cpu"), .q = q, .out = out, .err = err ? err : &local};
    *count = 0;
    if (check_layout(module, q->grid.codes, q->cols, q->group, p.err) < 0)
        return p.err->code;
    int r = strcmp(format, "pack-quantized") == 0 ? pack_words(&p) : pack_bytes(&p);
    if (r < 0)
        while (p.count > 0)
            qp_tensor_unref(out[--p.count]);
    *count = p.count;
    return r;
}

/* ---- unpacking ---- */

/* A linear that is being dequantized; pointers are borrowed from tensors unless they are in `owned`. */
struct unpacking {
    const char *module;
    const struct qp_linear_scheme *scheme;
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

static int read_scale(struct unpacking *u)
{
    int64_t shape[2];
    const struct qp_tensor *t = NULL;
    int rank = scale_shape(u->rows, u->cols, u->group, shape);
    if (fetch(u, "weight_scale", QP_DTYPE_NONE, rank, shape, &t) < 0)
        return u->err->code;
    if (t->dtype != QP_F32 && t->dtype != QP_F16 && t->dtype != QP_BF16)
        return qp_fail(u->err, QP_ERR_INPUT, "%s: %s; expected BF16, F16 or F32", t->name, qp_dtype_name(t->dtype));
    u->scale = own(u, t->elements * (int64_t)sizeof(float));
    if (!u->scale)
        return u->err->code;
    u->kernels->to_f32(t->dtype, t->elements, t->data, u->scale);
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
    const int bits = u->scheme->weights.grid.bits;
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
    const int bits = u->scheme->weights.grid.bits;
    const int64_t groups = qp_groups(u->cols, u->group), words = qp_packed_words(bits, u->rows);
    const struct qp_tensor *t = NULL;
    if (fetch(u, "weight_zero_point", QP_I32, 2, (const int64_t[]){words, groups}, &t) < 0)
        return u->err->code;
    int8_t *zero = own(u, u->rows * groups);
    qp_auto_free int32_t *turned = malloc(t->bytes);
    qp_auto_free int8_t *unpacked = malloc((size_t)(u->rows * groups));
    if (!zero || !turned || !unpacked)
        return qp_fail_memory(u->err, t->bytes, u->module);
    transpose_words(words, groups, t->data, turned);
    u->kernels->unpack(bits, groups, u->rows, turned, unpacked);
    transpose_bytes(groups, u->rows, unpacked, zero);
    u->zero = zero;
    return 0;
}

static int read_zero(struct unpacking *u, bool packed)
{
    if (u->scheme->weights.grid.symmetric)
        return 0;
    if (packed && u->group != 0)
        return read_packed_zero(u);
    int64_t shape[2];
    const struct qp_tensor *t = NULL;
    int rank = scale_shape(u->rows, u->cols, u->group, shape);
    int r = fetch(u, "weight_zero_point", QP_I8, rank, shape, &t);
    if (r == 0)
        u->zero = t->data;
    return r;
}

static int read_bytes(struct unpacking *u)
{
    const struct qp_tensor *t = NULL;
    int r = fetch(u, "weight", u->scheme->weights.grid.codes, 2, (const int64_t[]){u->rows, u->cols}, &t);
    if (r == 0)
        u->codes = t->data;
    return r;
}

static int read_parts(struct unpacking *u)
{
    bool packed = u->scheme->weights.grid.codes == QP_I8 && find(u, "weight_packed");
    if (find(u, "weight_g_idx"))
        return qp_fail(u->err, QP_ERR_INPUT,
                       "%s.weight_g_idx: columns in activation order (actorder: group) cannot be read", u->module);
    if ((packed ? read_packed(u) : read_bytes(u)) < 0 || read_scale(u) < 0)
        return u->err->code;
    return read_zero(u, packed);
}

int qp_compressed_unpack(const char *module, const struct qp_linear_scheme *scheme, int64_t rows, int64_t cols,
                         qp_find_fn *find_tensor, void *context, float *w, struct qp_error *err)
{
    struct qp_error local;
    struct unpacking u = {.module = module,
                          .scheme = scheme,
                          .rows = rows,
                          .cols = cols,
                          .group = qp_spec_group(&scheme->weights, cols),
                          .find = find_tensor,
                          .context = context,
                          .kernels = qp_kernels_open("cpu"),
                          .err = err ? err : &local};
    int r = read_parts(&u);
    if (r == 0)
        u.kernels->dequantize(&scheme->weights.grid, rows, cols, u.group, u.codes, u.scale, u.zero, w);
    while (u.owned_count > 0)
        free(u.owned[--u.owned_count]);
    return r;
}
