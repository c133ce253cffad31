/* Parameters of stages: what users may write, and what they are told when they may not. */
#include <criterion/criterion.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/include/stage.h"

struct state {
    bool flag;
    int64_t count, unset_count;
    double damping, percent, unset_number;
    const char *method, *name;
};

static const char *const methods[] = {"rtn", "gptq", NULL};
static const struct qp_param params[] = {
    {"flag", QP_PARAM_BOOL, "true", 0, 0, NULL, "", offsetof(struct state, flag), NULL},
    {"count", QP_PARAM_INT, "7", 1, 100, NULL, "", offsetof(struct state, count), NULL},
    {"unset_count", QP_PARAM_INT, NULL, 0, 0, NULL, "", offsetof(struct state, unset_count), NULL},
    {"damping", QP_PARAM_FLOAT, "0.01", 0, 1, NULL, "", offsetof(struct state, damping), NULL},
    {"percent", QP_PARAM_PERCENT, "5%", 0, 10, NULL, "", offsetof(struct state, percent), NULL},
    {"unset_number", QP_PARAM_FLOAT, NULL, 0, 0, NULL, "", offsetof(struct state, unset_number), NULL},
    {"method", QP_PARAM_STRING, "rtn", 0, 0, methods, "", offsetof(struct state, method), NULL},
    {"name", QP_PARAM_STRING, NULL, 0, 0, NULL, "", offsetof(struct state, name), NULL},
    {.name = NULL},
};

static int parse(const char *text, struct state *state, struct qp_error *err, json_t **values)
{
    *values = json_loads(text, 0, NULL);
    cr_assert_not_null(*values, "%s", text);
    return qp_params_parse(params, *values, state, err);
}

Test(params, defaults)
{
    struct state s;
    struct qp_error err = {0};
    memset(&s, 0xff, sizeof s);
    cr_assert_eq(qp_params_parse(params, NULL, &s, &err), 0, "%s", err.message);
    cr_expect(s.flag);
    cr_expect_eq(s.count, 7);
    cr_expect_eq(s.unset_count, INT64_MIN);
    cr_expect_eq(s.damping, 0.01);
    cr_expect_eq(s.percent, 0.05);
    cr_expect(isnan(s.unset_number));
    cr_expect_str_eq(s.method, "rtn");
    cr_expect_null(s.name);
}

Test(params, values)
{
    struct state s = {0};
    struct qp_error err = {0};
    qp_auto_json json_t *values = NULL;
    cr_assert_eq(parse("{\"flag\": false, \"count\": 1e2, \"unset_count\": -3, \"damping\": 1, \"percent\": 0.25, "
                       "\"unset_number\": -1e9, \"method\": \"gptq\", \"name\": \"x\"}",
                       &s, &err, &values),
                 0, "%s", err.message);
    cr_expect_not(s.flag);
    cr_expect_eq(s.count, 100);
    cr_expect_eq(s.unset_count, -3);
    cr_expect_eq(s.damping, 1.0);
    cr_expect_eq(s.percent, 0.25);
    cr_expect_eq(s.unset_number, -1e9);
    cr_expect_str_eq(s.method, "gptq");
    cr_expect_str_eq(s.name, "x");
}

Test(params, percentages_are_written_two_ways)
{
    static const struct {
        const char *text;
        double value;
    } good[] = {{"{\"percent\": \"5%\"}", 0.05},
                {"{\"percent\": \"0.05\"}", 0.05},
                {"{\"percent\": 0.05}", 0.05},
                {"{\"percent\": \"250%\"}", 2.5},
                {"{\"percent\": 0}", 0.0}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct state s = {0};
        struct qp_error err = {0};
        qp_auto_json json_t *values = NULL;
        cr_expect_eq(parse(good[i].text, &s, &err, &values), 0, "%s: %s", good[i].text, err.message);
        cr_expect_float_eq(s.percent, good[i].value, 1e-15);
    }
}

Test(params, errors_say_what_was_found_and_what_is_accepted)
{
    static const struct {
        const char *text, *found, *accepted;
    } bad[] = {
        {"{\"flag\": 1}", "parameter flag: found 1", "true or false"},
        {"{\"count\": 101}", "parameter count: found 101", "a whole number from 1 to 100"},
        {"{\"count\": 0}", "found 0", "from 1 to 100"},
        {"{\"count\": 1.5}", "found 1.5", "a whole number"},
        {"{\"count\": \"7\"}", "found \"7\"", "a whole number"},
        {"{\"count\": null}", "found null", "a whole number"},
        {"{\"damping\": 1.01}", "found 1.01", "a number from 0 to 1"},
        {"{\"damping\": \"much\"}", "found \"much\"", "a number from 0 to 1"},
        {"{\"percent\": \"5 apples\"}", "found \"5 apples\"", "a percentage (5% or 0.05) from 0% to 1000%"},
        {"{\"percent\": \"%\"}", "found \"%\"", "a percentage"},
        {"{\"percent\": \"nan\"}", "found \"nan\"", "a percentage"},
        {"{\"percent\": -0.1}", "found -0.1", "a percentage"},
        {"{\"method\": \"gtpq\"}", "unknown value 'gtpq', did you mean 'gptq'?", "Known: rtn, gptq"},
        {"{\"method\": 3}", "found 3", "a string"},
        {"{\"dampign\": 0.1}", "unknown parameter 'dampign', did you mean 'damping'?", "Known: flag, count"},
        {"{\"zzz\": 0.1}", "unknown parameter 'zzz'.", "Known: flag, count"},
        {"[]", "expected a mapping", ""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct state s = {0};
        struct qp_error err = {0};
        qp_auto_json json_t *values = NULL;
        cr_expect_eq(parse(bad[i].text, &s, &err, &values), QP_ERR_INPUT, "%s was accepted", bad[i].text);
        cr_expect(strstr(err.message, bad[i].found), "expected '%s' in '%s'", bad[i].found, err.message);
        cr_expect(strstr(err.message, bad[i].accepted), "expected '%s' in '%s'", bad[i].accepted, err.message);
    }
}

Test(params, a_stage_without_parameters_takes_none)
{
    struct qp_error err = {0};
    qp_auto_json json_t *none = json_object();
    qp_auto_json json_t *some = json_pack("{s:i}", "a", 1);
    cr_expect_eq(qp_params_parse(NULL, none, NULL, &err), 0);
    cr_expect_eq(qp_params_parse(NULL, some, NULL, &err), QP_ERR_INPUT);
}
