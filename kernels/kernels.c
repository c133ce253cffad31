#include "kernels/kernels.h"

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/counted.h"
#include "kernels/cpu/cpu.h"
#include "kernels/libraries.h"

#define REFERENCE                                                                                                    \
    .to_f32 = qp_to_f32_ref, .from_f32 = qp_from_f32_ref, .gemm = qp_gemm_ref, .hessian = qp_hessian_ref,            \
    .linear_bf16 = qp_linear_bf16_ref, .linear_int8 = qp_linear_int8_ref, .split_left = qp_split_left_ref,           \
    .split_right = qp_split_right_ref, .linear_split = qp_linear_split_ref, .hessian_bf16 = qp_hessian_bf16_ref,     \
    .rms_norm_bf16 = qp_rms_norm_bf16_ref, .attention_bf16 = qp_attention_bf16_ref, .gated_bf16 = qp_gated_bf16_ref, \
    .mirror = qp_mirror_ref, .column_stats = qp_column_stats_ref, .rms_norm = qp_rms_norm_ref, .rope = qp_rope_ref,  \
    .attention = qp_attention_ref, .gated = qp_gated_ref, .logits = qp_logits_ref, .qparams = qp_qparams_ref,        \
    .quantize = qp_quantize_ref, .dequantize = qp_dequantize_ref, .fake_quantize = qp_fake_quantize_ref,             \
    .pack = qp_pack_ref, .unpack = qp_unpack_ref, .rtn = qp_rtn_ref, .factor = qp_factor_ref,                        \
    .gptq_block = qp_gptq_block_ref, .scale_search = qp_scale_search_ref, .descent = qp_descent_ref,                 \
    .layer_norm = qp_layer_norm_ref, .layer_norm_bf16 = qp_layer_norm_bf16_ref, .multiply = qp_multiply_ref,         \
    .add_scaled = qp_add_scaled_ref, .soft_cap = qp_soft_cap_ref, .low_rank = qp_low_rank_ref

static struct qp_kernels tables[] = {
    {.backend = "ref", REFERENCE},
    {.backend = "cpu", REFERENCE},
    {.backend = "avx2", REFERENCE},
    {.backend = "avx512", REFERENCE},
};
enum { REF, CPU, AVX2, AVX512, TABLES };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool usable[TABLES];
static const char *extensions = "portable";
static bool uses_amx;

/* What the dispatch may use: QUANTPIPE_CPU. oneDNN is held to the same (cpu/dnnl.c). */
static enum qp_cpu_level level = QP_CPU_BEST;

static const char *const level_names[] = {"portable", "avx2", "avx512", "avx512_bf16"};

bool qp_cpu_level_parse(const char *name, enum qp_cpu_level *found)
{
    for (int i = 0; i < QP_CPU_BEST; i++)
        if (strcmp(name, level_names[i]) == 0) {
            *found = (enum qp_cpu_level)i;
            return true;
        }
    return false;
}

static void read_level(void)
{
    const char *name = getenv("QUANTPIPE_CPU");
    if (name != NULL)
        qp_cpu_level_parse(name, &level);
}

