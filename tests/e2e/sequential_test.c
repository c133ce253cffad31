/* Whole runs whose blocks go round: quantized ones come back to calibrate before the next one goes. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

#define SEQUENTIAL "run", PIPELINE, "--profile", "sequential", "--output"
#define TRUE_SEQUENTIAL "run", PIPELINE, "--profile", "true_sequential", "--output"

TestSuite(sequential, .init = scratch_make, .fini = scratch_drop, .timeout = 300);

static json_t *run(const char *output, const char *const *argv)
{
    run_well(argv);
    return report_of(output);
}

static double divergence(const json_t *report)
{
    const json_t *made = first_output(report);
    double original = number(made, "perplexity", "original"), quantized = number(made, "perplexity", "quantized");
    cr_expect(quantized > 0.98 * original && quantized < 1.05 * original, "%g, originally %g", quantized, original);
    return number(made, "kl_divergence", NULL);
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
    qp_auto_json json_t *report = run(output, WORDS(QUANTPIPE, SEQUENTIAL, output));
    cr_expect_str_eq(text(report, "status"), "done");
    expect_edges(report);
    double loss = divergence(report);
    cr_expect(loss > 0 && loss < 0.01, "%g", loss);
    cr_expect(qp_exists(output));
}

/* Nothing that is learned from what comes back may depend on when it comes. */
Test(sequential, the_same_bytes_come_of_it_again)
{
    const char *first = scratch("first"), *second = scratch("second");
    qp_auto_json json_t *a = run(first, WORDS(QUANTPIPE, SEQUENTIAL, first, "--set", "data.calibration.samples=16"));
    char resolved[512];
    snprintf(resolved, sizeof resolved, "%s.run/pipeline.json", first);
    qp_auto_json json_t *b = run(second, WORDS(QUANTPIPE, "run", resolved, "--output", second));
    cr_expect_str_eq(text(first_output(a), "digest"), text(first_output(b), "digest"));
}

/* int3, where blocks change what the next ones see. */
#define INT3 "--set", "scheme={weights: {format: int3, group: 32}}", "--set", "data.calibration.samples=32"

Test(sequential, later_blocks_make_up_for_earlier_ones)
{
    const char *alone = scratch("alone"), *pulled = scratch("pulled");
    qp_auto_json json_t *a = run(alone, WORDS(QUANTPIPE, SEQUENTIAL, alone, INT3));
    qp_auto_json json_t *b =
        run(pulled, WORDS(QUANTPIPE, SEQUENTIAL, pulled, INT3, "--set", "stages.quantize.with.pull=0.5"));
    cr_expect_lt(divergence(b), 0.95 * divergence(a));
}

Test(sequential, drift_needs_feedback)
{
    const char *output = scratch("out");
    run_to(3, "collects only with something at its input `feedback`: write from: {in: STAGE, feedback: {from: quantize",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--set", "stages.quantize.with.polish=1", "--set",
                 "stages.quantize.with.pull=0.25"));
    qp_auto_json json_t *report =
        run(output, WORDS(QUANTPIPE, SEQUENTIAL, output, "--set", "stages.quantize.with.polish=1", "--set",
                          "stages.quantize.with.pull=0.25", "--set", "data.calibration.samples=32"));
    cr_expect_lt(divergence(report), 0.01);
}

Test(sequential, measuring_alone_writes_nothing)
{
    const char *output = scratch("out");
    qp_auto_json json_t *report =
        run(output, WORDS(QUANTPIPE, SEQUENTIAL, output, "--set", "data.calibration.samples=8", "--set",
                          "stages={load: {}, calibrate: {from: {in: load, feedback: {from: quantize, delay: 1}}}, "
                          "quantize: {from: calibrate, with: {method: gptq}}, validate: {from: quantize}}"));
    const json_t *made = first_output(report);
    cr_expect(json_is_null(json_object_get(made, "path")));
    cr_expect(json_is_number(json_object_get(made, "kl_divergence")));
    cr_expect_not(qp_exists(output));
}

/* A member of the circle dies while blocks go round. */
Test(sequential, a_dead_member_ends_the_run)
{
    const char *output = scratch("out");
    char script[512], set[512];
    snprintf(script, sizeof script,
             "#!/bin/sh\n[ \"$1\" = --describe ] || (sleep 0.3; kill -9 $$) &\nexec %s/libexec/quantpipe/smooth \"$@\"\n",
             BUILD_DIR);
    const char *path = scratch_text("mortal", script);
    cr_assert_eq(chmod(path, 0700), 0);
    snprintf(set, sizeof set, "stages.smooth={run: %s, from: calibrate}", path);
    run_to(4, "stage `smooth` ended with signal 9 (Killed)",
           WORDS(QUANTPIPE, SEQUENTIAL, output, "--set", set, "--set", "data.calibration.samples=100000"));
    cr_expect_not(qp_exists(output));
}

