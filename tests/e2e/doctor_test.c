/* What `doctor` finds and measures, and where the measurement shows. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "tests/support/runs.h"

static void make(void)
{
    runs_make();
    setenv("XDG_CACHE_HOME", scratch("cache"), 1);
}

TestSuite(doctor, .init = make, .fini = scratch_drop, .timeout = 300);

static void expect_tells(const char *const *argv, const char *words)
{
    struct command c = command_run(300, argv);
    cr_expect_eq(c.code, 0, "%s", c.errors);
    cr_expect(strstr(c.output, words), "%s", c.output);
    command_free(&c);
}

/* A share is the roofline over the busy seconds. Without a known instruction there is neither. */
static void expect_shares(const json_t *report, bool known)
{
    const json_t *calibrate = stage_of(report, "calibrate"), *share = json_object_get(calibrate, "share_of_roofline");
    double roofline = json_number_value(json_object_get(calibrate, "roofline_seconds"));
    double busy = json_number_value(json_object_get(calibrate, "busy_seconds"));
    cr_expect_eq(json_is_number(share), known);
    cr_expect_eq(roofline > 0, known);
    cr_expect_eq(json_number_value(json_object_get(report, "roofline_seconds")) > 0, known);
    cr_expect_float_eq(json_number_value(share) * busy, roofline, 1e-6 * roofline);
}

Test(doctor, measured_once_seen_everywhere)
{
    const char *output = scratch("out");
    expect_tells(WORDS(QUANTPIPE, "plan", PIPELINE, "--output", output, FEW), "quantpipe doctor --bench");
    qp_auto_json json_t *doctor = answer_of(WORDS(QUANTPIPE, "doctor", "--bench", "--json", "--folder", scratch("")));
    const json_t *measured = json_object_get(doctor, "measured");
    cr_assert_gt(json_number_value(json_object_get(json_object_get(measured, "memory"), "read_bytes_per_second")), 0);
    cr_expect_gt(json_array_size(json_object_get(measured, "kernels")), 5);
    const json_t *fp32 = json_object_get(json_object_get(measured, "peaks"), "fp32");
    bool known = json_is_string(json_object_get(fp32, "instruction"));
    if (known)
        expect_tells(WORDS(QUANTPIPE, "plan", PIPELINE, "--output", output, FEW), "by the measured peaks");
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, QUICK));
    qp_auto_json json_t *report = report_of(output);
    expect_shares(report, known);
}

Test(doctor, looks)
{
    qp_auto_json json_t *doctor = answer_of(WORDS(QUANTPIPE, "doctor", "--json"));
    const json_t *findings = json_object_get(doctor, "findings");
    cr_expect_gt(json_array_size(findings), 8);
    cr_expect(json_is_null(json_object_get(doctor, "measured")));
    expect_tells(WORDS(QUANTPIPE, "doctor", "--folder", scratch("absent")), "is not there");
    expect_tells(WORDS(QUANTPIPE, "doctor"), "never measured");
}
