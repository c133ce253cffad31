#include "stages/rotate/rotation.h"

#include <omp.h>
#include <stdlib.h>

#include "kernels/failure.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/base/random.h"

enum { TILE = 16 }; /* columns taken at once, so that reading them uses whole cache lines */

int rotation_new(int64_t n, const char *what, uint64_t seed, uint64_t stream, struct rotation *out,
                 struct qp_error *err)
{
    struct rotation r = {0};
    uint64_t state = seed;
    state = qp_random(&state) ^ stream;
    int e = qp_hadamard_new(n, what, &r.h, err);
    if (e == 0 && !(r.sign = qp_new_array(n, sizeof *r.sign, "signs", err)))
        e = QP_ERR_SPACE;
    if (e < 0) {
        rotation_free(&r);
        return e;
    }
    for (int64_t i = 0; i < n; i++)
        r.sign[i] = qp_random(&state) >> 63 ? -1.0 : 1.0;
    *out = r;
    return 0;
}

void rotation_free(struct rotation *r)
{
    qp_hadamard_free(&r->h);
    free(r->sign);
    *r = (struct rotation){0};
}

static void rotate_vector(const struct rotation *r, double *x, double *scratch)
{
    for (int64_t i = 0; i < r->h.n; i++)
        x[i] *= r->sign[i];
    qp_hadamard_apply(&r->h, x, scratch);
}

int rotate_rows(const struct rotation *r, int64_t rows, int64_t cols, double *w, struct qp_error *err)
{
    int64_t n = r->h.n;
    qp_auto_free double *scratch = qp_new_array(omp_get_max_threads() * n, sizeof *scratch, "rotated vectors", err);
    if (!scratch)
        return QP_ERR_SPACE;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols && !qp_failure_is_set(); j += n)
            rotate_vector(r, w + i * cols + j, scratch + omp_get_thread_num() * n);
    return 0;
}

/* Rotates `count` columns from `first` of the n rows at w; x has space for count + 1 vectors. */
static void rotate_tile(const struct rotation *r, int64_t cols, int64_t first, int64_t count, double *w, double *x)
{
    int64_t n = r->h.n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < count; j++)
            x[j * n + i] = w[i * cols + first + j];
    for (int64_t j = 0; j < count; j++)
        rotate_vector(r, x + j * n, x + count * n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < count; j++)
            w[i * cols + first + j] = x[j * n + i];
}

int rotate_columns(const struct rotation *r, int64_t rows, int64_t cols, double *w, struct qp_error *err)
{
    int64_t n = r->h.n, tiles = (cols + TILE - 1) / TILE, capacity = (TILE + 1) * n;
    qp_auto_free double *x = qp_new_array(omp_get_max_threads() * capacity, sizeof *x, "rotated columns", err);
    if (!x)
        return QP_ERR_SPACE;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tiles; t++)
        for (int64_t i = 0; i < rows && !qp_failure_is_set(); i += n) {
            int64_t first = t * TILE, count = cols - first < TILE ? cols - first : TILE;
            rotate_tile(r, cols, first, count, w + i * cols, x + omp_get_thread_num() * capacity);
        }
    return 0;
}
