/* What `advise` says of the embedded model, and that its pipelines run. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "tests/support/runs.h"

static void make(void)
{
    scratch_make();
    setenv("TMPDIR", scratch(""), 1);
}

TestSuite(advise, .init = make, .fini = scratch_drop);

/* The pipeline as it was written, checked, and run on little of its data where it has some; the size of the output is
 * what was said. */
static void expect_runs(const char *pipeline, const json_t *said)
{
    char folder[512];
    size_t size;
    qp_auto_free char *yaml = scratch_read(pipeline, &size);
    run_well(WORDS(QUANTPIPE, "check", pipeline));
    if (memmem(yaml, size, "evaluation:", 11))
        run_well(WORDS(QUANTPIPE, "run", pipeline, FEW));
    else if (memmem(yaml, size, "calibration:", 12))
        run_well(WORDS(QUANTPIPE, "run", pipeline, "--set", "data.calibration.samples=8", "--set",
                       "data.calibration.length=128"));
    else
        run_well(WORDS(QUANTPIPE, "run", pipeline));
    snprintf(folder, sizeof folder, "%s-%s", scratch("tiny"), text(said, "preset"));
    qp_auto_json json_t *report = report_of(folder);
    const json_t *output = first_output(report);
    double written = number(output, "size_bytes", "quantized"), expected = number(said, "size_bytes", "quantized");
    cr_expect(fabs(written / expected - 1) < 0.02, "%g bytes written, %g expected", written, expected);
    cr_expect_eq(json_array_size(json_object_get(output, "linears")), 42);
}

Test(advise, without_text_the_pipeline_rounds, .timeout = 300)
{
    const char *pipeline = scratch("p.yaml");
    qp_auto_json json_t *a = answer_of(WORDS(QUANTPIPE, "advise", TINY, "--json", "--output", pipeline));
    cr_expect_str_eq(text(a, "preset"), "int8");
    cr_expect_str_eq(text(json_object_get(a, "method"), "quantize"), "rtn");
    cr_expect(number(a, "sqnr_db", NULL) > 30 && number(a, "sqnr_db", NULL) < 50);
    cr_expect_geq(json_array_size(json_object_get(a, "reasons")), 5);
    cr_expect_eq(json_array_size(json_object_get(a, "candidates")), 10);
    expect_runs(pipeline, a);
}

Test(advise, with_text_the_pipeline_learns, .timeout = 300)
{
    const char *pipeline = scratch("p.yaml");
    qp_auto_json json_t *a =
        answer_of(WORDS(QUANTPIPE, "advise", TINY, "--hardware", "a100", "--priority", "size", "--text",
                        TINY "/train.txt", "--evaluation", TINY "/test.txt", "--json", "--output", pipeline));
    cr_expect_str_eq(text(a, "preset"), "int4");
    cr_expect_str_eq(text(json_object_get(a, "method"), "search"), "awq");
    expect_runs(pipeline, a);
}

Test(advise, the_pipelines_of_other_hardware_run_as_well, .timeout = 300)
{
    static const char *const questions[][2] = {{"h100", "speed"}, {"b200", "speed"}, {"b200", "accuracy"}};
    static const char *const presets[] = {"fp8", "nvfp4", "mxfp8"};
    for (size_t i = 0; i < 3; i++) {
        const char *pipeline = scratch("p.yaml");
        qp_auto_json json_t *a = answer_of(WORDS(QUANTPIPE, "advise", TINY, "--hardware", questions[i][0], "--priority",
                                                 questions[i][1], "--json", "--output", pipeline));
        cr_expect_str_eq(text(a, "preset"), presets[i]);
        expect_runs(pipeline, a);
    }
}

Test(advise, measured_figures_decide, .timeout = 300)
{
    qp_auto_json json_t *a =
        answer_of(WORDS(QUANTPIPE, "advise", runs_model_of(2), "--hardware", "cpu", "--priority", "size", "--measure",
                        "--text", TINY "/train.txt", "--evaluation", TINY "/test.txt", "--json"));
    const json_t *measured = json_object_get(a, "measured");
    runs_expect_network(measured);
    cr_expect_str_eq(text(a, "preset"), "int4");
}

Test(advise, questions_that_make_no_sense)
{
    static const struct {
        const char *argv[8];
        int code;
        const char *message;
    } rows[] = {{{QUANTPIPE, "advise", TINY, "--hardware", "h10", NULL}, 2, "did you mean `h100`?"},
                {{QUANTPIPE, "advise", TINY, "--priority", "beauty", NULL}, 2, "accuracy, speed, size"},
                {{QUANTPIPE, "advise", TINY, "--measure", NULL}, 2, "--text"},
                {{QUANTPIPE, "advise", TINY "/nothing", NULL}, 3, "No such file"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        run_to(rows[i].code, rows[i].message, rows[i].argv);
    }
}
