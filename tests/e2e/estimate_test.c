/* Plans with stages of a user's own: what they answer to --estimate, and what becomes of one that does not. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(estimate, .init = runs_make, .fini = scratch_drop, .timeout = 300);

/* A stage in a shell's language after `load`: its descriptor has `more` besides name and ports, and --estimate does
 * `body`. */
static const char *foreign(const char *more, const char *body)
{
    char script[2048];
    snprintf(
        script, sizeof script,
        "#!/bin/sh\ncase $1 in\n"
        "--describe) echo '{\"quantpipe\": 1, \"protocol\": 1, \"version\": 1, \"params\": [], \"name\": \"mine\", "
        "\"inputs\": [{\"name\": \"in\"}], "
        "\"outputs\": [{\"name\": \"out\"}]%s}';;\n"
        "--estimate) %s;;\n*) exit 2;;\nesac\n",
        more, body);
    const char *path = scratch_text("mine", script);
    cr_assert_eq(chmod(path, 0700), 0);
    return path;
}

static struct command plan_with(const char *stage)
{
    qp_auto_free char *set = qp_format("stages.mine={run: %s, from: load}", stage);
    return command_run(300, WORDS(QUANTPIPE, "plan", PIPELINE, "--output", scratch("out"), "--json", "--set", set,
                                  "--set", "stages.calibrate.from=mine", "--set", "data.calibration.samples=8", "--set",
                                  "data.evaluation.samples=2"));
}

/* The stage `mine` of a plan, which is kept in *plan. */
static const json_t *mine_of(const char *stage, json_t **plan)
{
    size_t i;
    json_t *item;
    struct command c = plan_with(stage);
    cr_assert_eq(c.code, 0, "%s%s", c.output, c.errors);
    *plan = json_loads(c.output, 0, NULL);
    command_free(&c);
    json_array_foreach(json_object_get(*plan, "stages"), i, item)
        if (strcmp(text(item, "name"), "mine") == 0)
            return item;
    cr_assert_fail("no stage `mine`");
    return NULL;
}

#define ANSWER                                                                                            \
    "{\"quantpipe\": 1, \"work\": {\"operations\": {\"gemm\": 12345}, \"bytes_read\": 678}, \"memory\": " \
    "{\"fixed_bytes\": 1e6, \"block_bytes\": 2e6, \"emitted_bytes\": 0}, \"provides\": [\"steps\"]}"

/* It keeps the question; what it provides doubles and more the forwards of calibrate, a layer having four sites. */
Test(estimate, of_a_foreign_stage)
{
    qp_auto_free char *body = qp_format("cat > %s; echo '" ANSWER "'", scratch("question"));
    qp_auto_json json_t *plan = NULL, *plain = NULL;
    const json_t *mine = mine_of(foreign(", \"estimates\": true", body), &plan);
    cr_expect_eq(number(json_object_get(mine, "work"), "operations", "gemm"), 12345);
    cr_expect_eq(number(mine, "work", "bytes_read"), 678);
    qp_auto_json json_t *question = json_load_file(scratch("question"), 0, NULL);
    cr_assert(question);
    cr_expect_str_eq(text(json_object_get(question, "model"), "path"), TINY);
    cr_expect(json_is_object(json_object_get(json_object_get(question, "model"), "config")));
    cr_expect(json_is_null(json_object_get(question, "text")), "it reads none");
    cr_expect(json_is_array(json_object_get(question, "upstream")));
    mine_of(foreign("", "exit 1"), &plain);
    const json_t *with = json_array_get(json_object_get(plan, "stages"), 2);
    const json_t *without = json_array_get(json_object_get(plain, "stages"), 2);
    cr_assert_str_eq(text(with, "name"), "calibrate");
    cr_expect_gt(number(json_object_get(with, "work"), "bytes_read", NULL),
                 2 * number(json_object_get(without, "work"), "bytes_read", NULL));
}

/* One that knows no estimates is not asked, and no less welcome. */
Test(estimate, of_a_stage_without_one_is_unknown)
{
    qp_auto_json json_t *plan = NULL;
    qp_auto_free char *body = qp_format("touch %s; exit 1", scratch("asked"));
    const json_t *mine = mine_of(foreign("", body), &plan);
    cr_expect(json_is_null(json_object_get(mine, "work")));
    struct stat st;
    cr_expect_lt(stat(scratch("asked"), &st), 0);
}

/* Null for what it does not know; odd values count for nothing. */
Test(estimate, in_part)
{
    qp_auto_json json_t *plan = NULL;
    const json_t *mine = mine_of(foreign(", \"estimates\": true",
                                         "echo '{\"quantpipe\": 1, \"work\": null, \"memory\": {\"fixed_bytes\": -1}, "
                                         "\"provides\": [5]}'"),
                                 &plan);
    cr_expect(json_is_null(json_object_get(mine, "work")));
}

/* Who says that it estimates and does not is told of. */
Test(estimate, that_fails_is_told_of)
{
    static const struct {
        const char *body, *message;
    } rows[] = {
        {"echo no such model >&2; exit 3", "stage `mine`: --estimate: ended with exit code 3; it said: no such"},
        {"echo '[1]'", "stage `mine`: --estimate: expected a JSON object"}};
    for (size_t i = 0; i < 2; i++) {
        struct command c = plan_with(foreign(", \"estimates\": true", rows[i].body));
        cr_expect_eq(c.code, 4, "%s%s", c.output, c.errors);
        cr_expect(strstr(c.output, rows[i].message), "%s%s", c.output, c.errors);
        command_free(&c);
    }
    struct command c = plan_with(foreign(", \"estimates\": 1", "exit 1"));
    cr_expect_eq(c.code, 3);
    cr_expect(strstr(c.output, "descriptor.estimates: found 1, expected boolean"), "%s%s", c.output, c.errors);
    command_free(&c);
}
