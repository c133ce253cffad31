/* How long the parts of quantize take on linears of the sizes of models: H's factor, GPTQ with what it tells coordinate
 * descent, and the descent, INT4 in groups of 128. Usage: bench_solver [IN [ROWS]]: 2048, 5632 and 4096 columns by
 * default, 2048 rows. On one thread, in its own CPU time, so that other work on the machine disturbs little. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"
#include "kernels/peak.h"
#include "kernels/work.h"
#include "libstage/solvers/gptq.h"
#include "libstage/solvers/scales.h"

enum { GROUP = 128, SWEEPS = 4, TOKENS = 4096 };

static const struct qp_number_format int4 = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16};
static double peak;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *array(int64_t count, size_t size)
{
    void *memory = aligned_alloc(64, ((size_t)count * size + 127) / 64 * 64);
    if (memory == NULL) {
        fputs("bench_solver: out of memory\n", stderr);
        exit(6);
    }
    memset(memory, 0, (size_t)count * size);
    return memory;
}

/* Sums of four uniform numbers, with columns that have a part in common. */
static float *numbers(int64_t rows, int64_t cols, float common, uint64_t seed)
{
    float *x = array(rows * cols, sizeof *x), shared = 0;
    for (int64_t i = 0; i < rows * cols; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(seed >> 40) * 0x1p-23f - 1;
        }
        shared = i % cols == 0 ? sum : shared;
        x[i] = sum + common * shared;
    }
    return x;
}

static double counted(void)
{
    struct qp_work work;
    double sum = 0;
    qp_work_read(&work);
    for (int i = 0; i < QP_WORK_KINDS; i++)
        sum += work.operations[i] / (i == QP_WORK_GEMM_BF16 ? 3 : 1); /* split products: as what they stand for */
    return sum;
}

/* Seconds since `start`, and the operations since `before` as a share of the peak of float32. */
static void report(const char *what, double start, double before)
{
    double seconds = now() - start, operations = counted() - before;
    printf("  %-34s %8.3f s %8.1f GFLOP/s %4.0f %% of FP32's peak\n", what, seconds, 1e-9 * operations / seconds,
           100 * operations / seconds / peak);
}

static void check(int r, const struct qp_error *err)
{
    if (r < 0) {
        fprintf(stderr, "bench_solver: %s\n", err->message);
        exit(4);
    }
}

static void bench(const struct qp_kernels *k, int64_t rows, int64_t in)
{
    struct qp_error err;
    float *x = numbers(TOKENS, in, 0.5f, 1), *w = numbers(rows, in, 0, 2), *h = array(in * in, sizeof *h);
    float *scale = array(rows * qp_groups(in, GROUP), sizeof *scale);
    uint8_t *codes = array(rows * in, 1);
    struct qp_gptq_rest rest = {array(rows * in, sizeof(float)), array(rows, sizeof(double))};
    struct qp_quant_spec spec = {.enabled = true, .format = int4, .granularity = QP_PER_GROUP, .group = GROUP};
    struct qp_number_format format = int4;
    struct qp_quantized q = {int4, rows, in, GROUP, codes, scale, NULL, NULL, NULL};
    struct qp_scale_choice choice = {.method = QP_SCALES_WEIGHTED, .h = h, .shrink = 0.4f, .steps = 40};
    struct qp_gptq *solver;
    double damping = 0.01, start, before;

    printf("%d x %d\n", (int)rows, (int)in);
    k->hessian(TOKENS, in, x, h);
    k->mirror(in, h);
    start = now(), before = counted();
    check(qp_choose_scales(k, &(struct qp_unscaled){&spec, &format, rows, in, w}, &choice, scale, NULL, &err), &err);
    report("scales, 40 candidates", start, before);
    start = now(), before = counted();
    check(qp_gptq_open(k, in, h, &(struct qp_gptq_columns){128, QP_ORDER_ACTIVATION, GROUP}, &damping, &solver, &err),
          &err);
    report("factor of H, of a site", start, before);
    start = now(), before = counted();
    check(qp_gptq_solve(solver, &q, w, codes, NULL, &rest, &err), &err);
    report("GPTQ, its loss and gradient", start, before);
    start = now(), before = counted();
    k->descent(&(struct qp_descent){.format = &int4,
                                    .rows = rows,
                                    .cols = in,
                                    .group = GROUP,
                                    .h = h,
                                    .scale = scale,
                                    .codes = codes,
                                    .gradient = rest.gradient,
                                    .sweeps = SWEEPS,
                                    .codes_only = true});
    report("coordinate descent, 4 sweeps", start, before);
    qp_gptq_close(solver);
    free(x), free(w), free(h), free(scale), free(codes), free(rest.gradient), free(rest.loss);
}

int main(int argc, char **argv)
{
    static const int64_t sizes[] = {2048, 5632, 4096};
    const struct qp_kernels *k = qp_kernels_open("cpu");
    int64_t rows = argc > 2 ? atoll(argv[2]) : 2048;

    setvbuf(stdout, NULL, _IOLBF, 0);
    qp_kernels_set_threads(1);
    peak = qp_peak_measure(QP_PEAK_FP32, 1, 0.5);
    printf("%s; one thread; FP32 %.0f GFLOP/s\n", qp_kernels_description(), 1e-9 * peak);
    if (argc > 1)
        bench(k, rows, atoll(argv[1]));
    for (size_t i = 0; argc == 1 && i < sizeof sizes / sizeof *sizes; i++)
        bench(k, rows, sizes[i]);
    return 0;
}
