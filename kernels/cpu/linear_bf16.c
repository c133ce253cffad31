#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/codec.h"
#include "kernels/cpu/cpu.h"
#include "kernels/scratch.h"

/* Tiles of ROWS by up to COLUMNS, one thread each, as in gemm.c. The columns are cut by n alone: a sum over a large k
 * is made of parts whose size oneDNN chooses by the tile's width, and never by its height. */
enum { ROWS = 256, COLUMNS = 1024 };

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

/* On the calling thread; ldy: floats between rows of y. */
static void multiply(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y,
                     int64_t ldy)
{
    const dnnl_memory_desc_t desc[OPERANDS] = {matrix(m, k, dnnl_bf16, k, 1), matrix(k, n, dnnl_bf16, 1, k),
                                               matrix(m, n, dnnl_f32, ldy, 1)};
    int threads = omp_get_max_threads();

    omp_set_num_threads(1);
    dnnl_primitive_t primitive = new_product(desc, add);
    run(primitive, desc, (void *[]){(void *)x, (void *)w, y});
    dnnl_primitive_destroy(primitive);
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

static float *widen(int64_t count, const uint16_t *x)
{
    float *wide = qp_scratch((size_t)count, sizeof *wide);
#pragma omp parallel for if (count >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < count; i++)
        wide[i] = qp_bf16_to_f32(x[i]);
    return wide;
}

/* In tiles of fixed sizes, because of what the contract says of rows. */
void qp_linear_bf16_wide(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y)
{
    float *a = widen(m * k, x);

    for (int64_t j = 0; j < n; j += COLUMNS) {
        int64_t columns = n - j < COLUMNS ? n - j : COLUMNS;
        float *b = widen(columns * k, w + j * k);
        qp_gemm_cpu(false, true, m, columns, k, 1, a, k, b, k, add, y + j, n);
        free(b);
    }
    free(a);
}

void qp_second_moment_bf16_wide(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    float *wide = widen(rows * n, x);
    qp_second_moment_cpu(rows, n, wide, h);
    free(wide);
}
