/* Counting around the kernels, and what peaks are measured with. */
#include "tests/kernel/harness.h"

#include "kernels/peak.h"
#include "kernels/work.h"

static double counted(enum qp_work_kind kind)
{
    struct qp_work work;
    qp_work_read(&work);
    return work.operations[kind];
}

Test(work, calls_of_the_cpus_table_are_counted)
{
    const struct qp_kernels *k = qp_kernels_open("cpu");
    float a[6] = {1, 2, 3, 4, 5, 6}, c[4];
    float h[9] = {0};

    k->gemm(&(struct qp_gemm){false, true, 2, 2, 3, 1, a, 3, a, 3, 0, c, 2});
    cr_expect_eq(counted(QP_WORK_GEMM), 24);
    cr_expect_float_eq(c[1], 1 * 4 + 2 * 5 + 3 * 6, 1e-6, "and done");
    k->hessian(2, 3, a, h);
    cr_expect_eq(counted(QP_WORK_HESSIAN), 24);
    cr_expect_float_eq(h[0], 1 + 16, 1e-6);
    cr_expect_eq(counted(QP_WORK_SOLVE), 0);
}

Test(work, other_tables_count_nothing)
{
    float a[4] = {1, 2, 3, 4}, c[4];

    qp_kernels_open("cpu");
    reference()->gemm(&(struct qp_gemm){false, true, 2, 2, 2, 1, a, 2, a, 2, 0, c, 2});
    cr_expect_eq(counted(QP_WORK_GEMM), 0);
}

/* More than one core can do in a second by any means would be a fault of the clock. */
Test(peak, is_measured_where_there_is_an_instruction)
{
    for (int i = 0; i < QP_PEAKS; i++) {
        double rate = qp_peak_measure((enum qp_peak)i, 1, 0.02);
        if (qp_peak_instruction((enum qp_peak)i) != NULL)
            cr_expect(rate > 1e8 && rate < 1e14, "%s: %g", qp_peak_names[i], rate);
        else
            cr_expect_eq(rate, 0);
    }
}

/* The peak of BF16 is that of the instruction which oneDNN's products run on, so that no product is above it. */
Test(peak, of_bf16_is_that_of_its_products)
{
    bool amx = strstr(qp_kernels_extensions(), "AMX") != NULL;
    bool bf16 = strstr(qp_kernels_extensions(), "BF16") != NULL;
    const char *instruction = qp_peak_instruction(QP_PEAK_BF16);

    if (bf16)
        cr_expect_str_eq(instruction, amx ? "tdpbf16ps" : "vdpbf16ps zmm");
    else
        cr_expect(instruction == NULL || strcmp(instruction, "tdpbf16ps") != 0);
}

Test(peak, int8_product)
{
    const int8_t a[6] = {1, -2, 3, 127, -128, 5}, b[6] = {-128, 7, 1, 127, 127, 2};
    int32_t c[4];

    qp_product_int8(2, 2, 3, a, b, c);
    cr_expect_eq(c[0], -128 - 14 + 3);
    cr_expect_eq(c[1], 127 - 254 + 6);
    cr_expect_eq(c[2], 127 * -128 + -128 * 7 + 5);
    cr_expect_eq(c[3], 127 * 127 - 128 * 127 + 10);
}
