/* Runs one kernel of table "cpu" once on fixed numbers, for callgrind to count its instructions. Usage: bench_gate
 * NAME; without a name it lists them. Products and factors are left out: libraries choose their code by the processor.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

enum { ROWS = 32, COLS = 256, GROUP = 64 };

static const struct qp_number_format int4 = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16};
static const struct qp_number_format nvfp4 = {
    .codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E4M3, .global = 2000};

static float w[ROWS * COLS], h[COLS * COLS], scale[ROWS * COLS], x[ROWS * COLS], error[ROWS * COLS];
static uint8_t codes[ROWS * COLS];
static int32_t packed[ROWS * COLS];
static double gain[ROWS];
static int32_t group_of[COLS];

static void fill(void)
{
    uint32_t state = 1;
    for (int i = 0; i < ROWS * COLS; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = w[i] = (float)(int32_t)state * 0x1p-31f;
    }
    for (int i = 0; i < COLS; i++) {
        group_of[i] = i / GROUP;
        for (int j = 0; j < COLS; j++)
            h[i * COLS + j] = i == j ? 2.0f : 0.5f / (float)(1 + abs(i - j));
    }
}

static void search(const struct qp_kernels *k, const struct qp_number_format *format, int64_t group, bool sweep)
{
    struct qp_scale_search s = {.format = format,
                                .rows = ROWS,
                                .cols = COLS,
                                .group = group,
                                .w = w,
                                .norm = 2,
                                .first = sweep ? 2 : 1,
                                .last = 0.4f,
                                .steps = 25,
                                .sweep = sweep,
                                .scale = scale};
    k->scale_search(&s);
}

static void scale_search(const struct qp_kernels *k)
{
    search(k, &int4, GROUP, false);
}

static void scale_sweep(const struct qp_kernels *k)
{
    search(k, &nvfp4, 16, true);
}

static void qparams(const struct qp_kernels *k)
{
    k->qparams(&int4, ROWS, COLS, GROUP, w, scale, NULL);
}

static void quantize(const struct qp_kernels *k)
{
    k->quantize(&(struct qp_grouped){&int4, ROWS, COLS, GROUP, scale, NULL}, w, codes);
}

static void dequantize(const struct qp_kernels *k)
{
    k->dequantize(&(struct qp_grouped){&int4, ROWS, COLS, GROUP, scale, NULL}, codes, x);
}

static void pack(const struct qp_kernels *k)
{
    k->pack(4, ROWS, COLS, (const int8_t *)codes, packed);
}

static void gptq_block(const struct qp_kernels *k)
{
    struct qp_gptq_block b = {.format = &int4,
                              .rows = ROWS,
                              .count = COLS,
                              .groups = COLS / GROUP,
                              .w = w,
                              .w_stride = COLS,
                              .s = x,
                              .s_stride = COLS,
                              .r = h,
                              .r_stride = COLS,
                              .scale = scale,
                              .group_of = group_of,
                              .codes = codes,
                              .codes_stride = COLS,
                              .error = error,
                              .error_stride = COLS};
    k->gptq_block(&b);
}

static void descent(const struct qp_kernels *k)
{
    struct qp_descent p = {.format = &int4,
                           .rows = ROWS,
                           .cols = COLS,
                           .group = GROUP,
                           .h = h,
                           .scale = scale,
                           .codes = codes,
                           .gradient = x,
                           .sweeps = 4,
                           .gain = gain};
    k->descent(&p);
}

static void column_stats(const struct qp_kernels *k)
{
    k->column_stats(ROWS, COLS, w, error, NULL, NULL, NULL);
}

static void from_f32(const struct qp_kernels *k)
{
    k->from_f32(QP_BF16, ROWS * COLS, w, packed);
}

static const struct {
    const char *name;
    void (*run)(const struct qp_kernels *);
} kernels[] = {{"scale_search", scale_search},  {"scale_sweep", scale_sweep},   {"qparams", qparams},
               {"quantize", quantize},          {"dequantize", dequantize},     {"gptq_block", gptq_block},
               {"coordinate_descent", descent}, {"column_stats", column_stats}, {"pack", pack},
               {"from_f32", from_f32}};

/* What callgrind counts: nothing before it, nothing after. */
__attribute__((noinline)) void qp_gate_counted(const struct qp_kernels *k, void (*run)(const struct qp_kernels *));
void qp_gate_counted(const struct qp_kernels *k, void (*run)(const struct qp_kernels *))
{
    run(k);
}

int main(int argc, char **argv)
{
    const struct qp_kernels *k = qp_kernels_open("cpu");
    qp_kernels_set_threads(1);
    fill();
    qparams(k);
    quantize(k);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (argc < 2)
            puts(kernels[i].name);
        else if (strcmp(argv[1], kernels[i].name) == 0) {
            qp_gate_counted(k, kernels[i].run);
            return 0;
        }
    return argc < 2 ? 0 : 2;
}
