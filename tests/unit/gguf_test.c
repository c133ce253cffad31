#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/formats/gguf.h"
#include "libstage/formats/safetensors.h"
#include "tests/support/scratch.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define GOLDEN SOURCE_DIR "/tests/unit/golden/formats/"

/* ---- what gguf-py wrote and dequantized: see golden/formats.py ---- */

static struct qp_gguf *opened(const char *path)
{
    struct qp_error err;
    struct qp_gguf *file = NULL;
    cr_assert_eq(qp_gguf_open(path, &file, &err), 0, "%s", err.message);
    return file;
}

Test(golden, every_block_type_dequantizes_bit_for_bit)
{
    static const char *const names[] = {"F32",  "F16",  "BF16", "Q8_0", "Q4_0",  "Q4_1",
                                        "Q5_0", "Q5_1", "Q4_K", "Q6_K", "vector"};
    struct qp_gguf *file = opened(GOLDEN "blocks.gguf");
    struct qp_safetensors *expected = NULL;
    struct qp_error err;
    cr_assert_eq(qp_safetensors_open(GOLDEN "blocks.safetensors", &expected, &err), 0, "%s", err.message);
    cr_assert_eq(file->count, COUNT(names));
    for (size_t i = 0; i < COUNT(names); i++) {
        const struct qp_gguf_tensor *t = qp_gguf_find(file, names[i]);
        const struct qp_tensor *e = qp_safetensors_find(expected, names[i]);
        cr_assert_not_null(t, "%s", names[i]);
        cr_assert_eq(t->rank, e->rank);
        cr_assert_arr_eq(t->shape, e->shape, (size_t)e->rank * sizeof *e->shape);
        qp_auto_free float *out = malloc(e->bytes);
        int64_t rows = t->rank == 2 ? t->shape[0] : 1;
        qp_gguf_rows(file, t, 0, rows, out);
        cr_assert_arr_eq(out, e->data, e->bytes, "%s", names[i]);
        memset(out, 0xff, e->bytes);
        for (int64_t row = rows - 1; row >= 0; row--)
            qp_gguf_rows(file, t, row, 1, out + row * (t->elements / rows));
        cr_assert_arr_eq(out, e->data, e->bytes, "%s, row by row", names[i]);
        if (i < 10)
            cr_assert_str_eq(qp_gguf_type_name(t->type), names[i]);
    }
    cr_assert_str_eq(qp_gguf_type_name((enum qp_gguf_type)4), "?");
    cr_assert_null(qp_gguf_find(file, "Q2_K"));
    qp_safetensors_close(expected);
    qp_gguf_close(file);
}

Test(golden, metadata_of_every_type_is_read)
{
    struct qp_gguf *file = opened(GOLDEN "blocks.gguf");
    qp_auto_json json_t *expected = json_pack(
        "{s:i, s:i, s:i, s:i, s:I, s:i, s:I, s:I, s:f, s:f, s:b, s:s, s:[i,i,i], s:[f,f], s:[b,b], s:[s,s,s], s:s}",
        "test.u8", 200, "test.i8", -100, "test.u16", 60000, "test.i16", -30000, "test.u32", (json_int_t)4000000000,
        "test.i32", -2000000000, "test.u64", (json_int_t)1 << 60, "test.i64", -((json_int_t)1 << 60), "test.f32",
        (double)0.1f, "test.f64", 0.1, "test.bool", 1, "test.string",
        "Gr\xc3\xbc\xc3\x9f"
        "e",
        "test.ints", 1, -2, 3, "test.floats", 0.5, -1.25, "test.bools", 1, 0, "test.strings", "a", "",
        "\xc4\xa0"
        "b",
        "general.architecture", "llama");
    const char *key;
    json_t *value;
    json_object_foreach(expected, key, value)
        cr_assert(json_equal(json_object_get(file->metadata, key), value), "%s", key);
    cr_assert_eq(json_object_size(file->metadata), json_object_size(expected));
    qp_gguf_close(file);
}

/* ---- files made by hand ---- */

static unsigned char bytes[4096];
static size_t size;

static void number(int width, uint64_t value)
{
    for (int i = 0; i < width; i++)
        bytes[size++] = (unsigned char)(value >> (8 * i));
}

static void string(const char *text)
{
    number(8, strlen(text));
    memcpy(bytes + size, text, strlen(text));
    size += strlen(text);
}

static void start(uint32_t version, uint64_t tensors, uint64_t pairs)
{
    size = 0;
    memcpy(bytes, "GGUF", size = 4);
    number(4, version);
    number(8, tensors);
    number(8, pairs);
}

