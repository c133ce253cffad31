/* Stages in-process: order of calls, what they get and give, and how they describe themselves. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/include/stage.h"

struct state {
    int64_t fail_at, seen;
    const char *method;
};

static int opened, closed;
static const char *const methods[] = {"rtn", "gptq", NULL};
static const char *const needs_weights[] = {"weights", NULL};
static const char *const provides[] = {"quantized", "anything", NULL};
static const char *const collects[] = {"hessian", NULL};
static const struct qp_param params[] = {
    {"fail_at", QP_PARAM_INT, NULL, 0, 0, NULL, "seq to fail at", offsetof(struct state, fail_at), NULL},
    {"method", QP_PARAM_STRING, "rtn", 0, 0, methods, "how", offsetof(struct state, method), NULL},
    {.name = NULL},
};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs_weights, .help = "blocks"}, {.name = NULL}};
static const struct qp_port outputs[] = {
    {.name = "out", .provides = provides, .help = "the same blocks", .optional = true}, {.name = NULL}};
static const struct qp_need needs[] = {{.what = "hessian", .param = "method", .value = "gptq"}, {.what = NULL}};

static int open_stage(struct qp_stage *stage, void *state, struct qp_error *err)
{
    (void)stage;
    (void)err;
    cr_expect_eq(((struct state *)state)->seen, 0, "the state is not zeroed");
    opened++;
    return 0;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    int r = unit->seq == s->fail_at ? qp_fail(err, QP_ERR_INPUT, "no") : 0;
    s->seen++;
    qp_stage_report(stage, "metrics", json_pack("[I]", (json_int_t)unit->seq));
    qp_stage_report(stage, "model", json_integer(s->seen));
    if (qp_stage_wants(stage, "hessian"))
        qp_stage_warn(stage, "wanted", "here", "%s is wanted", "hessian");
    return qp_stage_pass(stage, unit, r, err);
}

static void close_stage(struct qp_stage *stage, void *state)
{
    (void)stage;
    (void)state;
    closed++;
}

static const struct qp_stage_desc desc = {.name = "example",
                                          .summary = "An example.",
                                          .version = 3,
                                          .state_size = sizeof(struct state),
                                          .params = params,
                                          .inputs = inputs,
                                          .outputs = outputs,
                                          .needs = needs,
                                          .collects = collects,
                                          .data = "calibration",
                                          .data_optional = true,
                                          .stateful = true,
                                          .open = open_stage,
                                          .process = process,
                                          .close = close_stage};

static int call(json_t *params_taken, const char *const *wants, size_t count, struct qp_unit ***out, size_t *out_count,
                json_t **report, struct qp_error *err)
{
    struct qp_unit *units[8];
    for (size_t i = 0; i < count; i++)
        cr_assert_eq(qp_unit_new(QP_UNIT_BLOCK, (int64_t)i, &units[i], err), 0);
    qp_auto_json json_t *values = params_taken;
    return qp_stage_call(&desc, &(struct qp_call){.params = values, .wants = wants, .units = units, .count = count},
                         out, out_count, report, err);
}

Test(stage_call, units_go_through_in_order)
{
    static const char *const wants[] = {"hessian", NULL};
    struct qp_error err = {0};
    struct qp_unit **out;
    size_t count;
    qp_auto_json json_t *report = NULL;
    cr_assert_eq(call(NULL, wants, 4, &out, &count, &report, &err), 0, "%s", err.message);
    cr_assert_eq(count, 4);
    for (size_t i = 0; i < count; i++) {
        cr_expect_eq(out[i]->seq, (int64_t)i);
        qp_unit_free(out[i]);
    }
    free(out);
    cr_expect_eq(opened, 1);
    cr_expect_eq(closed, 1);
    qp_auto_json json_t *metrics = json_pack("[i, i, i, i]", 0, 1, 2, 3);
    cr_expect(json_equal(json_object_get(report, "metrics"), metrics), "arrays are appended");
    cr_expect_eq(json_integer_value(json_object_get(report, "model")), 4, "values are replaced");
    cr_expect_eq(json_array_size(json_object_get(report, "warnings")), 4);
}

Test(stage_call, a_failure_closes_and_frees)
{
    struct qp_error err = {0};
    struct qp_unit **out;
    size_t count;
    cr_expect_eq(call(json_pack("{s:i}", "fail_at", 2), NULL, 4, &out, &count, NULL, &err), QP_ERR_INPUT);
    cr_expect_str_eq(err.message, "no");
    cr_expect_eq(closed, 1);
}

Test(stage_call, bad_parameters_open_nothing)
{
    struct qp_error err = {0};
    struct qp_unit **out;
    size_t count;
    cr_expect_eq(call(json_pack("{s:i}", "x", 2), NULL, 4, &out, &count, NULL, &err), QP_ERR_INPUT);
    cr_expect_eq(opened, 0);
    cr_expect_eq(closed, 0);
}

Test(stage_describe, says_all_that_the_tables_hold)
{
    static const char text[] =
        "{\"quantpipe\": 1, \"name\": \"example\", \"summary\": \"An example.\", \"version\": 3, \"protocol\": 1,"
        "\"inputs\": [{\"name\": \"in\", \"needs\": [\"weights\"], \"help\": \"blocks\", \"optional\": false, "
        "\"feedback\": false, \"collects\": []}],"
        "\"outputs\": [{\"name\": \"out\", \"provides\": [\"quantized\", \"anything\"], \"help\": \"the same "
        "blocks\", \"optional\": true}],"
        "\"params\": [{\"name\": \"fail_at\", \"type\": \"int\", \"default\": null, \"min\": null, \"max\": null,"
        "\"choices\": null, \"help\": \"seq to fail at\"}, {\"name\": \"method\", \"type\": \"string\", \"default\": "
        "\"rtn\", \"min\": null, \"max\": null, \"choices\": [\"rtn\", \"gptq\"], \"help\": \"how\"}],"
        "\"needs\": [{\"what\": \"hessian\", \"param\": \"method\", \"value\": \"gptq\", \"scheme\": null}],"
        "\"collects\": [\"hessian\"], \"forms\": [], \"data\": \"calibration\", \"data_optional\": true, "
        "\"stateful\": true, \"holds\": 0, \"copies\": false, \"estimates\": false}";
    qp_auto_json json_t *wanted = json_loads(text, 0, NULL);
    qp_auto_json json_t *description = qp_stage_describe(&desc);
    cr_assert_not_null(wanted);
    qp_auto_free char *found = json_dumps(description, JSON_INDENT(1));
    cr_expect(json_equal(wanted, description), "%s", found);
}

static int run_main(int argc, char *a, char *b, char *c, char *d, char *e, char *f)
{
    char *argv[] = {"example", a, b, c, d, e, f, NULL};
    return qp_stage_main(&desc, argc, argv);
}

Test(stage_main, help_shows_the_tables, .init = cr_redirect_stdout)
{
    char text[4096] = "";
    cr_expect_eq(run_main(2, "--help", NULL, NULL, NULL, NULL, NULL), 0);
    fflush(stdout);
    cr_expect_gt(fread(text, 1, sizeof text - 1, cr_get_redirected_stdout()), 0);
    static const char *const expected[] = {
        "An example.",      "in ",           "needs weights",    "provides quantized, anything",
        "method: rtn|gptq", "(default rtn)", "data.calibration", "--control"};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        cr_expect(strstr(text, expected[i]), "no '%s' in %s", expected[i], text);
}

Test(stage_main, bad_command_lines_are_usage_errors, .init = cr_redirect_stderr)
{
    cr_expect_eq(run_main(1, NULL, NULL, NULL, NULL, NULL, NULL), 2);
    cr_expect_eq(run_main(2, "--frobnicate", NULL, NULL, NULL, NULL, NULL), 2);
    optind = 1;
    cr_expect_eq(run_main(2, "surplus", NULL, NULL, NULL, NULL, NULL), 2);
    optind = 1;
    cr_expect_eq(run_main(7, "--control", "ipc:///tmp/x", "--instance", "a/b", "--replica", "0"), 2);
    optind = 1;
    cr_expect_eq(run_main(7, "--control", "ipc:///tmp/x", "--instance", "a", "--replica", "-1"), 2);
}
