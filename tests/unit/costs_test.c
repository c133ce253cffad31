/* The formulas behind plans and floors, against numbers worked out by hand. */
#include <criterion/criterion.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/solvers/quality.h"
#include "runner/pipeline/costs.h"
#include "tests/support/tiny.h"

/* A small model (tests/support/tiny.h), a scheme, and a stage that works on 8 windows of 16 tokens. */
static struct qp_arch arch;
static struct qp_scheme *scheme;
static struct qp_instance instance;

static void make(void)
{
    struct qp_error err;
    qp_auto_json json_t *config = tiny_config();
    qp_auto_json json_t *source = json_pack("{s:{s:s, s:i}}", "weights", "format", "int4", "group", 32);
    cr_assert_eq(qp_arch_parse(config, "config.json", &arch, &err), 0, "%s", err.message);
    cr_assert_eq(qp_scheme_parse(source, &scheme, &err), 0, "%s", err.message);
    qp_scheme_bind(scheme, arch.dtype);
}

static void drop(void)
{
    qp_scheme_free(scheme);
    json_decref(instance.descriptor);
    json_decref(instance.params);
    json_decref(instance.wants);
}

TestSuite(costs, .init = make, .fini = drop);

static bool cost(const char *stage, json_t *params, json_t *wants, int64_t windows, bool moments, struct qp_work *out)
{
    instance.use = (char *)stage;
    instance.descriptor = json_pack("{s:s, s:[]}", "name", stage, "params");
    instance.params = params;
    instance.wants = wants;
    struct qp_task task = {.arch = &arch,
                           .scheme = scheme,
                           .instance = &instance,
                           .windows = windows,
                           .length = windows ? 16 : 0,
                           .moments = moments,
                           .kernels = qp_kernels_open("cpu")};
    return qp_task_work(&task, out);
}

/* q 64x64, k and v 32x64, o 64x64, gate and up 96x64, down 64x96: 30,720 weights. */
#define LAYER_GEMM (2.0 * 128 * 30720)
#define LAST (2.0 * 128 * 64 * 96) /* down of the last layer, behind which nobody wants to know anything */
#define LAYER_ATTENTION (2.0 * 8 * 4 * 16 * 17 * 16)
#define LAYER_MOMENTS (128.0 * (3 * 64 * 65 + 96 * 97))

Test(costs, primitives)
{
    cr_expect_eq(qp_gemm_operations(2, 3, 5), 60);
    cr_expect_eq(qp_attention_operations(1, 2, 1, 1, 0), 12, "3 pairs, q and v, a product and a sum each");
    cr_expect_eq(qp_attention_operations(1, 2, 1, 1, 9), 12, "a window wider than the sequence");
    cr_expect_eq(qp_attention_operations(2, 4, 3, 5, 2), 4 * 7 * 2 * 3 * 5, "1 + 2 + 2 + 2 pairs");
    cr_expect_eq(qp_moment_operations(10, 3), 120, "6 pairs of columns, 10 rows, a product and a sum each");
    cr_expect_float_eq(qp_factor_operations(3), 18, 1e-9);
    cr_expect_eq(qp_gptq_block_operations(4, 3), 24, "column 1 reaches 2, column 2 one");
    cr_expect_eq(qp_polish_operations(2, 3, 5), 66);
    cr_expect_eq(qp_search_operations(10, 4, 0), 240);
    cr_expect_eq(qp_search_operations(10, 4, 8), 800);
}

Test(costs, gptq_by_blocks)
{
    struct qp_work work = {0};
    qp_gptq_work(4, 10, 4, &work); /* blocks of 4, 4 and 2 columns; 6, 2 and 0 behind them */
    cr_expect_eq(work.operations[QP_WORK_SOLVE], 4 * (4 * 3 + 4 * 3 + 2 * 1));
    cr_expect_eq(work.operations[QP_WORK_GEMM], 2 * 4 * (6 * 4 + 2 * 4));
}

Test(costs, site_loss_by_panels)
{
    cr_expect_eq(qp_site_loss_operations(3, 64), 2.0 * 3 * 64 * 64, "one panel");
    cr_expect_eq(qp_site_loss_operations(3, 160), 2.0 * 3 * (64 * 64 + 64 * 128 + 32 * 160));
}

