#include "kernels/peak.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <time.h>

#include "kernels/cpu/cpu.h"

const char *const qp_peak_names[QP_PEAKS] = {"fp32", "bf16", "int8"};

/* Twelve sums hide the latency of a multiply-add: 4 cycles, 2 a cycle, with some to spare. */
enum { SUMS = 12, RUNS = 5 };

#ifdef __x86_64__
/* In assembly, so that no compiler setting puts memory or a dependency between the instructions. */
#define EACH_SUM(op, size)                                                                                          \
    op(size, "0") op(size, "1") op(size, "2") op(size, "3") op(size, "4") op(size, "5") op(size, "6") op(size, "7") \
        op(size, "8") op(size, "9") op(size, "10") op(size, "11")
#define CLEAR(size, n) "vxorps %%xmm" n ", %%xmm" n ", %%xmm" n "\n\t"
#define FP32(size, n) "vfmadd231ps %%" size "12, %%" size "12, %%" size n "\n\t"
#define BF16(size, n) "vdpbf16ps %%" size "12, %%" size "12, %%" size n "\n\t"
#define INT8(size, n) "vpdpbusd %%" size "12, %%" size "12, %%" size n "\n\t"
#define LOOP(name, op, size)                                                                                        \
    static void name(int64_t rounds)                                                                                \
    {                                                                                                               \
        __asm__ volatile(EACH_SUM(CLEAR, size) CLEAR(size, "12") "1:\n\t" EACH_SUM(op, size) "dec %0\n\tjnz 1b\n\t" \
                                                                                             "vzeroupper"           \
                         : "+r"(rounds)                                                                             \
                         :                                                                                          \
                         : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",    \
                           "xmm10", "xmm11", "xmm12");                                                              \
    }

/* Four tiles of 16 x 16 sums, of two by two tiles of 16 x 32 BF16; tile 7 stays free. */
static void bf16_tiles(int64_t rounds)
{
    static const struct {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("ldtilecfg %1\n\t"
                     "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"
                     "tilezero %%tmm4\n\ttilezero %%tmm5\n\ttilezero %%tmm6\n\t"
                     "1:\n\t"
                     "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\ttdpbf16ps %%tmm6, %%tmm5, %%tmm1\n\t"
                     "tdpbf16ps %%tmm5, %%tmm4, %%tmm2\n\ttdpbf16ps %%tmm4, %%tmm5, %%tmm3\n\t"
                     "dec %0\n\tjnz 1b\n\t"
                     "tilerelease"
                     : "+r"(rounds)
                     : "m"(shape)
                     : "cc");
}

LOOP(fp32_512, FP32, "zmm")
LOOP(fp32_256, FP32, "ymm")
LOOP(bf16_512, BF16, "zmm")
LOOP(int8_512, INT8, "zmm")
#endif

struct loop {
    const char *instruction;
    void (*run)(int64_t rounds);
    double operations; /* of one instruction */
    int sums;          /* instructions a round */
};

static struct loop find(enum qp_peak peak)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    bool avx512 = __builtin_cpu_supports("avx512f");
    if (peak == QP_PEAK_FP32 && avx512)
        return (struct loop){"vfmadd231ps zmm", fp32_512, 2 * 16, SUMS};
    if (peak == QP_PEAK_FP32 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (struct loop){"vfmadd231ps ymm", fp32_256, 2 * 8, SUMS};
    if (peak == QP_PEAK_BF16 && qp_cpu_uses_amx())
        return (struct loop){"tdpbf16ps", bf16_tiles, 2 * 16 * 16 * 32, 4};
    if (peak == QP_PEAK_BF16 && avx512 && __builtin_cpu_supports("avx512bf16"))
        return (struct loop){"vdpbf16ps zmm", bf16_512, 2 * 32, SUMS};
    if (peak == QP_PEAK_INT8 && avx512 && __builtin_cpu_supports("avx512vnni"))
        return (struct loop){"vpdpbusd zmm", int8_512, 2 * 64, SUMS};
#endif
    (void)peak;
    return (struct loop){0};
}

/* Of the calling thread alone: what else runs on the machine does not count. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Operations a second, all threads at once. */
static double rate(const struct loop *loop, int threads, int64_t rounds)
{
    double sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    {
        double start = now();
        loop->run(rounds);
        sum += loop->operations * loop->sums * (double)rounds / (now() - start);
    }
    return sum;
}

const char *qp_peak_instruction(enum qp_peak peak)
{
    return find(peak).instruction;
}

double qp_peak_measure(enum qp_peak peak, int threads, double seconds)
{
    struct loop loop = find(peak);
    int64_t rounds = 1 << 14;
    double best = 0;

    if (loop.run == NULL)
        return 0;
    double once = rate(&loop, threads, rounds) / threads / loop.operations / loop.sums; /* rounds a second */
    rounds = (int64_t)(once * seconds / RUNS) + 1;
    for (int run = 0; run < RUNS; run++) {
        double found = rate(&loop, threads, rounds);
        best = found > best ? found : best;
    }
    return best;
}

void qp_product_int8(int64_t m, int64_t n, int64_t k, const int8_t *a, const int8_t *b, int32_t *c)
{
    const int32_t offset = 0;
    dnnl_gemm_s8s8s32('N', 'T', 'F', m, n, k, 1, a, k, 0, b, k, 0, 0, c, n, &offset);
}
