/* Several schemes in one run, and strict runs, on the embedded model. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

#define SHORT FEW, "--progress", "plain", "--set", "stages.search.with.method=none"
#define INT2 "{name: two, weights: {format: int2, group: 128}}"
#define GATE "stages.validate.with.max_perplexity_increase=1%"

TestSuite(branches, .init = runs_make, .fini = scratch_drop);
TestSuite(strict, .init = runs_make, .fini = scratch_drop);

/* The one output of a report that has this scheme. */
static const json_t *output_of(const json_t *report, const char *scheme)
{
    const json_t *found = NULL;
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(report, "outputs"), i, item)
        if (strcmp(text(item, "scheme"), scheme) == 0) {
            cr_expect_null(found);
            found = item;
        }
    cr_assert_not_null(found, "%s", scheme);
    return found;
}

/* No half-written output of any name, no sockets. */
static void expect_nothing_left(void)
{
    struct command ls = command_run(10, WORDS("ls", "-A", runs_sockets()));
    cr_expect_str_eq(ls.output, "");
    command_free(&ls);
    ls = command_run(10, WORDS("sh", "-c", "ls -d \"$0\"/.*quantpipe-*", scratch("")));
    cr_expect_str_eq(ls.output, "");
    command_free(&ls);
}

static void expect_measured(const json_t *report, const char *scheme)
{
    const json_t *output = output_of(report, scheme);
    cr_expect(json_is_real(json_object_get(json_object_get(output, "perplexity"), "quantized")), "%s", scheme);
    cr_expect_eq(json_array_size(json_object_get(output, "linears")), 42, "%s", scheme);
    cr_expect_str_eq(text(json_array_get(json_object_get(output, "linears"), 0), "scheme"), scheme);
}

Test(branches, each_scheme_gets_what_a_run_of_its_own_gives, .timeout = 300)
{
    static const char *const schemes[] = {"int4", "fp8-dynamic"};
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("all"), "--set", "scheme=[int4, fp8-dynamic]", FEW));
    qp_auto_json json_t *report = report_of(scratch("all"));
    cr_expect_str_eq(text(report, "status"), "done");
    cr_expect_eq(json_array_size(json_object_get(report, "outputs")), 2);
    cr_expect_eq(json_array_size(json_object_get(report, "stages")), 2 + 2 * 5);
    for (size_t i = 0; i < 2; i++) {
        char together[512], alone[512];
        snprintf(together, sizeof together, "%s-%s", scratch("all"), schemes[i]);
        snprintf(alone, sizeof alone, "%s", scratch(schemes[i]));
        run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", alone, "--scheme", schemes[i], FEW));
        run_well(WORDS("diff", "-r", alone, together));
        expect_measured(report, schemes[i]);
        cr_expect_str_eq(text(output_of(report, schemes[i]), "path"), together);
        qp_auto_json json_t *single = report_of(alone);
        const json_t *a = output_of(single, schemes[i]), *b = output_of(report, schemes[i]);
        cr_expect_str_eq(text(a, "digest"), text(b, "digest"));
        cr_expect(json_equal(json_object_get(a, "perplexity"), json_object_get(b, "perplexity")));
        cr_expect(json_equal(json_object_get(a, "linears"), json_object_get(b, "linears")));
    }
    expect_nothing_left();
}

Test(branches, again_from_the_resolved_pipeline, .timeout = 300)
{
    run_well(
        WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("a-{scheme}"), "--set", "scheme=[int4, int8]", SHORT));
    run_well(WORDS(QUANTPIPE, "run", scratch("a-all.run/pipeline.json"), "--output", scratch("b")));
    run_well(WORDS("diff", "-r", scratch("a-int4"), scratch("b-int4")));
    run_well(WORDS("diff", "-r", scratch("a-int8"), scratch("b-int8")));
}

static void expect_two_gated(const json_t *report)
{
    const json_t *two = output_of(report, "two");
    cr_expect_str_eq(text(report, "status"), "gate");
    cr_expect(json_is_null(json_object_get(two, "path")));
    cr_expect(json_is_null(json_object_get(output_of(report, "int8"), "gate")));
    cr_expect_str_eq(text(output_of(report, "int8"), "path"), scratch("all-int8"));
    cr_expect(qp_exists(scratch("all-int8/config.json")));
    cr_expect_not(qp_exists(scratch("all-two")));
    expect_nothing_left();
}

Test(branches, a_gate_that_fails_hides_no_other_scheme, .timeout = 300)
{
    run_to(5, "scheme `two`: stage `validate@two`: perplexity rose",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("all"), "--set", "scheme=[" INT2 ", int8]", "--set",
                 GATE, SHORT));
    qp_auto_json json_t *report = report_of(scratch("all"));
    cr_expect(strstr(text(output_of(report, "two"), "gate"), "perplexity rose"));
    cr_expect(json_is_real(json_object_get(output_of(report, "two"), "kl_divergence")), "it was measured");
    expect_two_gated(report);
}

/* A stage of one branch that is gone before the first unit: all that it would have had is taken off its producer. */
Test(branches, a_branch_may_end_before_it_begins, .timeout = 120)
{
    char script[1024], set[512];
    snprintf(script, sizeof script,
             "#!/bin/sh\ncase \"$*\" in *smooth@two*) exit 5;; esac\nexec %s/libexec/quantpipe/smooth \"$@\"\n",
             BUILD_DIR);
    const char *path = scratch_text("impostor", script);
    cr_assert_eq(chmod(path, 0700), 0);
    snprintf(set, sizeof set, "stages.smooth={run: %s, from: calibrate}", path);
    run_to(5, "scheme `two`: stage `smooth@two` ended with exit code 5",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("all"), "--set", "scheme=[" INT2 ", int8]", "--set",
                 set, SHORT));
    qp_auto_json json_t *report = report_of(scratch("all"));
    expect_two_gated(report);
}

