/* The package for stages in Python (examples/python) and its examples, in runs. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

#define PACKAGE SOURCE_DIR "/examples/python"

TestSuite(python, .init = runs_make_python, .fini = scratch_drop);

Test(python, the_package_passes_its_own_tests, .timeout = 300)
{
    run_well(WORDS(runs_python(), "-m", "unittest", "discover", "-s", PACKAGE "/tests"));
}

/* From a folder, as a user would: what is installed has all that a stage needs. */
Test(python, the_package_is_installed_by_pip, .timeout = 300)
{
    char line[2048];
    unsetenv("PYTHONPATH");
    snprintf(line, sizeof line,
             "cp -r '%s' package && '%s' -m pip install --quiet --disable-pip-version-check --no-index --no-deps "
             "--no-build-isolation --target site ./package && cd site && '%s' ../package/rtn.py --describe",
             PACKAGE, runs_python(), runs_python());
    cr_assert_eq(chdir(scratch("")), 0);
    setenv("PYTHONPATH", scratch("site"), 1);
    run_well(WORDS("sh", "-ec", line));
}

/* A run of the default pipeline with a stage in quantize's place; NULL: quantize itself, rounding to nearest. */
static json_t *run(const char *name, const char *stage, const char *const *more)
{
    char setting[1200];
    const char *argv[32] = {QUANTPIPE,
                            "run",
                            PIPELINE,
                            "--output",
                            scratch(name),
                            "--set",
                            "data.calibration.samples=8",
                            "--set",
                            "data.evaluation.samples=4",
                            "--set",
                            setting};
    size_t n = 0;
    while (argv[n])
        n++;
    for (size_t i = 0; more[i]; i++)
        argv[n++] = more[i];
    if (stage)
        snprintf(setting, sizeof setting, "stages.quantize={run: [%s, %s/%s], from: search}", runs_python(), PACKAGE,
                 stage);
    else
        snprintf(setting, sizeof setting, "stages.quantize.with={method: rtn, scales: minmax}");
    run_well(argv);
    return report_of(scratch(name));
}

/* What it wrote has the same bytes. */
static void expect_same(const char *const *more)
{
    qp_auto_json json_t *built_in = run("built-in", NULL, more);
    qp_auto_json json_t *python = run("python", "rtn.py", more);
    const json_t *one = json_object_get(built_in, "outputs"), *other = json_object_get(python, "outputs");
    cr_assert_gt(json_array_size(one), 0);
    cr_assert_eq(json_array_size(one), json_array_size(other));
    for (size_t i = 0; i < json_array_size(one); i++)
        cr_expect_str_eq(text(json_array_get(one, i), "digest"), text(json_array_get(other, i), "digest"));
}

Test(python, rounds_as_quantize_does_after_awq, .timeout = 300)
{
    expect_same(WORDS("--scheme", "int4"));
}

Test(python, rounds_as_quantize_does_where_blocks_come_back, .timeout = 300)
{
    expect_same(WORDS("--profile", "sequential", "--scheme", "int4-asym"));
}

Test(python, rounds_as_quantize_does_for_each_of_two_schemes, .timeout = 300)
{
    expect_same(WORDS("--set", "scheme=[int3, int8]"));
}

/* An exception of the author's ends the run with the stage's name and its words; nothing is published. */
Test(python, an_exception_ends_the_run, .timeout = 300)
{
    char setting[1200];
    scratch_text("broken.py", "from quantpipe_stage import stage\n"
                              "@stage(name='broken', summary='raises', provides=['quantized'])\n"
                              "def broken(context, block):\n"
                              "    raise ValueError('a mistake in layer %d' % block.layer)\n"
                              "broken.main()\n");
    snprintf(setting, sizeof setting, "stages.quantize={run: [%s, %s], from: search}", runs_python(),
             scratch("broken.py"));
    run_to(4, "stage `quantize`: ValueError: a mistake in layer 0",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--set", "data.calibration.samples=8", "--set",
                 "data.evaluation.samples=4", "--set", setting));
    cr_expect_not(qp_exists(scratch("out")));
}

/* Stopped in the middle of a computation that asks nobody: within its second, without a kill. */
Test(python, a_long_computation_is_stopped, .timeout = 300)
{
    char setting[1200];
    scratch_text("long.py", "import time, pathlib\nfrom quantpipe_stage import stage\n"
                            "@stage(name='long', summary='sleeps', provides=['quantized'])\n"
                            "def long(context, block):\n"
                            "    pathlib.Path(context.scratch, 'begun').touch()\n"
                            "    time.sleep(600)\n"
                            "long.main()\n");
    snprintf(setting, sizeof setting, "stages.quantize={run: [%s, %s], from: search}", runs_python(),
             scratch("long.py"));
    char begun[600];
    snprintf(begun, sizeof begun, "%s.run/scratch/quantize.0/begun", scratch("out"));
    struct command c =
        command_interrupt(120, 2, begun,
                          WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--set",
                                "data.calibration.samples=8", "--set", "data.evaluation.samples=4", "--set", setting));
    cr_expect_eq(c.code, 130, "%d: %s", c.code, c.errors);
    cr_expect_eq(runs_processes(), 0);
    command_free(&c);
}

