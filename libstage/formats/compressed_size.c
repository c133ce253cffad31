#include "libstage/formats/compressed_size.h"

#include <string.h>

#include "kernels/pack.h"
#include "libstage/formats/compressed_layout.h"
#include "libstage/formats/compressed_tensors.h"

static uint64_t ceil_div(int64_t a, int64_t b)
{
    return (uint64_t)((a + b - 1) / b);
}

static uint64_t scale_count(const struct qp_quant_spec *w, int64_t rows, int64_t cols)
{
    if (w->granularity == QP_PER_BLOCK)
        return ceil_div(rows, w->block_rows) * ceil_div(cols, w->group);
    return (uint64_t)qp_scale_count(rows, cols, qp_spec_group(w, cols));
}

/* Integers alone are packed into words along the row, floats of 4 and 6 bits into bytes; other codes take a byte. */
static uint64_t code_bytes(const struct qp_linear_scheme *scheme, bool packed, int64_t rows, int64_t cols)
{
    const struct qp_number_format *format = &scheme->weights.format;
    if (packed)
        return 4 * (uint64_t)(rows * qp_packed_words(format->bits, cols));
    int bits = qp_compressed_code_bits(format);
    return (uint64_t)rows * (uint64_t)(cols * (bits ? bits : 8) / 8);
}

/* Zero points are bytes, but packed down the rows beside packed codes in groups or channels. */
static uint64_t zero_bytes(const struct qp_quant_spec *w, bool packed, int64_t rows, int64_t cols)
{
    int64_t group = qp_spec_group(w, cols);
    if (packed && group > 0)
        return 4 * (uint64_t)(qp_packed_words(w->format.bits, rows) * qp_groups(cols, group));
    return scale_count(w, rows, cols);
}

static void add(struct qp_stored *s, uint64_t bytes)
{
    s->bytes += bytes;
    s->tensors++;
}

struct qp_stored qp_compressed_stored(const struct qp_linear_scheme *scheme, enum qp_dtype model_dtype, int64_t rows,
                                      int64_t cols)
{
    struct qp_stored s = {0};
    if (!scheme || !scheme->weights.enabled) {
        add(&s, (uint64_t)(rows * cols) * (uint64_t)qp_dtype_bits(model_dtype) / 8);
        return s;
    }
    const struct qp_quant_spec *w = &scheme->weights, *a = &scheme->activations;
    bool packed = strcmp(qp_compressed_format(scheme), "pack-quantized") == 0;
    add(&s, code_bytes(scheme, packed, rows, cols));
    add(&s, scale_count(w, rows, cols) * (uint64_t)qp_dtype_bits(qp_compressed_scale_storage(&w->format)) / 8);
    if (packed)
        add(&s, 2 * sizeof(int64_t)); /* weight_shape */
    if (!w->format.symmetric)
        add(&s, zero_bytes(w, packed, rows, cols));
    if (w->format.scale_dtype == QP_F8_E4M3)
        add(&s, sizeof(float)); /* weight_global_scale */
    if (a->enabled && (!a->dynamic || a->format.scale_dtype == QP_F8_E4M3))
        add(&s, sizeof(float)); /* input_scale, input_global_scale */
    return s;
}