Test(branches, when_all_gates_fail_nothing_is_published, .timeout = 300)
{
    run_to(5, "perplexity rose",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("all"), "--set",
                 "scheme=[" INT2 ", {name: also, weights: {format: int2, group: 64}}]", "--set", GATE, SHORT));
    qp_auto_json json_t *report = report_of(scratch("all"));
    cr_expect_str_eq(text(report, "status"), "gate");
    cr_expect_not(qp_exists(scratch("all-two")));
    cr_expect_not(qp_exists(scratch("all-also")));
    expect_nothing_left();
}

Test(branches, outputs_that_exist_are_refused)
{
    struct qp_error err;
    cr_assert_eq(qp_make_folders(scratch("all-int8"), &err), 0);
    run_to(3, "all-int8 exists; remove it",
           WORDS(QUANTPIPE, "check", PIPELINE, "--output", scratch("all"), "--set", "scheme=[int4, int8]"));
}

/* What comes back to calibrate would be one scheme's. */
Test(branches, feedback_takes_one_scheme)
{
    run_to(3, "stage `quantize` feeds back into `calibrate`, which all schemes of the list share",
           WORDS(QUANTPIPE, "check", PIPELINE, "--output", scratch("all"), "--set", "scheme=[int4, int8]", "--set",
                 "stages.calibrate.from={in: load, feedback: {from: quantize, delay: 1}}"));
}

Test(branches, errors_of_a_scheme_say_which)
{
    run_to(3, "scheme.1.weights",
           WORDS(QUANTPIPE, "check", PIPELINE, "--output", scratch("all"), "--set",
                 "scheme=[int4, {name: b, weights: {format: int4, gruop: 3}}]"));
}

/* ---- strict ---- */

Test(strict, a_scheme_with_warnings_is_refused_before_the_start, .timeout = 60)
{
    const char *output = scratch("out");
    const char *rule = "scheme={weights: {format: int8}, rules: [{match: \"*.nothing\", weights: {format: int4}}]}";
    run_to(0, "*.nothing: the rule matches no", WORDS(QUANTPIPE, "check", PIPELINE, "--output", output, "--set", rule));
    run_to(5, "*.nothing: the rule",
           WORDS(QUANTPIPE, "check", PIPELINE, "--output", output, "--set", rule, "--strict"));
    run_to(5, "rule-unused: *.nothing",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--set", rule, "--set", "strict=true", SHORT));
    qp_auto_json json_t *report = report_of(scratch("out"));
    const json_t *warning = json_array_get(json_object_get(report, "warnings"), 0);
    cr_expect_str_eq(text(report, "status"), "gate");
    cr_expect_str_eq(text(warning, "code"), "rule-unused");
    cr_expect_str_eq(text(warning, "where"), "*.nothing");
    cr_expect_not(qp_exists(output));
    expect_nothing_left();
}

Test(strict, odd_schemes_are_warned_of)
{
    run_to(0, "*.absent: the pattern of `ignore` matches nothing",
           WORDS(QUANTPIPE, "check", PIPELINE, "--output", scratch("out"), "--set",
                 "scheme={rules: [{match: \"*_proj\", weights: {format: int8}}], ignore: [lm_head, \"*.absent\"]}"));
    run_to(
        0, "*.up_proj: the rule applies to nothing",
        WORDS(QUANTPIPE, "check", PIPELINE, "--output", scratch("out"), "--set",
              "scheme={rules: [{match: \"*.mlp.*\", weights: {format: int8}}, {match: \"*.up_proj\", weights: {format: "
              "int4}}]}"));
    run_to(0, "model.layers.0.self_attn.q_proj: no rule of the scheme speaks of it",
           WORDS(QUANTPIPE, "check", PIPELINE, "--output", scratch("out"), "--set",
                 "scheme={rules: [{match: \"*.mlp.*\", weights: {format: int8}}]}"));
}

/* The example stage warns of outliers: the run goes to its end, so that all warnings are told, and publishes nothing.
 */
Test(strict, warnings_on_the_way_withhold_the_output, .timeout = 300)
{
    const char *output = scratch("out"), *pipeline = SOURCE_DIR "/examples/stage/pipeline.yaml";
    char set[512];
    snprintf(set, sizeof set, "stages.outliers.run=%s/examples/outliers", BUILD_DIR);
    run_to(5, "in a strict run; the first is outlier",
           WORDS(QUANTPIPE, "run", pipeline, "--output", output, "--set", set, "--set", "stages.outliers.with.limit=5",
                 "--strict", SHORT));
    qp_auto_json json_t *report = report_of(scratch("out"));
    const json_t *made = first_output(report);
    cr_expect_gt(json_array_size(json_object_get(report, "warnings")), 1);
    cr_expect_str_eq(text(json_array_get(json_object_get(report, "warnings"), 0), "stage"), "outliers");
    cr_expect(json_is_real(json_object_get(made, "kl_divergence")) && json_is_null(json_object_get(made, "path")));
    cr_expect_not(qp_exists(output));
    expect_nothing_left();
}

Test(strict, without_warnings_it_publishes, .timeout = 300)
{
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--strict", SHORT));
    qp_auto_json json_t *report = report_of(scratch("out"));
    cr_expect_str_eq(text(output_of(report, "int4"), "path"), scratch("out"));
    cr_expect(qp_exists(scratch("out/config.json")));
    expect_nothing_left();
}
