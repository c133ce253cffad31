/* What every version of scale_search shares: the candidates of a group, and the power of a deviation. */
#ifndef QUANTPIPE_KERNELS_CANDIDATES_H
#define QUANTPIPE_KERNELS_CANDIDATES_H

#include <float.h>

#include "kernels/rounding.h"
#include "kernels/scale_search.h"

/* Space that a group's candidates need at most: p = 1, and `steps` ranges or the 255 exponents of E8M0. */
static inline int64_t qp_candidate_count(const struct qp_scale_search *s)
{
    return 1 + (s->steps > 255 ? s->steps : 255);
}

/* Every scale that an E4M3 or E8M0 can hold between those of p = first and p = last, in that direction. */
static inline int qp_sweep(const struct qp_scale_search *s, float absmax, float *scale)
{
    const struct qp_number_format *format = s->format;
    bool e8m0 = format->scale_dtype == QP_F8_E8M0;
    float unit = qp_format_unit(format), steps = qp_format_steps(format);
    int end[2], n = 0;

    for (int i = 0; i < 2; i++) {
        float range = absmax * (i == 0 ? s->first : s->last);
        end[i] = e8m0 ? qp_e8m0_exponent(format, range) : qp_e4m3_scale_code(range / steps, format->global);
    }
    for (int at = end[0], by = end[0] < end[1] ? 1 : -1;; at += by) {
        scale[n++] = e8m0 ? ldexpf(1, at) / unit : qp_e4m3_scale((uint8_t)at, format->global);
        if (at == end[1])
            return n;
    }
}

/* Candidate k of each of s->steps ranges. Called with a number format of which the compiler knows the kind, this is a
 * loop over vectors. */
static inline __attribute__((always_inline)) void qp_ranges(const struct qp_scale_search *s,
                                                            struct qp_number_format format, float min, float max,
                                                            float *scale, int8_t *zero)
{
    for (int k = 0; k < s->steps; k++) {
        float p = s->first + (float)k * (s->last - s->first) / (float)(s->steps - 1);
        qp_range_params(&format, p * min, p * max, scale + k, format.symmetric ? NULL : zero + k);
    }
}

static inline __attribute__((always_inline)) void qp_integer_ranges(const struct qp_scale_search *s,
                                                                    struct qp_number_format format, float min,
                                                                    float max, float *scale, int8_t *zero)
{
    format.codes = QP_I8, format.narrow = false;
    if (format.symmetric) {
        format.symmetric = true;
        qp_ranges(s, format, min, max, scale, zero);
    } else {
        format.symmetric = false;
        qp_ranges(s, format, min, max, scale, zero);
    }
}

static inline void qp_all_ranges(const struct qp_scale_search *s, float min, float max, float *scale, int8_t *zero)
{
    struct qp_number_format format = *s->format;

    if (format.codes != QP_I8 || format.narrow)
        qp_ranges(s, format, min, max, scale, zero);
    else if (format.scale_dtype == QP_BF16) {
        format.scale_dtype = QP_BF16;
        qp_integer_ranges(s, format, min, max, scale, zero);
    } else if (format.scale_dtype == QP_F16) {
        format.scale_dtype = QP_F16;
        qp_integer_ranges(s, format, min, max, scale, zero);
    } else if (format.scale_dtype == QP_F32) {
        format.scale_dtype = QP_F32;
        qp_integer_ranges(s, format, min, max, scale, zero);
    } else
        qp_ranges(s, format, min, max, scale, zero);
}

/* The candidates of a group with range [min, max], in the order in which they are tried; one that equals the one before
 * it is left out, as it cannot be better. zero is written when not symmetric. Returns how many there are. */
static inline int qp_candidates(const struct qp_scale_search *s, float min, float max, float *scale, int8_t *zero)
{
    int8_t *z = s->format->symmetric ? NULL : zero;
    int n = 1;

    qp_range_params(s->format, min, max, scale, z);
    if (s->sweep && (s->format->scale_dtype == QP_F8_E4M3 || s->format->scale_dtype == QP_F8_E8M0))
        return 1 + qp_sweep(s, -min > max ? -min : max, scale + 1);
    if (s->steps < 2)
        return 1;
    qp_all_ranges(s, min, max, scale + 1, zero + 1);
    for (int k = 1; k <= s->steps; k++)
        if (scale[k] != scale[n - 1] || (z != NULL && z[k] != z[n - 1])) {
            scale[n] = scale[k];
            if (z != NULL)
                z[n] = z[k];
            n++;
        }
    return n;
}

/* x^power for x >= 0 and power > 0, within 2^-17 of it; 0 where x or the result is below the normal numbers. Only sums,
 * products and bits: the same on every machine, vectorised or not. Polynomials of Cephes' logf and exp2f (Moshier). */
static inline float qp_power(float x, float power)
{
    /* x = 2^e (1 + t), 1 + t from sqrt(1/2) on */
    uint32_t u = qp_float_bits(x) + (0x3f800000 - 0x3f3504f3), e = u >> 23;
    float t = qp_bits_float((u & 0x7fffff) + 0x3f3504f3) - 1, square = t * t;
    float log = 7.0376836292e-2f;
    log = log * t - 1.1514610310e-1f;
    log = log * t + 1.1676998740e-1f;
    log = log * t - 1.2420140846e-1f;
    log = log * t + 1.4249322787e-1f;
    log = log * t - 1.6668057665e-1f;
    log = log * t + 2.0000714765e-1f;
    log = log * t - 2.4999993993e-1f;
    log = log * t + 3.3333331174e-1f;
    log = t + (log * t * square - 0.5f * square);

    float y = power * ((float)((int32_t)e - 127) + log * 1.44269504088896341f);
    float bounded = y < -126 ? -126 : y > 127.99f ? 127.99f : y;
    float shifted = bounded + 0x1.8p23f, f = bounded - (shifted - 0x1.8p23f); /* the sum rounds to a whole number */
    float exp = 1.535336188319500e-4f;
    exp = exp * f + 1.339887440266574e-3f;
    exp = exp * f + 9.618437357674640e-3f;
    exp = exp * f + 5.550332471162809e-2f;
    exp = exp * f + 2.402264791363012e-1f;
    exp = exp * f + 6.931472028550421e-1f;
    exp = exp * f + 1;

    float result = qp_bits_float(qp_float_bits(exp) + (qp_float_bits(shifted) << 23));
    result = y > 127.99f ? INFINITY : result;
    result = y < -126 || x < FLT_MIN ? 0 : result;
    return x <= FLT_MAX ? result : x;
}

#endif