#ifdef __x86_64__
/* F16C is not asked for: every processor with AVX2 has it, and clang 14 does not know the word. */
static bool has_avx2(void)
{
    return level >= QP_CPU_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return level >= QP_CPU_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* oneDNN computes these products, and may be held back by a setting of its own. */
static bool has_bf16(void)
{
    const char *limit = getenv("DNNL_MAX_CPU_ISA");
    bool limited = limit != NULL && strcmp(limit, "ALL") != 0 && strcmp(limit, "DEFAULT") != 0 &&
                   strstr(limit, "BF16") == NULL && strstr(limit, "AMX") == NULL && strstr(limit, "FP16") == NULL;
    return level >= QP_CPU_AVX512_BF16 && !limited && has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* Of oneDNN's names of instruction sets those with AMX, and those that leave it the choice, let it use AMX. */
static bool has_amx(void)
{
    const char *limit = getenv("DNNL_MAX_CPU_ISA");
    bool limited =
        limit != NULL && strcmp(limit, "ALL") != 0 && strcmp(limit, "DEFAULT") != 0 && strstr(limit, "AMX") == NULL;
    return level == QP_CPU_BEST && !limited && has_bf16() && qp_cpu_offers_amx();
}

static bool has_int8(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
#endif

static void use_libraries(struct qp_kernels *table)
{
    table->gemm = qp_gemm_cpu;
    table->hessian = qp_hessian_cpu;
    table->linear_bf16 = qp_linear_bf16_wide;
    table->hessian_bf16 = qp_hessian_bf16_wide;
    table->mirror = qp_mirror_cpu;
    table->factor = qp_factor_cpu;
    table->low_rank = qp_low_rank_cpu;
}

static void fill(void)
{
    read_level();
    usable[REF] = usable[CPU] = true;
    for (int i = CPU; i < TABLES; i++)
        use_libraries(&tables[i]);
#ifdef __x86_64__
    __builtin_cpu_init();
    usable[AVX2] = has_avx2();
    usable[AVX512] = usable[AVX2] && has_avx512();
    for (int i = CPU; i < TABLES; i++) { /* even filling takes instructions of the set */
        if (usable[AVX2] && i != AVX512)
            qp_kernels_fill_avx2(&tables[i]);
        if (usable[AVX512] && i != AVX2)
            qp_kernels_fill_avx512(&tables[i]);
    }
    if (usable[AVX512] && has_bf16())
        qp_kernels_fill_bf16(&tables[CPU]);
    uses_amx = tables[CPU].bf16 && has_amx();
    if (uses_amx)
        qp_kernels_fill_amx(&tables[CPU]);
    tables[CPU].int8 = usable[AVX512] && has_int8();
    if (tables[CPU].int8)
        tables[CPU].linear_int8 = qp_linear_int8_cpu;
    extensions = uses_amx           ? "AVX-512 with BF16 and AMX"
                 : tables[CPU].bf16 ? "AVX-512 with BF16"
                 : usable[AVX512]   ? "AVX-512"
                 : usable[AVX2]     ? "AVX2"
                                    : "portable";
#endif
    qp_kernels_count(&tables[CPU]);
}

const struct qp_kernels *qp_kernels_open(const char *backend)
{
    pthread_once(&once, fill);
    for (int i = 0; i < TABLES; i++)
        if (usable[i] && strcmp(tables[i].backend, backend) == 0)
            return &tables[i];
    return NULL;
}

bool qp_cpu_uses_amx(void)
{
    pthread_once(&once, fill);
    return uses_amx;
}

void qp_kernels_set_threads(int threads)
{
    omp_set_num_threads(threads < 1 ? 1 : threads);
}

static atomic_int asked; /* 0: nothing */

void qp_kernels_ask_threads(int threads)
{
    atomic_store(&asked, threads < 1 ? 1 : threads);
}

void qp_kernels_take_threads(void)
{
    int threads = atomic_load_explicit(&asked, memory_order_relaxed);
    if (threads > 0 && !omp_in_parallel() && threads != omp_get_max_threads())
        omp_set_num_threads(threads);
}

const char *qp_kernels_extensions(void)
{
    pthread_once(&once, fill);
    return extensions;
}

static pthread_once_t described = PTHREAD_ONCE_INIT;
static char description[160];

/* By itself, for it opens the libraries. */
static void describe(void)
{
    snprintf(description, sizeof description, "%s, %s, %s", extensions, qp_library_version(QP_ONEDNN),
             qp_library_version(QP_OPENBLAS));
}

const char *qp_kernels_description(void)
{
    pthread_once(&once, fill);
    pthread_once(&described, describe);
    return description;
}
