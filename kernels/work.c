#include "kernels/work.h"

#include <stdatomic.h>

const char *const qp_work_names[QP_WORK_KINDS] = {"gemm",    "gemm_bf16",    "gemm_int8", "attention", "attention_bf16",
                                                  "hessian", "hessian_bf16", "solve",     "search"};

static _Atomic uint64_t operations[QP_WORK_KINDS], bytes_read;

void qp_work_add(enum qp_work_kind kind, double count)
{
    atomic_fetch_add_explicit(&operations[kind], (uint64_t)count, memory_order_relaxed);
}

void qp_work_add_read(double bytes)
{
    atomic_fetch_add_explicit(&bytes_read, (uint64_t)bytes, memory_order_relaxed);
}

void qp_work_read(struct qp_work *out)
{
    *out = (struct qp_work){.bytes_read = (double)atomic_load(&bytes_read)};
    for (int i = 0; i < QP_WORK_KINDS; i++)
        out->operations[i] = (double)atomic_load(&operations[i]);
}

double qp_gemm_operations(int64_t m, int64_t n, int64_t k)
{
    return 2.0 * (double)m * (double)n * (double)k;
}

double qp_split_operations(int64_t m, int64_t n, int64_t k)
{
    return 3.0 * qp_gemm_operations(m, n, k);
}

double qp_attention_operations(int64_t sequences, int64_t length, int64_t heads, int64_t dim, int64_t window)
{
    double seen = (double)(window > 0 && window < length ? window : length);
    double twice_pairs = seen * (seen + 1) + 2 * ((double)length - seen) * seen;
    return 2.0 * (double)(sequences * heads) * twice_pairs * (double)dim;
}

double qp_hessian_operations(int64_t rows, int64_t n)
{
    return (double)n * (double)(n + 1) * (double)rows;
}

double qp_factor_operations(int64_t n)
{
    return (double)n * (double)n * (double)n / 3.0;
}

double qp_gptq_block_operations(int64_t rows, int64_t columns)
{
    return (double)rows * (double)columns * (double)(columns - 1);
}

double qp_descent_operations(int64_t rows, int64_t columns, int64_t steps)
{
    return qp_search_operations(rows * columns, 1, 0) + 2.0 * (double)steps * (double)columns;
}

double qp_search_operations(int64_t numbers, int64_t steps, int64_t group)
{
    return (double)numbers * (double)steps * (group > 0 ? 4.0 + 2.0 * (double)group : 6.0);
}
