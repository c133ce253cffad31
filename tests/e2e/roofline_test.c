/* What a plan says a run will do, what the run then did, and the roofline beside both. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/command.h"
#include "tests/support/scratch.h"

#define QUANTPIPE BUILD_DIR "/bin/quantpipe"
#define PIPELINE SOURCE_DIR "/pipeline.yaml"
#define SHORT "--set", "data.calibration.samples=8", "--set", "data.evaluation.samples=2"

static void make(void)
{
    struct qp_error err;
    scratch_make();
    cr_assert_eq(qp_make_folders(scratch("r"), &err), 0, "%s", err.message);
    setenv("XDG_RUNTIME_DIR", scratch("r"), 1);
    setenv("XDG_CACHE_HOME", scratch("cache"), 1);
}

TestSuite(roofline, .init = make, .fini = scratch_drop, .timeout = 300);

static json_t *answer(const char *const *argv)
{
    struct command c = command_run(300, argv);
    cr_assert_eq(c.code, 0, "%d\n%s", c.code, c.errors);
    json_t *json = json_loads(c.output, 0, NULL);
    cr_assert(json, "%s", c.output);
    command_free(&c);
    return json;
}

static json_t *report_of(const char *const *argv)
{
    struct qp_error err;
    json_t *report = NULL;
    struct command c = command_run(300, argv);
    cr_assert_eq(c.code, 0, "%d\n%s", c.code, c.errors);
    command_free(&c);
    cr_assert_eq(qp_read_json(scratch("out.run/report.json"), 1 << 24, &report, &err), 0, "%s", err.message);
    return report;
}

static const json_t *stage_of(const json_t *answer_, const char *name)
{
    size_t i;
    json_t *stage;
    json_array_foreach(json_object_get(answer_, "stages"), i, stage)
        if (strcmp(json_string_value(json_object_get(stage, "name")), name) == 0)
            return stage;
    return NULL;
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
    cr_expect_gt(operations(stage_of(plan, "quantize"), "solve"), 1e8);
    cr_expect_gt(operations(stage_of(report, "calibrate"), "hessian") +
                     operations(stage_of(report, "calibrate"), "hessian_bf16"),
                 1e9);
}

Test(roofline, plan_and_report_agree)
{
    const char *output = scratch("out");
    qp_auto_json json_t *plan = answer(WORDS(QUANTPIPE, "plan", PIPELINE, "--output", output, "--json", SHORT));
    qp_auto_json json_t *report =
        report_of(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--progress", "none", SHORT));
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
        qp_auto_json json_t *plan = answer(WORDS(QUANTPIPE, "plan", PIPELINE, "--output", output, "--json", SHORT,
                                                 asymmetric[0], asymmetric[1], asymmetric[2], asymmetric[3]));
        qp_auto_json json_t *report =
            report_of(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--progress", "none", SHORT, asymmetric[0],
                            asymmetric[1], asymmetric[2], asymmetric[3]));
        expect_agreement(plan, report);
        cr_expect_eq(bytes_read(stage_of(plan, "calibrate")), bytes_read(stage_of(report, "calibrate")));
        qp_remove_tree(output, NULL);
        qp_remove_tree(scratch("out.run"), NULL);
    }
}

Test(roofline, plan_and_report_agree_on_products_of_codes)
{
    const char *output = scratch("out");
    qp_auto_json json_t *plan = answer(WORDS(QUANTPIPE, "plan", PIPELINE, "--output", output, "--scheme", "int8",
                                             "--profile", "true_sequential", "--json", SHORT));
    qp_auto_json json_t *report = report_of(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--scheme", "int8",
                                                  "--profile", "true_sequential", "--progress", "none", SHORT));
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
    qp_auto_json json_t *plan = answer(WORDS(QUANTPIPE, "plan", PIPELINE, "--output", output, "--json", SHORT,
                                             method[0], method[1], method[2], method[3]));
    qp_auto_json json_t *report = report_of(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--progress", "none",
                                                  SHORT, method[0], method[1], method[2], method[3]));
    cr_expect_eq(operations(stage_of(plan, "calibrate"), "gemm"), 0);
    cr_expect_eq(operations(stage_of(report, "calibrate"), "gemm"), 0);
    cr_expect_eq(operations(stage_of(report, "quantize"), "solve"), 0);
    double planned = bytes_read(stage_of(plan, "quantize")), counted = bytes_read(stage_of(report, "quantize"));
    cr_expect(planned > 1e6 && planned >= 0.97 * counted && planned <= 1.03 * counted, "planned %g, counted %g",
              planned, counted);
}

static void expect_tells(const char *const *argv, const char *words)
{
    struct command c = command_run(300, argv);
    cr_expect_eq(c.code, 0, "%s", c.errors);
    cr_expect(strstr(c.output, words), "%s", c.output);
    command_free(&c);
}

/* A share is the roofline over the busy seconds. Without a known instruction there is neither. */
static void expect_shares(const json_t *report, bool known)
{
    const json_t *calibrate = stage_of(report, "calibrate"), *share = json_object_get(calibrate, "share_of_roofline");
    double roofline = json_number_value(json_object_get(calibrate, "roofline_seconds"));
    double busy = json_number_value(json_object_get(calibrate, "busy_seconds"));
    cr_expect_eq(json_is_number(share), known);
    cr_expect_eq(roofline > 0, known);
    cr_expect_eq(json_number_value(json_object_get(report, "roofline_seconds")) > 0, known);
    cr_expect_float_eq(json_number_value(share) * busy, roofline, 1e-6 * roofline);
}

Test(roofline, measured_once_seen_everywhere)
{
    const char *output = scratch("out");
    expect_tells(WORDS(QUANTPIPE, "plan", PIPELINE, "--output", output, SHORT), "quantpipe doctor --bench");
    qp_auto_json json_t *doctor = answer(WORDS(QUANTPIPE, "doctor", "--bench", "--json", "--folder", scratch("")));
    const json_t *measured = json_object_get(doctor, "measured");
    cr_assert_gt(json_number_value(json_object_get(json_object_get(measured, "memory"), "read_bytes_per_second")), 0);
    cr_expect_gt(json_array_size(json_object_get(measured, "kernels")), 5);
    const json_t *fp32 = json_object_get(json_object_get(measured, "peaks"), "fp32");
    bool known = json_is_string(json_object_get(fp32, "instruction"));
    if (known)
        expect_tells(WORDS(QUANTPIPE, "plan", PIPELINE, "--output", output, SHORT), "by the measured peaks");
    qp_auto_json json_t *report =
        report_of(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--progress", "none", SHORT));
    expect_shares(report, known);
}

Test(roofline, doctor_looks)
{
    qp_auto_json json_t *doctor = answer(WORDS(QUANTPIPE, "doctor", "--json"));
    const json_t *findings = json_object_get(doctor, "findings");
    cr_expect_gt(json_array_size(findings), 8);
    cr_expect(json_is_null(json_object_get(doctor, "measured")));
    expect_tells(WORDS(QUANTPIPE, "doctor", "--folder", scratch("absent")), "is not there");
    expect_tells(WORDS(QUANTPIPE, "doctor"), "never measured");
}
