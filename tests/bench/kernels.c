/* How fast the kernels are, and what share that is of peaks measured beside them: multiply-adds in registers, memcpy
 * and, for rtn, reading. Usage: bench_kernels [BACKEND [THREADS [FILTER]]]; defaults: cpu, all cores, everything.
 * Each figure is the best of several runs, so that other work on the machine does harm only when it never pauses. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"

static const struct qp_kernels *k;
static const char *filter = "";
static double peak_flops, peak_bytes, peak_read;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *array(int64_t count, size_t size)
{
    void *memory = aligned_alloc(64, ((size_t)count * size + 127) / 64 * 64);
    if (memory == NULL) {
        fputs("bench_kernels: out of memory\n", stderr);
        exit(6);
    }
    memset(memory, 0, (size_t)count * size);
    return memory;
}

static float *numbers(int64_t count)
{
    float *x = array(count, sizeof *x);
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (float)(int32_t)state * 0x1p-31f;
    }
    return x;
}

/* ---- peaks ---- */

#define MULTIPLY_ADDS(name, attribute, bytes)                                              \
    attribute static float name(int64_t rounds)                                            \
    {                                                                                      \
        typedef float vector __attribute__((vector_size(bytes)));                          \
        vector sum[12], x = (vector){0} + 1e-7f, total = {0};                              \
        for (int i = 0; i < 12; i++)                                                       \
            sum[i] = x * (float)(i + 1);                                                   \
        for (int64_t r = 0; r < rounds; r++)                                               \
            _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) sum[i] = sum[i] * x + x; \
        for (int i = 0; i < 12; i++)                                                       \
            total += sum[i];                                                               \
        return total[0];                                                                   \
    }

#ifdef __clang__
#define FUSED /* clang has no such attribute: its peak is that of single steps */
#else
#define FUSED , optimize("fp-contract=fast")
#endif

#ifdef __x86_64__
MULTIPLY_ADDS(multiply_adds_512, __attribute__((target("avx512f") FUSED)), 64)
MULTIPLY_ADDS(multiply_adds_256, __attribute__((target("avx2,fma") FUSED)), 32)
#endif
MULTIPLY_ADDS(multiply_adds_128, , 16)

static double measure_flops(void)
{
    const int64_t rounds = 4000000;
    float (*loop)(int64_t) = multiply_adds_128;
    int lanes = 4;
    double best = 0;
    float sink = 0;

#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        loop = multiply_adds_512, lanes = 16;
    else if (__builtin_cpu_supports("fma"))
        loop = multiply_adds_256, lanes = 8;
#endif
    for (int run = 0; run < 7; run++) {
        double start = now();
#pragma omp parallel reduction(+ : sink)
        sink += loop(rounds);
        double rate = 2.0 * 12 * lanes * (double)rounds * omp_get_max_threads() / (now() - start);
        best = rate > best ? rate : best;
    }
    return sink == 12345 ? 0 : best;
}

static double measure_copy(void)
{
    const int64_t bytes = 64 << 20;
    char *from = array(bytes, 1), *to = array(bytes, 1);
    double best = 0;

    for (int run = 0; run < 9; run++) {
        double start = now();
#pragma omp parallel for
        for (int64_t i = 0; i < bytes; i += 1 << 20)
            memcpy(to + i, from + i, 1 << 20);
        double rate = 2.0 * (double)bytes / (now() - start);
        best = rate > best ? rate : best;
    }
    free(from);
    free(to);
    return best;
}

static double measure_read(void)
{
    const int64_t count = 256 << 17;
    uint64_t *from = array(count, sizeof *from), sum = 0;
    double best = 0;

    for (int run = 0; run < 9; run++) {
        double start = now();
#pragma omp parallel for reduction(+ : sum)
        for (int64_t i = 0; i < count; i++)
            sum += from[i];
        double rate = (double)count * sizeof *from / (now() - start);
        best = rate > best ? rate : best;
    }
    free(from);
    return sum == 0 ? best : 0;
}

/* ---- one measurement ---- */

