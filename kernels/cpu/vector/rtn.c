#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/vector/vector.h"
#include "kernels/rounding.h"
#include "kernels/scratch.h"

/* Integers from BF16 with scales of BF16 or F16 are rounded in registers, a group at a time. Everything else, and rows
 * with infinities, NaN or extreme scales, goes some rows at a time through the other kernels, in the cache.
 *
 * Quotients. x / s has to be rounded as the division rounds it, at several times its speed: y = x * (1 / s), then one
 * step of Newton's method with the exact remainder x - y * s (Markstein 1990). Significands of 8 bits over such of at
 * most 11 bits make a quotient that is either a multiple of 1/2, and then y is exact after that step, or at least 2^-14
 * away from the next one, where the last place of y makes no difference to the code.
 *
 * A pair of elements stands in 32 bits, the first in the low half: both become floats without a shuffle, and their
 * codes come to stand side by side. */
#define ALWAYS static inline __attribute__((always_inline))
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t lane_halves __attribute__((vector_size(2 * LANES)));
typedef V_INTEGER vi;
enum {
    UNIT = 32,                       /* elements; groups are whole units */
    PIECE = QP_PARALLEL_ELEMENTS / 2 /* elements that are done at once, on one thread and in its cache */
};

/* How the codes of a group are stored. */
enum form { BYTES, BIASED_BYTES, NIBBLES };

/* What is the same for all groups of a matrix. */
struct rounding {
    struct qp_limits q;
    enum qp_dtype scale_dtype;
    bool symmetric;
    enum form form;
};

static inline vi load_pairs(const uint16_t *w)
{
    vi x;
    memcpy(&x, w, sizeof x);
    return x;
}

/* The largest 16-bit lane. */
ALWAYS uint16_t largest_lane(vi x)
{
#ifdef __AVX512F__
    __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
#else
    __m256i half = x;
#endif
    __m128i most = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return (uint16_t)~_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_xor_si128(most, _mm_set1_epi16(-1))));
}

/* The largest bits without sign; above 0x7f80 there is a NaN. */
ALWAYS uint16_t largest_magnitude(int64_t count, const uint16_t *w)
{
    const vi magnitude = V(set1_epi16)(0x7fff);
    vi most = V(set1_epi16)(0);
    for (int64_t i = 0; i < count; i += 2 * LANES)
        most = V(max_epu16)(most, load_pairs(w + i) & magnitude);
    return largest_lane(most);
}

/* Bits of BF16 as unsigned integers in the order of the numbers, and back: 0x8000 is 0. */
ALWAYS vi ordered(vi bits)
{
    return bits ^ (V(srai_epi16)(bits, 15) | V(set1_epi16)(INT16_MIN));
}

ALWAYS float from_ordered(uint16_t order)
{
    return qp_bf16_to_f32(order & 0x8000 ? order ^ 0x8000 : (uint16_t)~order);
}

ALWAYS void extremes(int64_t count, const uint16_t *w, float *min, float *max)
{
    vi low = V(set1_epi16)(INT16_MIN), high = low;
    for (int64_t i = 0; i < count; i += 2 * LANES) {
        vi x = ordered(load_pairs(w + i));
        low = V(min_epu16)(low, x);
        high = V(max_epu16)(high, x);
    }
    *min = from_ordered((uint16_t)~largest_lane(~low));
    *max = from_ordered(largest_lane(high));
}

/* What is known of each group of a row. */
struct groups {
    float *range, *min, *inverse, *zero;
};

/* Ranges of all groups of a row; false when a number is infinite or NaN. Each step is done for all groups before the
 * next one, for by itself a group would be one long chain of waiting. */
ALWAYS bool find_ranges(struct rounding g, int64_t groups, int64_t group, const uint16_t *w, struct groups p)
{
    uint16_t all = 0;
    for (int64_t i = 0; i < groups; i++, w += group) {
        uint16_t most = largest_magnitude(group, w);
        float max = qp_bf16_to_f32(most);
        all = most > all ? most : all;
        if (!g.symmetric)
            extremes(group, w, &p.min[i], &max);
        p.range[i] = g.symmetric ? max : max - p.min[i];
    }
    return all < 0x7f80;
}

