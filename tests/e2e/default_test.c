/* Runs without a pipeline: what the default does with the texts that are there, `init`, and what is refused. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

static void enter(void)
{
    runs_make();
    cr_assert_eq(chdir(scratch("")), 0);
}

TestSuite(default_pipeline, .init = enter, .fini = scratch_drop);

/* `with.KEY` of a stage in the pipeline as it ran; NULL where the stage or the key is not there. Borrowed until the
 * next call. */
static const char *ran_with(const char *stage, const char *key)
{
    static json_t *resolved;
    struct qp_error err;
    json_decref(resolved);
    cr_assert_eq(qp_read_json(scratch("out.run/pipeline.json"), 1 << 20, &resolved, &err), 0, "%s", err.message);
    return json_string_value(
        json_object_get(json_object_get(json_object_get(json_object_get(resolved, "stages"), stage), "with"), key));
}

Test(default_pipeline, without_texts_nothing_is_learned_and_nothing_validated, .timeout = 300)
{
    run_well(WORDS(QUANTPIPE, "run", "--model", TINY, "--output", "out"));
    qp_auto_json json_t *report = report_of("out");
    cr_expect_eq(json_array_size(json_object_get(report, "stages")), 6, "all but validate");
    cr_expect_str_eq(ran_with("quantize", "method"), "rtn");
    cr_expect_str_eq(ran_with("search", "method"), "none");
    cr_expect_str_eq(ran_with("smooth", "method"), "none");
    cr_expect(qp_exists("out/model.safetensors"));
}

Test(default_pipeline, with_texts_it_is_the_whole_one, .timeout = 300)
{
    scratch_text("evaluation.txt", "The month after May is June. Then comes July, and after it comes August.\n");
    run_well(WORDS(QUANTPIPE, "run", "--model", TINY, "--output", "out", "--scheme", "int3", "--calibration",
                   TINY "/train.txt", "--set", "data.calibration.samples=8", "--evaluation", "evaluation.txt", "--set",
                   "data.evaluation.length=8"));
    qp_auto_json json_t *report = report_of("out");
    cr_expect_eq(json_array_size(json_object_get(report, "stages")), 7);
    cr_expect_str_eq(text(first_output(report), "scheme"), "int3");
    cr_expect_gt(number(first_output(report), "perplexity", "quantized"), 1, "a text of the working directory");
    cr_expect_str_eq(ran_with("quantize", "method"), "gptq");
    cr_expect_str_eq(ran_with("search", "method"), "awq");
}

Test(default_pipeline, an_option_wins_over_what_is_missing)
{
    run_well(WORDS(QUANTPIPE, "check", "--model", TINY, "--output", "out", "--set", "stages.quantize.with.method=gptq",
                   "--set", "data.calibration.text=" TINY "/train.txt"));
    run_to(3, "data.calibration",
           WORDS(QUANTPIPE, "check", "--model", TINY, "--output", "out", "--set", "stages.quantize.with.method=gptq"));
    run_to(3, "or --calibration FILE",
           WORDS(QUANTPIPE, "check", "--model", TINY, "--output", "out", "--scheme", "int8-static"));
    run_to(3, "none.txt", WORDS(QUANTPIPE, "check", "--model", TINY, "--output", "out", "--calibration", "none.txt"));
}

Test(default_pipeline, needs_a_model_and_an_output)
{
    run_to(2, "--model and --output are missing", WORDS(QUANTPIPE, "run"));
    run_to(2, "--model is missing", WORDS(QUANTPIPE, "plan", "--output", "out"));
    run_to(2, "--output is missing", WORDS(QUANTPIPE, "check", "--set", "model=" TINY));
    run_to(2, "keep one of them", WORDS(QUANTPIPE, "check", PIPELINE, "--default"));
}

