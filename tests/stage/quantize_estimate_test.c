/* What quantize says of its work, against numbers worked out by hand. */
#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>

#include "libstage/solvers/gptq.h"
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

/* What a row of `cols` columns changes in two sweeps, and a panel a thread. */
static double descent_of(double rows, double cols)
{
    return 16 * rows * (cols / 8 + 128) + 256 * omp_get_max_threads() * cols;
}

/* The largest site is gate's and up's, 96x64 each with scales for 32: weights and codes, 5 bytes, and so for scales;
 * the Hessian and its factor; of one linear the gradient, and what either step works with. */
Test(quantize_estimate, memory_of_gptq)
{
    const struct qp_kernels *k = qp_kernels_open("cpu");
    json_t *params = json_pack("{s:s}", "method", "gptq");
    struct qp_estimate e = estimate_of(estimate_question(params, NULL, json_pack("[s]", "hessian"), 0));
    double weights = 64 * 96, scales = weights / 32;
    cr_assert(e.memory_known);
    cr_expect_eq(e.block_bytes, 2 * 5 * (weights + scales) + 4.0 * 64 * 64 + qp_gptq_factor_bytes(k, 64) + 4 * weights +
                                    fmax(qp_gptq_solve_bytes(k, 96, 64, 128, true), descent_of(96, 64)));
    cr_expect_eq(e.emitted_bytes, 30720 + 4 * 30720 / 32.0, "a code each, a scale for 32 of them");
    cr_expect_eq(e.fixed_bytes, 0);
}

/* Of a model whose largest site is down's, a single linear 64x1024: the square is there only when its factor is not. */
Test(quantize_estimate, memory_of_gptq_of_one_linear)
{
    const struct qp_kernels *k = qp_kernels_open("cpu");
    json_t *question = estimate_question(json_pack("{s:s}", "method", "gptq"), NULL, json_pack("[s]", "hessian"), 0);
    json_object_set_new(json_object_get(json_object_get(question, "model"), "config"), "intermediate_size",
                        json_integer(1024));
    struct qp_estimate e = estimate_of(question);
    double weights = 64 * 1024, base = 5 * (weights + weights / 32);
    double solving = qp_gptq_factor_bytes(k, 1024) + 4 * weights + qp_gptq_solve_bytes(k, 64, 1024, 128, true);
    double making = qp_gptq_factor_bytes(k, 1024) + 4.0 * (128 + (k->split_products ? 4 : 1) * 256) * 1024;
    double descent = 4.0 * 1024 * 1024 + 4 * weights + descent_of(64, 1024);
    cr_expect_eq(e.block_bytes, base + fmax(fmax(solving, making), descent));
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