static void pair(const char *key, uint32_t type, int width, uint64_t value)
{
    string(key);
    number(4, type);
    number(width, value);
}

static void tensor(const char *name, int rank, uint64_t first, uint64_t second, uint32_t type, uint64_t offset)
{
    string(name);
    number(4, (uint64_t)rank);
    for (int i = 0; i < rank && i < 8; i++)
        number(8, i == 0 ? first : i == 1 ? second : 1);
    number(4, type);
    number(8, offset);
}

static void data(size_t alignment, size_t count)
{
    while (size % alignment)
        bytes[size++] = 0;
    memset(bytes + size, 0, count);
    size += count;
}

static void refused(const char *fragment)
{
    struct qp_error err = {0};
    struct qp_gguf *file = NULL;
    cr_assert_eq(qp_gguf_open(scratch_write("a.gguf", bytes, size), &file, &err), QP_ERR_INPUT, "opened, but: %s",
                 fragment);
    cr_assert_null(file);
    cr_assert_not_null(strstr(err.message, fragment), "'%s' lacks '%s'", err.message, fragment);
    cr_assert_not_null(strstr(err.message, "/a.gguf:"), "'%s' does not name the file", err.message);
}

TestSuite(gguf, .init = scratch_make, .fini = scratch_drop);

Test(gguf, shapes_are_outermost_first_and_alignment_is_obeyed)
{
    start(2, 2, 1);
    pair("general.alignment", 4, 4, 64);
    tensor("w", 2, 3, 2, 0, 0);
    tensor("v", 1, 1, 0, 0, 64);
    data(64, 68);
    bytes[size - 4] = 0x80;
    bytes[size - 2] = 0x80;
    bytes[size - 1] = 0x3f; /* 0x3f800080 */
    struct qp_gguf *file = opened(scratch_write("a.gguf", bytes, size));
    const struct qp_gguf_tensor *w = qp_gguf_find(file, "w"), *v = qp_gguf_find(file, "v");
    cr_assert(w->rank == 2 && w->shape[0] == 2 && w->shape[1] == 3 && w->elements == 6 && w->bytes == 24);
    float value;
    qp_gguf_rows(file, v, 0, 1, &value);
    cr_assert_eq(value, 0x1.0001p0f);
    qp_gguf_close(file);
}

