/* The fast CPU functions. Those of this folder stand on oneDNN and OpenBLAS, which choose by CPUID themselves; those of
 * vector/ are compiled once for each instruction set below, with the set's name for a suffix; those of bf16/ and int8/
 * for AVX-512 with its products of BF16 or INT8 alone. */
#ifndef QUANTPIPE_KERNELS_CPU_H
#define QUANTPIPE_KERNELS_CPU_H

#include "kernels/kernels.h"

/* Work below this many elements is not worth waking other threads for. */
enum { QP_PARALLEL_ELEMENTS = 16384 };

/* oneDNN and OpenBLAS, threads of OpenMP. */
qp_gemm_fn qp_gemm_cpu;
qp_gemm_fn qp_gemm_alone; /* on the calling thread; m, n and k are not 0 */
qp_hessian_fn qp_hessian_cpu;
qp_mirror_fn qp_mirror_cpu;
qp_cholesky_fn qp_factor_cpu;
qp_low_rank_fn qp_low_rank_cpu;

/* a[rows, rows] -= p pᵀ on and above the diagonal, for p[rows, depth]; strides are numbers between rows. What is below
 * the diagonal is undefined afterwards. */
struct qp_take_off {
    int64_t rows, depth;
    const float *p;
    int64_t p_stride;
    float *a;
    int64_t stride;
    void *space; /* that of qp_factor_by */
};
typedef void qp_take_off_fn(const struct qp_take_off *t);

/* qp_factor_cpu with this for its large products, of up to n rows and QP_FACTOR_COLUMNS columns, whose sums may not
 * depend on the number of threads. */
int64_t qp_factor_by(int64_t n, float *h, qp_take_off_fn *take_off, void *space);

/* BF16 by oneDNN, for CPUs that have instructions for it; and by way of float32, for the others. */
qp_linear_bf16_fn qp_linear_bf16_cpu, qp_linear_bf16_wide;
qp_hessian_bf16_fn qp_hessian_bf16_wide;

/* INT8 by oneDNN, which is exact where the CPU adds such products in 32 bits: AVX-512 with VNNI. */
qp_linear_int8_fn qp_linear_int8_cpu;

/* Overwrites the entries of a table that vector/ has functions for; the CPU must have the instruction set. */
void qp_kernels_fill_avx2(struct qp_kernels *table);
void qp_kernels_fill_avx512(struct qp_kernels *table);

/* The same for bf16/, which needs AVX-512 with BF16. */
void qp_kernels_fill_bf16(struct qp_kernels *table);

/* What is faster on top of that where products of BF16 run on AMX. */
void qp_kernels_fill_amx(struct qp_kernels *table);

/* Whether the CPU multiplies BF16 in AMX's tiles, and the system lets this process use them. */
bool qp_cpu_offers_amx(void);

/* Whether products of BF16 run there: neither QUANTPIPE_CPU nor DNNL_MAX_CPU_ISA holds them back. */
bool qp_cpu_uses_amx(void);

/* kernels/libraries.h, one library each. */
const char *qp_dnnl_problem(void);
const char *qp_dnnl_version(void);
const char *qp_openblas_problem(void);
const char *qp_openblas_version(void);

#endif
