/* The example of a stage of one's own, in a run. */
#include <criterion/criterion.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "tests/support/runs.h"

#define OUTLIERS "stages.outliers={run: " BUILD_DIR "/examples/outliers, from: load, with: {limit: 20}}"

TestSuite(own_stage, .init = scratch_make, .fini = scratch_drop);

static json_t *run(const char *pipeline, const char *output, const char *setting)
{
    run_well(WORDS(QUANTPIPE, "run", pipeline, "--output", output, FEW, "--set", "stages.search.with.method=none",
                   "--set", setting));
    return report_of(output);
}

Test(own_stage, warns_and_changes_nothing, .timeout = 300)
{
    qp_auto_json json_t *with = run(SOURCE_DIR "/examples/stage/pipeline.yaml", scratch("with"), OUTLIERS);
    qp_auto_json json_t *without = run(PIPELINE, scratch("without"), "scheme=int4");
    cr_expect_eq(json_array_size(json_object_get(with, "stages")), 8);
    cr_expect_str_eq(text(first_output(with), "digest"), text(first_output(without), "digest"));
    const json_t *warnings = json_object_get(with, "warnings");
    size_t i;
    json_t *warning;
    /* Of the embedded model's 42 linears, those with max |w| above 20 rms, as torch finds them. */
    cr_expect_eq(json_array_size(warnings), 4);
    json_array_foreach(warnings, i, warning) {
        cr_expect_str_eq(text(warning, "code"), "outliers");
        cr_expect(strstr(text(warning, "where"), "model.layers."));
    }
}
