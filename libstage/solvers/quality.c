#include "libstage/solvers/quality.h"

#include <math.h>

#include "kernels/work.h"

/* Columns of H that meet all rows above them at once. */
static int64_t panel_width(int64_t in)
{
    int64_t width = (in / 8 + 31) / 32 * 32;
    return width < 64 ? 64 : width;
}

/* scratch = delta U, where U is H with the blocks above its diagonal doubled, and those below it 0: delta U deltaᵀ has
 * the diagonal of delta H deltaᵀ. */
static void half_product(const struct qp_kernels *kernels, int64_t rows, int64_t in, const float *delta, const float *h,
                         float *scratch)
{
    int64_t width = panel_width(in);
    for (int64_t at = 0; at < in; at += width) {
        int64_t count = in - at < width ? in - at : width;
        kernels->gemm(
            &(struct qp_gemm){false, false, rows, count, at, 2.0f, delta, in, h + at, in, 0.0f, scratch + at, in});
        kernels->gemm(&(struct qp_gemm){false, false, rows, count, count, 1.0f, delta + at, in, h + at * in + at, in,
                                        1.0f, scratch + at, in});
    }
}

double qp_site_loss_operations(int64_t rows, int64_t in)
{
    double sum = 0.0;
    for (int64_t at = 0, width = panel_width(in); at < in; at += width) {
        int64_t count = in - at < width ? in - at : width;
        sum += qp_gemm_operations(rows, count, at + count);
    }
    return sum;
}

double qp_dot(int64_t count, const float *a, const float *b)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

void qp_row_losses(const struct qp_kernels *kernels, int64_t rows, int64_t in, const float *delta, const float *h,
                   float *scratch, double *loss)
{
    half_product(kernels, rows, in, delta, h, scratch);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        loss[r] = qp_dot(in, scratch + r * in, delta + r * in);
}

double qp_site_loss(const struct qp_kernels *kernels, int64_t rows, int64_t in, const float *delta, const float *h,
                    float *scratch)
{
    double loss = 0.0;
    half_product(kernels, rows, in, delta, h, scratch);
    for (int64_t r = 0; r < rows; r++)
        loss += qp_dot(in, scratch + r * in, delta + r * in);
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
