#include "libstage/model/quality.h"

#include <math.h>

double qp_site_loss(const struct qp_kernels *kernels, int64_t rows, int64_t in, const float *delta, const float *h,
                    float *scratch)
{
    kernels->gemm(false, false, rows, in, in, 1.0f, delta, in, h, in, 0.0f, scratch, in);
    double loss = 0.0;
    for (int64_t r = 0; r < rows; r++) {
        double row = 0.0;
        for (int64_t i = 0; i < in; i++)
            row += (double)scratch[r * in + i] * delta[r * in + i];
        loss += row;
    }
    return loss > 0.0 ? loss : 0.0;
}

double qp_sqnr_db(int64_t count, const float *w, const float *q)
{
    double signal = 0.0, noise = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double error = (double)q[i] - w[i];
        signal += (double)w[i] * w[i];
        noise += error * error;
    }
    return noise > 0.0 ? 10.0 * log10(signal / noise) : INFINITY;
}

void qp_difference(int64_t count, const float *q, const float *w, float *delta)
{
    for (int64_t i = 0; i < count; i++)
        delta[i] = q[i] - w[i];
}