Test(gguf, what_is_no_gguf_is_refused)
{
    size = 0;
    refused("0 bytes; expected a GGUF file");
    start(3, 0, 0);
    size--;
    refused("23 bytes; expected a GGUF file");
    start(3, 0, 0);
    bytes[0] = 'X';
    refused("does not begin with GGUF");
    start(1, 0, 0);
    refused("GGUF version 1; expected 2 or 3");
    start(4, 0, 0);
    refused("GGUF version 4");
    start(0x03000000, 0, 0);
    refused("big-endian");
    struct qp_gguf *file = NULL;
    struct qp_error err;
    cr_assert_eq(qp_gguf_open(scratch("none"), &file, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_gguf_open(scratch(""), &file, &err), QP_ERR_INPUT);
}

Test(gguf, hostile_counts_are_refused_before_anything_is_allocated)
{
    start(3, UINT64_MAX, 0);
    refused("18446744073709551615 tensors, where the file has 0 bytes left");
    start(3, 0x555555555555555a, 0);
    refused("tensors, where the file has");
    start(3, 0, UINT64_MAX);
    refused("truncated");
    start(3, 0, 1);
    number(8, UINT64_MAX);
    refused("a string of 18446744073709551615 bytes, where the file has 0 left");
    start(3, 0, 1);
    number(8, 1);
    refused("a string of 1 bytes, where the file has 0 left");
    start(3, 0, 1);
    string("k");
    number(4, 9);
    number(4, 8);
    number(8, UINT64_MAX);
    refused(":k: an array of 18446744073709551615 values, where the file has 0 bytes left");
    start(3, 0, 1);
    pair("k", 8, 8, 1000);
    refused(":k: a string of 1000 bytes");
}

Test(gguf, bad_metadata_is_refused)
{
    start(3, 0, 1);
    pair("", 0, 1, 0);
    refused("the name of a key is empty");
    start(3, 0, 1);
    pair("k", 13, 4, 0);
    refused(":k: value type 13 is unknown");
    start(3, 0, 1);
    pair("k", 7, 1, 2);
    refused(":k: a boolean of value 2");
    start(3, 0, 1);
    pair("k", 10, 8, UINT64_MAX);
    refused(":k: the number 18446744073709551615");
    start(3, 0, 1);
    pair("k", 6, 4, 0x7f800000);
    refused(":k: a number that is not finite");
    start(3, 0, 2);
    pair("k", 0, 1, 0);
    pair("k", 0, 1, 0);
    refused(":k: the key is given twice");
    start(3, 0, 1);
    pair("\xff", 0, 1, 0);
    refused("the name of a key is no UTF-8");
    start(3, 0, 1);
    string("k");
    number(4, 8);
    string("\xc3");
    refused(":k: a string that is no UTF-8");
    start(3, 0, 1);
    pair("k", 9, 4, 9);
    number(8, 0);
    refused(":k: an array of arrays");
    start(3, 0, 1);
    pair("k", 5, 2, 0);
    refused(":k: truncated");
}

Test(gguf, bad_alignment_is_refused)
{
    static const uint64_t values[] = {0, 3, 33, 0xffffffff};
    for (size_t i = 0; i < COUNT(values); i++) {
        start(3, 0, 1);
        pair("general.alignment", 4, 4, values[i]);
        refused("expected a power of two");
    }
    start(3, 0, 1);
    pair("general.alignment", 10, 8, 32);
    refused("general.alignment: value type 10; expected a uint32");
    start(3, 1, 1);
    pair("general.alignment", 4, 4, 0x80000000);
    tensor("t", 1, 1, 0, 0, 0);
    data(32, 4);
    refused(":t: truncated: ends at byte 2147483652");
}

static void one(int rank, uint64_t first, uint64_t second, uint32_t type, uint64_t offset, const char *fragment)
{
    start(3, 1, 0);
    tensor("t", rank, first, second, type, offset);
    data(32, 32);
    refused(fragment);
}

Test(gguf, bad_tensors_are_refused)
{
    one(5, 1, 1, 0, 0, ":t: 5 dimensions; expected 4 at most");
    one(1, 0, 0, 0, 0, ":t: a dimension of 0");
    one(1, UINT64_MAX, 0, 0, 0, ":t: a dimension of 18446744073709551615");
    one(2, (uint64_t)1 << 32, (uint64_t)1 << 31, 0, 0, ":t: the product of the dimensions overflows");
    one(1, INT64_MAX, 0, 0, 0, ":t: the number of its bytes overflows");
    one(1, (uint64_t)1 << 61, 0, 0, 0, ":t: truncated: ends at byte");
    one(1, 8, 0, 10, 0, ":t: type 10 cannot be read; expected F32");
    one(1, 8, 0, UINT32_MAX, 0, ":t: type 4294967295 cannot be read");
    one(1, 33, 0, 2, 0, ":t: rows of 33 elements; Q4_0 takes multiples of 32");
    one(2, 32, 3, 14, 0, ":t: rows of 32 elements; Q6_K takes multiples of 256");
    one(1, 1, 0, 0, 32, ":t: offset 32; expected 0");
    one(1, 1, 0, 0, UINT64_MAX, ":t: offset 18446744073709551615; expected 0");
    one(1, 9, 0, 0, 0, ":t: truncated: ends at byte");
    start(3, 1, 0);
    tensor("", 1, 1, 0, 0, 0);
    refused("the name of a tensor is empty");
}

Test(gguf, tensors_that_overlap_leave_holes_or_share_a_name_are_refused)
{
    static const struct {
        const char *second;
        uint64_t offset;
        const char *fragment;
    } cases[] = {{"u", 0, ":u: offset 0; expected 32"},
                 {"u", 4, ":u: offset 4; expected 32"},
                 {"u", 64, ":u: offset 64; expected 32"},
                 {"t", 32, "the tensor t is given twice"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        start(3, 2, 0);
        tensor("t", 1, 1, 0, 0, 0);
        tensor(cases[i].second, 1, 1, 0, 0, cases[i].offset);
        data(32, 96);
        refused(cases[i].fragment);
    }
}

Test(gguf, the_sum_of_sizes_may_not_wrap)
{
    start(3, 3, 0);
    tensor("a", 1, (uint64_t)1 << 61, 0, 0, 0);
    tensor("b", 1, (uint64_t)1 << 61, 0, 0, (uint64_t)1 << 63);
    tensor("c", 1, 1, 0, 0, 0);
    data(32, 32);
    refused(":a: truncated");
}

Test(gguf, any_truncation_is_refused)
{
    size_t whole;
    qp_auto_free char *golden = scratch_read(GOLDEN "blocks.gguf", &whole);
    for (size_t n = 0; n + 32 < whole; n += n < 1500 ? 1 : 97) { /* the last bytes are padding */
        struct qp_gguf *file = NULL;
        struct qp_error err;
        cr_assert_eq(qp_gguf_open(scratch_write("part.gguf", golden, n), &file, &err), QP_ERR_INPUT, "%zu bytes", n);
    }
}
