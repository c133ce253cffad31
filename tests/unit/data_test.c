#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/calibration/data.h"
#include "tests/support/scratch.h"

enum { VOCAB = 10 };

static struct qp_tokenizer *tokenizer;

/* One id a letter: "a" is 0 ... "h" is 7, and 8 begins each text. */
static void set_up(void)
{
    struct qp_error err = {0};
    qp_auto_json json_t *json = json_loads(
        "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"e\":4,\"f\":5,\"g\":6,\"h\":7,\"<s>\":8},\"merges\":"
        "[]},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[8]}}}}",
        0, NULL);
    cr_assert_eq(qp_tokenizer_parse(json, "t.json", &tokenizer, &err), 0, "%s", err.message);
    scratch_make();
}

static void tear_down(void)
{
    qp_tokenizer_free(tokenizer);
    scratch_drop();
}

TestSuite(data, .init = set_up, .fini = tear_down);

/* Loads {"text": FOLDER/name, ...more}; `name` NULL: only `more`. */
static int load(const char *name, const char *more, struct qp_windows *out, struct qp_error *err)
{
    qp_auto_free char *text =
        name ? qp_format("{\"text\":\"%s\"%s%s}", scratch(name), more[0] ? "," : "", more) : qp_format("{%s}", more);
    qp_auto_json json_t *spec = json_loads(text, 0, NULL);
    cr_assert_not_null(spec, "%s", text);
    return qp_windows_load(spec, tokenizer, VOCAB, out, err);
}

static void expect(const char *name, const char *more, int64_t count, int64_t length, const int32_t *ids)
{
    struct qp_error err = {0};
    struct qp_windows windows;
    cr_assert_eq(load(name, more, &windows, &err), 0, "%s", err.message);
    cr_expect_eq(windows.count, count);
    cr_expect_eq(windows.length, length);
    cr_assert_arr_eq(windows.ids, ids, (size_t)(count * length) * sizeof *ids);
    qp_windows_free(&windows);
}

static void refused(const char *name, const char *more, const char *what)
{
    struct qp_error err = {0};
    struct qp_windows windows;
    cr_expect_eq(load(name, more, &windows, &err), QP_ERR_INPUT, "accepted: %s, %s", name, more);
    cr_expect_not_null(strstr(err.message, what), "\"%s\" lacks \"%s\"", err.message, what);
    cr_expect_null(windows.ids);
}

Test(data, cuts_a_text_into_windows_and_drops_the_tail)
{
    scratch_write("a.txt", "abcdefgha", 9);
    expect("a.txt", "\"length\":3", 3, 3, (int32_t[]){8, 0, 1, 2, 3, 4, 5, 6, 7});
    expect("a.txt", "\"length\":4,\"samples\":1", 1, 4, (int32_t[]){8, 0, 1, 2});
    expect("a.txt", "\"length\":5,\"samples\":99", 2, 5, (int32_t[]){8, 0, 1, 2, 3, 4, 5, 6, 7, 0});
}

Test(data, starts_every_window_with_bos)
{
    scratch_write("a.txt", "abcdefgha", 9);
    expect("a.txt", "\"length\":3,\"bos\":true", 4, 3, (int32_t[]){8, 0, 1, 8, 2, 3, 8, 4, 5, 8, 6, 7});
    expect("a.txt", "\"length\":10,\"bos\":true", 1, 10, (int32_t[]){8, 0, 1, 2, 3, 4, 5, 6, 7, 0});
    expect("a.txt", "\"length\":3,\"bos\":false", 3, 3, (int32_t[]){8, 0, 1, 2, 3, 4, 5, 6, 7});
    refused("a.txt", "\"length\":3,\"bos\":1", "data.bos: expected true or false");
    refused(NULL, "\"synthetic\":true,\"bos\":true", "data.bos: only a text");

    struct qp_error err = {0};
    qp_auto_json json_t *json = json_loads("{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"e\":4,\"f\":5,"
                                           "\"g\":6,\"h\":7},\"merges\":[]}}",
                                           0, NULL);
    qp_tokenizer_free(tokenizer);
    cr_assert_eq(qp_tokenizer_parse(json, "t.json", &tokenizer, &err), 0, "%s", err.message);
    refused("a.txt", "\"length\":3,\"bos\":true", "puts no BOS before a text");
}

Test(data, joins_the_lines_of_jsonl)
{
    scratch_write("a.jsonl", "{\"text\":\"ab\"}\n\n{\"text\":\"c\",\"n\":1}\r\n{\"text\":\"\"}\n{\"text\":\"de\"}", 60);
    expect("a.jsonl", "\"length\":3", 3, 3, (int32_t[]){8, 0, 1, 8, 2, 8, 8, 3, 4});
}

Test(data, names_the_line_of_a_jsonl_error)
{
    scratch_write("a.jsonl", "{\"text\":\"ab\"}\n{\"text\":\n", 23);
    refused("a.jsonl", "\"length\":2", "a.jsonl:2: not valid JSON");
    scratch_write("b.jsonl", "{\"text\":\"ab\"}\n\n[1]\n", 19);
    refused("b.jsonl", "\"length\":2", "b.jsonl:3: expected an object");
    scratch_write("c.jsonl", "{\"text\":7}", 10);
    refused("c.jsonl", "\"length\":2", "c.jsonl:1:");
    scratch_write("d.jsonl", "{\"text\":\"a\",\"text\":\"b\"}", 23);
    refused("d.jsonl", "\"length\":2", "d.jsonl:1:");
}

