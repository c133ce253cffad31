/* What validate says of its work, against numbers worked out by hand. */
#include <criterion/criterion.h>
#include <omp.h>

#include "tests/support/estimates.h"

/* q 64x64, k and v 32x64, o 64x64, gate and up 96x64, down 64x96: 30,720 weights. */
#define LAYER_GEMM (2.0 * 128 * 30720)
#define LAYER_ATTENTION (2.0 * 8 * 4 * 16 * 17 * 16)

Test(validate_estimate, runs_both_networks)
{
    struct qp_work work = estimate_of(estimate_question(NULL, NULL, NULL, 8)).work;
    cr_expect_eq(work.operations[QP_WORK_GEMM], 2 * (2 * LAYER_GEMM) + 2 * (2.0 * 128 * 128 * 64), "and two heads");
    cr_expect_eq(work.operations[QP_WORK_ATTENTION], 2 * 2 * LAYER_ATTENTION);
}

Test(validate_estimate, without_text_reads_weights_alone)
{
    struct qp_work work = estimate_of(estimate_question(NULL, NULL, NULL, 0)).work;
    cr_expect_eq(work.operations[QP_WORK_GEMM], 0);
    cr_expect_eq(work.bytes_read, 2 * 4.0 * 30720);
}

/* The head: 128 rows of both networks' logits, of inputs and of normed ones, and 1,024 rows of its matrix a thread,
 * which is more than a layer and its workspace; or what judges a linear. */
Test(validate_estimate, memory)
{
    struct qp_estimate e = estimate_of(estimate_question(NULL, NULL, NULL, 8));
    cr_assert(e.memory_known);
    cr_expect_eq(e.block_bytes, 128 * 4.0 * (2 * 128 + 2 * 64) + omp_get_max_threads() * 1024 * 4.0 * 64);
    e = estimate_of(estimate_question(NULL, NULL, json_pack("[s]", "hessian"), 0));
    cr_expect_eq(e.block_bytes, 13 * 64.0 * 96 + 4.0 * 96 * 96, "a linear three times, its codes, and the Hessian");
    cr_expect_eq(e.fixed_bytes + e.emitted_bytes, 0);
}
