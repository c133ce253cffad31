#include "kernels/cpu/vector/vector.h"

/* Squares of LANES rows and columns, of which those side by side in SIDE columns are taken together: their rows are
 * read in pieces of whole lines. */
enum { SIDE = 64 };

/* h[left + i, top + j] goes to h[top + j, left + i]; count: rows from `top` on. */
static void mirror_square(int64_t n, int64_t top, int64_t left, int64_t count, float *h)
{
    vf v[LANES];

    if (count < LANES || left == top) {
        for (int64_t j = top; j < top + count; j++)
            for (int64_t i = left; i < left + LANES && i < j; i++)
                h[j * n + i] = h[i * n + j];
        return;
    }
    for (int i = 0; i < LANES; i++)
        v[i] = v_load(h + (left + i) * n + top);
    v_transpose(v);
    for (int j = 0; j < LANES; j++)
        v_store(h + (top + j) * n + left, v[j]);
}

void QP_NAME(qp_mirror)(int64_t n, float *h)
{
#pragma omp parallel for schedule(dynamic, 1) if (n * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t panel = 0; panel < n; panel += SIDE) {
        int64_t end = panel + SIDE < n ? panel + SIDE : n;
        for (int64_t left = 0; left < end; left += LANES)
            for (int64_t top = panel; top < end; top += LANES)
                if (left <= top)
                    mirror_square(n, top, left, end - top < LANES ? end - top : LANES, h);
    }
}
