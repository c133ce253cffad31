/* Text and JSON that lose nothing in silence. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/error.h"
#include "libstage/base/file.h"
#include "libstage/base/json.h"
#include "libstage/base/utf8.h"
#include "libstage/formats/safetensors.h"
#include "tests/support/scratch.h"

TestSuite(utf8);
TestSuite(json, .init = scratch_make, .fini = scratch_drop);

/* ---- text ---- */

/* RFC 3629, section 4: what is a character, and what is none. */
Test(utf8, characters)
{
    static const char *const good[] = {"",
                                       "a",
                                       "\x7f",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "é",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {
        "\x80",         "\xff",         "\xc0\x80",         "\xc1\xbf",         "\xc3",
        "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
        "\xe2\x82",     "a\xe2\x28\xa1"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        cr_expect(qp_utf8_is_valid(good[i], strlen(good[i])), "%zu", i);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_not(qp_utf8_is_valid(bad[i], strlen(bad[i])), "%zu", i);
}

Test(utf8, other_bytes_are_written_out)
{
    char out[32];
    cr_expect_eq(qp_utf8_clean("w\xff.\xc3\xa9\xc3", out, sizeof out), 12);
    cr_expect_str_eq(out, "w\\xff.\xc3\xa9\\xc3");
    cr_expect_eq(qp_utf8_clean("ab\xff", out, 6), 2, "an escape is whole or not there");
    cr_expect_str_eq(out, "ab");
    cr_expect_eq(qp_utf8_clean("ab\xc3\xa9", out, 4), 2, "a character too");
    cr_expect_str_eq(out, "ab");
    qp_utf8_clean("\t\033[2J\x7f\xc2\x9b\n", out, sizeof out);
    cr_expect_str_eq(out, "\t\\x1b[2J\\x7f\\xc2\\x9b\n");
}

Test(utf8, messages_are_text_however_long)
{
    struct qp_error err;
    char many[3 * QP_ERROR_SIZE];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(many, 'x', shift);
        for (size_t i = shift; i + 4 < sizeof many; i += 3)
            memcpy(many + i, "\xe2\x82\xac", 4);
        qp_fail(&err, QP_ERR_INPUT, "%s", many);
        cr_expect(qp_utf8_is_valid(err.message, strlen(err.message)));
        cr_expect_null(strstr(err.message, "\\x"), "a character that was cut is no odd byte");
        cr_expect_gt(strlen(err.message), QP_ERROR_SIZE - 5);
    }
    qp_fail(&err, QP_ERR_INPUT, "w%s", "\xff");
    qp_wrap(&err, "in %s", "f\xfe");
    cr_expect_str_eq(err.message, "in f\\xfe: w\\xff");
}

/* ---- building ---- */

/* Everything that the code packs gives what jansson's own function gives. */
#define EXPECT_SAME(...)                                                \
    do {                                                                \
        qp_auto_json json_t *ours = json_pack(__VA_ARGS__);             \
        qp_auto_json json_t *theirs = (json_pack)(__VA_ARGS__);         \
        cr_assert(ours &&theirs &&json_equal(ours, theirs));            \
        cr_expect_eq(json_object_size(ours), json_object_size(theirs)); \
        cr_expect_eq(qp_json_check(0, NULL), 0);                        \
    } while (0)

Test(json, packs_as_jansson_does)
{
    struct qp_error err;
    qp_auto_json json_t *shared = json_pack("[i, i]", 1, 2);
    json_t *none = NULL;
    EXPECT_SAME("{}");
    EXPECT_SAME("[]");
    EXPECT_SAME("s", "text");
    EXPECT_SAME("{s:s, s:i, s:I, s:f, s:b, s:n, s:[], s:{}}", "a", "x", "b", -3, "c", (json_int_t)1 << 60, "d", 0.5,
                "e", 1, "f", "g", "h");
    EXPECT_SAME("{s:{s:[s, i, {s:s}], s:f}, s:[ss]}", "a", "b", "x", 7, "k", "v", "c", 2.0, "d", "l", "r");
    EXPECT_SAME("{s:O, s:O?, s:O?, s:s?, s:s?}", "a", shared, "b", shared, "c", none, "d", "x", "e", (char *)NULL);
    EXPECT_SAME("{s:O*, s:O*, s:i}", "a", shared, "b", none, "c", 1);
    EXPECT_SAME("[f, f, b, O]", -0.0, 1e300, 0, shared);
    EXPECT_SAME("{s:o}", "a", json_integer(4));
    cr_expect_eq(shared->refcount, 1);
    cr_expect_eq(qp_json_check(0, &err), 0);
}

Test(json, text_that_is_none_is_written_out)
{
    qp_auto_json json_t *value = json_pack("{s:s, s:[s]}", "key\xff", "value\xfe", "list", "\xff");
    cr_assert_not_null(value);
    cr_expect_str_eq(json_string_value(json_object_get(value, "key\\xff")), "value\\xfe");
    cr_expect_eq(json_object_set_new(value, "\xfd", json_sprintf("%s!", "\xfc")), 0);
    cr_expect_str_eq(json_string_value(json_object_get(value, "\\xfd")), "\\xfc!");
    cr_expect_eq(json_array_append_new(json_object_get(value, "list"), json_string("\xfb")), 0);
    cr_expect_eq(qp_json_check(0, NULL), 0);
}

Test(json, numbers_that_are_not_finite_are_null_and_counted)
{
    qp_auto_json json_t *value = json_pack("{s:f, s:f, s:f}", "a", (double)NAN, "b", (double)-INFINITY, "c", 1.0);
    cr_assert_not_null(value);
    cr_expect(json_is_null(json_object_get(value, "a")));
    cr_expect(json_is_null(json_object_get(value, "b")));
    cr_expect_eq(json_object_set_new(value, "d", json_real((double)INFINITY)), 0);
    cr_expect_eq(qp_json_not_finite(), 3);
    cr_expect_eq(qp_json_not_finite(), 0);
    cr_expect_eq(qp_json_check(0, NULL), 0);
}

static void expect_failure(void)
{
    struct qp_error err = {0};
    cr_expect_eq(qp_json_check(0, &err), QP_ERR_SPACE);
    cr_expect(strstr(err.message, "no memory for JSON in "), "%s", err.message);
    cr_expect_eq(qp_json_check(0, &err), 0, "it was told once");
}

/* A value that could not be made: whoever does not look at the result is found out at the next check. */
Test(json, no_failure_is_forgotten)
{
    struct qp_error err = {0};
    qp_auto_json json_t *object = json_object();
    qp_auto_json json_t *array = json_array();
    json_object_set_new(object, "a", NULL);
    expect_failure();
    json_array_append(array, NULL);
    expect_failure();
    json_array_extend(array, NULL);
    expect_failure();
    json_object_update(object, NULL);
    expect_failure();
    cr_expect_null(json_pack("{s:o, s:{s:o}, s:o}", "a", NULL, "b", "c", json_integer(1), "d", json_string("freed")));
    expect_failure();
    cr_expect_null(json_pack("{s:o}", "a", json_pack("[s]", (char *)NULL)));
    expect_failure();
    cr_expect_null(json_pack("{s:s", "a", (char *)NULL));
    expect_failure();
    json_object_set_new(object, "a", NULL);
    cr_expect_eq(qp_json_check(QP_ERR_INPUT, &err), QP_ERR_INPUT, "the first error stays");
    json_object_set_new(object, "a", NULL);
    cr_expect_eq(qp_write_json(scratch("x.json"), object, &err), QP_ERR_SPACE, "half of a file is none");
    cr_expect_not(qp_exists(scratch("x.json")));
}

/* ---- names that are kept as they are ---- */

Test(json, a_tensors_name_is_not_changed_but_refused)
{
    struct qp_error err;
    struct qp_tensor *tensor;
    struct qp_safetensors_writer *writer;
    cr_assert_eq(qp_tensor_new("w\xff", QP_F32, 1, (const int64_t[]){1}, &tensor, &err), 0, "%s", err.message);
    *(float *)tensor->data = 1;
    cr_assert_eq(qp_safetensors_create(scratch(""), UINT64_MAX, 1, &writer, &err), 0, "%s", err.message);
    cr_expect_eq(qp_safetensors_put(writer, tensor, &err), QP_ERR_INPUT);
    cr_expect_str_eq(err.message, "w\\xff: the name of a tensor is no UTF-8; rename it");
    qp_safetensors_abandon(writer);
    qp_tensor_unref(tensor);
}

/* jansson's own header would bring back its silent functions. */
Test(json, no_other_header_includes_jansson)
{
    FILE *grep =
        popen("cd " SOURCE_DIR " && grep -rl '<jansson.h>' --include='*.[ch]' kernels libstage runner stages", "r");
    char found[256] = "", rest[256];
    cr_assert_not_null(grep);
    cr_expect_not_null(fgets(found, sizeof found, grep));
    cr_expect_str_eq(found, "libstage/base/json.h\n");
    cr_expect_null(fgets(rest, sizeof rest, grep), "%s includes it as well", rest);
    pclose(grep);
}
