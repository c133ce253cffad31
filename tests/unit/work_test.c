/* The formulas that plans and counters share, against numbers worked out by hand. */
#include <criterion/criterion.h>

#include "libstage/network/estimate.h"
#include "libstage/solvers/quality.h"

Test(work, primitives)
{
    cr_expect_eq(qp_gemm_operations(2, 3, 5), 60);
    cr_expect_eq(qp_attention_operations(1, 2, 1, 1, 0), 12, "3 pairs, q and v, a product and a sum each");
    cr_expect_eq(qp_attention_operations(1, 2, 1, 1, 9), 12, "a window wider than the sequence");
    cr_expect_eq(qp_attention_operations(2, 4, 3, 5, 2), 4 * 7 * 2 * 3 * 5, "1 + 2 + 2 + 2 pairs");
    cr_expect_eq(qp_hessian_operations(10, 3), 120, "6 pairs of columns, 10 rows, a product and a sum each");
    cr_expect_float_eq(qp_factor_operations(3), 9, 1e-9);
    cr_expect_eq(qp_split_operations(2, 3, 5), 180, "three products");
    cr_expect_eq(qp_gptq_block_operations(4, 3), 24, "column 1 reaches 2, column 2 one");
    cr_expect_eq(qp_descent_operations(2, 3, 5), 66);
    cr_expect_eq(qp_search_operations(10, 4, 0), 240);
    cr_expect_eq(qp_search_operations(10, 4, 8), 800);
}

Test(work, gptq_by_blocks)
{
    struct qp_work work = {0};
    qp_gptq_work(NULL, 4, 10, 4, false, &work); /* blocks of 4, 4 and 2 columns; 6, 2 and 0 after them */
    cr_expect_eq(work.operations[QP_WORK_SOLVE], 4 * (4 * 3 + 4 * 3 + 2 * 1));
    cr_expect_eq(work.operations[QP_WORK_GEMM], 2 * 4 * (6 * 4 + 2 * 4));
    work = (struct qp_work){0};
    qp_gptq_work(NULL, 4, 10, 4, true, &work);
    cr_expect_eq(work.operations[QP_WORK_GEMM], 2 * 4 * (3 * (6 * 4 + 2 * 4) + 2 * (4 * 4 + 4 * 4 + 2 * 2)),
                 "the gradient, and the loss of rounding to nearest");
    work = (struct qp_work){0};
    qp_gptq_work(NULL, 3, 1024, 512, true, &work);
    cr_expect_eq(work.operations[QP_WORK_GEMM], 2.0 * 3 * (2 * 512 * 512 + 2 * 512 * 512 + 128 * 1024),
                 "the gradient, and a sketch of the loss");
    cr_expect_eq(qp_gptq_sketch_operations(1024), 2.0 * 128 * 1024 * 1024);
    cr_expect_eq(qp_gptq_sketch_operations(500), 0);
}

Test(work, site_loss_by_panels)
{
    cr_expect_eq(qp_site_loss_operations(3, 64), 2.0 * 3 * 64 * 64, "one panel");
    cr_expect_eq(qp_site_loss_operations(3, 160), 2.0 * 3 * (64 * 64 + 64 * 128 + 32 * 160));
}
