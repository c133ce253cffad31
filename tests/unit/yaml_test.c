#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "runner/pipeline/document.h"
#include "runner/pipeline/yaml.h"
#include "tests/support/scratch.h"

static int parse_bytes(const char *text, size_t size, json_t **out, json_t *marks, struct qp_error *err)
{
    return qp_yaml_parse(&(struct qp_yaml_text){text, size, "p.yaml", true, ""}, marks, out, err);
}

static json_t *parsed(const char *text)
{
    struct qp_error err;
    json_t *value = NULL;
    qp_auto_json json_t *marks = json_object();
    cr_assert_eq(parse_bytes(text, strlen(text), &value, marks, &err), 0, "%s: %s", text, err.message);
    return value;
}

Test(yaml, scalars_follow_the_core_schema)
{
    static const struct {
        const char *yaml, *json;
    } rows[] = {{"true", "true"},
                {"FALSE", "false"},
                {"yes", "\"yes\""},
                {"on", "\"on\""},
                {"~", "null"},
                {"", "null"},
                {"Null", "null"},
                {"nULL", "\"nULL\""},
                {"12", "12"},
                {"-0", "0"},
                {"+7", "7"},
                {"0o17", "15"},
                {"017", "17"},
                {"0xfF", "255"},
                {"0x", "\"0x\""},
                {"1_000", "\"1_000\""},
                {"9223372036854775807", "9223372036854775807"},
                {"0.05", "0.05"},
                {".5", "0.5"},
                {"5.", "5.0"},
                {"1e3", "1000.0"},
                {"-2.5E-1", "-0.25"},
                {"1e", "\"1e\""},
                {".", "\".\""},
                {"5%", "\"5%\""},
                {"2GiB", "\"2GiB\""},
                {"1:30", "\"1:30\""},
                {"2001-01-01", "\"2001-01-01\""},
                {"\"12\"", "\"12\""},
                {"'true'", "\"true\""},
                {"\"\\u00e9\"", "\"\u00e9\""},
                {"|\n  a\n  b\n", "\"a\\nb\\n\""},
                {"[1, {a: b}]", "[1, {\"a\": \"b\"}]"},
                {"{a: , b: []}", "{\"a\": null, \"b\": []}"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        qp_auto_json json_t *value = parsed(rows[i].yaml);
        qp_auto_json json_t *expected = json_loads(rows[i].json, JSON_DECODE_ANY, NULL);
        cr_expect(expected && json_equal(value, expected), "%s", rows[i].yaml);
    }
}

Test(yaml, refusals_say_where)
{
    static const struct {
        const char *yaml, *message;
    } rows[] = {{"a: 1\nb: 2\na: 3\n", "p.yaml:3:1: the key `a` is there twice"},
                {"a: &x 1\n", "p.yaml:1:4: anchors"},
                {"a: [*x]\n", "p.yaml:1:5: anchors"},
                {"a: !!str 1\n", "p.yaml:1:4: anchors"},
                {"a: !foo {}\n", "p.yaml:1:4: anchors"},
                {"&k a: 1\n", "p.yaml:1:1: anchors"},
                {"? [a]\n: 1\n", "p.yaml:1:3: found a list or mapping as a key"},
                {"a: 1\n---\nb: 2\n", "p.yaml:2:1: a second document"},
                {"a: \"x\\0y\"\n", "p.yaml:1:4: found a NUL character"},
                {"a: 9223372036854775808\n", "p.yaml:1:4: found `9223372036854775808`"},
                {"a: 1e999\n", "p.yaml:1:4: found `1e999`"},
                {"a: .nan\n", "p.yaml:1:4: found `.nan`"},
                {"a:\n\t- b\n", "p.yaml:2:1: not valid YAML"},
                {"a: [1, 2\nb: 3\n", "p.yaml:2:"},
                {"a: b: c\n", "p.yaml:1:5: not valid YAML"},
                {"a: \xff\n", "p.yaml:1:1: not valid YAML"},
                {"a: ${QP_TEST_UNSET}\n", "p.yaml:1:4: the environment variable QP_TEST_UNSET is not set"},
                {"a: ${no good}\n", "p.yaml:1:4: found `${no good}`"},
                {"'': 1\n", "p.yaml:1:1: a key has 1 to"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qp_error err = {0};
        json_t *value = NULL;
        qp_auto_json json_t *marks = json_object();
        int r = parse_bytes(rows[i].yaml, strlen(rows[i].yaml), &value, marks, &err);
        cr_expect_eq(r, QP_ERR_INPUT, "%s", rows[i].yaml);
        cr_expect(strncmp(err.message, rows[i].message, strlen(rows[i].message)) == 0, "%s: %s", rows[i].yaml,
                  err.message);
        cr_expect_null(value);
    }
}

Test(yaml, limits_hold)
{
    struct qp_error err;
    json_t *value = NULL;
    qp_auto_json json_t *marks = json_object();
    char deep[200];
    for (int depth = QP_YAML_DEPTH; depth <= QP_YAML_DEPTH + 1; depth++) {
        memset(deep, '[', (size_t)depth);
        memset(deep + depth, ']', (size_t)depth);
        int r = parse_bytes(deep, 2 * (size_t)depth, &value, marks, &err);
        cr_expect_eq(r, depth <= QP_YAML_DEPTH ? 0 : QP_ERR_INPUT, "depth %d", depth);
        json_decref(r == 0 ? value : NULL);
    }
    cr_expect_not_null(strstr(err.message, "p.yaml:1:33: nested more than 32 deep"), "%s", err.message);
    char *large = calloc(1, QP_YAML_LIMIT + 1);
    memset(large, ' ', QP_YAML_LIMIT + 1);
    cr_expect_eq(parse_bytes(large, QP_YAML_LIMIT + 1, &value, marks, &err), QP_ERR_INPUT);
    memset(large, '[', QP_YAML_LIMIT);
    cr_expect_eq(parse_bytes(large, QP_YAML_LIMIT, &value, marks, &err), QP_ERR_INPUT);
    free(large);
    cr_expect_eq(parse_bytes("a: 1\n\0b: 2", 10, &value, marks, &err), QP_ERR_INPUT);
    cr_expect_str_eq(err.message, "p.yaml:2:1: found a NUL byte; expected text in UTF-8");
}

Test(yaml, variables_are_read_before_typing)
{
    setenv("QP_TEST_N", "4", 1);
    setenv("QP_TEST_EMPTY", "", 1);
    qp_auto_json json_t *value = parsed("- '${QP_TEST_N}'\n- \"${QP_TEST_N}\"\n- ${QP_TEST_N}\n- x${QP_TEST_N}y\n"
                                        "- ${QP_TEST_UNSET:-0.5}\n- ${QP_TEST_EMPTY:-d}\n- $QP_TEST_N\n"
                                        "- ${QP_TEST_UNSET:-}\n");
    qp_auto_json json_t *expected =
        json_loads("[\"${QP_TEST_N}\", \"4\", 4, \"x4y\", 0.5, \"d\", \"$QP_TEST_N\", null]", 0, NULL);
    cr_assert_not_null(expected);
    qp_auto_free char *found = json_dumps(value, 0);
    cr_expect(json_equal(value, expected), "%s", found);
}

static struct qp_document *load(const char *text)
{
    struct qp_document *d = NULL;
    struct qp_error err;
    cr_assert_eq(qp_document_load(scratch_text("p.yaml", text), &d, &err), 0, "%s", err.message);
    return d;
}

static const char *const text = "model: m\n"
                                "stages:\n"
                                "  a: {with: {x: 1,\n"
                                "             y: 2}}\n"
                                "profiles:\n"
                                "  big: {model: M, stages: {a: {with: {y: 5}}, b: {from: a}}}\n";

Test(document, positions_are_of_values_and_keys, .init = scratch_make, .fini = scratch_drop)
{
    struct qp_document *d = load(text);
    cr_expect(strstr(qp_document_at(d, "stages.a.with.y"), "p.yaml:4:17"), "%s", qp_document_at(d, "stages.a.with.y"));
    cr_expect(strstr(qp_document_key_at(d, "stages.a.with.y"), "p.yaml:4:14"));
    cr_expect(strstr(qp_document_at(d, "stages.a.with.z.w"), "p.yaml:3:13"), "the nearest thing around it");
    cr_expect_str_eq(qp_document_at(d, "nothing"), d->file);
    qp_document_free(d);
}

Test(document, overlays_merge_and_keep_positions, .init = scratch_make, .fini = scratch_drop)
{
    struct qp_document *d = load(text);
    struct qp_error err;
    cr_assert_eq(qp_document_profile(d, "big", &err), 0, "%s", err.message);
    cr_assert_eq(qp_document_set(d, "stages.a.with.x=[1, 2]", &err), 0, "%s", err.message);
    cr_assert_eq(qp_document_set(d, "stages.c.use=load", &err), 0, "%s", err.message);
    cr_assert_eq(qp_document_set_text(d, "output", "--output o", "5", &err), 0, "%s", err.message);
    cr_expect_str_eq(json_string_value(qp_document_get(d, "model")), "M");
    cr_expect_eq(json_integer_value(qp_document_get(d, "stages.a.with.y")), 5);
    cr_expect_eq(json_integer_value(qp_document_get(d, "stages.a.with.x.1")), 2);
    cr_expect_str_eq(json_string_value(qp_document_get(d, "stages.b.from")), "a");
    cr_expect_str_eq(json_string_value(qp_document_get(d, "stages.c.use")), "load");
    cr_expect_str_eq(json_string_value(qp_document_get(d, "output")), "5");
    cr_expect(strstr(qp_document_at(d, "stages.a.with.y"), "p.yaml:6:42"), "%s", qp_document_at(d, "stages.a.with.y"));
    cr_expect_str_eq(qp_document_at(d, "stages.a.with.x"), "--set stages.a.with.x=[1, 2]");
    cr_expect_eq(json_integer_value(qp_document_get(d, "profiles.big.stages.a.with.y")), 5, "the profile is as it was");
    qp_document_free(d);
}

Test(document, overlays_that_cannot_be, .init = scratch_make, .fini = scratch_drop)
{
    struct qp_document *d = load(text);
    struct qp_error err;
    cr_expect_eq(qp_document_profile(d, "bag", &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "p.yaml:6:3: there is no profile `bag`; did you mean `big`?"), "%s", err.message);
    cr_expect_eq(qp_document_set(d, "model.x=1", &err), QP_ERR_USAGE);
    cr_expect(strstr(err.message, "`model` is the text `m`"), "%s", err.message);
    cr_expect_eq(qp_document_set(d, "model", &err), QP_ERR_USAGE);
    cr_expect_eq(qp_document_set(d, ".a=1", &err), QP_ERR_USAGE);
    cr_expect_eq(qp_document_set(d, "a..b=1", &err), QP_ERR_USAGE);
    cr_expect_eq(qp_document_set(d, "model=[1", &err), QP_ERR_INPUT);
    cr_expect(strncmp(err.message, "--set model=[1: not valid YAML", 30) == 0, "%s", err.message);
    qp_document_free(d);
}

Test(document, paths_start_at_the_file_or_at_the_working_folder, .init = scratch_make, .fini = scratch_drop)
{
    struct qp_document *d = load(text);
    struct qp_error err;
    qp_auto_free char *from_file = NULL, *from_option = NULL, *absolute = NULL, *here = getcwd(NULL, 0);
    cr_assert_eq(qp_document_path(d, "model", "m", &from_file, &err), 0);
    cr_expect_str_eq(from_file, scratch("m"));
    cr_assert_eq(qp_document_set_text(d, "model", "--model m", "m", &err), 0);
    cr_assert_eq(qp_document_path(d, "model", "m", &from_option, &err), 0);
    cr_expect_eq(strncmp(from_option, here, strlen(here)), 0);
    cr_expect_str_eq(from_option + strlen(here), "/m");
    cr_assert_eq(qp_document_path(d, "model", "/m", &absolute, &err), 0);
    cr_expect_str_eq(absolute, "/m");
    qp_document_free(d);
}