/* Runs `statement` for about half a second and reports `work` (operations, or bytes moved) a second. */
#define MEASURE(name, work, peak, unit, statement)                                                           \
    do {                                                                                                     \
        if (strstr(name, filter) == NULL)                                                                    \
            break;                                                                                           \
        double best_ = INFINITY, begin_ = now();                                                             \
        for (int run_ = 0; run_ < 5 || (now() - begin_ < 0.5 && run_ < 1000); run_++) {                      \
            double start_ = now();                                                                           \
            statement;                                                                                       \
            double took_ = now() - start_;                                                                   \
            best_ = took_ < best_ ? took_ : best_;                                                           \
        }                                                                                                    \
        printf("%-46s %9.3f ms %8.1f %s %4.0f %%\n", name, 1e3 * best_, (double)(work) / best_ * 1e-9, unit, \
               100 * (double)(work) / best_ / (peak));                                                       \
    } while (0)

#define FLOPS(name, work, statement) MEASURE(name, work, peak_flops, "GFLOP/s", statement)
#define BYTES(name, work, statement) MEASURE(name, work, peak_bytes, "GB/s   ", statement)

static void bench_gemm(void)
{
    static const struct {
        int64_t m, n, k;
    } shapes[] = {{512, 576, 576},  {512, 1536, 576},  {512, 576, 1536},  {512, 192, 576},
                  {2048, 576, 576}, {2048, 1536, 576}, {2048, 576, 1536}, {2048, 192, 576},
                  {512, 8192, 576}, {512, 4096, 4096}, {2048, 4096, 4096}};
    char name[64];

    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t m = shapes[s].m, n = shapes[s].n, d = shapes[s].k;
        float *x = numbers(m * d), *w = numbers(n * d), *y = array(m * n, 4);
        snprintf(name, sizeof name, "gemm x[%d, %d] w[%d]T", (int)m, (int)d, (int)n);
        FLOPS(name, 2.0 * (double)(m * n * d),
              k->gemm(&(struct qp_gemm){false, true, m, n, d, 1, x, d, w, d, 0, y, n}));
        free(x);
        free(w);
        free(y);
    }
    float *e = numbers(4096 * 128), *u = numbers(128 * 2048), *w = numbers(4096 * 2048);
    FLOPS("gemm e[4096, 128] u[2048] (GPTQ, lazy)", 2.0 * 4096 * 2048 * 128,
          k->gemm(&(struct qp_gemm){false, false, 4096, 2048, 128, -1, e, 128, u, 2048, 1, w, 2048}));
    free(e);
    free(u);
    free(w);
}

static uint16_t *halves(int64_t count)
{
    float *wide = numbers(count);
    uint16_t *x = array(count, 2);
    k->from_f32(QP_BF16, count, wide, x);
    free(wide);
    return x;
}

static void bench_bf16(void)
{
    static const int64_t shapes[][2] = {{576, 576}, {1536, 576}, {576, 1536}, {192, 576}, {49152, 576}, {4096, 4096}};
    char name[64];

    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t m = 2048, n = shapes[s][0], d = shapes[s][1];
        uint16_t *x = halves(m * d), *w = halves(n * d);
        float *y = array(m * n, 4), *h = array(d * d, 4);
        snprintf(name, sizeof name, "linear_bf16 x[%d, %d] w[%d]T", (int)m, (int)d, (int)n);
        FLOPS(name, 2.0 * (double)(m * n * d), k->linear_bf16(m, n, d, x, w, false, y));
        snprintf(name, sizeof name, "hessian_bf16 x[%d, %d]", (int)m, (int)d);
        if (n == 576 || n == d)
            FLOPS(name, (double)(d * (d + 1) * m), k->hessian_bf16(m, d, x, h));
        free(x);
        free(w);
        free(y);
        free(h);
    }
}

static void bench_hessian(void)
{
    static const int64_t sizes[] = {576, 1536, 4096};
    char name[64];

    for (int s = 0; s < 3; s++) {
        int64_t n = sizes[s], rows = 2048;
        float *x = numbers(rows * n), *h = array(n * n, 4), *copy = array(n * n, 4);
        snprintf(name, sizeof name, "hessian x[2048, %d]", (int)n);
        FLOPS(name, (double)(n * (n + 1) * rows), k->hessian(rows, n, x, h));
        snprintf(name, sizeof name, "mirror [%d]", (int)n);
        BYTES(name, 4.0 * (double)(n * n), k->mirror(n, h));
        for (int64_t i = 0; i < n; i++)
            h[i * n + i] *= 1.5f;
        snprintf(name, sizeof name, "factor [%d] (1/3 n^3)", (int)n);
        FLOPS(name, pow((double)n, 3) / 3, (memcpy(copy, h, (size_t)(n * n) * 4), k->factor(n, copy)));
        free(x);
        free(h);
        free(copy);
    }
}

