/* Whole runs whose blocks go round: quantized ones come back to calibrate before the next one goes. */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

#define SEQUENTIAL "run", PIPELINE, "--profile", "sequential", "--output"
#define TRUE_SEQUENTIAL "run", PIPELINE, "--profile", "true_sequential", "--output"

/* With float32 forwards and without a search a layer's codes depend on its inputs alone. */
#define PLAIN                                                                                                 \
    QUICK, "--set", "stages.calibrate.with.compute=fp32", "--set", "stages.search.with.method=none", "--set", \
        "stages.quantize.with.scales=minmax"

TestSuite(sequential, .init = scratch_make, .fini = scratch_drop, .timeout = 300);

static json_t *run(const char *output, const char *const *argv)
{
    run_well(argv);
    qp_auto_json json_t *report = report_of(output);
    cr_expect_str_eq(text(report, "status"), "done");
    runs_expect_network(first_output(report));
    return json_incref(report);
}

/* The edge forth and the edge back carry every unit once. */
static void expect_edges(const json_t *report)
{
    size_t i, back = 0;
    json_t *edge;
    cr_assert_eq(json_array_size(json_object_get(report, "edges")), 7);
    json_array_foreach(json_object_get(report, "edges"), i, edge) {
        cr_expect_eq(number(edge, "sent", NULL), 10, "model, embedding, 6 layers, head, end");
        cr_expect_eq(number(edge, "received", NULL), 10);
        cr_expect_eq(number(edge, "acknowledged", NULL), 10);
        if (!json_object_get(edge, "delay"))
            continue;
        back++;
        cr_expect_str_eq(text(edge, "from"), "quantize");
        cr_expect_str_eq(text(edge, "to"), "calibrate");
        cr_expect_gt(number(edge, "bytes_by_reference", NULL), 1e6, "what comes back is not copied");
    }
    cr_expect_eq(back, 1);
}

Test(sequential, every_block_comes_back)
{
    const char *output = scratch("out");
    qp_auto_json json_t *report = run(output, WORDS(QUANTPIPE, SEQUENTIAL, output, PLAIN));
    expect_edges(report);
    cr_expect(qp_exists(output));
}

Test(sequential, asymmetry_needs_feedback)
{
    run_to(3, "collects only with something at its input `feedback`: write from: {in: STAGE, feedback: {from: quantize",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--set",
                 "stages.quantize.with.coordinate_descent=1", "--set", "stages.quantize.with.asymmetric=0.25"));
}

Test(sequential, measuring_alone_writes_nothing)
{
    const char *output = scratch("out");
    qp_auto_json json_t *report =
        run(output, WORDS(QUANTPIPE, SEQUENTIAL, output, QUICK, "--set",
                          "stages={load: {}, calibrate: {from: {in: load, feedback: {from: quantize, delay: 1}}}, "
                          "quantize: {from: calibrate, with: {method: gptq}}, validate: {from: quantize}}"));
    const json_t *made = first_output(report);
    cr_expect(json_is_null(json_object_get(made, "path")));
    cr_expect(json_is_number(json_object_get(made, "kl_divergence")));
    cr_expect_not(qp_exists(output));
}

/* ---- what a linear is calibrated on ---- */

static bool same_codes(const char *one, const char *other, int layer, const char *linear)
{
    qp_auto_free char *name = qp_format("model.layers.%d.%s_proj.weight_packed", layer, linear);
    return runs_same_tensor(one, other, name);
}

static bool same_layer(const char *one, const char *other, int layer)
{
    static const char *const linears[] = {"self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
                                          "mlp.gate",    "mlp.up",      "mlp.down"};
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        if (!same_codes(one, other, layer, linears[i]))
            return false;
    return true;
}

