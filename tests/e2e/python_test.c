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

static void use_package(void)
{
    runs_make();
    setenv("PYTHONPATH", PACKAGE, 1);
    setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
}

TestSuite(python, .init = use_package, .fini = scratch_drop);

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
