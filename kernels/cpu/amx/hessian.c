#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/vector/vector.h"
#include "kernels/scratch.h"

/* x is packed twice, as both operands, for up to MOST_ROWS of its rows at a time; h is cut into blocks of SIDE by SIDE,
 * on and above the diagonal. A thread takes those of TALL by WIDE panels. */
enum { MOST_ROWS = 1024, TALL = 4, WIDE = 8 };

struct pass {
    int64_t rows, n;
    const uint16_t *x;
    float *h;
    int64_t depth, panels, size; /* steps of `rows`; panels of n columns, numbers in each */
    uint16_t *a, *b;
};

/* 32 rows and up to 16 columns of x, from x on: pairs of rows, side by side. */
static void load_pairs(int64_t rows, int64_t columns, int64_t n, const uint16_t *x, __m512i pair[16])
{
    __mmask16 wanted = columns >= ROWS_OF_TILE ? 0xffff : (__mmask16)((1u << (columns > 0 ? columns : 0)) - 1);

    for (int i = 0; i < ROWS_OF_TILE; i++) {
        const uint16_t *first = x + 2 * i * n;
        __m256i none = _mm256_setzero_si256();
        __m256i even = 2 * i < rows ? _mm256_maskz_loadu_epi16(wanted, first) : none;
        __m256i odd = 2 * i + 1 < rows ? _mm256_maskz_loadu_epi16(wanted, first + n) : none;
        pair[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
    }
}

static void pack_panel(const struct pass *p, int64_t panel)
{
    uint16_t *a = p->a + panel * p->size, *b = p->b + panel * p->size;
    __m512i pair[ROWS_OF_TILE];

    for (int64_t l = 0; l < p->depth; l++)
        for (int half = 0; half < 2; half++, a += TILE, b += TILE) {
            int64_t column = panel * SIDE + half * ROWS_OF_TILE;
            load_pairs(p->rows - l * DEPTH, p->n - column, p->n, p->x + l * DEPTH * p->n + column, pair);
            for (int i = 0; i < ROWS_OF_TILE; i++)
                _mm512_store_si512(b + i * DEPTH, pair[i]);
            v_transpose_integers(pair);
            for (int i = 0; i < ROWS_OF_TILE; i++)
                _mm512_store_si512(a + i * DEPTH, pair[i]);
        }
}

static void add_block(const void *pass, int64_t i, int64_t j)
{
    const struct pass *p = pass;
    struct block block;

    block_place(&block, p->n, p->n, p->h, p->n, i, j);
    block_open(&block, true);
    block_add(p->depth, p->a + i * p->size, p->b + j * p->size);
    block_close(&block);
}

static void add_rows(const struct pass *p)
{
#pragma omp parallel
    {
        struct tile_shapes before;
#pragma omp for schedule(static)
        for (int64_t j = 0; j < p->panels; j++)
            pack_panel(p, j);
        tiles_begin(&before);
        blocks_above_diagonal(p->panels, TALL, WIDE, add_block, p);
        tiles_end(&before);
    }
}

void qp_hessian_bf16_amx(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    int64_t most = rows < MOST_ROWS ? (rows + DEPTH - 1) / DEPTH * DEPTH : MOST_ROWS;
    struct pass p = {.n = n, .h = h, .panels = (n + SIDE - 1) / SIDE};
    int64_t half = p.panels * most * SIDE;

    if (rows == 0 || n == 0)
        return;
    p.a = qp_scratch_borrow((size_t)(2 * half), sizeof *p.a);
    for (int64_t r = 0; r < rows && p.a != NULL; r += MOST_ROWS) {
        p.b = p.a + half;
        p.rows = rows - r < MOST_ROWS ? rows - r : MOST_ROWS;
        p.x = x + r * n;
        p.depth = (p.rows + DEPTH - 1) / DEPTH;
        p.size = p.depth * STEP;
        add_rows(&p);
    }
    qp_scratch_return(p.a);
}
