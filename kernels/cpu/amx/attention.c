#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/vector/attention_tile.h"

/* A tile of pairs has 16 of a row or of a column. */
#define PAIR_STEP 16
#define products_begin()       \
    struct tile_shapes before; \
    tiles_begin(&before)
#define products_end() tiles_end(&before)

static void scale_rows(int64_t n, const float *keep, float *c)
{
    for (int i = 0; i < QUERIES; i++)
        for (int64_t j = 0; j < n; j += LANES)
            v_store(c + i * n + j, v_load(c + i * n + j) * v_set(keep[i]));
}

/* c[QUERIES, n] = keep * c + a b: three tiles of rows by one of columns at a time. */
static void product(int64_t n, int64_t k, const uint32_t *a, int64_t lda, const uint32_t *b, const float *keep,
                    float *c)
{
    int64_t across = n * (int64_t)sizeof *c, along = lda * (int64_t)sizeof *a;

    if (keep != NULL)
        scale_rows(n, keep, c);
    tiles_see_memory();
    for (int64_t j = 0; j < n; j += LANES) {
        float *first = c + j, *second = first + LANES * n, *third = second + LANES * n;
        if (keep == NULL) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
        } else {
            _tile_loadd(0, first, across);
            _tile_loadd(1, second, across);
            _tile_loadd(2, third, across);
        }
        for (int64_t l = 0; l < k; l += LANES) {
            _tile_loadd(6, b + l * n + j, across);
            _tile_loadd(3, a + l, along);
            _tile_dpbf16ps(0, 3, 6);
            _tile_loadd(4, a + LANES * lda + l, along);
            _tile_dpbf16ps(1, 4, 6);
            _tile_loadd(5, a + 2 * LANES * lda + l, along);
            _tile_dpbf16ps(2, 5, 6);
        }
        _tile_stored(0, first, across);
        _tile_stored(1, second, across);
        _tile_stored(2, third, across);
    }
}
_Static_assert((int)QUERIES == 3 * (int)ROWS_OF_TILE && (int)LANES == (int)ROWS_OF_TILE, "three tiles of queries");

#include "kernels/cpu/bf16/attention_pairs.h"

void qp_attention_bf16_amx(const struct qp_attention *a, uint16_t *out)
{
    attend_all(a, out);
}
