/* What a plan says a run will do, and what the run then did. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

static void make(void)
{
    runs_make();
    setenv("XDG_CACHE_HOME", scratch("cache"), 1); /* nothing was measured */
    runs_model_of(2);
}

#define MODEL PIPELINE, "--model", scratch("model")

TestSuite(roofline, .init = make, .fini = scratch_drop, .timeout = 300);

static json_t *reported(const char *const *argv)
{
    run_well(argv);
    return report_of(scratch("out"));
}

static double operations(const json_t *stage, const char *kind)
{
    return json_number_value(json_object_get(json_object_get(json_object_get(stage, "work"), "operations"), kind));
}

static double bytes_read(const json_t *stage)
{
    return json_number_value(json_object_get(json_object_get(stage, "work"), "bytes_read"));
}

/* The plan's formulas and the kernels' counters. Steps of a descent (solve) and how soon a candidate of search is given
 * up depend on the weights: the plan is the least there. */
static void expect_agreement(const json_t *plan, const json_t *report)
{
    static const char *const kinds[] = {"gemm",           "gemm_bf16", "gemm_int8",    "attention",
                                        "attention_bf16", "hessian",   "hessian_bf16", "search"};
    size_t i;
    json_t *done;
    json_array_foreach(json_object_get(report, "stages"), i, done) {
        const char *name = json_string_value(json_object_get(done, "name"));
        const json_t *planned = stage_of(plan, name);
        cr_assert(planned && json_is_object(json_object_get(planned, "work")), "%s", name);
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            double counted = operations(done, kinds[k]), said = operations(planned, kinds[k]);
            bool least = strcmp(name, "search") == 0;
            cr_expect((least || said >= 0.97 * counted) && said <= 1.03 * counted, "%s, %s: planned %g, counted %g",
                      name, kinds[k], said, counted);
        }
        cr_expect_leq(operations(planned, "solve"), operations(done, "solve"), "%s", name);
    }
    cr_expect_gt(operations(stage_of(plan, "quantize"), "solve"), 1e7);
    cr_expect_gt(operations(stage_of(report, "calibrate"), "hessian") +
                     operations(stage_of(report, "calibrate"), "hessian_bf16"),
                 1e8);
}

Test(roofline, plan_and_report_agree)
{
    const char *output = scratch("out");
    qp_auto_json json_t *plan = answer_of(WORDS(QUANTPIPE, "plan", MODEL, "--output", output, "--json", FEW));
    qp_auto_json json_t *report =
        reported(WORDS(QUANTPIPE, "run", MODEL, "--output", output, "--progress", "none", FEW));
    expect_agreement(plan, report);
    cr_expect(json_is_null(json_object_get(plan, "roofline_seconds")), "nothing was measured");
    cr_expect(json_is_null(json_object_get(report, "roofline_seconds")));
}

Test(roofline, plan_and_report_agree_where_blocks_go_round)
{
    static const char *const profiles[] = {"sequential", "true_sequential"};
    for (int i = 0; i < 2; i++) {
        const char *output = scratch("out");
        const char *const asymmetric[] = {"--profile", profiles[i], "--set", "stages.quantize.with.asymmetric=0.25"};
        qp_auto_json json_t *plan = answer_of(WORDS(QUANTPIPE, "plan", MODEL, "--output", output, "--json", FEW,
                                                    asymmetric[0], asymmetric[1], asymmetric[2], asymmetric[3]));
        qp_auto_json json_t *report = reported(WORDS(QUANTPIPE, "run", MODEL, "--output", output, "--progress", "none",
                                                     FEW, asymmetric[0], asymmetric[1], asymmetric[2], asymmetric[3]));
        expect_agreement(plan, report);
        cr_expect_eq(bytes_read(stage_of(plan, "calibrate")), bytes_read(stage_of(report, "calibrate")));
        qp_remove_tree(output, NULL);
        qp_remove_tree(scratch("out.run"), NULL);
    }
}

Test(roofline, plan_and_report_agree_on_products_of_codes)
{
    const char *output = scratch("out");
    qp_auto_json json_t *plan = answer_of(WORDS(QUANTPIPE, "plan", MODEL, "--output", output, "--scheme", "int8",
                                                "--profile", "true_sequential", "--json", FEW));
    qp_auto_json json_t *report = reported(WORDS(QUANTPIPE, "run", MODEL, "--output", output, "--scheme", "int8",
                                                 "--profile", "true_sequential", "--progress", "none", FEW));
    expect_agreement(plan, report);
    bool faster = qp_kernels_open("cpu")->int8;
    cr_expect_eq(operations(stage_of(report, "validate"), "gemm_int8") > 0, faster);
    cr_expect_eq(operations(stage_of(report, "calibrate"), "gemm_int8") > 0, faster);
}

Test(roofline, plan_and_report_agree_without_data)
{
    const char *output = scratch("out");
    const char *const method[] = {"--set", "stages.quantize.with.method=rtn", "--set",
                                  "stages.search.with.method=none"};
    qp_auto_json json_t *plan = answer_of(
        WORDS(QUANTPIPE, "plan", MODEL, "--output", output, "--json", FEW, method[0], method[1], method[2], method[3]));
    qp_auto_json json_t *report = reported(WORDS(QUANTPIPE, "run", MODEL, "--output", output, "--progress", "none", FEW,
                                                 method[0], method[1], method[2], method[3]));
    cr_expect_eq(operations(stage_of(plan, "calibrate"), "gemm"), 0);
    cr_expect_eq(operations(stage_of(report, "calibrate"), "gemm"), 0);
    cr_expect_eq(operations(stage_of(report, "quantize"), "solve"), 0);
    double planned = bytes_read(stage_of(plan, "quantize")), counted = bytes_read(stage_of(report, "quantize"));
    cr_expect(planned > 1e5 && planned >= 0.97 * counted && planned <= 1.03 * counted, "planned %g, counted %g",
              planned, counted);
}