Test(sequential, an_interrupt_ends_the_run)
{
    const char *output = scratch("out"), *logs = scratch("out.run/logs/calibrate.0.log");
    struct command c = command_interrupt(
        60, SIGTERM, logs, WORDS(QUANTPIPE, SEQUENTIAL, output, "--set", "data.calibration.samples=100000"));
    cr_expect_eq(c.code, 130, "%d\n%s", c.code, c.errors);
    command_free(&c);
    cr_expect_not(qp_exists(output));
}

/* ---- within blocks as well ---- */

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

/* Four turns a layer go round; what leaves are layers, all of whose linears were judged by their own statistics. */
Test(sequential, every_turn_comes_back_and_whole_layers_leave)
{
    static const char *const ways[][2] = {
        {"load", "calibrate"}, {"search", "quantize"}, {"quantize", "calibrate"}, {"quantize", "validate"}};
    const char *output = scratch("out");
    qp_auto_json json_t *report = run(output, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, output));
    cr_expect_lt(divergence(report), 0.01);
    for (int i = 0; i < 4; i++) {
        const json_t *edge = edge_between(report, ways[i][0], ways[i][1]);
        cr_expect_eq(number(edge, "acknowledged", NULL), i < 3 ? 10 + 6 * 3 : 10, "%s", ways[i][1]);
    }
    size_t i;
    json_t *linear;
    const json_t *linears = json_object_get(first_output(report), "linears");
    cr_expect_eq(json_array_size(linears), 6 * 7);
    json_array_foreach(linears, i, linear) {
        double loss = number(linear, "site_loss", NULL);
        cr_expect(loss > 0 && loss < number(linear, "site_loss_rtn", NULL), "%s", text(linear, "name"));
    }
}

#define SMALL "--set", "data.calibration.samples=16", "--set", "stages.search.with.method=none"

Test(sequential, the_order_within_a_block_matters_and_time_does_not)
{
    const char *once = scratch("once"), *blocks = scratch("blocks"), *turns = scratch("turns"),
               *again = scratch("again"), *rotated = scratch("rotated");
    qp_auto_json json_t *a = run(once, WORDS(QUANTPIPE, "run", PIPELINE, "--output", once, SMALL));
    qp_auto_json json_t *b = run(blocks, WORDS(QUANTPIPE, SEQUENTIAL, blocks, SMALL));
    qp_auto_json json_t *c = run(turns, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, turns, SMALL));
    qp_auto_json json_t *d = run(again, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, again, SMALL));
    cr_expect_str_eq(text(first_output(c), "digest"), text(first_output(d), "digest"));
    cr_expect_str_neq(text(first_output(c), "digest"), text(first_output(a), "digest"));
    cr_expect_str_neq(text(first_output(c), "digest"), text(first_output(b), "digest"));
    qp_auto_json json_t *e =
        run(rotated, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, rotated, SMALL, "--set", "stages.rotate.from=load", "--set",
                           "stages.calibrate.from.in=rotate", "--set", "scheme=nvfp4-kv-fp8"));
    cr_expect_lt(divergence(e), 0.02);
}

/* At three bits, where it shows. */
Test(sequential, the_order_within_a_block_pays)
{
    const char *blocks = scratch("blocks"), *turns = scratch("turns"), *pulled = scratch("pulled");
    qp_auto_json json_t *a =
        run(blocks, WORDS(QUANTPIPE, SEQUENTIAL, blocks, INT3, "--set", "stages.search.with.method=none"));
    qp_auto_json json_t *b = run(turns, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, turns, INT3));
    cr_expect_lt(divergence(b), divergence(a));
    qp_auto_json json_t *c =
        run(pulled, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, pulled, INT3, "--set", "stages.quantize.with.pull=0.25"));
    cr_expect_lt(divergence(c), 0.95 * divergence(a));
}

Test(sequential, turns_are_refused_where_they_cannot_go)
{
    static const struct {
        const char *set, *message;
    } wrong[] = {
        {"stages.calibrate.from.feedback.from=quantize", "feedback: {from: quantize.turns, delay: 1}"},
        {"stages.calibrate.from=load", "feedback: {from: quantize.turns, delay: 1}"},
        {"stages.search.with.method=awq", "stage `search`: layers come in turns (`true_sequential` of stage load)"},
        {"stages.smooth.with.method=smoothquant", "stage `smooth`: layers come in turns"},
        {"stages.quantize.with.method=rtn", "true_sequential: found method: rtn"},
        {"stages.export.from=quantize.turns", "stage `export`: layers come in turns"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *output = scratch("out");
        run_to(3, wrong[i].message, WORDS(QUANTPIPE, TRUE_SEQUENTIAL, output, "--set", wrong[i].set));
        cr_expect_not(qp_exists(output));
    }
}