/* A run of the resolved pipeline of another gives its bytes: nothing depends on when something comes. */
static void expect_again(const char *first)
{
    qp_auto_free char *resolved = qp_format("%s.run/pipeline.json", first), *second = qp_format("%s-again", first);
    qp_auto_json json_t *a = report_of(first), *b = run(second, WORDS(QUANTPIPE, "run", resolved, "--output", second));
    cr_expect_str_eq(text(first_output(a), "digest"), text(first_output(b), "digest"));
}

/* Before the first layer nothing is quantized, so its inputs are those of the original network, and there is no
 * asymmetry to calibrate against; layers after it see other inputs. */
Test(sequential, later_layers_are_calibrated_on_quantized_ones)
{
    const char *plain = scratch("plain"), *blocks = scratch("blocks"), *asymmetric = scratch("asymmetric");
    json_decref(run(plain, WORDS(QUANTPIPE, "run", PIPELINE, "--output", plain, PLAIN)));
    json_decref(run(blocks, WORDS(QUANTPIPE, SEQUENTIAL, blocks, PLAIN)));
    json_decref(run(asymmetric,
                    WORDS(QUANTPIPE, SEQUENTIAL, asymmetric, PLAIN, "--set", "stages.quantize.with.asymmetric=0.5")));
    cr_expect(same_layer(plain, blocks, 0));
    cr_expect(same_layer(blocks, asymmetric, 0));
    for (int layer = 1; layer < 6; layer++)
        cr_expect_not(same_layer(plain, blocks, layer), "layer %d", layer);
    expect_again(blocks);
}

/* ---- true-sequential steps ---- */

static const json_t *edge_between(const json_t *report, const char *from, const char *to)
{
    size_t i;
    json_t *edge;
    json_array_foreach(json_object_get(report, "edges"), i, edge)
        if (strcmp(text(edge, "from"), from) == 0 && strcmp(text(edge, "to"), to) == 0)
            return edge;
    cr_assert_fail("no edge from %s to %s", from, to);
    return NULL;
}

/* Each linear is judged by the statistics that it was quantized with: by these the descent starts, row by row, from the
 * better of GPTQ and of rounding to nearest with the same scales. */
static void expect_no_linear_worse_than_rounding(const json_t *report)
{
    size_t i;
    json_t *linear;
    const json_t *linears = json_object_get(first_output(report), "linears");
    cr_expect_eq(json_array_size(linears), 6 * 7);
    json_array_foreach(linears, i, linear) {
        double loss = number(linear, "site_loss", NULL), rounding = number(linear, "site_loss_rtn", NULL);
        cr_expect(loss > 0 && loss <= rounding * (1 + 1e-3), "%s: %g, rounded %g", text(linear, "name"), loss,
                  rounding);
    }
}

/* Four steps a layer go round; what leaves are layers. */
static void expect_steps(const json_t *report)
{
    static const char *const ways[][2] = {
        {"load", "calibrate"}, {"search", "quantize"}, {"quantize", "calibrate"}, {"quantize", "validate"}};
    for (int i = 0; i < 4; i++) {
        const json_t *edge = edge_between(report, ways[i][0], ways[i][1]);
        cr_expect_eq(number(edge, "acknowledged", NULL), i < 3 ? 10 + 6 * 3 : 10, "%s", ways[i][1]);
    }
}

/* Within the first layer q, k and v see what they see in blocks, and that is what they see in a plain run; o and the
 * others see what those put out. */
Test(sequential, later_linears_are_calibrated_on_quantized_ones)
{
    const char *plain = scratch("plain"), *steps = scratch("steps");
    json_decref(run(plain, WORDS(QUANTPIPE, "run", PIPELINE, "--output", plain, PLAIN)));
    qp_auto_json json_t *report = run(steps, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, steps, PLAIN));
    cr_expect(same_codes(plain, steps, 0, "self_attn.q"));
    cr_expect(same_codes(plain, steps, 0, "self_attn.k"));
    cr_expect(same_codes(plain, steps, 0, "self_attn.v"));
    cr_expect_not(same_codes(plain, steps, 0, "self_attn.o"));
    cr_expect_not(same_codes(plain, steps, 0, "mlp.up"));
    cr_expect_not(same_codes(plain, steps, 0, "mlp.down"));
    expect_steps(report);
    expect_no_linear_worse_than_rounding(report);
}

