/* Every preset of number formats, in a run on two layers of the embedded model. Stages that pass blocks on are left
 * out: run_test has them. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

#define MEASURED                                                                                     \
    "stages={load: {}, calibrate: {from: load}, quantize: {from: calibrate, with: {method: gptq}}, " \
    "validate: {from: quantize}"
#define RUN(model, output, name, stages) \
    QUANTPIPE, "run", PIPELINE, "--model", model, "--output", output, "--scheme", name, QUICK, "--set", stages

TestSuite(presets, .init = scratch_make, .fini = scratch_drop, .timeout = 900);

static json_t *list(void)
{
    qp_auto_json json_t *answer = answer_of(WORDS(QUANTPIPE, "schemes", "--json"));
    return json_incref(json_object_get(answer, "schemes"));
}

/* The pipeline up to validate, for formats that the checkpoint's layout does not have. */
static void run_without_export(const char *model, const char *output, const char *name)
{
    run_to(3, "compressed-tensors has no ", WORDS(RUN(model, output, name, MEASURED ", export: {from: validate}}")));
    run_well(WORDS(RUN(model, output, name, MEASURED "}")));
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
    qp_auto_free char *model = strdup(runs_model_of(2));
    cr_assert_geq(json_array_size(presets), 36);
    json_array_foreach(presets, i, preset) {
        const char *name = text(preset, "name"), *output = scratch(name);
        if (has_layout(name))
            run_well(WORDS(RUN(model, output, name, MEASURED ", export: {from: validate}}")));
        else
            run_without_export(model, output, name);
        expect_output(output, preset);
    }
}
