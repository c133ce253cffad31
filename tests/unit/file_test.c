#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>

#include "libstage/base/checked.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/file_writer.h"
#include "libstage/base/words.h"
#include "tests/support/scratch.h"

TestSuite(file, .init = scratch_make, .fini = scratch_drop);

static struct qp_error err;

static void says(const char *fragment)
{
    cr_assert_not_null(strstr(err.message, fragment), "'%s' lacks '%s'", err.message, fragment);
}

Test(file, whole_files_are_read_and_terminated)
{
    char *text = NULL;
    size_t size = 0;
    cr_assert_eq(qp_read_file(scratch_write("a", "ab\0c", 4), 4, &text, &size, &err), 0, "%s", err.message);
    cr_assert_eq(size, 4);
    cr_assert_arr_eq(text, "ab\0c", 5);
    free(text);
}

Test(file, what_cannot_be_read_is_refused)
{
    char *text = NULL;
    size_t size;
    cr_assert_eq(qp_read_file(scratch("none"), 4, &text, &size, &err), QP_ERR_INPUT);
    says("none: cannot open: No such file");
    cr_assert_eq(qp_read_file(scratch_text("a", "12345"), 4, &text, &size, &err), QP_ERR_INPUT);
    says("a: 5 bytes; at most 4 are accepted");
    cr_assert_eq(qp_read_file(scratch(""), 4, &text, &size, &err), QP_ERR_INPUT);
    says("expected a regular file");
    cr_assert_null(text);
}

Test(file, json_errors_have_a_place)
{
    json_t *value = NULL;
    cr_assert_eq(qp_read_json(scratch_text("a.json", "{\n \"a\": }"), 100, &value, &err), QP_ERR_INPUT);
    says("a.json:2:");
    cr_assert_eq(qp_read_json(scratch_text("a.json", "{\"a\": 1, \"a\": 2}"), 100, &value, &err), QP_ERR_INPUT);
    says("duplicate object key");
    cr_assert_null(value);
}

Test(file, a_write_replaces_all_or_nothing)
{
    const char *path = scratch_text("a", "old");
    cr_assert_eq(qp_write_file(path, "new text", 8, &err), 0, "%s", err.message);
    size_t size;
    qp_auto_free char *text = scratch_read(path, &size);
    cr_assert_str_eq(text, "new text");

    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){4, 4});
    cr_assert_eq(qp_write_file(path, "newer text", 10, &err), QP_ERR_SPACE);
    says("raise the file size limit");
    qp_auto_free char *same = scratch_read(path, &size);
    cr_assert_str_eq(same, "new text");
    cr_assert_eq(qp_write_file(scratch("none/a"), "x", 1, &err), QP_ERR_STAGE);
}

Test(file, a_failed_write_leaves_no_temporary_file)
{
    qp_auto_free char *temporary = qp_format("%s.tmp%ld", scratch("a"), (long)getpid());
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){4, 4});
    cr_assert_eq(qp_write_file(scratch("a"), "newer text", 10, &err), QP_ERR_SPACE);
    cr_assert(!qp_exists(temporary) && !qp_exists(scratch("a")));
}

Test(file, json_is_written_sorted)
{
    qp_auto_json json_t *value = json_pack("{s:f, s:[i, i]}", "b", 0.1, "a", 1, 2);
    cr_assert_eq(qp_write_json(scratch("a.json"), value, &err), 0, "%s", err.message);
    size_t size;
    qp_auto_free char *text = scratch_read(scratch("a.json"), &size);
    cr_assert_str_eq(text, "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": 0.10000000000000001\n}\n");
    qp_auto_json json_t *back = NULL;
    cr_assert_eq(qp_read_json(scratch("a.json"), 100, &back, &err), 0);
    cr_assert(json_equal(back, value));
}

Test(file, copies_are_equal)
{
    cr_assert_eq(qp_copy_file(scratch_write("a", "\0\1\2", 3), scratch("b"), &err), 0, "%s", err.message);
    size_t size;
    qp_auto_free char *text = scratch_read(scratch("b"), &size);
    cr_assert_eq(size, 3);
    cr_assert_arr_eq(text, "\0\1\2", 3);
    cr_assert_eq(qp_copy_file(scratch("none"), scratch("c"), &err), QP_ERR_INPUT);
}