static void bench_attention(void)
{
    static const struct {
        int64_t sequences, length;
        int heads, kv_heads, dim;
    } shapes[] = {
        {4, 512, 9, 3, 64}, {1, 512, 9, 3, 64}, {1, 2048, 9, 3, 64}, {1, 2048, 32, 8, 128}, {8, 128, 4, 4, 32}};
    char name[64];

    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t tokens = shapes[s].sequences * shapes[s].length;
        int heads = shapes[s].heads, kv_heads = shapes[s].kv_heads, dim = shapes[s].dim;
        float *q = numbers(tokens * heads * dim), *keys = numbers(tokens * kv_heads * dim);
        float *v = numbers(tokens * kv_heads * dim), *out = array(tokens * heads * dim, 4);
        struct qp_attention a = {.sequences = shapes[s].sequences,
                                 .length = shapes[s].length,
                                 .heads = heads,
                                 .kv_heads = kv_heads,
                                 .dim = dim,
                                 .scale = 1 / sqrtf((float)dim),
                                 .q = q,
                                 .k = keys,
                                 .v = v,
                                 .q_stride = heads * dim,
                                 .k_stride = kv_heads * dim,
                                 .v_stride = kv_heads * dim,
                                 .out = out,
                                 .out_stride = heads * dim};
        snprintf(name, sizeof name, "attention %d x %d, %d/%d heads of %d (causal)", (int)a.sequences, (int)a.length,
                 heads, kv_heads, dim);
        FLOPS(name, 2.0 * (double)(tokens * (a.length + 1) * heads * dim), k->attention(&a));
        snprintf(name, sizeof name, "attention_bf16 %d x %d, %d/%d heads of %d", (int)a.sequences, (int)a.length, heads,
                 kv_heads, dim);
        FLOPS(name, 2.0 * (double)(tokens * (a.length + 1) * heads * dim), k->attention_bf16(&a, (uint16_t *)out));
        free(q);
        free(keys);
        free(v);
        free(out);
    }
}

static void bench_rows(void)
{
    const int64_t rows = 2048, n = 1536, vocab = 49152, few = 64;
    float *x = numbers(rows * n), *y = numbers(rows * n), *gain = numbers(n), *p = numbers(few * vocab),
          *q = numbers(few * vocab), *absmax = array(n, 4), *min = array(n, 4), *max = array(n, 4);
    float *out = array(rows * n, 4), *cosines = array(1024 * 32, 4), *sines = array(1024 * 32, 4);
    double *abssum = array(n, 8), *nll = array(few, 8), *kl = array(few, 8);
    int32_t *target = array(few, 4), *top = array(few, 4);
    double bytes = 4.0 * (double)(rows * n);

    BYTES("rms_norm [2048, 1536]", 2 * bytes, k->rms_norm(rows, n, x, gain, 1e-5f, y));
    BYTES("layer_norm [2048, 1536]", 2 * bytes, k->layer_norm(rows, n, x, gain, gain, 1e-5f, y));
    BYTES("soft_cap [2048, 1536]", 2 * bytes, k->soft_cap(rows * n, 30, y));
    for (int64_t i = 0; i < 1024 * 32; i++) { /* lengths stay as they are: no subnormal numbers */
        cosines[i] = cosf((float)i);
        sines[i] = sinf((float)i);
    }
    memcpy(out, y, (size_t)(rows * n) * sizeof *out);
    struct qp_rope rope = {.tokens = rows,
                           .length = 1024,
                           .heads = 24,
                           .dim = 64,
                           .rotary = 64,
                           .stride = n,
                           .cos = cosines,
                           .sin = sines,
                           .x = out};
    BYTES("rope 2048 tokens, 24 heads of 64", 2 * bytes, k->rope(&rope));
    rope.pairs = true;
    BYTES("rope 2048 tokens, 24 heads of 64, pairs", 2 * bytes, k->rope(&rope));
    struct qp_gated gated = {.rows = rows, .n = n, .stride = n, .gate = x, .up = y};
    BYTES("gated [2048, 1536], silu", 3 * bytes, k->gated(&gated, out));
    gated.act = QP_ACT_GELU;
    BYTES("gated [2048, 1536], gelu", 3 * bytes, k->gated(&gated, out));
    gated.act = QP_ACT_GELU_TANH;
    BYTES("gated [2048, 1536], gelu_tanh", 3 * bytes, k->gated(&gated, out));
    BYTES("column_stats [2048, 1536]", bytes, k->column_stats(rows, n, x, absmax, abssum, min, max));
    BYTES("logits [64, 49152]: nll, top", 4.0 * (double)(few * vocab),
          k->logits(
              &(struct qp_logits){.rows = few, .vocab = vocab, .p = p, .target = target, .nll_p = nll, .top_p = top}));
    BYTES("logits [64, 49152] x 2: nll, top, kl", 8.0 * (double)(few * vocab),
          k->logits(&(struct qp_logits){few, vocab, p, q, target, nll, nll, kl, top, top}));
    free(x), free(y), free(gain), free(p), free(q), free(absmax), free(min), free(max), free(out), free(cosines),
        free(sines);
    free(abssum), free(nll), free(kl), free(target), free(top);
}