/* Scales and zero points; false when a scale is none for the fast way. */
ALWAYS bool find_params(struct rounding g, int64_t groups, struct groups p, float *restrict scale,
                        int8_t *restrict zero)
{
    bool good = true;
    for (int64_t i = 0; i < groups; i++) {
        scale[i] = qp_round_scale(g.scale_dtype, p.range[i] / g.q.steps);
        p.inverse[i] = 1 / scale[i];
        good &= scale[i] > 0x1p-60f && scale[i] < 0x1p60f;
    }
    for (int64_t i = 0; i < groups && !g.symmetric; i++)
        p.zero[i] = zero[i] = qp_zero_of_range(g.q, p.min[i], scale[i]);
    return good;
}

/* Codes in the low bits, with others above them: the sum with 1.5 * 2^23 rounds to a whole number, half to even. */
ALWAYS vu codes_of(struct rounding g, vu bits, vf scale, vf inverse, vf zero, vf bias)
{
    vf x = (vf)bits, y = x * inverse;
    y = v_fma(v_fma(-y, scale, x), inverse, y);
    if (!g.symmetric)
        y = y + zero;
    y = v_min(v_max(y, v_set(g.q.min)), v_set(g.q.max));
    return (vu)(y + bias);
}

/* The low byte of each lane; the compiler's own conversion takes several times as long. */
ALWAYS void store_bytes(uint8_t *out, vu x)
{
#ifdef __AVX512F__
    _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8((vi)x));
#else
    const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i fours = _mm256_shuffle_epi8((vi)x, low);
    _mm_storeu_si64(out, _mm_unpacklo_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1)));
#endif
}

ALWAYS void round_group(struct rounding g, int64_t count, const uint16_t *w, vf s, vf inverse, vf z, uint8_t *out)
{
    const vf bias = v_set(0x1.8p23f + (g.form == NIBBLES ? 8 : g.form == BIASED_BYTES ? 128 : 0));
    for (int64_t i = 0; i < count; i += 2 * LANES) {
        vu pairs = (vu)load_pairs(w + i);
        vu first = codes_of(g, pairs << 16, s, inverse, z, bias);
        vu second = codes_of(g, pairs & 0xffff0000, s, inverse, z, bias);
        if (g.form == NIBBLES) {
            store_bytes(out + i / 2, (first & 15) | second << 4);
        } else {
            lane_halves codes = __builtin_convertvector((first & 0xff) | second << 8, lane_halves);
            memcpy(out + i, &codes, sizeof codes);
        }
    }
}

/* False when some group of the row is none for the fast way; `scratch` has space for four numbers a group. */
ALWAYS bool round_groups(const struct qp_rtn *job, struct rounding g, int64_t group, int64_t r, float *scratch,
                         uint8_t *out)
{
    const int64_t groups = job->cols / group, at = r * groups;
    const uint16_t *w = (const uint16_t *)job->w + r * job->cols;
    const struct groups p = {scratch, scratch + groups, scratch + 2 * groups, scratch + 3 * groups};
    const float *scale = job->scale + at;

    if (!find_ranges(g, groups, group, w, p) ||
        !find_params(g, groups, p, job->scale + at, g.symmetric ? NULL : job->zero + at))
        return false;
    for (int64_t i = 0; i < groups; i++, w += group, out += g.form == NIBBLES ? group / 2 : group)
        round_group(g, group, w, v_set(scale[i]), v_set(p.inverse[i]), v_set(g.symmetric ? 0 : p.zero[i]), out);
    return true;
}

static bool is_fast(const struct qp_rtn *job)
{
    const struct qp_number_format *format = job->format;
    return job->dtype == QP_BF16 && format->codes == QP_I8 && job->group % UNIT == 0 && job->cols % job->group == 0 &&
           (format->scale_dtype == QP_BF16 || format->scale_dtype == QP_F16);
}