Test(sequential, steps_go_with_rotations_and_quantized_inputs)
{
    const char *output = scratch("out");
    json_decref(run(output, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, output, QUICK, "--set", "stages.rotate.from=load",
                                  "--set", "stages.calibrate.from.in=rotate", "--set", "scheme=nvfp4-kv-fp8", "--set",
                                  "stages.quantize.with.asymmetric=0.25")));
}

Test(sequential, steps_are_refused_where_they_cannot_go)
{
    static const struct {
        const char *set, *message;
    } wrong[] = {
        {"stages.calibrate.from.feedback.from=quantize", "feedback: {from: quantize.steps, delay: 1}"},
        {"stages.calibrate.from=load", "feedback: {from: quantize.steps, delay: 1}"},
        {"stages.search.with.method=awq", "stage `search`: layers come in steps (`true_sequential` of stage load)"},
        {"stages.smooth.with.method=smoothquant", "stage `smooth`: layers come in steps"},
        {"stages.quantize.with.method=rtn", "true_sequential: found method: rtn"},
        {"stages.export.from=quantize.steps", "stage `export`: layers come in steps"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *output = scratch("out");
        run_to(3, wrong[i].message, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, output, QUICK, "--set", wrong[i].set));
        cr_expect_not(qp_exists(output));
    }
}

/* ---- runs that are cut short while blocks go round ---- */

Test(sequential, a_dead_member_ends_the_run)
{
    const char *output = scratch("out");
    run_to(4, "stage `smooth` ended with signal 9 (Killed)",
           WORDS(QUANTPIPE, SEQUENTIAL, output, QUICK, "--set",
                 "stages.smooth={run: " BRAKE ", from: calibrate, with: {then: die}}"));
    cr_expect_not(qp_exists(output));
}

Test(sequential, an_interrupt_ends_the_run)
{
    const char *output = scratch("out"), *flag = scratch("flag");
    qp_auto_free char *brake =
        qp_format("stages.smooth={run: " BRAKE ", from: calibrate, with: {then: wait, flag: %s}}", flag);
    struct command c =
        command_interrupt(120, SIGTERM, flag, WORDS(QUANTPIPE, SEQUENTIAL, output, QUICK, "--set", brake));
    cr_expect_eq(c.code, 130, "%d\n%s", c.code, c.errors);
    command_free(&c);
    cr_expect_not(qp_exists(output));
}

/* ---- names of the version before ---- */

Test(sequential, old_names_are_taken_with_a_warning)
{
    const char *output = scratch("out");
    qp_auto_json json_t *report = run(
        output, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, output, QUICK, "--set", "stages.quantize.with.polish=1", "--set",
                      "stages.quantize.with.pull=0.25", "--set", "stages.calibrate.from.feedback.from=quantize.turns"));
    static const char *const names[][2] = {
        {"polish", "coordinate_descent"}, {"pull", "asymmetric"}, {"turns", "steps"}};
    const json_t *warnings = json_object_get(report, "warnings");
    cr_assert_geq(json_array_size(warnings), 3);
    for (size_t i = 0; i < 3; i++) {
        char wanted[96];
        snprintf(wanted, sizeof wanted, "`%s` is called `%s` now", names[i][0], names[i][1]);
        const json_t *warning = json_array_get(warnings, i);
        cr_expect_str_eq(json_string_value(json_object_get(warning, "code")), "renamed");
        cr_expect(strstr(json_string_value(json_object_get(warning, "message")), wanted), "%s", wanted);
    }
    run_to(3, "found `polish` and `coordinate_descent`, which is its name now",
           WORDS(QUANTPIPE, "check", PIPELINE, "--output", scratch("both"), "--set", "stages.quantize.with.polish=1",
                 "--set", "stages.quantize.with.coordinate_descent=1"));
}
