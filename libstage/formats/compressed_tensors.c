#include "libstage/formats/compressed_tensors.h"

#include "libstage/formats/compressed_layout.h"

/* The layout is that of compressed-tensors 0.20: compressors/{pack_quantized,naive_quantized,nvfp4,mxfp4,mxfp6,mxfp8}.
 */

static bool is_mx(const struct qp_number_format *format)
{
    return format->scale_dtype == QP_F8_E8M0;
}

const char *qp_compressed_format(const struct qp_linear_scheme *scheme)
{
    const struct qp_number_format *format = &scheme->weights.format;
    if (format->codes == QP_F4_E2M1)
        return is_mx(format) ? "mxfp4-pack-quantized" : "nvfp4-pack-quantized";
    if (format->codes == QP_F6_E2M3)
        return "mxfp6-pack-quantized";
    if (format->codes == QP_F8_E4M3 && is_mx(format))
        return "mxfp8-quantized";
    bool integers = format->codes == QP_I8;
    if (scheme->activations.enabled)
        return integers ? "int-quantized" : "float-quantized";
    return integers ? "pack-quantized" : "naive-quantized";
}

/* What the layout has no word for. */
static int check_format(const char *module, const struct qp_quant_spec *spec, struct qp_error *err)
{
    const struct qp_number_format *format = &spec->format;
    if (format->codes == QP_F8_E5M2)
        return qp_fail(err, QP_ERR_INPUT, "%s: compressed-tensors has no fp8_e5m2; use fp8_e4m3", module);
    if (format->codes == QP_F6_E3M2)
        return qp_fail(err, QP_ERR_INPUT, "%s: compressed-tensors has no mxfp6 in E3M2; use mxfp6_e2m3, mxfp4 or mxfp8",
                       module);
    if (format->codes == QP_I8 && is_mx(format))
        return qp_fail(err, QP_ERR_INPUT, "%s: compressed-tensors has no mxint8; use mxfp8 or int8", module);
    if (format->scale_dtype == QP_F8_E4M3 && spec->group != 16)
        return qp_fail(err, QP_ERR_INPUT, "%s: compressed-tensors has no nvfp4 in groups of %lld; use groups of 16",
                       module, (long long)spec->group);
    return 0;
}

int qp_compressed_check(const struct qp_linear_scheme *scheme, const char *module, int64_t rows, int64_t cols,
                        struct qp_error *err)
{
    (void)rows; /* packing pads rows */
    const struct qp_quant_spec *w = &scheme->weights, *a = &scheme->activations;
    int r = w->enabled ? check_format(module, w, err) : 0;
    if (r == 0 && a->enabled)
        r = check_format(module, a, err);
    if (r < 0 || w->granularity != QP_PER_GROUP || cols % w->group == 0)
        return r;
    return qp_fail(
        err, QP_ERR_INPUT,
        "%s: compressed-tensors cannot hold %lld columns in groups of %lld, for the last group is short; use "
        "a group that divides %lld",
        module, (long long)cols, (long long)w->group, (long long)cols);
}

int qp_compressed_scale_shape(const struct qp_quant_spec *spec, int64_t rows, int64_t cols, int64_t shape[2])
{
    int64_t group = qp_spec_group(spec, cols);
    bool blocks = spec->granularity == QP_PER_BLOCK;
    shape[0] = group == 0 ? 1 : blocks ? (rows + spec->block_rows - 1) / spec->block_rows : rows;
    shape[1] = qp_groups(cols, group);
    return group == 0 ? 1 : 2;
}

enum qp_dtype qp_compressed_scale_storage(const struct qp_number_format *format)
{
    return is_mx(format) ? QP_U8 : format->scale_dtype;
}

int qp_compressed_code_bits(const struct qp_number_format *format)
{
    return format->codes == QP_F4_E2M1 ? 4 : format->codes == QP_F6_E2M3 ? 6 : 0;
}

void qp_compressed_pack_bits(int bits, int64_t rows, int64_t count, const uint8_t *codes, uint8_t *packed)
{
    const int64_t width = count * bits / 8;
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *out = packed + r * width;
        unsigned held = 0;
        int n = 0;
        for (int64_t c = 0; c < count; c++) {
            held |= (unsigned)codes[r * count + c] << n;
            for (n += bits; n >= 8; n -= 8, held >>= 8)
                *out++ = (uint8_t)held;
        }
    }
}

void qp_compressed_unpack_bits(int bits, int64_t rows, int64_t count, const uint8_t *packed, uint8_t *codes)
{
    const int64_t width = count * bits / 8;
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *in = packed + r * width;
        unsigned held = 0;
        int n = 0;
        for (int64_t c = 0; c < count; c++, n -= bits, held >>= bits) {
            for (; n < bits; n += 8)
                held |= (unsigned)*in++ << n;
            codes[r * count + c] = (uint8_t)(held & ((1u << bits) - 1));
        }
    }
}

void qp_compressed_effective_scales(const struct qp_number_format *format, int64_t count, float *scale)
{
    if (format->scale_dtype == QP_F8_E4M3)
        for (int64_t i = 0; i < count; i++)
            scale[i] /= format->global;
}

void qp_compressed_transpose_bytes(int64_t rows, int64_t cols, const int8_t *in, int8_t *out)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            out[c * rows + r] = in[r * cols + c];
}

void qp_compressed_transpose_words(int64_t rows, int64_t cols, const int32_t *in, int32_t *out)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            out[c * rows + r] = in[r * cols + c];
}