/* What `init stage` writes passes its test and runs; an existing folder stays as it is. */
Test(python, a_skeleton_passes_its_test, .timeout = 300)
{
    char line[2048];
    cr_assert_eq(chdir(scratch("")), 0);
    run_well(WORDS(QUANTPIPE, "init", "stage", "my-stage"));
    run_to(3, "my-stage: exists, and stays as it is", WORDS(QUANTPIPE, "init", "stage", "my-stage"));
    run_to(2, "expected c or python", WORDS(QUANTPIPE, "init", "stage", "other", "--language", "cobol"));
    run_to(2, "`8bit` is no name of a stage", WORDS(QUANTPIPE, "init", "stage", "8bit"));
    cr_expect_not(qp_exists(scratch("other")));
    snprintf(line, sizeof line, "cd my-stage && '%s' -m unittest", runs_python());
    run_well(WORDS("sh", "-ec", line));
    snprintf(line, sizeof line, "stages.my-stage={run: [%s, my_stage.py], from: load, with: {limit: 1e6}}",
             runs_python());
    run_well(WORDS(QUANTPIPE, "run", "my-stage/pipeline.yaml", "--model", TINY, "--output", "out", "--set", line));
}

static json_t *run_with(const char *name, const char *first, const char *second)
{
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch(name), "--set", "data.calibration.samples=8",
                   "--set", "data.evaluation.samples=4", "--set", first, "--set", second));
    return report_of(scratch(name));
}

/* In quantize's place; what comes out is a language model still, and no linear was left out. */
Test(python, a_stage_takes_the_place_of_quantize, .timeout = 300)
{
    char setting[1200];
    snprintf(setting, sizeof setting, "stages.quantize={run: [%s, " PACKAGE "/hqq.py], from: search}", runs_python());
    qp_auto_json json_t *report = run_with("out", setting, "scheme=int4");
    runs_expect_network(first_output(report));
    cr_expect_eq(json_array_size(json_object_get(first_output(report), "linears")), 42);
}

/* In calibrate's place: AWQ and GPTQ learn from what it assumes, and no text is read for that. */
Test(python, a_stage_takes_the_place_of_calibration_data, .timeout = 300)
{
    char setting[1200];
    snprintf(setting, sizeof setting, "stages.calibrate={run: [%s, " PACKAGE "/synthetic.py], from: load}",
             runs_python());
    qp_auto_json json_t *report = run_with("out", setting, "data.calibration=null");
    runs_expect_network(first_output(report));
}

/* A tap between quantize and validate: the same output, and a picture a layer. */
Test(python, a_tap_draws_histograms, .timeout = 300)
{
    char setting[1200], path[600];
    snprintf(setting, sizeof setting,
             "stages.histograms={run: [%s, " PACKAGE "/histograms.py], from: quantize, with: {folder: %s}}",
             runs_python(), scratch("pictures"));
    qp_auto_json json_t *with = run_with("with", setting, "stages.validate.from=histograms");
    qp_auto_json json_t *without = run_with("without", "scheme=int4", "stages.validate.from=quantize");
    cr_expect_str_eq(text(first_output(with), "digest"), text(first_output(without), "digest"));
    struct qp_error err;
    qp_auto_free char *picture = NULL;
    size_t size;
    snprintf(path, sizeof path, "%s/layer-5.png", scratch("pictures"));
    cr_assert_eq(qp_read_file(path, 1 << 20, &picture, &size, &err), 0, "%s", err.message);
    cr_expect_eq(memcmp(picture, "\x89PNG\r\n\x1a\n", 8), 0);
    /* 16 codes of INT4, 6 pixels each, and 120 rows */
    cr_expect_eq(memcmp(picture + 16, "\0\0\0\x60\0\0\0\x78\x08\0", 10), 0);
}

/* Ten commands at most, from the package to an own stage in a run. */
Test(python, begins_in_ten_commands, .timeout = 300)
{
    unsetenv("PYTHONPATH");
    setenv("PIP_NO_DEPS", "1", 1);
    setenv("PIP_NO_INDEX", "1", 1);
    setenv("PIP_NO_BUILD_ISOLATION", "0", 1); /* pip's way to say that there is none */
    struct command c = command_run(280, WORDS(PACKAGE "/start.sh", QUANTPIPE, runs_python(), scratch("")));
    cr_expect_eq(c.code, 0, "%s%s", c.output, c.errors);
    cr_expect(strstr(c.output, "nine commands"), "%s", c.output);
    cr_expect(qp_exists(scratch("mine/out/model.safetensors")));
    command_free(&c);
}