/* A pipeline.yaml in the working directory is what `run` means, whatever else is given; --default passes it by. */
Test(default_pipeline, a_file_here_comes_first)
{
    scratch_text("pipeline.yaml", "quantpipe: 1\nscheme: int4\nstages: {nothing: {}}\n");
    run_to(3, "pipeline.yaml:3:19: there is no built-in stage `nothing`",
           WORDS(QUANTPIPE, "check", "--model", TINY, "--output", "out"));
    run_well(WORDS(QUANTPIPE, "check", "--model", TINY, "--output", "out", "--default"));
}

/* --calibration and --evaluation are options of any pipeline, and take the place of what it names. */
Test(default_pipeline, texts_are_options_of_every_pipeline)
{
    scratch_text("random.yaml", "quantpipe: 1\nmodel: " TINY "\noutput: out\nscheme: int4\n"
                                "data: {calibration: {synthetic: true, samples: 4, length: 32}}\n"
                                "stages: {load: {}, calibrate: {from: load}, quantize: {from: calibrate, with: "
                                "{method: gptq}}, export: {from: quantize}}\n");
    run_well(WORDS(QUANTPIPE, "run", "random.yaml", "--calibration", TINY "/train.txt"));
    run_to(3, "--calibration none.txt: data.calibration.text",
           WORDS(QUANTPIPE, "check", "random.yaml", "--output", "other", "--calibration", "none.txt"));
}

Test(default_pipeline, init_writes_it_once)
{
    run_well(WORDS(QUANTPIPE, "init"));
    run_to(3, "pipeline.yaml: exists", WORDS(QUANTPIPE, "init"));
    run_well(WORDS(QUANTPIPE, "init", "other.yaml"));
    run_to(3, "none/other.yaml: cannot be made", WORDS(QUANTPIPE, "init", "none/other.yaml"));
    size_t size;
    qp_auto_free char *written = scratch_read("pipeline.yaml", &size);
    qp_auto_free char *other = scratch_read("other.yaml", &size), *source = scratch_read(PIPELINE, &size);
    cr_expect_str_eq(written, other);
    cr_expect_not(strstr(written, "examples/"), "no path of the source tree");
    cr_expect_str_eq(strstr(written, "stages:"), strstr(source, "stages:"), "the same as the source tree's");
    run_well(WORDS(QUANTPIPE, "check", "--model", TINY, "--output", "out", "--calibration", TINY "/train.txt",
                   "--evaluation", TINY "/test.txt"));
}

/* A file that is there is never touched, whatever it is. */
Test(default_pipeline, init_overwrites_nothing)
{
    scratch_text("mine", "mine");
    cr_assert_eq(symlink("nowhere", "dangling"), 0);
    run_to(3, "mine: exists", WORDS(QUANTPIPE, "init", "mine"));
    run_to(3, "dangling: exists", WORDS(QUANTPIPE, "init", "dangling"));
    cr_expect_not(qp_exists("nowhere"));
    size_t size;
    qp_auto_free char *left = scratch_read("mine", &size);
    cr_expect_str_eq(left, "mine");
}

Test(default_pipeline, evaluate_takes_its_text_by_two_names)
{
    struct command by_text = command_run(60, WORDS(QUANTPIPE, "evaluate", TINY, "--text", TINY "/test.txt", "--samples",
                                                   "2", "--length", "64", "--json"));
    struct command by_data = command_run(60, WORDS(QUANTPIPE, "evaluate", TINY, "--data", TINY "/test.txt", "--samples",
                                                   "2", "--length", "64", "--json"));
    cr_expect_eq(by_text.code, 0, "%s", by_text.errors);
    cr_expect_str_eq(by_text.output, by_data.output);
    command_free(&by_text);
    command_free(&by_data);
    run_to(2, "--text is missing", WORDS(QUANTPIPE, "evaluate", TINY));
    run_to(2, "keep one of them", WORDS(QUANTPIPE, "evaluate", TINY, "--text", "a", "--data", "b"));
}
