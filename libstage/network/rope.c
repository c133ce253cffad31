#include "libstage/network/arch.h"

#include <math.h>
#include <stdlib.h>

#include "libstage/base/memory.h"

/* rope_type llama3: long wavelengths are stretched by `factor`, short ones kept, those between interpolated. */
static double llama3_frequency(const struct qp_rope_config *rope, double frequency)
{
    double wavelength = 2.0 * M_PI / frequency;
    double length = (double)rope->original_length;
    if (wavelength > length / rope->low_freq_factor)
        return frequency / rope->factor;
    if (wavelength < length / rope->high_freq_factor)
        return frequency;
    double smooth = (length / wavelength - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1.0 - smooth) * frequency / rope->factor + smooth * frequency;
}

/* The pair whose wavelength fits `rotations` times into the original length (Peng et al. 2023, section 3.2). */
static double yarn_pair(const struct qp_rope_config *rope, double rotations)
{
    return rope->dim * log((double)rope->original_length / (rotations * 2.0 * M_PI)) / (2.0 * log(rope->theta));
}

static double yarn_frequency(const struct qp_rope_config *rope, double frequency, int i)
{
    double low = yarn_pair(rope, rope->beta_fast), high = yarn_pair(rope, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, rope->dim - 1);
    if (low == high)
        high += 0.001;
    double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return frequency / rope->factor * ramp + frequency * (1 - ramp);
}

/* Theta grows with the part of the sequence that is longer than what the network was trained on. */
static double dynamic_frequency(const struct qp_rope_config *rope, int64_t length, int i)
{
    double most = (double)rope->original_length, s = fmax((double)length, most), dim = rope->dim;
    double theta = rope->theta * pow(rope->factor * s / most - (rope->factor - 1), dim / (dim - 2));
    return pow(theta, -2.0 * i / dim);
}

double qp_rope_frequency(const struct qp_rope_config *rope, int64_t length, int i)
{
    double frequency = pow(rope->theta, -2.0 * i / rope->dim);
    switch (rope->kind) {
    case QP_ROPE_DEFAULT:
        return frequency;
    case QP_ROPE_LINEAR:
        return frequency / rope->factor;
    case QP_ROPE_DYNAMIC:
        return dynamic_frequency(rope, length, i);
    case QP_ROPE_LLAMA3:
        return llama3_frequency(rope, frequency);
    case QP_ROPE_YARN:
        return yarn_frequency(rope, frequency, i);
    case QP_ROPE_LONG:
        return frequency / (length > rope->original_length ? rope->long_factor : rope->short_factor)[i];
    }
    return frequency;
}

/* Llama 4 release: queries of later positions are sharper. */
static double temper_at(const struct qp_rope_config *rope, int64_t position)
{
    if (rope->temper == 0)
        return 1;
    return 1 + rope->temper * log(1 + floor((double)position / (double)rope->original_length));
}

static int open_table(const struct qp_rope_config *rope, int64_t length, float **cos_out, float **sin_out,
                      struct qp_error *err)
{
    int half = rope->dim / 2;
    float *c = *cos_out = qp_new_floats(length * half, "the rotary tables", err);
    float *s = *sin_out = c ? qp_new_floats(length * half, "the rotary tables", err) : NULL;
    if (!s)
        return QP_ERR_SPACE;
    for (int i = 0; i < half; i++) {
        double frequency = qp_rope_frequency(rope, length, i);
        for (int64_t p = 0; p < length; p++) {
            double size = rope->attention * temper_at(rope, p);
            c[p * half + i] = (float)(size * cos((double)p * frequency));
            s[p * half + i] = (float)(size * sin((double)p * frequency));
        }
    }
    return 0;
}

int qp_rotations_open(const struct qp_arch *arch, int64_t length, struct qp_rotations *out, struct qp_error *err)
{
    int r = 0;
    *out = (struct qp_rotations){0};
    if (length < 1 || length > arch->max_length)
        return qp_fail(err, QP_ERR_INPUT, "sequences of %lld tokens; this model takes 1 to %lld: set `length` to that",
                       (long long)length, (long long)arch->max_length);
    for (int i = 0; r == 0 && i < arch->rope_count; i++)
        r = open_table(&arch->ropes[i], length, &out->cos[i], &out->sin[i], err);
    if (r < 0)
        qp_rotations_close(out);
    return r;
}

void qp_rotations_close(struct qp_rotations *rotations)
{
    for (int i = 0; i < QP_ROPES_MAX; i++) {
        free(rotations->cos[i]);
        free(rotations->sin[i]);
    }
    *rotations = (struct qp_rotations){0};
}
