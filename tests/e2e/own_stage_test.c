/* The example of a stage of one's own, in a run. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/command.h"
#include "tests/support/scratch.h"

#define QUANTPIPE BUILD_DIR "/bin/quantpipe"
#define OUTLIERS "stages.outliers={run: " BUILD_DIR "/examples/outliers, from: load, with: {limit: 20}}"

TestSuite(own_stage, .init = scratch_make, .fini = scratch_drop);

static json_t *run(const char *pipeline, const char *output, const char *setting)
{
    struct qp_error err;
    char path[512];
    json_t *report = NULL;
    struct command c =
        command_run(300, WORDS(QUANTPIPE, "run", pipeline, "--output", output, "--set", "data.calibration.samples=8",
                               "--set", "data.evaluation.samples=4", "--set", setting));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    command_free(&c);
    snprintf(path, sizeof path, "%s.run/report.json", output);
    cr_assert_eq(qp_read_json(path, 1 << 24, &report, &err), 0, "%s", err.message);
    return report;
}

static const char *digest(const json_t *report)
{
    return json_string_value(json_object_get(json_array_get(json_object_get(report, "outputs"), 0), "digest"));
}

Test(own_stage, warns_and_changes_nothing, .timeout = 300)
{
    qp_auto_json json_t *with = run(SOURCE_DIR "/examples/stage/pipeline.yaml", scratch("with"), OUTLIERS);
    qp_auto_json json_t *without = run(SOURCE_DIR "/pipeline.yaml", scratch("without"), "scheme=int4");
    cr_expect_eq(json_array_size(json_object_get(with, "stages")), 8);
    cr_expect_str_eq(digest(with), digest(without));
    const json_t *warnings = json_object_get(with, "warnings");
    size_t i;
    json_t *warning;
    /* Of the embedded model's 42 linears, those with max |w| above 20 rms, as torch finds them. */
    cr_expect_eq(json_array_size(warnings), 4);
    json_array_foreach(warnings, i, warning) {
        cr_expect_str_eq(json_string_value(json_object_get(warning, "code")), "outliers");
        cr_expect(strstr(json_string_value(json_object_get(warning, "where")), "model.layers."));
    }
}
