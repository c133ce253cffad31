/* Libraries that cannot be used: a sentence that names the file, an exit code, and never a signal. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/libraries.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(library, .init = runs_make, .fini = scratch_drop, .timeout = 300);

/* Puts a file of a library's name where it is found first: one without functions, or one without anything. */
static const char *hide(enum qp_library library, bool empty_file)
{
    struct qp_error err;
    static char path[512];
    cr_assert_eq(qp_make_folders(scratch("lib"), &err), 0, "%s", err.message);
    snprintf(path, sizeof path, "%s/%s", scratch("lib"), qp_library_file(library));
    if (empty_file)
        scratch_write(path + strlen(scratch("")) + (scratch("")[strlen(scratch("")) - 1] != '/'), "", 0);
    else
        cr_assert_eq(symlink(BUILD_DIR "/tests/libempty_library.so", path), 0);
    setenv("LD_LIBRARY_PATH", scratch("lib"), 1);
    return path;
}

static void expect_words(const char *text, const char *name, const char *file, const char *what)
{
    cr_expect(strstr(text, name), "%s", text);
    cr_expect(strstr(text, file), "expected %s in %s", file, text);
    cr_expect(strstr(text, what), "expected %s in %s", what, text);
}

/* All commands that compute. */
static void expect_refusals(enum qp_library library, bool empty_file)
{
    const char *file = hide(library, empty_file), *what = empty_file ? "file too short" : "it has no function ";
    const char *output = scratch("out");
    const char *const commands[][16] = {{QUANTPIPE, "doctor"},
                                        {QUANTPIPE, "check", PIPELINE, "--output", output},
                                        {QUANTPIPE, "run", PIPELINE, "--output", output, QUICK, "--set",
                                         "stages.quantize.with.low_rank=4"}}; /* which OpenBLAS is for */
    for (size_t c = 0; c < 3; c++) {
        struct command ran = command_run(120, commands[c]);
        cr_expect_eq(ran.code, 4, "%s: %d\n%s", commands[c][1], ran.code, ran.errors);
        expect_words(ran.errors, qp_library_name(library), file, what);
        command_free(&ran);
    }
    cr_expect_not(qp_exists(output));
}

Test(library, onednn_without_functions)
{
    expect_refusals(QP_ONEDNN, false);
}

Test(library, openblas_without_functions)
{
    expect_refusals(QP_OPENBLAS, false);
}

Test(library, onednn_as_an_empty_file)
{
    expect_refusals(QP_ONEDNN, true);
}

Test(library, openblas_as_an_empty_file)
{
    expect_refusals(QP_OPENBLAS, true);
}

/* Programs get the finding and the exit code. */
Test(library, doctor_as_json)
{
    hide(QP_ONEDNN, false);
    struct command ran = command_run(60, WORDS(QUANTPIPE, "doctor", "--json"));
    json_t *answer = json_loads(ran.output, 0, NULL), *finding;
    size_t i, found = 0;
    cr_expect_eq(ran.code, 4);
    cr_assert_not_null(answer, "%s", ran.output);
    json_array_foreach(json_object_get(answer, "findings"), i, finding)
        found += strcmp(text(finding, "name"), "oneDNN") == 0 && strcmp(text(finding, "status"), "problem") == 0;
    cr_expect_eq(found, 1);
    json_decref(answer);
    command_free(&ran);
}

/* What does not compute needs neither. */
Test(library, rounding_to_nearest_goes_without)
{
    hide(QP_ONEDNN, false);
    hide(QP_OPENBLAS, false);
    run_well(WORDS(QUANTPIPE, "schemes"));
    run_well(WORDS(QUANTPIPE, "inspect", TINY));
}

/* A core that the user named stays, and doctor says what it costs. */
Test(library, doctor_tells_of_an_old_core)
{
    setenv("OPENBLAS_CORETYPE", "Prescott", 1);
    struct command ran = command_run(60, WORDS(QUANTPIPE, "doctor"));
    bool better = qp_blas_better_core() != NULL;
    cr_expect_eq(ran.code, 0, "%s", ran.errors);
    cr_expect_eq(strstr(ran.output, "core of OpenBLAS") != NULL, better, "%s", ran.output);
    cr_expect_eq(strstr(ran.output, "unset OPENBLAS_CORETYPE") != NULL, better, "%s", ran.output);
    command_free(&ran);
}
