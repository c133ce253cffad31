/* A mapped file that loses its end. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libstage/tensor/operations.h"
#include "libstage/tensor/tensor.h"
#include "tests/support/scratch.h"

TestSuite(mapped, .init = scratch_make, .fini = scratch_drop, .timeout = 60);

enum { PAGES = 4 };

static size_t page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* A file of ones. */
static const char *new_file(const char *name)
{
    char *bytes = malloc(PAGES * page());
    memset(bytes, 1, PAGES * page());
    const char *path = scratch_write(name, bytes, PAGES * page());
    free(bytes);
    return path;
}

static struct qp_storage *map(const char *path)
{
    struct qp_error err;
    struct qp_storage *storage;
    cr_assert_eq(qp_storage_map(path, &storage, &err), 0, "%s", err.message);
    return storage;
}

static int sum(const struct qp_storage *storage, size_t from)
{
    int found = 0;
    for (size_t i = from; i < storage->size; i += page())
        found += ((const volatile char *)storage->base)[i];
    return found;
}

static void expect_loss(const char *path, int r)
{
    struct qp_error err = {0};
    cr_assert_eq(qp_operations_check(r, &err), QP_ERR_INPUT);
    cr_expect(strncmp(err.message, path, strlen(path)) == 0, "%s", err.message);
    cr_expect(strstr(err.message, "truncated while it was read"), "%s", err.message);
}

Test(mapped, a_read_beyond_the_end_is_an_error_and_no_signal)
{
    struct qp_error err;
    const char *path = new_file("model"), *other = new_file("other");
    struct qp_storage *storage = map(path), *whole = map(other);
    cr_assert_eq(sum(storage, 0), PAGES);
    cr_assert_eq(qp_operations_check(0, &err), 0);
    cr_assert_eq(truncate(path, (off_t)page()), 0);
    cr_expect_eq(sum(storage, 0), 1, "zeros where there is nothing any more");
    expect_loss(path, 0);
    expect_loss(path, QP_ERR_STAGE);
    cr_expect_eq(sum(whole, 0), PAGES);
    qp_storage_unref(storage);
    cr_expect_eq(qp_operations_check(QP_ERR_GATE, &err), QP_ERR_GATE, "what is not mapped is not looked at");
    qp_storage_unref(whole);
}

/* What is after the end in its page reads as zeros without any signal. */
Test(mapped, a_loss_within_a_page_is_found)
{
    const char *path = new_file("model");
    struct qp_storage *storage = map(path);
    cr_assert_eq(truncate(path, (off_t)(PAGES * page() - 8)), 0);
    cr_expect_eq(sum(storage, page() - 1), PAGES - 1);
    expect_loss(path, 0);
    qp_storage_unref(storage);
}

Test(mapped, a_file_that_was_replaced_or_removed_stays_mapped)
{
    struct qp_error err;
    const char *path = new_file("model");
    struct qp_storage *storage = map(path);
    cr_assert_eq(rename(scratch_text("short", "x"), path), 0);
    cr_expect_eq(qp_operations_check(0, &err), 0);
    cr_assert_eq(unlink(path), 0);
    cr_expect_eq(qp_operations_check(0, &err), 0);
    cr_expect_eq(sum(storage, 0), PAGES);
    qp_storage_unref(storage);
}

/* Faults elsewhere end the process as ever. */
Test(mapped, other_bus_errors_stay_what_they_are, .signal = SIGBUS)
{
    signal(SIGBUS, SIG_DFL); /* a sanitizer has a handler of its own */
    struct qp_storage *storage = map(new_file("model"));
    const char *path = new_file("other");
    int fd = open(path, O_RDONLY);
    const volatile char *bytes = mmap(NULL, PAGES * page(), PROT_READ, MAP_SHARED, fd, 0);
    cr_assert_eq(truncate(path, 0), 0);
    cr_assert_eq(bytes[0] + sum(storage, 0), -1, "not reached");
}
