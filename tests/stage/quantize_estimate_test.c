/* What quantize says of its work, against numbers worked out by hand. */
#include <criterion/criterion.h>

#include "tests/support/estimates.h"

Test(quantize_estimate, rounding_needs_no_arithmetic_worth_counting)
{
    json_t *params = json_pack("{s:s, s:s}", "method", "rtn", "scales", "auto");
    struct qp_work work = estimate_of(estimate_question(params, NULL, NULL, 0)).work;
    for (int i = 0; i < QP_WORK_KINDS; i++)
        cr_expect_eq(work.operations[i], 0, "%s", qp_work_names[i]);
    cr_expect_eq(work.bytes_read, 2 * 4.0 * 30720);
    cr_expect_eq(work.bytes_written, 2 * (30720 + 4 * 30720 / 32.0), "a code each, a scale for 32 of them");
}

/* Of the seven linears three sites have 64 columns and one 96; all blocks are one but down's, which are 64 and 32. */
Test(quantize_estimate, gptq_of_a_model)
{
    double factors = 1.0 / 3 * (3 * 64.0 * 64 * 64 + 96.0 * 96 * 96);
    double columns = 384.0 * 64 * 63 + 64.0 * (64 * 63 + 32 * 31);
    json_t *params =
        json_pack("{s:s, s:s, s:i, s:i}", "method", "gptq", "scales", "minmax", "block", 64, "coordinate_descent", 0);
    struct qp_work work = estimate_of(estimate_question(params, NULL, json_pack("[s]", "hessian"), 0)).work;
    cr_expect_float_eq(work.operations[QP_WORK_SOLVE], 2 * (factors + columns), 1e-6);
    cr_expect_eq(work.operations[QP_WORK_GEMM] + work.operations[QP_WORK_GEMM_BF16] / 3, 2 * (2.0 * 64 * 32 * 64));
    cr_expect_eq(work.operations[QP_WORK_SEARCH], 0);
}

/* Scales that search chose are kept; without them they are searched where the inputs are known. */
Test(quantize_estimate, scales_of_search_are_kept)
{
    json_t *known = json_pack("[s]", "hessian"), *chosen = json_pack("[s, s]", "hessian", "scales");
    cr_expect_gt(estimate_of(estimate_question(NULL, NULL, known, 0)).work.operations[QP_WORK_SEARCH], 0);
    cr_expect_eq(estimate_of(estimate_question(NULL, NULL, chosen, 0)).work.operations[QP_WORK_SEARCH], 0);
}

/* The largest site is gate's and up's, 96x64 each with scales for 32: weights and codes, 5 bytes, and so for scales;
 * the Hessian and its factor, which that of down has there together only while the factor is made; of one linear GPTQ's
 * copy of the weights, another in the order of its columns with their codes, the gradient for descent, and a block's
 * errors.
 */
Test(quantize_estimate, memory_of_gptq)
{
    json_t *params = json_pack("{s:s}", "method", "gptq");
    struct qp_estimate e = estimate_of(estimate_question(params, NULL, json_pack("[s]", "hessian"), 0));
    double weights = 64 * 96, scales = weights / 32;
    cr_assert(e.memory_known);
    cr_expect_eq(e.block_bytes, 2 * 5 * (weights + scales) + 2 * 4.0 * 64 * 64 + (4 + 5 + 4) * weights + 4.0 * 96 * 64);
    cr_expect_eq(e.emitted_bytes, 30720 + 4 * 30720 / 32.0, "a code each, a scale for 32 of them");
    cr_expect_eq(e.fixed_bytes, 0);
}

/* Rounded straight from the checkpoint into words of codes, unless folds have changed the weights. */
Test(quantize_estimate, memory_of_rounding)
{
    struct qp_estimate e = estimate_of(estimate_question(NULL, NULL, NULL, 0));
    cr_expect_eq(e.block_bytes, 0);
    cr_expect_eq(e.emitted_bytes, 30720 / 2 + 4 * 30720 / 32.0);
    e = estimate_of(estimate_question(NULL, NULL, json_pack("[s]", "folds"), 0));
    cr_expect_eq(e.block_bytes, 2 * 5 * (64.0 * 96 + 192), "gate and up");
}

/* The codes of one site a step: gate's and up's are most. */
Test(quantize_estimate, memory_of_a_step)
{
    json_t *params = json_pack("{s:s}", "method", "gptq");
    struct qp_estimate e = estimate_of(estimate_question(params, NULL, json_pack("[s, s]", "hessian", "steps"), 0));
    cr_expect_eq(e.emitted_bytes, 2 * (64 * 96 + 4 * 64 * 96 / 32.0));
}
