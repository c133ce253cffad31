/* What calibrate says of its work, against numbers worked out by hand. */
#include <criterion/criterion.h>

#include "tests/support/estimates.h"

/* q 64x64, k and v 32x64, o 64x64, gate and up 96x64, down 64x96: 30,720 weights. */
#define LAYER_GEMM (2.0 * 128 * 30720)
#define LAST (2.0 * 128 * 64 * 96) /* down of the last layer, after which nobody wants to know anything */
#define LAYER_ATTENTION (2.0 * 8 * 4 * 16 * 17 * 16)
#define LAYER_HESSIANS (128.0 * (3 * 64 * 65 + 96 * 97))

static struct qp_estimate cost(json_t *params, json_t *wants)
{
    return estimate_of(estimate_question(params, wants, NULL, 8));
}

Test(calibrate_estimate, collects_nothing)
{
    struct qp_estimate e = cost(NULL, NULL);
    cr_assert(e.work_known);
    cr_expect_eq(e.work.operations[QP_WORK_GEMM] + e.work.bytes_read, 0);
}

Test(calibrate_estimate, collects_hessians)
{
    struct qp_work work = cost(json_pack("{s:s}", "compute", "fp32"), json_pack("[s]", "hessian")).work;
    cr_expect_eq(work.operations[QP_WORK_GEMM], 2 * LAYER_GEMM - LAST, "two layers");
    cr_expect_eq(work.operations[QP_WORK_ATTENTION], 2 * LAYER_ATTENTION);
    cr_expect_eq(work.operations[QP_WORK_HESSIAN], 2 * LAYER_HESSIANS);
    cr_expect_eq(work.operations[QP_WORK_GEMM_BF16], 0);
    cr_expect_eq(work.bytes_written, 2 * 4.0 * (3 * 64 * 65 / 2 + 96 * 97 / 2), "triangles");
    cr_expect_eq(work.bytes_read, 2 * 4.0 * (30720 + 2 * 64) + 4.0 * 128 * 64, "layers with norms, rows of text");
}

Test(calibrate_estimate, in_bf16)
{
    struct qp_work work = cost(json_pack("{s:s}", "compute", "bf16"), json_pack("[s]", "hessian")).work;
    cr_expect_eq(work.operations[QP_WORK_GEMM_BF16], 2 * LAYER_GEMM - LAST);
    cr_expect_eq(work.operations[QP_WORK_ATTENTION_BF16], 2 * LAYER_ATTENTION);
    cr_expect_eq(work.operations[QP_WORK_HESSIAN_BF16], 2 * LAYER_HESSIANS);
    cr_expect_eq(work.operations[QP_WORK_GEMM], 0);
}

/* Four sites: of the layer's forwards the first sees no quantized linear, and each of the others one site's more. */
Test(calibrate_estimate, a_forward_a_step)
{
    json_t *question = estimate_question(json_pack("{s:s}", "compute", "fp32"), json_pack("[s]", "hessian"),
                                         json_pack("[s]", "steps"), 8);
    json_object_set_new(question, "feedback", json_true());
    struct qp_work work = estimate_of(question).work;
    cr_expect_eq(work.operations[QP_WORK_ATTENTION], (4 * 2 + 1) * LAYER_ATTENTION, "the last layer's goes on nowhere");
}

Test(calibrate_estimate, refuses_what_is_no_question)
{
    struct qp_error err = {0};
    json_t *answer, *question = estimate_question(json_pack("{s:s}", "compute", "fp64"), NULL, NULL, 8);
    cr_expect_eq(qp_stage_estimate(&qp_stage_desc, question, &answer, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "fp64"), "%s", err.message);
    json_object_del(question, "model");
    cr_expect_eq(qp_stage_estimate(&qp_stage_desc, question, &answer, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "`model`"), "%s", err.message);
    json_decref(question);
}

/* The upper triangle of each site's Hessian, which is summed up in a square; the histogram has 512 bins a channel. */
Test(calibrate_estimate, memory_of_statistics)
{
    cr_expect_eq(cost(NULL, NULL).emitted_bytes + cost(NULL, NULL).fixed_bytes, 0, "nothing is asked for");
    struct qp_estimate hessians = cost(json_pack("{s:s}", "compute", "fp32"), json_pack("[s]", "hessian"));
    cr_assert(hessians.memory_known);
    cr_expect_eq(hessians.emitted_bytes, 2.0 * (3 * 64 * 65 + 96 * 97));
    cr_expect_geq(hessians.block_bytes + hessians.emitted_bytes, 4.0 * (30720 + 2 * 64) + 4.0 * (3 * 64 * 64 + 96 * 96),
                  "a layer in float32, and squares, beside the workspace");
    struct qp_estimate histogram = cost(NULL, json_pack("[s, s]", "absmax", "histogram"));
    cr_expect_eq(histogram.emitted_bytes, 4.0 * (1 + 512) * (3 * 64 + 96));
}

/* On top of a layer and the executor's buffers, which both have: of BF16 inputs two copies of the widest site's,
 * and what squares have more than triangles; of other statistics that site's inputs in float32. */
Test(calibrate_estimate, memory_of_hessians_in_bf16)
{
    struct qp_estimate hessians = cost(json_pack("{s:s}", "compute", "bf16"), json_pack("[s]", "hessian"));
    struct qp_estimate values = cost(json_pack("{s:s}", "compute", "bf16"), json_pack("[s]", "absmax"));
    double squares = 4.0 * (3 * 64 * 64 + 96 * 96), triangles = 2.0 * (3 * 64 * 65 + 96 * 97);
    cr_expect_eq(hessians.block_bytes - values.block_bytes, squares - triangles + 4.0 * 128 * 96 - 4.0 * 128 * 96);
    cr_expect_eq(hessians.fixed_bytes, values.fixed_bytes);
}

/* One site a step, of which the statistics are gone when the next one goes, and the hidden states of a part beside the
 * workspace. */
Test(calibrate_estimate, memory_of_a_step)
{
    json_t *question = estimate_question(json_pack("{s:s}", "compute", "fp32"), json_pack("[s]", "hessian"),
                                         json_pack("[s]", "steps"), 8);
    json_object_set_new(question, "feedback", json_true());
    struct qp_estimate steps = estimate_of(question);
    struct qp_estimate whole = cost(json_pack("{s:s}", "compute", "fp32"), json_pack("[s]", "hessian"));
    cr_expect_eq(steps.emitted_bytes, 0);
    cr_expect_geq(steps.block_bytes, 4.0 * (30720 + 2 * 64) + 4.0 * 96 * 96);
    cr_expect_geq(steps.fixed_bytes, whole.fixed_bytes + 4.0 * 128 * 64);
}

/* While the last site's Hessian is packed all triangles are there, and its square, which is large where its inputs are
 * many: of 16 tokens a layer in float32 needs less than that. */
Test(calibrate_estimate, memory_of_packing)
{
    json_t *question = estimate_question(json_pack("{s:s}", "compute", "fp32"), json_pack("[s]", "hessian"), NULL, 1);
    json_object_set_new(json_object_get(json_object_get(question, "model"), "config"), "intermediate_size",
                        json_integer(4096));
    cr_expect_eq(estimate_of(question).block_bytes, 2.0 * 4096 * 4096 + 4096.0 * 4096);
}
