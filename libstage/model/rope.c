#include "libstage/model/arch.h"

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

double qp_rope_frequency(const struct qp_rope_config *rope, int head_dim, int i)
{
    double frequency = pow(rope->theta, -2.0 * i / head_dim);
    switch (rope->kind) {
    case QP_ROPE_DEFAULT:
        return frequency;
    case QP_ROPE_LINEAR:
        return frequency / rope->factor;
    case QP_ROPE_LLAMA3:
        return llama3_frequency(rope, frequency);
    }
    return frequency;
}

int qp_rope_tables(const struct qp_arch *arch, int64_t length, float **cos_out, float **sin_out, struct qp_error *err)
{
    if (length < 1 || length > arch->max_length)
        return qp_fail(err, QP_ERR_INPUT, "sequences of %lld tokens; this model takes 1 to %lld: set `length` to that",
                       (long long)length, (long long)arch->max_length);
    int half = arch->head_dim / 2;
    float *c = qp_new_floats(length * half, "the rotary tables", err);
    float *s = c ? qp_new_floats(length * half, "the rotary tables", err) : NULL;
    if (!s) {
        free(c);
        return QP_ERR_ROOM;
    }
    for (int i = 0; i < half; i++) {
        double frequency = qp_rope_frequency(&arch->rope, arch->head_dim, i);
        for (int64_t p = 0; p < length; p++) {
            c[p * half + i] = (float)cos((double)p * frequency);
            s[p * half + i] = (float)sin((double)p * frequency);
        }
    }
    *cos_out = c;
    *sin_out = s;
    return 0;
}
