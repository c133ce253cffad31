#include "stages/quantize/modelopt.h"

#include <math.h>

#include "kernels/rounding.h"

void qp_modelopt_global(struct qp_member *m, float absmax, bool four_over_six)
{
    const struct qp_quant_spec *activations = &m->scheme->activations;
    bool fp8 = activations->enabled && activations->format.codes == QP_F8_E4M3;
    float levels = fp8 ? 448.0f : 6.0f * (four_over_six ? 256.0f : 448.0f), scale = levels / absmax;
    bool good = isfinite(scale) && scale > 0.0f;
    m->q.format.global = good ? scale : 1.0f;
    m->reciprocal = good ? absmax / levels : 1.0f;
}

static bool is_nvfp4(const struct qp_member *m)
{
    return m->q.format.scale_dtype == QP_F8_E4M3;
}

void qp_modelopt_scales(struct qp_member *m)
{
    const int64_t groups = qp_groups(m->q.cols, m->q.group);
    const float step = 6.0f * m->reciprocal;
    if (!is_nvfp4(m))
        return;
    for (int64_t i = 0; i < m->q.rows * groups; i++) {
        const int64_t first = i % groups * m->q.group, left = m->q.cols - first;
        const float *w = m->w + i / groups * m->q.cols + first;
        float range = 0.0f;
        for (int64_t k = 0; k < (left < m->q.group ? left : m->q.group); k++)
            range = fmaxf(range, fabsf(w[k]));
        float scale = range / step;
        m->scale[i] = qp_e4m3_scale(qp_e4m3_scale_code(scale == 0.0f ? 1.0f : scale, 1.0f), m->q.format.global);
    }
}

/* Half towards zero; the sign is that of x <= 0. */
static uint8_t code_of_mxfp4(float x)
{
    static const float bounds[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
    uint8_t code = x > 0.0f ? 0 : 8;
    for (int i = 0; i < 7; i++)
        code = (uint8_t)(code + (fabsf(x) > bounds[i]));
    return code;
}

static float divided_in(enum qp_dtype dtype, float w, float scale)
{
    float x = w / scale;
    return dtype == QP_BF16 ? qp_bf16_to_f32(qp_f32_to_bf16(x)) : dtype == QP_F16 ? qp_f16_to_f32(qp_f32_to_f16(x)) : x;
}

/* -0, which modelopt's NVFP4 does not have, is 0. */
static uint8_t code_of_nvfp4(const struct qp_number_format *format, float x)
{
    return x == 0.0f ? 0 : qp_code(format, x, 1.0f, 0);
}

static float *scale_at(const struct qp_member *m, int64_t i)
{
    const int64_t groups = qp_groups(m->q.cols, m->q.group);
    return m->scale + (m->q.group == 0 ? 0 : i / m->q.cols * groups + i % m->q.cols / m->q.group);
}

/* The code of a group's scale, as a number. */
static float first_scale(const struct qp_number_format *format, float scale)
{
    return qp_e4m3_to_f32(qp_e4m3_scale_code(scale, format->global));
}

void qp_modelopt_round(const struct qp_kernels *kernels, enum qp_dtype dtype, struct qp_member *m)
{
    const struct qp_number_format *format = &m->q.format;
    const int64_t count = m->q.rows * m->q.cols;
    const bool mxfp4 = format->codes == QP_F4_E2M1 && format->scale_dtype == QP_F8_E8M0;
    const bool twice = format->codes == QP_F8_E4M3 && m->q.group == 0;
    if (!mxfp4 && !twice && !is_nvfp4(m)) {
        kernels->quantize(&(struct qp_grouped){format, m->q.rows, m->q.cols, m->q.group, m->scale, m->q.zero}, m->w,
                          m->codes);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        const float scale = *scale_at(m, i);
        m->codes[i] = twice   ? qp_code(format, divided_in(dtype, m->w[i], scale), 1.0f, 0)
                      : mxfp4 ? code_of_mxfp4(m->w[i] / scale)
                              : code_of_nvfp4(format, m->w[i] / (first_scale(format, scale) * m->reciprocal));
    }
}
