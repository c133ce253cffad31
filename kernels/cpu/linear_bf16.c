#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/codec.h"
#include "kernels/cpu/cpu.h"
#include "kernels/scratch.h"

/* Tiles of ROWS by up to COLUMNS, one thread each, as in gemm.c, and DEPTH products at a time: left to itself oneDNN
 * would cut a long sum by the height of the tile (AMX does from 1,536 on), and a row would depend on what comes with
 * it. */
enum { ROWS = 256, COLUMNS = 1024, DEPTH = 1024 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static dnnl_engine_t engine;

static void check(dnnl_status_t status)
{
    if (status == dnnl_success)
        return;
    fprintf(stderr, "quantpipe: oneDNN fails in a product of BF16 (status %d): set compute to fp32\n", (int)status);
    abort();
}

static void open_engine(void)
{
    check(dnnl_engine_create(&engine, dnnl_cpu, 0));
}

static dnnl_memory_desc_t matrix(int64_t rows, int64_t columns, dnnl_data_type_t type, int64_t down, int64_t right)
{
    dnnl_memory_desc_t desc;
    check(dnnl_memory_desc_init_by_strides(&desc, 2, (dnnl_dims_t){rows, columns}, type, (dnnl_dims_t){down, right}));
    return desc;
}

/* The operands of a tile: x, w transposed, y. */
enum { X, W, Y, OPERANDS };

static dnnl_primitive_t new_product(const dnnl_memory_desc_t desc[OPERANDS], bool add)
{
    dnnl_matmul_desc_t product;
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t post;
    dnnl_primitive_desc_t plan;
    dnnl_primitive_t primitive;

    check(dnnl_matmul_desc_init(&product, &desc[X], &desc[W], NULL, &desc[Y]));
    check(dnnl_primitive_attr_create(&attr));
    check(dnnl_post_ops_create(&post));
    if (add)
        check(dnnl_post_ops_append_sum(post, 1.0f));
    check(dnnl_primitive_attr_set_post_ops(attr, post));
    check(dnnl_primitive_desc_create(&plan, &product, attr, engine, NULL));
    check(dnnl_primitive_create(&primitive, plan)); /* oneDNN keeps its code for the next product of this shape */
    dnnl_primitive_desc_destroy(plan);
    dnnl_post_ops_destroy(post);
    dnnl_primitive_attr_destroy(attr);
    return primitive;
}

static void run(dnnl_primitive_t primitive, const dnnl_memory_desc_t desc[OPERANDS], void *const data[OPERANDS])
{
    static const int names[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
    dnnl_exec_arg_t args[OPERANDS];
    dnnl_stream_t stream;

    for (int i = 0; i < OPERANDS; i++) {
        args[i].arg = names[i];
        check(dnnl_memory_create(&args[i].memory, &desc[i], engine, data[i]));
    }
    check(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
    check(dnnl_primitive_execute(primitive, stream, OPERANDS, args));
    check(dnnl_stream_wait(stream));
    dnnl_stream_destroy(stream);
    for (int i = 0; i < OPERANDS; i++)
        dnnl_memory_destroy(args[i].memory);
}

/* Rows of x and w are ldk numbers apart, those of y ldy. */
struct strides {
    int64_t ldk, ldy;
};

static void multiply_slice(int64_t m, int64_t n, int64_t k, struct strides s, const uint16_t *x, const uint16_t *w,
                           bool add, float *y)
{
    const dnnl_memory_desc_t desc[OPERANDS] = {matrix(m, k, dnnl_bf16, s.ldk, 1), matrix(k, n, dnnl_bf16, 1, s.ldk),
                                               matrix(m, n, dnnl_f32, s.ldy, 1)};
    dnnl_primitive_t primitive = new_product(desc, add);
    run(primitive, desc, (void *[]){(void *)x, (void *)w, y});
    dnnl_primitive_destroy(primitive);
}

/* On the calling thread; ldy: floats between rows of y. */
static void multiply(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y,
                     int64_t ldy)
{
    int threads = omp_get_max_threads();

    omp_set_num_threads(1);
    for (int64_t p = 0; p < k; p += DEPTH)
        multiply_slice(m, n, k - p < DEPTH ? k - p : DEPTH, (struct strides){k, ldy}, x + p, w + p, add || p > 0, y);
    omp_set_num_threads(threads);
}

static void clear(int64_t count, float *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = 0;
}

void qp_linear_bf16_cpu(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y)
{
    int64_t across = (n + COLUMNS - 1) / COLUMNS, tiles = (m + ROWS - 1) / ROWS * across;

    if (k == 0 && !add)
        clear(m * n, y);
    if (m == 0 || n == 0 || k == 0)
        return;
    pthread_once(&once, open_engine);
    int64_t columns = ((n + across - 1) / across + 63) / 64 * 64;
#pragma omp parallel for schedule(dynamic, 1) if (tiles > 1)
    for (int64_t t = 0; t < tiles; t++) {
        int64_t i = t / across * ROWS, j = t % across * columns;
        if (j < n)
            multiply(m - i < ROWS ? m - i : ROWS, n - j < columns ? n - j : columns, k, x + i * k, w + j * k, add,
                     y + i * n + j, n);
    }
}

/* ---- by way of float32 ---- */

/* The first rows of x[rows, n], whose rows are ld numbers apart, without gaps; rows up to `padded` are zeros. */
static float *widen(int64_t rows, int64_t padded, int64_t n, const uint16_t *x, int64_t ld)
{
    float *wide = qp_scratch((size_t)(padded * n), sizeof *wide);
#pragma omp parallel for if (padded * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < padded; r++)
        for (int64_t i = 0; i < n; i++)
            wide[r * n + i] = r < rows ? qp_bf16_to_f32(x[r * ld + i]) : 0;
    return wide;
}

/* Rows go in groups of this many, the last one filled up with zeros, so that all products have one shape: with AVX2
 * oneDNN sums the last row or two of a matrix in another order when they do not fill its registers. */
enum { GROUP = 64 };

/* y[rows, n] += a[GROUP, k] bᵀ, on the calling thread. */
static void multiply_group(int64_t rows, int64_t n, int64_t k, const float *a, const float *b, float *y, int64_t ldy)
{
    if (rows == GROUP) {
        qp_gemm_alone(false, true, GROUP, n, k, 1, a, k, b, k, 1, y, ldy);
        return;
    }
    float *sums = qp_scratch((size_t)(GROUP * n), sizeof *sums);
    for (int64_t r = 0; r < GROUP; r++)
        for (int64_t c = 0; c < n; c++)
            sums[r * n + c] = r < rows ? y[r * ldy + c] : 0;
    qp_gemm_alone(false, true, GROUP, n, k, 1, a, k, b, k, 1, sums, n);
    for (int64_t r = 0; r < rows; r++)
        memcpy(y + r * ldy, sums + r * n, (size_t)n * sizeof *sums);
    free(sums);
}

/* y[m, n] += x[m, k] w[n, k]ᵀ for a slice of the columns, whose rows of w are ldk numbers apart. */
static void multiply_columns(int64_t m, int64_t n, int64_t k, const float *x, const uint16_t *w, struct strides s,
                             float *y)
{
    float *wide = widen(n, n, k, w, s.ldk);
#pragma omp parallel for schedule(dynamic, 1) if (m > GROUP)
    for (int64_t i = 0; i < m; i += GROUP)
        multiply_group(m - i < GROUP ? m - i : GROUP, n, k, x + i * k, wide, y + i * s.ldy, s.ldy);
    free(wide);
}

/* In slices of fixed sizes, for the reason at the top of this file; they bound the copies, too. */
void qp_linear_bf16_wide(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y)
{
    if (!add)
        clear(m * n, y);
    for (int64_t p = 0; m > 0 && p < k; p += DEPTH) {
        int64_t depth = k - p < DEPTH ? k - p : DEPTH;
        float *a = widen(m, (m + GROUP - 1) / GROUP * GROUP, depth, x + p, k);
        for (int64_t j = 0; j < n; j += COLUMNS)
            multiply_columns(m, n - j < COLUMNS ? n - j : COLUMNS, depth, a, w + j * k + p, (struct strides){k, n},
                             y + j);
        free(a);
    }
}

void qp_second_moment_bf16_wide(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    float *wide = widen(rows, rows, n, x, n);
    qp_second_moment_cpu(rows, n, wide, h);
    free(wide);
}
