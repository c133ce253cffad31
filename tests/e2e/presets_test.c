/* Every preset of number formats, in a run on the embedded model. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

#define RUN(output, name)                                                                            \
    QUANTPIPE, "run", PIPELINE, "--output", output, "--progress", "none", "--scheme", name, "--set", \
        "data.calibration={text: " TINY "/train.txt, samples: 4, length: 128}", "--set",             \
        "data.evaluation={text: " TINY "/test.txt, samples: 1, length: 512}", "--set",               \
        "stages.search.with.method=none"

TestSuite(presets, .init = scratch_make, .fini = scratch_drop, .timeout = 900);

static json_t *list(void)
{
    struct command c = command_run(60, WORDS(QUANTPIPE, "schemes", "--json"));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    qp_auto_json json_t *answer = json_loads(c.output, 0, NULL);
    command_free(&c);
    return json_incref(json_object_get(answer, "schemes"));
}

/* The pipeline up to validate, for formats that the checkpoint's layout does not have. */
static void run_without_export(const char *output, const char *name)
{
    run_to(3, "compressed-tensors has no ", WORDS(RUN(output, name)));
    run_well(WORDS(RUN(output, name), "--set",
                   "stages={load: {}, calibrate: {from: load}, quantize: {from: calibrate, with: {method: gptq}}, "
                   "validate: {from: quantize}}"));
}

static bool has_layout(const char *name)
{
    static const char *const without[] = {"mxfp6", "mxint8", "nvfp4-fp8", "nvfp4-mlp-weight-only"};
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
        if (strcmp(name, without[i]) == 0)
            return false;
    return true;
}

/* Formats that quantize the inputs as well round them, so that only those of weights alone are measured again to the
 * last places. */
static void expect_output(const char *output, const json_t *preset)
{
    const char *name = text(preset, "name");
    qp_auto_json json_t *report = report_of(output);
    const json_t *made = first_output(report);
    cr_expect_str_eq(text(report, "status"), "done");
    cr_expect_str_eq(text(made, "scheme"), name);
    double said = number(made, "perplexity", "quantized");
    cr_expect(isfinite(said) && said > 1, "%s: %g", name, said);
    cr_expect_eq(qp_exists(output), has_layout(name), "%s", name);
    const json_t *mapping = json_object_get(preset, "mapping");
    if (!has_layout(name) || json_object_get(mapping, "activations") || json_object_get(mapping, "rules"))
        return;
    double perplexity = runs_perplexity(output, "1");
    cr_expect_float_eq(perplexity / said, 1, 1e-3, "%s: evaluate says %g, validate said %g", name, perplexity, said);
}

Test(presets, each_runs_and_is_measured)
{
    size_t i;
    json_t *preset;
    qp_auto_json json_t *presets = list();
    cr_assert_geq(json_array_size(presets), 36);
    json_array_foreach(presets, i, preset) {
        const char *name = text(preset, "name"), *output = scratch(name);
        if (has_layout(name))
            run_well(WORDS(RUN(output, name)));
        else
            run_without_export(output, name);
        expect_output(output, preset);
    }
}