static void bench_quantize(void)
{
    static const struct {
        const char *name;
        struct qp_number_format format;
        int64_t group;
    } cases[] = {{"int4 g128", {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16}, 128},
                 {"int4 g128 asymmetric", {.codes = QP_I8, .bits = 4, .symmetric = false, .scale_dtype = QP_BF16}, 128},
                 {"int8 channel", {.codes = QP_I8, .bits = 8, .symmetric = true, .scale_dtype = QP_F32}, 4096},
                 {"fp8 channel", {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F32}, 4096},
                 {"nvfp4", {QP_F4_E2M1, 4, true, false, QP_F8_E4M3, QP_SCALE_FLOOR, 2688}, 16},
                 {"mxfp4", {QP_F4_E2M1, 4, true, false, QP_F8_E8M0, QP_SCALE_CEIL, 0}, 32}};
    const int64_t rows = 1024, cols = 4096, count = rows * cols;
    float *w = numbers(count), *scale = array(count / 16, 4);
    int8_t *zero = array(count / 16, 1);
    uint8_t *codes = array(count, 1);
    int32_t *words = array(count / 4, 4);
    char name[64];

    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const struct qp_number_format *format = &cases[c].format;
        int64_t group = cases[c].group;
        snprintf(name, sizeof name, "qparams %s", cases[c].name);
        BYTES(name, 4.0 * (double)count, k->qparams(format, rows, cols, group, w, scale, zero));
        snprintf(name, sizeof name, "quantize %s", cases[c].name);
        BYTES(name, 5.0 * (double)count,
              k->quantize(&(struct qp_grouped){format, rows, cols, group, scale, zero}, w, codes));
        snprintf(name, sizeof name, "dequantize %s", cases[c].name);
        BYTES(name, 5.0 * (double)count,
              k->dequantize(&(struct qp_grouped){format, rows, cols, group, scale, zero}, codes, w));
        snprintf(name, sizeof name, "fake_quantize %s", cases[c].name);
        BYTES(name, 8.0 * (double)count, k->fake_quantize(format, rows, cols, group, w));
    }
    for (int bits = 3; bits <= 8; bits++) {
        if (bits > 4 && bits < 8)
            continue;
        snprintf(name, sizeof name, "pack %d bits", bits);
        BYTES(name, (1 + bits / 8.0) * (double)count, k->pack(bits, rows, cols, (int8_t *)codes, words));
        snprintf(name, sizeof name, "unpack %d bits", bits);
        BYTES(name, (1 + bits / 8.0) * (double)count, k->unpack(bits, rows, cols, words, (int8_t *)codes));
    }
    free(w), free(scale), free(zero), free(codes), free(words);
}

