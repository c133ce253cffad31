/* Authors' mistakes in Python, where the package does not hold them back: each run ends by itself, or warns so that a
 * strict one fails, and names stage and cause. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(misbehaviour_python, .init = runs_make_python, .fini = scratch_drop, .timeout = 300);

/* Rounds to nearest, but for what `weight` gives it and what `after` does to the block in layer 1. */
static const char *wrong_stage(const char *weight, const char *after)
{
    qp_auto_free char *source = qp_format("import os, signal, sys\n"
                                          "from quantpipe_stage import stage\n"
                                          "from rtn import round_to_nearest\n"
                                          "@stage(name='wrong', summary='a mistake', provides=['quantized'])\n"
                                          "def wrong(context, block):\n"
                                          "    for linear in block.linears:\n"
                                          "        form = block.format(linear)\n"
                                          "        if form is not None:\n"
                                          "            block.set_codes(linear, *round_to_nearest(%s, form))\n"
                                          "    if block.layer == 1:\n"
                                          "        tensors = block.unit.tensors\n"
                                          "        q = 'model.layers.1.self_attn.q_proj'\n"
                                          "        %s\n"
                                          "wrong.main()\n",
                                          weight, after);
    return scratch_text("wrong.py", source);
}

static struct command run_wrong(const char *weight, const char *after, const char *strict)
{
    char setting[1200];
    snprintf(setting, sizeof setting, "stages.quantize={run: [%s, %s], from: search}", runs_python(),
             wrong_stage(weight, after));
    return command_run(250, WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--progress", "plain",
                                  "--scheme", "int4", "--set", strict, "--set", "data.calibration.samples=4", "--set",
                                  "data.evaluation.samples=2", "--set", setting));
}

static void expect_end(const char *after, const char *words)
{
    struct command c = run_wrong("block.weight(linear)", after, "strict=false");
    cr_expect_eq(c.code, 4, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, words), "expected '%s' in\n%s", words, c.errors);
    cr_expect_not(qp_exists(scratch("out")));
    cr_expect_eq(runs_processes(), 0, "stages are left");
    command_free(&c);
}

static void expect_warning(const char *weight, const char *after, const char *code, const char *words)
{
    struct command c = run_wrong(weight, after, "strict=true");
    cr_expect_eq(c.code, 5, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, code), "expected '%s' in\n%s", code, c.errors);
    cr_expect(strstr(c.errors, words), "expected '%s' in\n%s", words, c.errors);
    cr_expect_not(qp_exists(scratch("out")));
    command_free(&c);
}

Test(misbehaviour_python, a_code_above_the_range)
{
    expect_end("tensors[q + '.weight_codes'].array[0, 7] = 100",
               "model.layers.1.self_attn.q_proj: code [0, 7] is 100; INT4 has -8 to 7");
}

Test(misbehaviour_python, a_scale_that_is_no_number)
{
    expect_end("tensors[q + '.weight_scale'].array[0, 0] = float('nan')",
               "model.layers.1.self_attn.q_proj: scale 0 is nan; expected a finite number");
}

Test(misbehaviour_python, no_codes_of_one_linear)
{
    expect_warning("block.weight(linear)", "del tensors[q + '.weight_codes'], tensors[q + '.weight_scale']",
                   "linear-unquantized", "model.layers.1.self_attn.q_proj: the scheme quantizes it, but no codes came");
}

Test(misbehaviour_python, folds_ignored)
{
    expect_warning("block.original_weight(linear)", "pass", "folds-ignored",
                   "its codes are of the weights without the folds of smooth and search");
}

Test(misbehaviour_python, exit_0_too_early)
{
    expect_end("os._exit(0)", "stage `quantize` ended with exit code 0 before it was done");
}

Test(misbehaviour_python, sys_exit_too_early)
{
    expect_end("sys.exit(0)", "stage `quantize` ended with exit code 0 before it was done");
}

Test(misbehaviour_python, kill_9)
{
    expect_end("os.kill(os.getpid(), signal.SIGKILL)",
               "stage `quantize` ended with signal 9 (Killed) before it was done");
}