Test(file, folders_are_made_and_removed_whole)
{
    cr_assert_eq(qp_make_folders(scratch("a/b/c"), &err), 0, "%s", err.message);
    cr_assert_eq(qp_make_folders(scratch("a/b/c"), &err), 0, "%s", err.message);
    cr_assert(qp_is_folder(scratch("a/b/c")));
    scratch_text("a/b/c/file", "x");
    scratch_text("kept", "x");
    cr_assert_eq(symlink(scratch("kept"), scratch("a/link")), 0);
    cr_assert_eq(qp_make_folders(scratch("kept/d"), &err), QP_ERR_INPUT);
    cr_assert_eq(qp_make_folders(scratch("kept"), &err), QP_ERR_INPUT);
    says("exists and is not a folder");
    cr_assert_eq(qp_remove_tree(scratch("a"), &err), 0, "%s", err.message);
    cr_assert(!qp_exists(scratch("a")) && qp_exists(scratch("kept")));
    cr_assert_eq(qp_remove_tree(scratch("a"), &err), 0, "a missing path is no error");
}

Test(file, a_full_device_is_no_space)
{
    int fd = open("/dev/full", O_WRONLY);
    if (fd < 0)
        cr_skip_test("there is no /dev/full");
    cr_assert_eq(qp_write_all(fd, "x", 1, "/dev/full", &err), QP_ERR_SPACE);
    says("/dev/full: cannot write: No space left on device; free some space");
    close(fd);
}

static void is(char *text, const char *expected)
{
    cr_assert_str_eq(text, expected);
    free(text);
}

Test(path, joins_and_splits)
{
    is(qp_join("a", "b"), "a/b");
    is(qp_join("a", "/b"), "/b");
    is(qp_join(NULL, "b"), "b");
    is(qp_folder_of("a/b/c"), "a/b");
    is(qp_folder_of("c"), ".");
    is(qp_folder_of("/c"), "/");
    is(qp_format("%d-%s", 3, "x"), "3-x");
}

Test(error, codes_and_contexts)
{
    cr_assert_eq(qp_fail(&err, QP_ERR_GATE, "%s", "first"), QP_ERR_GATE);
    cr_assert_eq(qp_wrap(&err, "file:%d", 7), QP_ERR_GATE);
    cr_assert_str_eq(err.message, "file:7: first");
    cr_assert_eq(qp_fail(&err, QP_ERR_STAGE, "again: %s", err.message), QP_ERR_STAGE);
    cr_assert_str_eq(err.message, "again: file:7: first");
    errno = EDQUOT;
    cr_assert_eq(qp_fail_errno(&err, QP_ERR_STAGE, "x"), QP_ERR_SPACE);
    errno = ENOMEM;
    cr_assert_eq(qp_fail_errno(&err, QP_ERR_STAGE, "x"), QP_ERR_SPACE);
    errno = EACCES;
    cr_assert_eq(qp_fail_errno(&err, QP_ERR_STAGE, "x"), QP_ERR_STAGE);
    cr_assert_str_eq(err.message, "x: Permission denied");
    cr_assert_eq(qp_fail_memory(&err, 5, "a tensor"), QP_ERR_SPACE);
    cr_assert_eq(qp_fail(NULL, QP_ERR_USAGE, "nobody listens"), QP_ERR_USAGE);
}

Test(error, long_messages_are_cut)
{
    char text[2 * QP_ERROR_SIZE];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    qp_fail(&err, QP_ERR_INPUT, "%s", text);
    cr_assert_eq(strlen(err.message), QP_ERROR_SIZE - 1);
    qp_wrap(&err, "%s", text);
    cr_assert_eq(strlen(err.message), QP_ERROR_SIZE - 1);
}