Test(data, says_how_long_a_text_is_and_must_be)
{
    scratch_write("a.txt", "abcdefg", 7);
    refused("a.txt", "", "8 tokens; a window needs 512");
    scratch_write("empty.txt", "", 0);
    refused("empty.txt", "\"length\":2", "1 tokens; a window needs 2");
    scratch_write("empty.jsonl", "", 0);
    refused("empty.jsonl", "\"length\":2", "0 tokens; a window needs 2");
}

Test(data, chooses_by_seed_and_keeps_the_order)
{
    int32_t ids[200];
    char text[400];
    for (int i = 0; i < 399; i++)
        text[i] = (char)('a' + i / 2 % 8);
    scratch_write("a.txt", text, 399);
    struct qp_error err = {0};
    struct qp_windows all, some, again, other;
    cr_assert_eq(load("a.txt", "\"length\":2", &all, &err), 0, "%s", err.message);
    cr_assert_eq(load("a.txt", "\"length\":2,\"samples\":100,\"seed\":7", &some, &err), 0, "%s", err.message);
    cr_assert_eq(load("a.txt", "\"length\":2,\"samples\":100,\"seed\":7", &again, &err), 0, "%s", err.message);
    cr_assert_eq(load("a.txt", "\"length\":2,\"samples\":100,\"seed\":8", &other, &err), 0, "%s", err.message);
    cr_assert_eq(some.count, 100);
    cr_expect_arr_eq(some.ids, again.ids, sizeof ids);
    cr_expect_arr_neq(some.ids, other.ids, sizeof ids);
    cr_expect_arr_neq(some.ids, all.ids, sizeof ids);
    int64_t found = 0;
    for (int64_t i = 0; i < all.count && found < 100; i++)
        found += memcmp(all.ids + 2 * i, some.ids + 2 * found, 8) == 0;
    cr_expect_eq(found, 100, "the chosen windows are no subsequence of all: %lld", (long long)found);
    qp_windows_free(&all);
    qp_windows_free(&some);
    qp_windows_free(&again);
    qp_windows_free(&other);
}

Test(data, makes_synthetic_ids_of_the_whole_vocabulary)
{
    struct qp_error err = {0};
    struct qp_windows windows, again;
    int seen[VOCAB] = {0};
    cr_assert_eq(load(NULL, "\"synthetic\":true,\"length\":50", &windows, &err), 0, "%s", err.message);
    cr_assert_eq(load(NULL, "\"synthetic\":true,\"length\":50,\"seed\":1", &again, &err), 0, "%s", err.message);
    cr_assert_eq(windows.count, 128);
    for (int i = 0; i < 128 * 50; i++) {
        cr_assert(windows.ids[i] >= 0 && windows.ids[i] < VOCAB);
        seen[windows.ids[i]]++;
    }
    for (int i = 0; i < VOCAB; i++) /* 640 expected, standard deviation 24 */
        cr_expect(seen[i] > 500 && seen[i] < 780, "id %d: %d times", i, seen[i]);
    cr_expect_arr_neq(windows.ids, again.ids, 128 * 50 * sizeof(int32_t));
    qp_windows_free(&windows);
    qp_windows_free(&again);
}

/* Writes a .npy of version 1.0: `header` is padded to 118 bytes, so that the data begin at byte 128. */
static void put_npy(const char *name, const char *header, const void *data, size_t size)
{
    char file[256] = "\x93NUMPY\x01\x00\x76\x00";
    cr_assert_leq(strlen(header), 117);
    snprintf(file + 10, sizeof file - 10, "%-117s\n", header);
    memcpy(file + 128, data, size);
    scratch_write(name, file, 128 + size);
}

#define NPY(type, shape) "{'descr':'" type "','fortran_order':False,'shape':" shape "}"

Test(data, reads_npy)
{
    int32_t narrow[] = {1, 2, 3, 4, 5, 6, 7};
    int64_t wide[] = {9, 8, 7, 6, 5, 4};
    put_npy("a.npy", NPY("<i4", "(7,)"), narrow, sizeof narrow);
    expect("a.npy", "\"length\":3", 2, 3, (int32_t[]){1, 2, 3, 4, 5, 6});
    put_npy("b.npy", "{'shape': (2, 3), 'descr': '<i8', }", wide, 0);
    put_npy("b.npy", NPY("<i8", "(2, 3)"), wide, sizeof wide);
    expect("b.npy", "\"length\":2", 2, 2, (int32_t[]){9, 8, 6, 5}); /* no window spans two rows */
    refused("b.npy", "\"length\":4", "3 tokens a row; a window needs 4");
}

