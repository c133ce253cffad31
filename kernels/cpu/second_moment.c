#include "kernels/cpu/cpu.h"

/* Only the panels on and above the diagonal: with `panels` of them (panels + 1) / 2 / panels of a full product. */
static int64_t panel_width(int64_t n)
{
    int64_t width = (n / 8 + 63) / 64 * 64;
    return width < 128 ? 128 : width;
}

void qp_second_moment_cpu(int64_t rows, int64_t n, const float *x, float *h)
{
    int64_t width = panel_width(n);

    for (int64_t j = 0; j < n; j += width) {
        int64_t columns = n - j < width ? n - j : width;
        qp_gemm_cpu(true, false, j + columns, columns, rows, 1, x, n, x + j, n, 1, h + j, n);
    }
}

/* In tiles, so that neither side runs across memory column by column. */
void qp_mirror_cpu(int64_t n, float *h)
{
    const int64_t tile = 32;

#pragma omp parallel for schedule(dynamic, 1) if (n * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t top = 0; top < n; top += tile)
        for (int64_t left = 0; left <= top; left += tile)
            for (int64_t i = top; i < top + tile && i < n; i++)
                for (int64_t j = left; j < left + tile && j < i; j++)
                    h[i * n + j] = h[j * n + i];
}