Test(words, the_nearest_is_found)
{
    static const char *const known[] = {"weights", "activations", "ignore", "rules", "int4", NULL};
    const size_t count = qp_word_count(known);
    cr_assert_eq(count, 5);
    cr_assert_str_eq(qp_nearest("wieghts", known, count), "weights");
    cr_assert_str_eq(qp_nearest("activation", known, count), "activations");
    cr_assert_str_eq(qp_nearest("INT4", known, count), "int4");
    cr_assert_str_eq(qp_nearest("int5", known, count), "int4");
    cr_assert_null(qp_nearest("elephants", known, count));
    cr_assert_null(qp_nearest("x", known, count));
    cr_assert_null(qp_nearest("a word that is far longer than any that can be meant here", known, count));
    cr_assert(qp_known("rules", known) && !qp_known("rule", known));
    cr_assert_eq(qp_fail_unknown(&err, QP_ERR_INPUT, "x", "key", "rule", known), QP_ERR_INPUT);
    cr_assert_str_eq(err.message, "x: unknown key 'rule', did you mean 'rules'? Known: weights, activations, ignore, "
                                  "rules, int4");
    qp_fail_unknown(&err, QP_ERR_INPUT, "x", "key", "elephants", known);
    says("x: unknown key 'elephants'. Known: weights");
}

Test(checked, overflow_is_seen)
{
    uint64_t u;
    int64_t n;
    cr_assert(qp_add_u64(UINT64_MAX - 1, 1, &u) && u == UINT64_MAX);
    cr_assert(!qp_add_u64(UINT64_MAX, 1, &u));
    cr_assert(!qp_mul_u64((uint64_t)1 << 32, (uint64_t)1 << 32, &u));
    cr_assert(qp_elements(NULL, 0, &n) && n == 1);
    cr_assert(qp_elements((int64_t[]){3, 0, 5}, 3, &n) && n == 0);
    cr_assert(!qp_elements((int64_t[]){-1}, 1, &n));
    cr_assert(!qp_elements((int64_t[]){INT64_MAX, 2}, 2, &n));
}

static char byte_at(size_t i)
{
    return (char)(i * 31 + i / 4096 * 7 + i / 999983);
}

/* A file of so many bytes, added by `step` at a time, whose first 5 are replaced. */
static int write_in_steps(const char *path, size_t bytes, size_t step)
{
    struct qp_file_writer *writer;
    qp_auto_free char *data = malloc(bytes + 1);
    cr_assert_not_null(data);
    for (size_t i = 0; i < bytes; i++)
        data[i] = byte_at(i);
    int r = qp_file_writer_open(path, &writer, &err);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < bytes; i += step)
        r = qp_file_writer_add(writer, data + i, bytes - i < step ? bytes - i : step, &err);
    if (r == 0)
        return qp_file_writer_finish(writer, "first", 5, &err);
    qp_file_writer_abandon(writer);
    return r;
}

Test(file, a_writer_writes_what_is_added_whatever_its_sizes)
{
    static const size_t sizes[] = {5, 4095, 4 << 20, (4 << 20) + 1, (12 << 20) - 3, (25 << 20) + 4097};
    static const size_t steps[] = {1 << 30, 1000003, 4096};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t j = 0; j < sizeof steps / sizeof *steps; j++) {
            qp_auto_free char *text = NULL;
            size_t size, wrong = 0;
            cr_assert_eq(write_in_steps(scratch("large"), sizes[i], steps[j]), 0, "%s", err.message);
            cr_assert_eq(qp_read_file(scratch("large"), sizes[i] + 1, &text, &size, &err), 0, "%s", err.message);
            cr_assert_eq(size, sizes[i]);
            cr_expect_arr_eq(text, "first", 5);
            for (size_t b = 5; b < size; b++)
                wrong += text[b] != byte_at(b);
            cr_expect_eq(wrong, 0, "%zu bytes by %zu", sizes[i], steps[j]);
        }
}

Test(file, a_writer_tells_of_what_its_thread_could_not_write)
{
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){9 << 20, 9 << 20});
    cr_assert_eq(write_in_steps(scratch("large"), 40 << 20, 1 << 20), QP_ERR_SPACE, "%s", err.message);
    says("large: cannot write");
    cr_assert_eq(write_in_steps(scratch("large"), 10 << 20, 1 << 20), QP_ERR_SPACE, "%s", err.message);
    says("large: cannot write");
    cr_assert_lt(write_in_steps(scratch("none/large"), 10, 1), 0);
    says("none/large: cannot create");
}
