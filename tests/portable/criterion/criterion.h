/* As much of Criterion as tests/kernel uses, for processors that are emulated: Criterion's sandboxes do not start
 * there. Every test runs in a process of its own, and is told by its exit status. One source file, one program. */
#ifndef QUANTPIPE_TESTS_PORTABLE_CRITERION_H
#define QUANTPIPE_TESTS_PORTABLE_CRITERION_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct test {
    const char *suite, *name;
    void (*run)(void);
    void (*init)(void);
    int timeout; /* not heeded: emulation is slow */
    struct test *next;
};

static struct test *tests, **last_test = &tests;
static int expectations_failed;

#define Test(suite_, name_, ...)                                                          \
    static void test_##suite_##_##name_(void);                                            \
    static struct test entry_##suite_##_##name_ = {                                       \
        .suite = #suite_, .name = #name_, .run = test_##suite_##_##name_, ##__VA_ARGS__}; \
    static void __attribute__((constructor)) enter_##suite_##_##name_(void)               \
    {                                                                                     \
        *last_test = &entry_##suite_##_##name_;                                           \
        last_test = &entry_##suite_##_##name_.next;                                       \
    }                                                                                     \
    static void test_##suite_##_##name_(void)

static inline void test_failed(const char *file, int line, const char *what, bool ends)
{
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    expectations_failed++;
    if (ends)
        _exit(1);
}

/* The message of an assertion, if it has one, comes after its condition. */
#define TEST_HOLDS(ends, condition, what, ...)                             \
    do {                                                                   \
        if (!(condition)) {                                                \
            __VA_OPT__(fprintf(stderr, __VA_ARGS__); fputs(": ", stderr);) \
            test_failed(__FILE__, __LINE__, what, ends);                   \
        }                                                                  \
    } while (0)

#define cr_assert_fail(...) TEST_HOLDS(true, false, "failed", __VA_ARGS__)
#define cr_assert(c, ...) TEST_HOLDS(true, c, #c, ##__VA_ARGS__)
#define cr_assert_not(c, ...) TEST_HOLDS(true, !(c), "not " #c, ##__VA_ARGS__)
#define cr_assert_null(c, ...) TEST_HOLDS(true, (c) == NULL, #c " == NULL", ##__VA_ARGS__)
#define cr_assert_not_null(c, ...) TEST_HOLDS(true, (c) != NULL, #c " != NULL", ##__VA_ARGS__)
#define cr_assert_eq(a, b, ...) TEST_HOLDS(true, (a) == (b), #a " == " #b, ##__VA_ARGS__)
#define cr_assert_neq(a, b, ...) TEST_HOLDS(true, (a) != (b), #a " != " #b, ##__VA_ARGS__)
#define cr_assert_lt(a, b, ...) TEST_HOLDS(true, (a) < (b), #a " < " #b, ##__VA_ARGS__)
#define cr_assert_leq(a, b, ...) TEST_HOLDS(true, (a) <= (b), #a " <= " #b, ##__VA_ARGS__)
#define cr_assert_gt(a, b, ...) TEST_HOLDS(true, (a) > (b), #a " > " #b, ##__VA_ARGS__)
#define cr_assert_geq(a, b, ...) TEST_HOLDS(true, (a) >= (b), #a " >= " #b, ##__VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) TEST_HOLDS(true, strcmp(a, b) == 0, #a " is " #b, ##__VA_ARGS__)
#define cr_assert_float_eq(a, b, e, ...) TEST_HOLDS(true, fabs((a) - (b)) <= (e), #a " near " #b, ##__VA_ARGS__)
#define cr_expect(c, ...) TEST_HOLDS(false, c, #c, ##__VA_ARGS__)
#define cr_expect_null(c, ...) TEST_HOLDS(false, (c) == NULL, #c " == NULL", ##__VA_ARGS__)
#define cr_expect_eq(a, b, ...) TEST_HOLDS(false, (a) == (b), #a " == " #b, ##__VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) TEST_HOLDS(false, strcmp(a, b) == 0, #a " is " #b, ##__VA_ARGS__)
#define cr_expect_float_eq(a, b, e, ...) TEST_HOLDS(false, fabs((a) - (b)) <= (e), #a " near " #b, ##__VA_ARGS__)

static bool test_passes(const struct test *test)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        if (test->init)
            test->init();
        test->run();
        _exit(expectations_failed > 0);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(void)
{
    int count = 0, failed = 0;
    for (const struct test *test = tests; test; test = test->next, count++)
        if (!test_passes(test)) {
            printf("FAILED %s/%s\n", test->suite, test->name);
            failed++;
        }
    printf("%d tests, %d failed\n", count, failed);
    return count == 0 || failed > 0;
}

#endif
