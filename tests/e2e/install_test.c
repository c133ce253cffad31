/* What `make install` puts somewhere: it runs from there without a pipeline, and stages are built against it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

/* A blank in the path, and none of this tree's folders above it. */
#define PREFIX "a b/prefix"

static void install(void)
{
    runs_make();
    unsetenv("DESTDIR");
    run_well(WORDS(CMAKE, "--install", BUILD_DIR, "--prefix", scratch(PREFIX)));
    cr_assert_eq(chdir(scratch("")), 0);
}

TestSuite(install, .init = install, .fini = scratch_drop);

/* Runs a line of sh in the scratch folder, with $PREFIX the folder of the installation. */
static struct command shell(const char *line)
{
    setenv("PREFIX", scratch(PREFIX), 1);
    return command_run(300, WORDS("sh", "-ec", line));
}

static void shell_well(const char *line)
{
    struct command c = shell(line);
    cr_assert_eq(c.code, 0, "%s: %d\n%s%s", line, c.code, c.output, c.errors);
    command_free(&c);
}

Test(install, runs_in_a_folder_without_a_pipeline, .timeout = 300)
{
    shell_well("\"$PREFIX/bin/quantpipe\" run --model " TINY " --output out --calibration " TINY
               "/train.txt --evaluation " TINY "/test.txt --set data.calibration.samples=8 "
               "--set data.evaluation.samples=4");
    qp_auto_json json_t *report = report_of(scratch("out"));
    cr_expect_str_eq(text(report, "status"), "done");
    cr_expect_gt(number(first_output(report), "perplexity", "quantized"), 1);
}

Test(install, finds_its_stages_through_a_link, .timeout = 300)
{
    shell_well("mkdir links; ln -s \"$PREFIX/bin/quantpipe\" links/qp; links/qp stages quantize | grep -q damping");
}

Test(install, goes_to_a_staging_folder, .timeout = 300)
{
    shell_well("DESTDIR=\"$PWD/stage here\" " CMAKE " --install " BUILD_DIR " --prefix /opt/quantpipe");
    shell_well("\"stage here/opt/quantpipe/bin/quantpipe\" run --model " TINY " --output out --progress none");
    cr_expect(qp_exists(scratch("out/model.safetensors")));
}

/* Each header that is installed holds all that it needs. */
Test(install, headers_stand_alone, .timeout = 300)
{
    shell_well("export PKG_CONFIG_PATH=\"$PREFIX/lib/pkgconfig\"; cd \"$PREFIX/include/quantpipe\"; "
               "find . -name '*.h' | sed 's|^./\\(.*\\)|#include \"\\1\"|' > ../all.c; [ $(wc -l < ../all.c) -gt 20 ]; "
               "eval " C_COMPILER " -std=c11 -D_GNU_SOURCE -Wall -Werror -fsyntax-only ../all.c "
               "$(pkg-config --cflags quantpipe-stage)");
}

/* The example of a stage of one's own, built by its own CMakeLists.txt and by one command, in a run of the installed
 * program. Nothing of the source tree is used but the example. */
Test(install, stages_are_built_against_it, .timeout = 300)
{
    shell_well("cp -r " SOURCE_DIR "/examples/stage example");
    shell_well("export PKG_CONFIG_PATH=\"$PREFIX/lib/pkgconfig\"; " CMAKE " -S example -B built -G Ninja "
               "-DCMAKE_C_COMPILER=" C_COMPILER " -DCMAKE_C_FLAGS=" SANITIZE "; " CMAKE " --build built");
    shell_well("export PKG_CONFIG_PATH=\"$PREFIX/lib/pkgconfig\"; eval " C_COMPILER " " SANITIZE " example/outliers.c "
               "$(pkg-config --cflags --libs quantpipe-stage) -o outliers");
    shell_well("./outliers --describe > 1; built/outliers --describe > 2; cmp 1 2");
    shell_well("\"$PREFIX/bin/quantpipe\" run example/pipeline.yaml --model " TINY " --output out --calibration " TINY
               "/train.txt --evaluation " TINY "/test.txt --set data.calibration.samples=8 "
               "--set data.evaluation.samples=4 --set stages.outliers.run=./outliers --progress none");
    qp_auto_json json_t *report = report_of(scratch("out"));
    cr_expect_eq(json_array_size(json_object_get(report, "stages")), 8);
    cr_expect_eq(json_array_size(json_object_get(report, "warnings")), 4, "those of own_stage_test.c");
}

/* What `init stage` writes for C is built by its Makefile, and its test passes. */
Test(install, a_skeleton_in_c_passes_its_test, .timeout = 300)
{
    shell_well("\"$PREFIX/bin/quantpipe\" init stage my-stage --language c | grep -q 'my-stage/my_stage_test.c'");
    shell_well("export PKG_CONFIG_PATH=\"$PREFIX/lib/pkgconfig\"; cd my-stage; "
               "make CC='" C_COMPILER "' CFLAGS='-Wall -Wextra -Werror " SANITIZE
               "' test | grep -q 'my-stage: passed'");
    shell_well("\"$PREFIX/bin/quantpipe\" run my-stage/pipeline.yaml --model " TINY " --output out --progress none "
               "--set stages.my-stage.with.limit=1e6 --set stages.my-stage.run=my-stage/my-stage");
}