/* A matrix that no cache holds, so that the memory sets the pace. */
static void bench_rtn(void)
{
    static const struct {
        const char *name;
        struct qp_number_format format;
        int64_t group;
        bool packed;
    } cases[] = {{"int4 g128", {QP_I8, 4, true, false, QP_BF16, 0, 0}, 128, true},
                 {"int4 g128 asymmetric", {QP_I8, 4, false, false, QP_BF16, 0, 0}, 128, true},
                 {"int4 g32", {QP_I8, 4, true, false, QP_BF16, 0, 0}, 32, true},
                 {"int3 g128", {QP_I8, 3, true, false, QP_BF16, 0, 0}, 128, true},
                 {"int8 channel", {QP_I8, 8, true, false, QP_BF16, 0, 0}, 4096, false},
                 {"int8 channel packed", {QP_I8, 8, true, false, QP_BF16, 0, 0}, 4096, true},
                 {"fp8 channel", {QP_F8_E4M3, 8, true, false, QP_BF16, 0, 0}, 4096, false},
                 {"mxfp4", {QP_F4_E2M1, 4, true, false, QP_F8_E8M0, QP_SCALE_EVEN, 0}, 32, false}};
    const int64_t rows = 32768, cols = 4096, count = rows * cols;
    float *numbers_ = numbers(count), *scale = array(count / 32, 4);
    uint16_t *w = array(count, 2);
    int8_t *zero = array(count / 32, 1), *codes = array(count, 1);
    char name[64];

    k->from_f32(QP_BF16, count, numbers_, w);
    free(numbers_);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const struct qp_number_format *format = &cases[c].format;
        struct qp_rtn job = {format, rows, cols, cases[c].group, QP_BF16, w, cases[c].packed, scale, zero, codes};
        double bytes = 2 + (cases[c].packed ? format->bits / 8.0 : 1) + 4.0 / (double)job.group;
        snprintf(name, sizeof name, "rtn %s", cases[c].name);
        MEASURE(name, bytes * (double)count, peak_read, "GB/s   ", k->rtn(&job));
    }
    free(w), free(scale), free(zero), free(codes);
}

static void bench_convert(void)
{
    static const enum qp_dtype dtypes[] = {QP_BF16, QP_F16, QP_F8_E4M3, QP_F8_E5M2};
    const int64_t count = 4 << 20;
    float *x = numbers(count);
    void *codes = array(count, 2);
    char name[64];

    for (int d = 0; d < 4; d++) {
        double bytes = (4 + qp_dtype_bits(dtypes[d]) / 8) * (double)count;
        snprintf(name, sizeof name, "from_f32 %s", qp_dtype_name(dtypes[d]));
        BYTES(name, bytes, k->from_f32(dtypes[d], count, x, codes));
        snprintf(name, sizeof name, "to_f32 %s", qp_dtype_name(dtypes[d]));
        BYTES(name, bytes, k->to_f32(dtypes[d], count, codes, x));
    }
    free(x);
    free(codes);
}

static void bench_gptq(void)
{
    const struct qp_number_format formats[] = {
        {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16},
        {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F32},
        {.codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F32}};
    const int64_t rows = 4096, count = 128;
    float *w = numbers(rows * count), *r = numbers(count * count), *scale = array(rows, 4);
    float *s = array(rows * count, 4), *error = array(rows * count, 4);
    uint8_t *codes = array(rows * count, 1);
    int32_t *group_of = array(count, 4);
    char name[64];

    for (int64_t i = 0; i < count * count; i++)
        r[i] = i % (count + 1) == 0 ? 1 : 1e-3f * r[i];
    for (int64_t i = 0; i < rows; i++)
        scale[i] = 0.1f;
    for (int g = 0; g < 3; g++) {
        struct qp_gptq_block b = {&formats[g], rows,  count, 1,        w,     count, s,     count, r,
                                  count,       scale, NULL,  group_of, codes, count, error, count};
        snprintf(name, sizeof name, "gptq_block [4096, 128] %s", qp_dtype_name(formats[g].codes));
        FLOPS(name, (double)(rows * count * count),
              (memset(s, 0, (size_t)(rows * count) * sizeof *s), k->gptq_block(&b)));
    }
    free(w), free(r), free(s), free(scale), free(error), free(codes), free(group_of);
}