static enum form form_of(const struct qp_rtn *job)
{
    int bits = job->packed ? job->format->bits : 0;
    return bits == 4 ? NIBBLES : bits == 8 ? BIASED_BYTES : BYTES;
}

/* Where row r's codes go. */
static uint8_t *row_of(const struct qp_rtn *job, int64_t r)
{
    int64_t width = job->packed ? 4 * qp_packed_words(job->format->bits, job->cols) : job->cols;
    return (uint8_t *)job->codes + r * width;
}

static void pack_rows(const struct qp_rtn *job, int64_t first, int64_t rows, const uint8_t *codes)
{
    QP_NAME(qp_pack)(job->format->bits, rows, job->cols, (const int8_t *)codes, (int32_t *)row_of(job, first));
}

/* Rows first to first + rows - 1 by the other kernels; here and below w[rows, cols] and codes[rows, cols] are scratch.
 */
static void round_slowly(const struct qp_rtn *job, int64_t first, int64_t rows, float *w, uint8_t *codes)
{
    int64_t cols = job->cols, at = first * qp_groups(cols, job->group);
    const uint8_t *stored = (const uint8_t *)job->w + first * cols * (qp_dtype_bits(job->dtype) / 8);
    int8_t *zero = job->zero ? job->zero + at : NULL;

    if (!job->packed)
        codes = row_of(job, first);
    QP_NAME(qp_to_f32)(job->dtype, rows * cols, stored, w);
    QP_NAME(qp_qparams)(job->format, rows, cols, job->group, w, job->scale + at, zero);
    QP_NAME(qp_quantize)(&(struct qp_grouped){job->format, rows, cols, job->group, job->scale + at, zero}, w, codes);
    if (job->packed)
        pack_rows(job, first, rows, codes);
}

/* What is asked for most, INT4 with BF16 scales in the usual groups, is compiled with all of that as constants. */
#define PLAIN(count, symmetric_) \
    round_groups(job, (struct rounding){{-8, 7, g.q.steps}, QP_BF16, symmetric_, NIBBLES}, count, r, w, out)
#define USUAL(symmetric_) \
    (job->group == 128 ? PLAIN(128, symmetric_) : job->group == 64 ? PLAIN(64, symmetric_) : PLAIN(32, symmetric_))

static bool round_row(const struct qp_rtn *job, struct rounding g, int64_t r, float *w, uint8_t *codes)
{
    bool direct = g.form != BYTES || !job->packed, good;
    bool usual =
        g.form == NIBBLES && g.scale_dtype == QP_BF16 && (job->group == 128 || job->group == 64 || job->group == 32);
    uint8_t *out = direct ? row_of(job, r) : codes;

    if (usual)
        good = g.symmetric ? USUAL(true) : USUAL(false);
    else
        good = round_groups(job, g, job->group, r, w, out);
    if (good && !direct)
        pack_rows(job, r, 1, codes);
    return good;
}

void QP_NAME(qp_rtn)(const struct qp_rtn *job)
{
    const bool fast = is_fast(job);
    const struct rounding g = {qp_limits_of(job->format), job->format->scale_dtype, job->format->symmetric,
                               form_of(job)};
    const int64_t step = job->cols < PIECE ? PIECE / job->cols : 1; /* each call of the others costs a microsecond */

#pragma omp parallel if (job->rows * job->cols >= QP_PARALLEL_ELEMENTS)
    {
        float *w = qp_scratch((size_t)(step * job->cols), sizeof *w);
        uint8_t *codes = qp_scratch((size_t)(step * job->cols), 1);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < job->rows; first += step) {
            int64_t rows = job->rows - first < step ? job->rows - first : step;
            if (w == NULL || codes == NULL)
                continue;
            if (!fast)
                round_slowly(job, first, rows, w, codes);
            for (int64_t r = first; fast && r < first + rows; r++)
                if (!round_row(job, g, r, w, codes))
                    round_slowly(job, r, 1, w, codes);
        }
        free(codes);
        free(w);
    }
}