Test(costs, calibrate_collects_nothing)
{
    struct qp_work work;
    cr_assert(cost("calibrate", json_object(), json_array(), 8, false, &work));
    cr_expect_eq(work.operations[QP_WORK_GEMM] + work.bytes_read, 0);
}

Test(costs, calibrate_collects_moments)
{
    struct qp_work work;
    cr_assert(cost("calibrate", json_object(), json_pack("[s]", "second_moment"), 8, false, &work));
    cr_expect_eq(work.operations[QP_WORK_GEMM], 2 * LAYER_GEMM - LAST, "two layers");
    cr_expect_eq(work.operations[QP_WORK_ATTENTION], 2 * LAYER_ATTENTION);
    cr_expect_eq(work.operations[QP_WORK_MOMENT], 2 * LAYER_MOMENTS);
    cr_expect_eq(work.operations[QP_WORK_GEMM_BF16], 0);
    cr_expect_eq(work.bytes_written, 2 * 4.0 * (3 * 64 * 64 + 96 * 96));
    cr_expect_eq(work.bytes_read, 2 * 4.0 * (30720 + 2 * 64) + 4.0 * 128 * 64, "layers with norms, rows of text");
}

Test(costs, calibrate_in_bf16)
{
    struct qp_work work;
    cr_assert(
        cost("calibrate", json_pack("{s:s}", "compute", "bf16"), json_pack("[s]", "second_moment"), 8, false, &work));
    cr_expect_eq(work.operations[QP_WORK_GEMM_BF16], 2 * LAYER_GEMM - LAST);
    cr_expect_eq(work.operations[QP_WORK_ATTENTION_BF16], 2 * LAYER_ATTENTION);
    cr_expect_eq(work.operations[QP_WORK_MOMENT_BF16], 2 * LAYER_MOMENTS);
    cr_expect_eq(work.operations[QP_WORK_GEMM], 0);
}

Test(costs, validate_runs_both_networks)
{
    struct qp_work work;
    cr_assert(cost("validate", json_object(), json_array(), 8, false, &work));
    cr_expect_eq(work.operations[QP_WORK_GEMM], 2 * (2 * LAYER_GEMM) + 2 * (2.0 * 128 * 128 * 64), "and two heads");
    cr_expect_eq(work.operations[QP_WORK_ATTENTION], 2 * 2 * LAYER_ATTENTION);
}

Test(costs, rounding_needs_no_arithmetic_worth_counting)
{
    struct qp_work work;
    cr_assert(
        cost("quantize", json_pack("{s:s, s:s}", "method", "rtn", "scales", "auto"), json_array(), 0, false, &work));
    for (int i = 0; i < QP_WORK_KINDS; i++)
        cr_expect_eq(work.operations[i], 0, "%s", qp_work_names[i]);
    cr_expect_eq(work.bytes_read, 2 * 4.0 * 30720);
    cr_expect_eq(work.bytes_written, 2 * (30720 + 4 * 30720 / 32.0), "a code each, a scale for 32 of them");
}

/* Of the seven linears three sites have 64 columns and one 96; all blocks are one but down's, which are 64 and 32. */
Test(costs, gptq_of_a_model)
{
    struct qp_work work;
    double factors = 2.0 / 3 * (3 * 64.0 * 64 * 64 + 96.0 * 96 * 96);
    double columns = 384.0 * 64 * 63 + 64.0 * (64 * 63 + 32 * 31);
    json_t *params = json_pack("{s:s, s:s, s:i, s:i}", "method", "gptq", "scales", "minmax", "block", 64, "polish", 0);
    cr_assert(cost("quantize", params, json_array(), 0, true, &work));
    cr_expect_float_eq(work.operations[QP_WORK_SOLVE], 2 * (factors + columns), 1e-6);
    cr_expect_eq(work.operations[QP_WORK_GEMM], 2 * (2.0 * 64 * 32 * 64));
    cr_expect_eq(work.operations[QP_WORK_SEARCH], 0);
}

Test(costs, stages_of_the_users_own_have_no_formula)
{
    struct qp_work work;
    cr_expect_not(cost("sizes", json_object(), json_array(), 8, false, &work));
    instance.use = NULL;
    struct qp_task task = {.arch = &arch, .scheme = scheme, .instance = &instance};
    cr_expect_not(qp_task_work(&task, &work));
}
