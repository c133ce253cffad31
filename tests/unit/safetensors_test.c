#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/safetensors.h"
#include "tests/support/scratch.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- reading ---- */

/* A file of a header and `data` zero bytes; `length` is what it says of the header, -1 for the truth. */
static const char *file(const char *name, const char *header, long long length, size_t data)
{
    size_t size = strlen(header);
    qp_auto_free unsigned char *bytes = calloc(1, 8 + size + data);
    unsigned long long n = length < 0 ? size : (unsigned long long)length;
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(n >> (8 * i));
    memcpy(bytes + 8, header, size);
    return scratch_write(name, bytes, 8 + size + data);
}

static struct qp_safetensors *opened(const char *path)
{
    struct qp_error err;
    struct qp_safetensors *set = NULL;
    cr_assert_eq(qp_safetensors_open(path, &set, &err), 0, "%s", err.message);
    return set;
}

static void refused(const char *path, const char *fragment)
{
    struct qp_error err = {0};
    struct qp_safetensors *set = NULL;
    cr_assert_eq(qp_safetensors_open(path, &set, &err), QP_ERR_INPUT, "opened, but: %s", fragment);
    cr_assert_null(set);
    cr_assert_not_null(strstr(err.message, fragment), "'%s' lacks '%s'", err.message, fragment);
    cr_assert_not_null(strstr(err.message, scratch("")), "'%s' does not name the file", err.message);
}

TestSuite(read, .init = scratch_make, .fini = scratch_drop);

Test(read, tensors_are_sorted_and_typed)
{
    struct qp_safetensors *set = opened(
        file("a.safetensors",
             "{\"__metadata__\":{\"format\":\"pt\"},\"z\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
             "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,3],\"data_offsets\":[8,8]},"
             "\"a\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[8,10]}}   ",
             -1, 10));
    cr_assert_eq(set->count, 3);
    cr_assert_str_eq(set->tensors[0]->name, "a");
    cr_assert_str_eq(set->tensors[2]->name, "z");
    const struct qp_tensor *a = qp_safetensors_find(set, "a"), *z = qp_safetensors_find(set, "z");
    cr_assert(a->dtype == QP_BF16 && a->rank == 0 && a->elements == 1 && a->bytes == 2);
    cr_assert(z->dtype == QP_F32 && z->rank == 2 && z->shape[0] == 2 && z->shape[1] == 1);
    cr_assert_eq(qp_safetensors_find(set, "empty")->bytes, 0);
    cr_assert_null(qp_safetensors_find(set, "b"));
    qp_safetensors_close(set);
}

Test(read, misaligned_elements_are_copied)
{
    const char header[] = "{\"a\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                          "\"b\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[3,7]}}";
    struct qp_safetensors *set = opened(file("a.safetensors", header, -1, 7));
    const struct qp_tensor *b = qp_safetensors_find(set, "b");
    cr_assert_eq((uintptr_t)b->data % 4, 0);
    cr_assert_eq(*(const int32_t *)b->data, 0);
    qp_safetensors_close(set);
}