/* Numbers times candidates a second, in thousands of millions. */
static void bench_scale_search(void)
{
    static const struct {
        const char *name;
        struct qp_number_format format;
        int64_t group;
        double norm;
        bool hessian, sweep;
        int candidates;
    } cases[] = {
        {"int4 g128", {QP_I8, 4, true, false, QP_BF16, 0, 0}, 128, 2, false, false, 40},
        {"int4 g128, norm 2.4", {QP_I8, 4, true, false, QP_BF16, 0, 0}, 128, 2.4, false, false, 40},
        {"int4 g128, block of H", {QP_I8, 4, true, false, QP_BF16, 0, 0}, 128, 2, true, false, 40},
        {"nvfp4 sweep", {QP_F4_E2M1, 4, true, false, QP_F8_E4M3, 0, 2688}, 16, 2, false, true, 126},
        {"nvfp4 sweep, norm 2.4", {QP_F4_E2M1, 4, true, false, QP_F8_E4M3, 0, 2688}, 16, 2.4, false, true, 126},
        {"nvfp4 sweep, block of H", {QP_F4_E2M1, 4, true, false, QP_F8_E4M3, 0, 2688}, 16, 2, true, true, 126},
    };
    const int64_t rows = 512, cols = 2048;
    float *w = numbers(rows * cols), *h = numbers(cols * cols), *scale = array(rows * cols / 16, 4);
    char name[64];

    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct qp_scale_search s = {&cases[c].format,
                                    rows,
                                    cols,
                                    cases[c].group,
                                    w,
                                    NULL,
                                    cases[c].hessian ? h : NULL,
                                    cases[c].norm,
                                    cases[c].sweep ? 1e9f : 1,
                                    cases[c].sweep ? 0 : 0.4f,
                                    cases[c].candidates,
                                    cases[c].sweep,
                                    scale,
                                    NULL};
        snprintf(name, sizeof name, "scale_search %s", cases[c].name);
        MEASURE(name, (double)(rows * cols * cases[c].candidates), INFINITY, "G/s    ", k->scale_search(&s));
    }
    free(w), free(h), free(scale);
}

/* One sweep from codes of 0, as if every column owed something to all. */
static void bench_descent(void)
{
    const struct qp_number_format format = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16};
    const int64_t sizes[] = {576, 1536};

    for (int i = 0; i < 2; i++) {
        int64_t n = sizes[i];
        float *w = numbers(n * n), *h = array(n * n, 4), *scale = array(n, 4), *g = array(n * n, 4);
        uint8_t *codes = array(n * n, 1);
        struct qp_descent p = {&format, n, n, n, h, scale, NULL, codes, g, 1, false, NULL};
        char name[64];
        for (int64_t r = 0; r < n; r++)
            scale[r] = 0.15f;
        k->hessian(n, n, w, h);
        k->mirror(n, h);
        snprintf(name, sizeof name, "coordinate descent [%d, %d] one sweep", (int)n, (int)n);
        FLOPS(name, 2.0 * (double)(n * n * n),
              (memset(codes, 0, (size_t)(n * n)), memcpy(g, w, (size_t)(n * n) * sizeof *g), k->descent(&p)));
        free(w), free(h), free(scale), free(codes), free(g);
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    k = qp_kernels_open(argc > 1 ? argv[1] : "cpu");
    if (k == NULL) {
        fprintf(stderr, "bench_kernels: no backend '%s' on this CPU (there are ref, cpu, avx2, avx512)\n", argv[1]);
        return 2;
    }
    qp_kernels_set_threads(argc > 2 ? atoi(argv[2]) : omp_get_num_procs());
    filter = argc > 3 ? argv[3] : "";
    peak_flops = measure_flops();
    peak_bytes = measure_copy();
    peak_read = measure_read();
    printf("%s: %s; %d threads; peaks %.0f GFLOP/s, %.1f GB/s copied (read + written), %.1f read\n", k->backend,
           qp_kernels_description(), omp_get_max_threads(), peak_flops * 1e-9, peak_bytes * 1e-9, peak_read * 1e-9);
    bench_gemm();
    bench_hessian();
    bench_bf16();
    bench_attention();
    bench_rows();
    bench_quantize();
    bench_rtn();
    bench_convert();
    bench_gptq();
    bench_scale_search();
    bench_descent();
    return 0;
}
