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

double qp_rope_frequency(const struct qp_rope_config *rope, int i)
{
    double frequency = pow(rope->theta, -2.0 * i / rope->dim);
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

static int open_table(const struct qp_rope_config *rope, int64_t length, float **cos_out, float **sin_out,
                      struct qp_error *err)
{
    int half = rope->dim / 2;
    float *c = *cos_out = qp_new_floats(length * half, "the rotary tables", err);
    float *s = *sin_out = c ? qp_new_floats(length * half, "the rotary tables", err) : NULL;
    if (!s)
        return QP_ERR_ROOM;
    for (int i = 0; i < half; i++) {
        double frequency = qp_rope_frequency(rope, i);
        for (int64_t p = 0; p < length; p++) {
            c[p * half + i] = (float)cos((double)p * frequency);
            s[p * half + i] = (float)sin((double)p * frequency);
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