Test(data, reads_npy_strictly)
{
    int32_t ids[] = {1, 2, 3, 10};
    int64_t wide[] = {1, 4294967297};
    put_npy("a.npy", NPY("<i4", "(4,)"), ids, sizeof ids);
    refused("a.npy", "\"length\":2", "element 3 is 10; the model's token ids go from 0 to 9");
    put_npy("a.npy", NPY("<i8", "(2,)"), wide, sizeof wide);
    refused("a.npy", "\"length\":2", "element 1 is 4294967297");
    ids[3] = -1;
    put_npy("a.npy", NPY("<i4", "(4,)"), ids, sizeof ids);
    refused("a.npy", "\"length\":2", "element 3 is -1");
    static const char *const broken[][2] = {
        {NPY("<i4", "(5,)"), "does not fit the 16 bytes"},
        {NPY("<i4", "(3,)"), "does not fit the 16 bytes"},
        {NPY("<i4", "(4611686018427387905,4)"), "does not fit"},
        {NPY("<i4", "(99999999999999999999,)"), "stopped at"},
        {NPY("<i4", "(-4,)"), "stopped at"},
        {NPY("<i4", "(4)"), "stopped at"},
        {NPY("<i4", "()"), "stopped at"},
        {NPY("<i4", "(1,2,2)"), "stopped at"},
        {NPY(">i4", "(4,)"), "'>i4'"},
        {NPY("<f4", "(4,)"), "'<f4'"},
        {"{'descr':'<i4','fortran_order':True,'shape':(2,2)}", "Fortran"},
        {"{'descr':'<i4','shape':(4,)}", "stopped at"},
        {"{'descr':'<i4','descr':'<i4','shape':(4,)}", "stopped at"},
        {"{'descr':'<i4' 'shape':(4,)}", "stopped at"},
        {NPY("<i4", "(4,)") "x", "stopped at"},
        {"", "stopped at"},
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        put_npy("a.npy", broken[i][0], ids, sizeof ids);
        refused("a.npy", "\"length\":2", broken[i][1]);
    }
    scratch_write("a.npy", "\x93NUMPY\x01\x00\xff\xff{", 11);
    refused("a.npy", "\"length\":2", "whole header");
    scratch_write("a.npy", "\x93NUMPY\x04\x00\x01\x00\n", 11);
    refused("a.npy", "\"length\":2", "version");
    scratch_write("a.npy", "\x93NUMPY\x02\x00\xff\xff\xff\xff", 12);
    refused("a.npy", "\"length\":2", "whole header");
    scratch_write("a.npy", "", 0);
    refused("a.npy", "\"length\":2", ".npy");
}

static void refused_spec(const char *text, const char *what)
{
    struct qp_error err = {0};
    qp_auto_json json_t *spec = json_loads(text, JSON_DECODE_ANY, NULL);
    cr_expect_eq(qp_windows_check(spec, "data.calibration", &err), QP_ERR_INPUT, "accepted: %s", text);
    cr_expect(strstr(err.message, what) && strstr(err.message, "data.calibration"), "\"%s\" lacks \"%s\"", err.message,
              what);
}

Test(data, checks_an_entry_without_reading)
{
    refused_spec("[]", "mapping");
    refused_spec("{}", "text: PATH, or synthetic: true");
    refused_spec("{\"synthetic\":false}", "text: PATH, or synthetic: true");
    refused_spec("{\"text\":\"/none.txt\",\"synthetic\":true}", "exclude");
    refused_spec("{\"text\":7}", "path");
    refused_spec("{\"synthetic\":1}", "true or false");
    refused_spec("{\"synthetic\":true,\"lenght\":8}", "length");
    refused_spec("{\"synthetic\":true,\"length\":1}", "length");
    refused_spec("{\"synthetic\":true,\"length\":2.5}", "length");
    refused_spec("{\"synthetic\":true,\"samples\":-1}", "samples");
    refused_spec("{\"synthetic\":true,\"seed\":\"x\"}", "seed");
    refused_spec("{\"text\":\"/none/at/all.txt\"}", "/none/at/all.txt: cannot open: No such file");
    refused_spec("{\"text\":\"/tmp/x.parquet\"}", ".txt, .jsonl or .npy");
    struct qp_error err = {0};
    scratch_write("a.txt", "a", 1);
    qp_auto_json json_t *spec = json_pack("{s:s}", "text", scratch("a.txt"));
    cr_expect_eq(qp_windows_check(spec, "data.calibration", &err), 0, "%s", err.message);
}

Test(data, needs_a_tokenizer_that_fits)
{
    struct qp_error err = {0};
    struct qp_windows windows;
    scratch_write("a.txt", "abcdefgh", 8);
    qp_auto_json json_t *spec = json_pack("{s:s, s:i}", "text", scratch("a.txt"), "length", 2);
    cr_expect_eq(qp_windows_load(spec, NULL, VOCAB, &windows, &err), QP_ERR_INPUT);
    cr_expect_not_null(strstr(err.message, "tokenizer"), "%s", err.message);
    cr_expect_eq(qp_windows_load(spec, tokenizer, 4, &windows, &err), QP_ERR_INPUT);
    cr_expect_not_null(strstr(err.message, "id 8"), "%s", err.message);
}
