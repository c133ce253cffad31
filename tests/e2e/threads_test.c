/* Threads of stages: their number does not change what comes out, and the timeline shows them side by side. */
#include <criterion/criterion.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(threads, .init = runs_make, .fini = scratch_drop, .timeout = 300);

static char *digest_with(const char *output, const char *threads)
{
    char calibrate[64], quantize[64];
    snprintf(calibrate, sizeof calibrate, "stages.calibrate.place.threads=%s", threads);
    snprintf(quantize, sizeof quantize, "stages.quantize.place.threads=%s", threads);
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--model", scratch("model"), "--output", output, QUICK, "--set",
                   calibrate, "--set", quantize));
    qp_auto_json json_t *report = report_of(output);
    return strdup(text(first_output(report), "digest"));
}

Test(threads, do_not_change_the_output)
{
    runs_model_of(2);
    qp_auto_free char *one = digest_with(scratch("one"), "1"), *five = digest_with(scratch("five"), "5");
    cr_expect_str_eq(one, five);
}

/* The seconds in which both of two rows of the timeline were at work. */
static double overlap(const json_t *events, const char *one, const char *other)
{
    double sum = 0;
    size_t i, j;
    json_t *a, *b;
    json_int_t rows[2] = {-1, -1};
    json_array_foreach(events, i, a) {
        const char *name = json_string_value(json_object_get(json_object_get(a, "args"), "name"));
        for (int r = 0; r < 2; r++)
            if (name && strcmp(name, r ? other : one) == 0)
                rows[r] = json_integer_value(json_object_get(a, "tid"));
    }
    cr_assert(rows[0] >= 0 && rows[1] >= 0);
    json_array_foreach(events, i, a)
        json_array_foreach(events, j, b) {
            if (!json_object_get(a, "dur") || !json_object_get(b, "dur") || number(a, "tid", NULL) != (double)rows[0] ||
                number(b, "tid", NULL) != (double)rows[1])
                continue;
            double start = number(a, "ts", NULL), begin = number(b, "ts", NULL);
            double end = start + number(a, "dur", NULL), stop = begin + number(b, "dur", NULL);
            start = start > begin ? start : begin;
            end = end < stop ? end : stop;
            sum += end > start ? end - start : 0;
        }
    return sum / 1e6;
}

/* Each of two stages on the way waits in its process callback until the other is in its own: the run ends only when
 * they work side by side, and the timeline has to show that they did. */
Test(threads, stages_work_side_by_side)
{
    struct qp_error err = {0};
    const char *output = scratch("output"), *one = scratch("one"), *other = scratch("other");
    qp_auto_free char *before = qp_format(
        "stages.before={run: " BRAKE ", from: load, with: {unit: 4, then: wait, flag: %s, until: %s}}", one, other);
    qp_auto_free char *after = qp_format(
        "stages.after={run: " BRAKE ", from: calibrate, with: {unit: 3, then: wait, flag: %s, until: %s}}", other, one);
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, QUICK, "--set", "stages.search.with.method=none",
                   "--set", before, "--set", after, "--set", "stages.calibrate.from=before", "--set",
                   "stages.smooth.from=after"));
    qp_auto_json json_t *timeline = NULL;
    qp_auto_free char *path = qp_format("%s.run/timeline.json", output);
    cr_assert_eq(qp_read_json(path, 1 << 24, &timeline, &err), 0, "%s", err.message);
    const json_t *events = json_object_get(timeline, "traceEvents");
    cr_expect_gt(overlap(events, "before", "after"), 0.0);
}
