/* Bytes that are no UTF-8, and numbers that are not finite: nothing that was said is lost, wherever it goes. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(text, .init = runs_make, .fini = scratch_drop, .timeout = 120);

/* A run with the stage of tests/e2e/stage/odd.c in it, which does `does`. */
static char *pipeline(const char *does)
{
    qp_auto_free char *yaml =
        qp_format("quantpipe: 1\nmodel: " TINY "\noutput: out\nscheme: int4\nstages:\n  load: {}\n"
                  "  odd: {run: " BUILD_DIR "/tests/odd_stage, from: load, with: {does: %s}}\n"
                  "  quantize: {from: odd, with: {method: rtn}}\n  export: {from: quantize}\n",
                  does);
    return strdup(scratch_text("p.yaml", yaml));
}

/* The warning of the last run with this code. */
static const json_t *warning_of(const json_t *report, const char *code)
{
    size_t i;
    json_t *warning;
    json_array_foreach(json_object_get(report, "warnings"), i, warning)
        if (strcmp(text(warning, "code"), code) == 0)
            return warning;
    cr_assert_fail("there is no warning %s", code);
    return NULL;
}

Test(text, a_warning_keeps_its_words_and_a_strict_run_fails)
{
    qp_auto_free char *path = pipeline("warn");
    struct command c = command_run(60, WORDS(QUANTPIPE, "run", path, "--progress", "plain"));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    cr_expect(strstr(c.errors, "odd: warning: layer\\xff: seen \\xfe\\xff"), "%s", c.errors);
    command_free(&c);
    qp_auto_json json_t *report = report_of(scratch("out"));
    const json_t *warning = warning_of(report, "odd");
    cr_expect_str_eq(text(warning, "where"), "layer\\xff");
    cr_expect_str_eq(text(warning, "message"), "seen \\xfe\\xff");
    run_well(WORDS("rm", "-r", scratch("out")));
    run_to(5, "1 warning in a strict run; the first is odd: layer\\xff", WORDS(QUANTPIPE, "run", path, "--strict"));
    cr_expect_not(qp_exists(scratch("out")));
}

Test(text, events_have_every_word)
{
    qp_auto_free char *path = pipeline("warn");
    struct command c = command_run(60, WORDS(QUANTPIPE, "run", path, "--progress", "json"));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    int logs = 0, warnings = 0;
    for (char *line = strtok(c.output, "\n"); line; line = strtok(NULL, "\n")) {
        qp_auto_json json_t *event = json_loads(line, 0, NULL);
        cr_assert_not_null(event, "%s", line);
        const char *message = json_string_value(json_object_get(event, "message"));
        logs += message && strcmp(message, "log \\xff") == 0;
        warnings += message && strcmp(message, "seen \\xfe\\xff") == 0;
    }
    cr_expect_eq(logs, 1);
    cr_expect_eq(warnings, 1);
    command_free(&c);
}

Test(text, a_failure_keeps_its_message)
{
    qp_auto_free char *path = pipeline("fail");
    const char *expected = "stage `odd`: tensor w\\xff: is odd";
    struct command c = command_run(60, WORDS(QUANTPIPE, "run", path, "--progress", "json"));
    cr_expect_eq(c.code, 3, "%d", c.code);
    cr_expect(strstr(c.errors, expected), "%s", c.errors);
    const char *end = strstr(c.output, "{\"status\":");
    qp_auto_json json_t *event = end ? json_loads(end, 0, NULL) : NULL;
    cr_expect_str_eq(text(event, "message"), expected);
    command_free(&c);
    qp_auto_json json_t *report = report_of(scratch("out"));
    cr_expect_str_eq(text(json_object_get(report, "error"), "message"), expected);
}

Test(text, figures_that_are_not_finite_stand_as_null_with_a_warning)
{
    qp_auto_free char *path = pipeline("measure");
    run_well(WORDS(QUANTPIPE, "run", path));
    qp_auto_json json_t *report = report_of(scratch("out"));
    const json_t *output = first_output(report), *warning = warning_of(report, "metric-not-finite");
    cr_expect(json_is_null(json_object_get(output, "kl_divergence")));
    cr_expect(json_is_null(json_object_get(json_object_get(output, "perplexity"), "quantized")));
    cr_expect_eq(number(output, "perplexity", "original"), 2.0);
    cr_expect_eq(number(output, "top1_agreement", NULL), 0.5);
    cr_expect_str_eq(text(warning, "where"), "metrics");
    cr_expect_str_eq(text(warning, "message"), "2 figures are not finite; null stands in the report");
    run_well(WORDS("rm", "-r", scratch("out")));
    run_to(5, "metric-not-finite: metrics", WORDS(QUANTPIPE, "run", path, "--strict"));
}

/* The link's own name is fine; the folder that it leads to is what stages would have to open. */
Test(text, a_model_folder_whose_name_is_no_text_is_refused)
{
    qp_auto_free char *path = pipeline("warn"), *odd = strdup(scratch("model\xff")), *link = strdup(scratch("link"));
    run_well(WORDS("cp", "-r", TINY, odd));
    cr_assert_eq(symlink(odd, link), 0);
    run_to(3, "model\\xff: the path is no UTF-8; rename the folder", WORDS(QUANTPIPE, "run", path, "--model", link));
    struct command c = command_run(60, WORDS(QUANTPIPE, "check", path, "--model", link, "--json"));
    cr_expect_eq(c.code, 3);
    qp_auto_json json_t *answer = json_loads(c.output, 0, NULL);
    cr_assert_not_null(answer, "%s", c.output);
    cr_expect(strstr(text(json_object_get(answer, "error"), "message"), "model\\xff: the path is no UTF-8"));
    command_free(&c);
    run_to(3, "inspected\\xff", WORDS(QUANTPIPE, "inspect", scratch("inspected\xff")));
}

/* A rule that could match nothing must not pass for one that is not there. */
Test(text, a_pattern_from_the_environment_that_is_no_text_is_refused)
{
    qp_auto_free char *path = pipeline("warn");
    setenv("BAD_PATTERN", "*.\xff", 1);
    const char *rule =
        "scheme={weights: {format: int8}, rules: [{match: \"${BAD_PATTERN}\", weights: {format: int4}}]}";
    run_to(3, "found `*.\\xff`", WORDS(QUANTPIPE, "run", path, "--strict", "--set", rule));
    cr_expect_not(qp_exists(scratch("out")));
}