Test(read, tensors_outlive_the_set)
{
    struct qp_safetensors *set =
        opened(file("a.safetensors", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", -1, 4));
    struct qp_tensor *a = qp_tensor_ref(qp_safetensors_find(set, "a"));
    qp_safetensors_close(set);
    cr_assert_eq(((const char *)a->data)[3], 0);
    qp_tensor_unref(a);
}

#define ONE(dtype, shape, offsets) "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, second)                                                \
    "{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" first "}," \
    "\"u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" second "}}"

Test(read, hostile_headers_are_refused)
{
    static const struct {
        const char *header;
        long long length;
        size_t data;
        const char *fragment;
    } cases[] = {
        {"{}", 100000001, 0, "header of 100000001 bytes; the format allows 100000000"},
        {"{}", 0x7fffffffffffffff, 0, "header of 9223372036854775807 bytes"},
        {"{}", 3, 0, "truncated: header of 3 bytes in a file of 10"},
        {"", 0, 0, "does not begin with '{'"},
        {" {}", -1, 0, "does not begin with '{'"},
        {"[]", -1, 0, "does not begin with '{'"},
        {"{\"t\":", -1, 0, "not valid JSON"},
        {"{}{}", -1, 0, "not valid JSON"},
        {"{\"\xff\":{}}", -1, 0, "not valid JSON"},
        {"{\"t\\u0000\":{}}", -1, 0, "not valid JSON"},
        {"{}", -1, 1, "1 bytes after the last tensor"},
        {"{\"t\":3}", -1, 0, "a.safetensors:t: expected a mapping"},
        {"{\"t\":{\"dtype\":\"U8\"}}", -1, 0, ":t: shape is missing"},
        {"{\"t\":{\"shape\":[]}}", -1, 0, ":t: dtype is missing"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[]}}", -1, 0, ":t: data_offsets is missing"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"more\":1}}", -1, 1, ":t: unknown key 'more'"},
        {"{\"__metadata__\":[]}", -1, 0, "__metadata__: expected a mapping of strings"},
        {"{\"__metadata__\":{\"a\":1}}", -1, 0, "__metadata__: the value of 'a' is no string"},
        {ONE("\"F33\"", "[]", "[0,1]"), -1, 1, ":t: dtype F33 is unknown; expected F64"},
        {ONE("\"I4\"", "[2]", "[0,1]"), -1, 1, ":t: dtype I4 is unknown"},
        {ONE("8", "[]", "[0,1]"), -1, 1, ":t: dtype is missing or no string"},
        {ONE("\"U8\"", "[-1]", "[0,1]"), -1, 1, ":t: dimension 0"},
        {ONE("\"U8\"", "[1.5]", "[0,1]"), -1, 1, ":t: dimension 0"},
        {ONE("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), -1, 1, ":t: shape has 9 dimensions"},
        {ONE("\"U8\"", "[4294967296,4294967296]", "[0,0]"), -1, 0, ":t: shape [4294967296, 4294967296] is negative or"},
        {ONE("\"F64\"", "[2305843009213693952]", "[0,0]"), -1, 0, "too large"},
        {ONE("\"U8\"", "[18446744073709551617]", "[0,1]"), -1, 1, "not valid JSON"},
        {ONE("\"U8\"", "[4]", "[4,0]"), -1, 4, ":t: data_offsets are [4, 0]; expected 0 <= begin <= end"},
        {ONE("\"U8\"", "[4]", "[-4,0]"), -1, 4, ":t: data_offsets are [-4, 0]"},
        {ONE("\"U8\"", "[4]", "[0,4,8]"), -1, 4, ":t: data_offsets is missing or no list of two"},
        {ONE("\"U8\"", "[4]", "[0,3]"), -1, 3, ":t: data_offsets span 3 bytes; U8 of shape [4] takes 4"},
        {ONE("\"F32\"", "[4]", "[0,4]"), -1, 4, ":t: data_offsets span 4 bytes; F32 of shape [4] takes 16"},
        {ONE("\"U8\"", "[4]", "[0,4]"), -1, 3, "truncated: holds 3 bytes of data, its header says 4"},
        {ONE("\"U8\"", "[4]", "[0,4]"), -1, 5, "1 bytes after the last tensor"},
        {ONE("\"U8\"", "[4]", "[1,5]"), -1, 5, ":t: begins at byte 1, but the tensors before it end at 0: a hole"},
        {TWO("[0,4]", "[2,6]"), -1, 6, ":u: begins at byte 2 and overlaps t, which ends at 4"},
        {TWO("[0,4]", "[0,4]"), -1, 4, "begins at byte 0 and overlaps"},
        {TWO("[0,4]", "[5,9]"), -1, 9, ":u: begins at byte 5, but the tensors before it end at 4"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
         -1, 8, "duplicate object key"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        refused(file("a.safetensors", cases[i].header, cases[i].length, cases[i].data), cases[i].fragment);
}

Test(read, what_is_no_safetensors_file_is_refused)
{
    refused(scratch("none"), "cannot open");
    refused(scratch_text("short", "1234567"), "7 bytes; expected a safetensors file");
    refused(scratch_text("empty", ""), "0 bytes; expected a safetensors file");
    refused(scratch_text("text", "this is just some text"), "is it a safetensors file?");
    refused(scratch(""), "expected model.safetensors or model.safetensors.index.json in this folder");
}

Test(read, any_truncation_is_refused)
{
    const char *path = file("whole", TWO("[0,4]", "[4,8]"), -1, 8);
    size_t size;
    qp_auto_free char *bytes = scratch_read(path, &size);
    for (size_t n = 0; n < size; n++) {
        struct qp_safetensors *set = NULL;
        struct qp_error err;
        cr_assert_eq(qp_safetensors_open(scratch_write("part", bytes, n), &set, &err), QP_ERR_INPUT, "%zu bytes", n);
    }
}

/* ---- shards ---- */

#define SHARD(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"

static const char *shards(const char *map)
{
    file("1.safetensors", SHARD("a"), -1, 4);
    file("2.safetensors", SHARD("b"), -1, 4);
    qp_auto_free char *index = qp_format("{\"metadata\":{\"total_size\":8},\"weight_map\":%s}", map);
    scratch_text("model.safetensors.index.json", index);
    return scratch("");
}

Test(read, shards_are_read_through_their_index)
{
    struct qp_safetensors *set = opened(shards("{\"b\":\"2.safetensors\",\"a\":\"1.safetensors\"}"));
    cr_assert_eq(set->count, 2);
    cr_assert_not_null(qp_safetensors_find(set, "a"));
    cr_assert_not_null(qp_safetensors_find(set, "b"));
    qp_safetensors_close(set);
}

Test(read, a_hostile_index_is_refused)
{
    refused(shards("3"), "weight_map is missing or no mapping");
    refused(shards("{\"a\":1}"), "index.json:a: found 'no string'");
    refused(shards("{\"a\":\"../1.safetensors\"}"), "expected the name of a file in the same folder");
    refused(shards("{\"a\":\"/etc/passwd\"}"), "expected the name of a file in the same folder");
    refused(shards("{\"a\":\"..\"}"), "expected the name of a file in the same folder");
    refused(shards("{\"a\":\"\"}"), "expected the name of a file in the same folder");
    refused(shards("{\"a\":\"3.safetensors\"}"), "the shard 3.safetensors that it names does not exist");
    refused(shards("{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\"}"), "index.json:b: is not in 1.safetensors");
    refused(shards("{\"b\":\"1.safetensors\"}"), "1.safetensors:a: is not in the index");
    refused(shards("{\"a\":\"2.safetensors\",\"b\":\"2.safetensors\"}"), "index.json:a: is not in 2.safetensors");
    refused(shards("{\"a\":\"1.safetensors\",\"a\":\"2.safetensors\"}"), "duplicate object key");
    file("2.safetensors", SHARD("a"), -1, 4);
}

Test(read, a_name_in_two_shards_is_refused)
{
    shards("{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}");
    file("2.safetensors",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         -1, 2);
    refused(scratch(""), "2.safetensors:a: the index");
}

Test(read, a_single_file_wins_over_an_index)
{
    shards("{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}");
    file("model.safetensors", SHARD("only"), -1, 4);
    struct qp_safetensors *set = opened(scratch(""));
    cr_assert_eq(set->count, 1);
    cr_assert_str_eq(set->tensors[0]->name, "only");
    qp_safetensors_close(set);
}

/* ---- writing ---- */

TestSuite(write, .init = scratch_make, .fini = scratch_drop);

static struct qp_tensor *tensor(const char *name, enum qp_dtype dtype, int64_t elements, unsigned char fill)
{
    struct qp_error err;
    struct qp_tensor *t = NULL;
    cr_assert_eq(qp_tensor_new(name, dtype, 1, &elements, &t, &err), 0, "%s", err.message);
    if (t->bytes > 0)
        memset(t->data, fill, t->bytes);
    return t;
}

static void put(struct qp_safetensors_writer *w, const char *name, enum qp_dtype dtype, int64_t elements,
                unsigned char fill)
{
    struct qp_error err;
    struct qp_tensor *t = tensor(name, dtype, elements, fill);
    cr_assert_eq(qp_safetensors_put(w, t, &err), 0, "%s", err.message);
    qp_tensor_unref(t);
}

static struct qp_safetensors_writer *created(const char *folder, uint64_t shard_bytes, size_t tensors)
{
    struct qp_error err;
    struct qp_safetensors_writer *w = NULL;
    cr_assert_eq(qp_make_folders(folder, &err), 0, "%s", err.message);
    cr_assert_eq(qp_safetensors_create(folder, shard_bytes, tensors, &w, &err), 0, "%s", err.message);
    return w;
}

static void write_mixed(const char *folder, uint64_t shard_bytes, size_t tensors)
{
    struct qp_error err;
    uint64_t total;
    struct qp_safetensors_writer *w = created(folder, shard_bytes, tensors);
    put(w, "bytes", QP_U8, 13, 1);
    put(w, "halves", QP_BF16, 7, 2);
    put(w, "floats", QP_F32, 1024, 3);
    put(w, "odd floats", QP_F32, 3, 4);
    put(w, "empty", QP_I64, 0, 0);
    put(w, "names like \"quotes\" and \xc3\xbc", QP_F8_E4M3, 1, 5);
    put(w, "doubles", QP_F64, 100, 6);
    cr_assert_eq(qp_safetensors_finish(w, &total, &err), 0, "%s", err.message);
    cr_assert_eq(total, 13 + 14 + 4096 + 12 + 1 + 800);
}

static void check_mixed(const char *folder)
{
    static const struct {
        const char *name;
        size_t bytes, alignment;
        unsigned char fill;
    } expected[] = {{"bytes", 13, 1, 1},      {"halves", 14, 2, 2},   {"floats", 4096, 4, 3},
                    {"odd floats", 12, 4, 4}, {"doubles", 800, 8, 6}, {"names like \"quotes\" and \xc3\xbc", 1, 1, 5}};
    struct qp_safetensors *set = opened(folder);
    cr_assert_eq(set->count, 7);
    for (size_t i = 0; i < COUNT(expected); i++) {
        const struct qp_tensor *t = qp_safetensors_find(set, expected[i].name);
        cr_assert_not_null(t, "%s", expected[i].name);
        cr_assert_eq(t->bytes, expected[i].bytes);
        cr_assert_eq(t->storage->where, QP_WHERE_FILE, "%s was copied", t->name);
        cr_assert_eq(t->offset % expected[i].alignment, 0);
        for (size_t k = 0; k < t->bytes; k++)
            cr_assert_eq(((const unsigned char *)t->data)[k], expected[i].fill);
    }
    qp_safetensors_close(set);
}

Test(write, one_file_reads_back)
{
    write_mixed(scratch("out"), 1 << 30, 7);
    cr_assert(qp_exists(scratch("out/model.safetensors")));
    cr_assert(!qp_exists(scratch("out/model.safetensors.index.json")));
    check_mixed(scratch("out"));
}

Test(write, shards_read_back)
{
    write_mixed(scratch("out"), 4096, 7);
    cr_assert(qp_exists(scratch("out/model-00001-of-00003.safetensors")));
    cr_assert(qp_exists(scratch("out/model-00003-of-00003.safetensors")));
    cr_assert(!qp_exists(scratch("out/model.safetensors")));
    check_mixed(scratch("out"));
    struct qp_error err;
    qp_auto_json json_t *index = NULL;
    cr_assert_eq(qp_read_json(scratch("out/model.safetensors.index.json"), 1 << 20, &index, &err), 0, "%s",
                 err.message);
    cr_assert_eq(json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")), 4936);
    cr_assert_eq(json_object_size(json_object_get(index, "weight_map")), 7);
}

Test(write, the_same_calls_give_the_same_bytes)
{
    static const char *const names[] = {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                        "model-00003-of-00003.safetensors", "model.safetensors.index.json"};
    write_mixed(scratch("one"), 4096, 7);
    write_mixed(scratch("two"), 4096, 7);
    for (size_t i = 0; i < COUNT(names); i++) {
        qp_auto_free char *one = qp_format("%s/%s", scratch("one"), names[i]);
        qp_auto_free char *two = qp_format("%s/%s", scratch("two"), names[i]);
        size_t n, m;
        qp_auto_free char *a = scratch_read(one, &n), *b = scratch_read(two, &m);
        cr_assert_eq(n, m);
        cr_assert_arr_eq(a, b, n);
    }
}

Test(write, a_header_that_outgrows_its_space_begins_a_shard)
{
    struct qp_error err;
    struct qp_safetensors_writer *w = created(scratch("out"), 1 << 30, 1);
    char name[64];
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "tensor %d", i);
        put(w, name, QP_U8, 8, (unsigned char)i);
    }
    cr_assert_eq(qp_safetensors_finish(w, NULL, &err), 0, "%s", err.message);
    struct qp_safetensors *set = opened(scratch("out"));
    cr_assert_eq(set->count, 100);
    cr_assert_eq(*(const unsigned char *)qp_safetensors_find(set, "tensor 99")->data, 99);
    qp_safetensors_close(set);
}

Test(write, a_name_longer_than_the_space_still_fits)
{
    char name[10000];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    struct qp_error err;
    struct qp_safetensors_writer *w = created(scratch("out"), 1 << 30, 1);
    put(w, name, QP_U8, 3, 9);
    cr_assert_eq(qp_safetensors_finish(w, NULL, &err), 0, "%s", err.message);
    struct qp_safetensors *set = opened(scratch("out"));
    cr_assert_not_null(qp_safetensors_find(set, name));
    qp_safetensors_close(set);
}

Test(write, no_tensor_gives_an_empty_file)
{
    struct qp_error err;
    cr_assert_eq(qp_safetensors_finish(created(scratch("out"), 1, 0), NULL, &err), 0, "%s", err.message);
    struct qp_safetensors *set = opened(scratch("out"));
    cr_assert_eq(set->count, 0);
    cr_assert_null(qp_safetensors_find(set, "a"));
    qp_safetensors_close(set);
}

Test(write, what_cannot_be_written_is_refused)
{
    struct qp_error err;
    struct qp_safetensors_writer *w = NULL;
    cr_assert_eq(qp_safetensors_create(scratch("none"), 1, 1, &w, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "expected an existing folder"));
    w = created(scratch("out"), 1 << 20, 2);
    put(w, "a", QP_U8, 8, 0);
    static const struct {
        const char *name;
        enum qp_dtype dtype;
        const char *fragment;
    } cases[] = {{"a", QP_U8, "a: written twice"}, {"__metadata__", QP_U8, "reserves"}, {"b", QP_I4, "b: I4 cannot"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct qp_tensor *t = tensor(cases[i].name, cases[i].dtype, 8, 0);
        cr_assert_eq(qp_safetensors_put(w, t, &err), QP_ERR_STAGE);
        cr_assert_not_null(strstr(err.message, cases[i].fragment), "%s", err.message);
        qp_tensor_unref(t);
    }
    qp_safetensors_abandon(w);
}

/* Puts tensors of 1 MiB until one fails, 64 at most; returns how it ended. */
static int fill(const char *folder, struct qp_error *err)
{
    struct qp_safetensors_writer *w = created(folder, 1 << 30, 64);
    int r = 0;
    for (int i = 0; i < 64 && r == 0; i++) {
        char name[8];
        snprintf(name, sizeof name, "%d", i);
        struct qp_tensor *t = tensor(name, QP_U8, 1 << 20, 0);
        r = qp_safetensors_put(w, t, err);
        qp_tensor_unref(t);
    }
    if (r == 0)
        return qp_safetensors_finish(w, NULL, err);
    qp_safetensors_abandon(w);
    return r;
}

Test(write, a_file_size_limit_is_no_space)
{
    struct qp_error err = {0};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){3 << 20, 3 << 20});
    cr_assert_eq(fill(scratch("out"), &err), QP_ERR_SPACE, "%s", err.message);
    cr_assert_not_null(strstr(err.message, scratch("out/shard-00001.partial")), "%s", err.message);
    cr_assert(!qp_exists(scratch("out/model.safetensors")));
}

Test(write, a_full_disk_is_no_space)
{
    struct qp_error err = {0};
    const char *disk = scratch("disk");
    cr_assert_eq(qp_make_folders(disk, &err), 0);
    if (mount("none", disk, "tmpfs", 0, "size=4m") < 0)
        cr_skip_test("mounting a tmpfs needs root");
    int r = fill(scratch("disk/out"), &err);
    bool partial_only = !qp_exists(scratch("disk/out/model.safetensors"));
    cr_assert_eq(umount(disk), 0);
    cr_assert_eq(r, QP_ERR_SPACE, "%s", err.message);
    cr_assert_not_null(strstr(err.message, "free some space"), "%s", err.message);
    cr_assert(partial_only);
}
