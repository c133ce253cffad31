/* The dispatch table: one function pointer an operation. The contract of each operation (shapes, exact or tolerance,
 * source of the formula) stands in the header that declares its type.
 *
 * qp_kernels_open fills a table with the reference functions (NAME_ref.c, the definition of right) and overwrites what
 * the backend has fast versions of, so no entry is ever NULL. All functions are thread-safe, allocate nothing that
 * outlives them and assume arguments that their contract allows; what can go wrong all the same, memory and libraries,
 * is kept for whoever passes results on (kernels/failure.h); matrices are row-major. Fast CPU functions spread
 * over the threads that qp_kernels_set_threads allows; their results do not depend on how many those are.
 * Calls of table "cpu" are counted (kernels/work.h). */
#ifndef QUANTPIPE_KERNELS_KERNELS_H
#define QUANTPIPE_KERNELS_KERNELS_H

#include "kernels/attention.h"
#include "kernels/cholesky.h"
#include "kernels/column_stats.h"
#include "kernels/convert.h"
#include "kernels/elementwise.h"
#include "kernels/gated.h"
#include "kernels/gemm.h"
#include "kernels/gptq.h"
#include "kernels/layer_norm.h"
#include "kernels/linear_int8.h"
#include "kernels/logits.h"
#include "kernels/low_rank.h"
#include "kernels/pack.h"
#include "kernels/descent.h"
#include "kernels/quantize.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/rtn.h"
#include "kernels/scale_search.h"
#include "kernels/split.h"
#include "kernels/hessian.h"

struct qp_kernels {
    const char *backend; /* "ref", "cpu", "avx2" or "avx512" */
    bool bf16;           /* products of BF16 are faster than those of float32 */
    bool int8;           /* products of INT8 are */
    bool split_products; /* three products of BF16 are faster than one of float32 (kernels/split.h) */
    qp_convert_fn *to_f32;
    qp_convert_fn *from_f32;
    qp_gemm_fn *gemm;
    qp_linear_bf16_fn *linear_bf16;
    qp_linear_int8_fn *linear_int8;
    qp_split_left_fn *split_left;
    qp_split_right_fn *split_right;
    qp_linear_split_fn *linear_split;
    qp_hessian_fn *hessian;
    qp_hessian_bf16_fn *hessian_bf16;
    qp_mirror_fn *mirror;
    qp_column_stats_fn *column_stats;
    qp_rms_norm_fn *rms_norm;
    qp_rms_norm_bf16_fn *rms_norm_bf16;
    qp_layer_norm_fn *layer_norm;
    qp_layer_norm_bf16_fn *layer_norm_bf16;
    qp_rope_fn *rope;
    qp_attention_fn *attention;
    qp_attention_bf16_fn *attention_bf16;
    qp_gated_fn *gated;
    qp_gated_bf16_fn *gated_bf16;
    qp_multiply_fn *multiply;
    qp_add_scaled_fn *add_scaled;
    qp_soft_cap_fn *soft_cap;
    qp_logits_fn *logits;
    qp_qparams_fn *qparams;
    qp_quantize_fn *quantize;
    qp_dequantize_fn *dequantize;
    qp_fake_quantize_fn *fake_quantize;
    qp_pack_fn *pack;
    qp_unpack_fn *unpack;
    qp_rtn_fn *rtn;
    qp_cholesky_fn *factor;
    qp_gptq_block_fn *gptq_block;
    qp_scale_search_fn *scale_search;
    qp_descent_fn *descent;
    qp_low_rank_fn *low_rank;
};

/* The instruction sets that the environment variable QUANTPIPE_CPU can hold this process to, lowest first: "portable",
 * "avx2", "avx512" (with VNNI where the CPU has it) and "avx512_bf16" (no AMX). Without it, all that the CPU has. */
enum qp_cpu_level { QP_CPU_PORTABLE, QP_CPU_AVX2, QP_CPU_AVX512, QP_CPU_AVX512_BF16, QP_CPU_BEST };

/* Whether that is a level's name, which *found gets then. */
bool qp_cpu_level_parse(const char *name, enum qp_cpu_level *found);

/* The table of a backend: "ref", "cpu" for the best that this CPU has, or "avx2" or "avx512" by name. NULL for an
 * unknown name and for what this CPU lacks. The table is static; the first call decides by CPUID and QUANTPIPE_CPU. */
const struct qp_kernels *qp_kernels_open(const char *backend);

/* Threads that one operation called by this thread may use from now on; at least 1. */
void qp_kernels_set_threads(int threads);

/* The same from another thread, while operations run: what computes takes it over between two of the large ones, which
 * are those that are counted (work.h). Scratch for threads of one's own is sized after the last of these. */
void qp_kernels_ask_threads(int threads);

/* Whether OpenBLAS runs on OpenMP's threads, as all else does; with a pool of its own it fights for the cores. */
bool qp_kernels_share_threads(void);

/* The vector extensions that table "cpu" uses: "portable", "AVX2", "AVX-512", "AVX-512 with BF16" or
 * "AVX-512 with BF16 and AMX". Static. */
const char *qp_kernels_extensions(void);

/* One line for logs: the vector extensions and libraries in use, with the kernel that OpenBLAS chose. Static. */
const char *qp_kernels_description(void);

#endif
