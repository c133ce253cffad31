/* Whole runs from GGUF files of families (golden/families_gguf.py), which have no tokenizer. */
#include <criterion/criterion.h>

#include "libstage/base/file.h"
#include "libstage/network/checkpoint.h"
#include "tests/support/runs.h"

TestSuite(gguf, .init = runs_make, .fini = scratch_drop);

Test(gguf, a_file_without_a_tokenizer_makes_an_output_without_one, .timeout = 300)
{
    struct qp_error err;
    struct qp_checkpoint *output;
    run_well(WORDS(QUANTPIPE, "run", "--default", "--model", SOURCE_DIR "/tests/unit/golden/gguf/qwen3.gguf",
                   "--output", scratch("out"), "--scheme", "int8"));
    cr_assert_eq(qp_checkpoint_open(scratch("out"), &output, &err), 0, "%s", err.message);
    cr_expect_str_eq(output->arch.model_type, "qwen3");
    cr_expect_not_null(output->scheme);
    cr_expect(!qp_exists(scratch("out/tokenizer.json")) && !qp_exists(scratch("out/tokenizer_config.json")));
    cr_expect(qp_exists(scratch("out/generation_config.json")));
    qp_checkpoint_close(output);
}
