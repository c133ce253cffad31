#include "libstage/calibration/histogram.h"

#include <math.h>
#include <string.h>

/* The mantissa bits of 2^(k / 16), rounded up: a mantissa lies in sub-bin k when it is at least step[k]. Derived as
 * ceil((2^(k/16) - 1) 2^23); the numbers are irrational but for k = 0, so none is at an edge. */
static const uint32_t step[QP_LOG_BINS_PER_OCTAVE] = {
    0x000000, 0x05aac4, 0x0b95c2, 0x11c3d4, 0x1837f1, 0x1ef533, 0x25fed7, 0x2d583f,
    0x3504f4, 0x3d08a4, 0x45672b, 0x4e248d, 0x5744fd, 0x60ccdf, 0x6ac0c7, 0x75257e,
};

int qp_log_bin(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t mantissa = bits & 0x7fffff;
    int exponent = (int)(bits >> 23 & 0xff) - 127;
    int sub = (int)(mantissa >> 19); /* 2^(k/16) - 1 <= k/16: too small by 2 at most, never too large */
    while (sub + 1 < QP_LOG_BINS_PER_OCTAVE && mantissa >= step[sub + 1])
        sub++;
    int bin = exponent * QP_LOG_BINS_PER_OCTAVE + sub + QP_LOG_BIN_OF_ONE;
    return bin < 0 ? 0 : bin < QP_LOG_BINS ? bin : QP_LOG_BINS - 1;
}

double qp_log_bin_edge(int bin)
{
    return exp2((double)(bin - QP_LOG_BIN_OF_ONE) / QP_LOG_BINS_PER_OCTAVE);
}

/* Channels whose counts fit in a cache together. */
enum { STRIP = 64 };

void qp_histogram_add(int64_t rows, int64_t n, const float *x, float *counts)
{
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += STRIP) {
        int64_t last = first + STRIP < n ? first + STRIP : n;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = first; i < last; i++)
                if (!isnan(x[r * n + i]))
                    counts[i * QP_LOG_BINS + qp_log_bin(x[r * n + i])] += 1.0f;
    }
}

int qp_block_bin(float x)
{
    float bin = floorf((log2f(x) + 40.0f) / 80.0f * QP_BLOCK_BINS);
    return (int)fminf(fmaxf(bin, 0.0f), QP_BLOCK_BINS - 1);
}

void qp_block_histogram_add(int64_t rows, int64_t n, const float *x, float *counts)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i += QP_BLOCK_COLUMNS) {
            float most = 0.0f;
            for (int64_t k = i; k < n && k < i + QP_BLOCK_COLUMNS; k++)
                most = fmaxf(most, fabsf(x[r * n + k]));
            if (most > 0.0f)
                counts[qp_block_bin(most)]++;
        }
}
