#include "kernels/low_rank.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "kernels/scratch.h"

enum { SWEEPS = 60 };

/* g[rows, rows] = e H eᵀ; eh[rows, cols]. */
static void gram(int64_t rows, int64_t cols, const float *e, const float *h, double *eh, double *g)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < cols; j++) {
            double sum = h ? 0.0 : (double)e[r * cols + j];
            for (int64_t i = 0; h && i < cols; i++)
                sum += (double)e[r * cols + i] * h[i * cols + j];
            eh[r * cols + j] = sum;
        }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t s = 0; s < rows; s++) {
            double sum = 0.0;
            for (int64_t j = 0; j < cols; j++)
                sum += eh[r * cols + j] * e[s * cols + j];
            g[r * rows + s] = sum;
        }
}

/* Turns lines p and q of m, `stride` between their elements. */
static void step(int64_t n, double *p, double *q, int64_t stride, double c, double s)
{
    for (int64_t i = 0; i < n; i++) {
        double x = p[i * stride], y = q[i * stride];
        p[i * stride] = c * x - s * y;
        q[i * stride] = s * x + c * y;
    }
}

/* Cyclic Jacobi (Golub and Van Loan 2013, section 8.5): g becomes diagonal, v's rows the eigenvectors. */
static void diagonalize(int64_t n, double *g, double *v)
{
    double trace = 0.0;
    for (int64_t i = 0; i < n * n; i++)
        v[i] = i % n == i / n;
    for (int64_t i = 0; i < n; i++)
        trace += g[i * n + i];
    for (int sweep = 0, turned = 1; sweep < SWEEPS && turned; sweep++) {
        turned = 0;
        for (int64_t p = 0; p < n; p++)
            for (int64_t q = p + 1; q < n; q++) {
                if (!(fabs(g[p * n + q]) > 1e-16 * trace))
                    continue;
                double tau = (g[q * n + q] - g[p * n + p]) / (2.0 * g[p * n + q]);
                double t = copysign(1.0, tau) / (fabs(tau) + sqrt(1.0 + tau * tau)), c = 1.0 / sqrt(1.0 + t * t);
                step(n, g + p * n, g + q * n, 1, c, t * c);
                step(n, g + p, g + q, n, c, t * c);
                step(n, v + p * n, v + q * n, 1, c, t * c);
                turned = 1;
            }
    }
}

/* The largest eigenvalue and its place; it is taken once. */
static double take_largest(int64_t n, double *g, int64_t *place)
{
    *place = 0;
    for (int64_t i = 1; i < n; i++)
        if (g[i * n + i] > g[*place * n + *place])
            *place = i;
    double value = g[*place * n + *place];
    g[*place * n + *place] = -INFINITY;
    return value;
}

/* A column of b, whose rows are `rank` apart, from a vector or zeros, and the row of a that it makes of e. */
static void set_factor(int64_t rows, int64_t cols, int64_t rank, const float *e, const double *vector, float *column,
                       float *row)
{
    for (int64_t r = 0; r < rows; r++)
        column[r * rank] = vector ? (float)vector[r] : 0.0f;
    for (int64_t j = 0; j < cols; j++) {
        double sum = 0.0;
        for (int64_t r = 0; r < rows; r++)
            sum += (double)column[r * rank] * e[r * cols + j];
        row[j] = (float)sum;
    }
}

int qp_low_rank_ref(int64_t rows, int64_t cols, int64_t rank, const float *e, const float *h, float *b, float *a)
{
    double *g = qp_scratch((size_t)(rows * rows), sizeof *g), *v = qp_scratch((size_t)(rows * rows), sizeof *v);
    double *eh = qp_scratch((size_t)(rows * cols), sizeof *eh), finite = 0.0, trace = 0.0;
    bool good = g != NULL && v != NULL && eh != NULL;
    if (good)
        gram(rows, cols, e, h, eh, g);
    for (int64_t i = 0; i < rows * rows && good; i++)
        finite += 0.0 * g[i];
    good = good && finite == 0.0;
    for (int64_t i = 0; i < rows && good; i++)
        trace += g[i * rows + i];
    if (good)
        diagonalize(rows, g, v);
    for (int64_t k = 0; k < rank && good; k++) {
        int64_t place;
        double value = take_largest(rows, g, &place);
        set_factor(rows, cols, rank, e, value > QP_LOW_RANK_NOTHING * trace ? v + place * rows : NULL, b + k,
                   a + k * cols);
    }
    free(g);
    free(v);
    free(eh);
    return good ? 0 : -1;
}
