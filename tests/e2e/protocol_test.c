/* A stage that is written from libstage/wire/PROTOCOL.md alone: the tap in its appendix, taken from the page. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(protocol, .init = runs_make, .fini = scratch_drop);

/* Writes the page's block of Python to tap.py, and returns a setting that puts it before an instance. */
static const char *make_tap(char *setting, size_t size)
{
    struct qp_error err = {0};
    qp_auto_free char *page = NULL;
    size_t bytes;
    cr_assert_eq(qp_read_file(SOURCE_DIR "/libstage/wire/PROTOCOL.md", 1 << 20, &page, &bytes, &err), 0, "%s",
                 err.message);
    char *begin = strstr(page, "```python\n");
    cr_assert_not_null(begin);
    begin += strlen("```python\n");
    char *end = strstr(begin, "```\n");
    cr_assert_not_null(end);
    *end = '\0';
    scratch_text("tap.py", begin);
    snprintf(setting, size, "{run: [%s, %s], from: load}", runs_python(), scratch("tap.py"));
    return setting;
}

static json_t *run(const char *output, const char *tap)
{
    char setting[1200];
    snprintf(setting, sizeof setting, "stages.tap=%s", tap ? tap : "");
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--set", "data.calibration.samples=8", "--set",
                   "data.evaluation.samples=4", "--set", tap ? setting : "scheme=int4", "--set",
                   tap ? "stages.calibrate.from=tap" : "scheme=int4"));
    return report_of(output);
}

Test(protocol, its_tap_passes_every_unit_on, .timeout = 600)
{
    char tap[1100], path[600];
    qp_auto_json json_t *with = run(scratch("with"), make_tap(tap, sizeof tap));
    qp_auto_json json_t *without = run(scratch("without"), NULL);
    cr_expect_str_eq(text(first_output(with), "digest"), text(first_output(without), "digest"));
    snprintf(path, sizeof path, "%s.run/logs/tap.0.log", scratch("with"));
    struct qp_error err = {0};
    qp_auto_free char *log = NULL;
    size_t bytes;
    cr_assert_eq(qp_read_file(path, 1 << 20, &log, &bytes, &err), 0, "%s", err.message);
    cr_expect(strncmp(log, "model 0 0 0\nblock 1 1 262144\n", 28) == 0, "%s", log);
    cr_expect(strstr(log, "\nend 9 0 0\n"), "%s", log);
}
