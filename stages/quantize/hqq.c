#include "stages/quantize/hqq.h"

#include <math.h>
#include <string.h>

#include "kernels/failure.h"
#include "kernels/rounding.h"

#define EXPONENT 0.7f
#define FIRST_BETA 10.0f
#define BETA_GROWTH 1.01f
enum { STEPS = 20 };

/* Runs of elements with one scale. */
struct run {
    const struct qp_number_format *format;
    int64_t count;
    const float *w;
};

struct fit {
    float scale;
    int8_t zero;
};

static float shrink(float x, float beta)
{
    float size = fabsf(x);
    return size > 0.0f ? copysignf(fmaxf(0.0f, size - powf(size, EXPONENT - 1.0f) / beta), x) : 0.0f;
}

/* The number that an element is a multiple of the scale of. */
static float level(const struct qp_number_format *format, float w, struct fit f)
{
    return qp_value(format, qp_code(format, w, f.scale, f.zero), 1.0f, f.zero);
}

static double mean_error(const struct run *run, struct fit f)
{
    double sum = 0.0;
    for (int64_t i = 0; i < run->count; i++)
        sum += fabsf(run->w[i] - level(run->format, run->w[i], f) * f.scale);
    return sum / (double)run->count;
}

static struct fit step(const struct run *run, struct fit f, float beta)
{
    double product = 0.0, square = 0.0, shift = 0.0;
    for (int64_t i = 0; i < run->count; i++) {
        float x = level(run->format, run->w[i], f), target = run->w[i] - shrink(run->w[i] - x * f.scale, beta);
        product += (double)x * target;
        square += (double)x * x;
        shift += x + f.zero - target / f.scale;
    }
    struct fit next = f;
    float scale = (float)(product / square);
    if (isfinite(scale) && scale > 0.0f)
        next.scale = qp_held_scale(run->format, scale);
    if (!run->format->symmetric) {
        float zero = rintf((float)(shift / (double)run->count));
        next.zero = (int8_t)fmaxf(qp_format_min(run->format), fminf(qp_format_max(run->format), zero));
    }
    return next;
}

static struct fit solve(const struct run *run, struct fit f)
{
    double best = mean_error(run, f);
    float beta = FIRST_BETA;
    for (int i = 0; i < STEPS; i++, beta *= BETA_GROWTH) {
        struct fit next = step(run, f, beta);
        double error = mean_error(run, next);
        if (!(error < best))
            break;
        best = error;
        f = next;
    }
    return f;
}

int qp_hqq(struct qp_member *member, struct qp_error *err)
{
    const struct qp_quantized *q = &member->q;
    if (member->spec->granularity == QP_PER_BLOCK || q->format.scale_dtype == QP_F8_E8M0)
        return qp_fail(err, QP_ERR_INPUT,
                       "method hqq cannot fit scales of two-dimensional blocks or powers of 2; use rtn or gptq");
    int64_t length = q->group > 0 ? q->cols : q->rows * q->cols, width = q->group > 0 ? q->group : length;
    int64_t groups = qp_groups(length, width), runs = q->rows * q->cols / length * groups;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < runs; i++) {
        int64_t at = i % groups * width;
        if (qp_failure_is_set())
            continue;
        struct run run = {&q->format, length - at < width ? length - at : width, member->w + i / groups * length + at};
        struct fit f = solve(&run, (struct fit){member->scale[i], q->zero ? q->zero[i] : 0});
        member->scale[i] = f.scale;
        if (q->zero)
            member->zero[i] = f.zero;
    }
    return 0;
}
