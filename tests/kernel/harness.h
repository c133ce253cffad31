/* Every fast backend against the reference: seeded data, edge values, comparison bit for bit or within a bound. */
#ifndef QUANTPIPE_TESTS_KERNEL_HARNESS_H
#define QUANTPIPE_TESTS_KERNEL_HARNESS_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* A backend and how many threads it may use. */
struct run {
    const struct qp_kernels *k;
    int index;
    char name[32];
};

/* Says once which backends this program runs: a CPU or QUANTPIPE_CPU may leave some out. */
static inline void print_backends(int count, const char *const backends[])
{
    static bool printed;
    if (printed)
        return;
    printed = true;
    fprintf(stderr, "backends: cpu is %s;", qp_kernels_extensions());
    for (int b = 0; b < count; b++)
        fprintf(stderr, " %s %s%s", backends[b], qp_kernels_open(backends[b]) ? "runs" : "is not available",
                b + 1 < count ? "," : "\n");
}

/* The i-th way to run the fast kernels on this CPU, k NULL after the last one; sets the threads. Where QUANTPIPE_CPU
 * holds the dispatch to a set, that is the one under test: the others are run without it. */
static inline struct run nth_run(int i)
{
    static const char *const backends[] = {"cpu", "avx2", "avx512"};
    static const int threads[] = {1, 3};
    struct run run = {.index = i};
    int count = getenv("QUANTPIPE_CPU") ? 1 : COUNT(backends);

    print_backends(count, backends);
    for (int b = 0; b < count; b++) {
        run.k = qp_kernels_open(backends[b]);
        for (int t = 0; run.k != NULL && t < COUNT(threads); t++)
            if (i-- == 0) {
                snprintf(run.name, sizeof run.name, "%s, %d threads", backends[b], threads[t]);
                qp_kernels_set_threads(threads[t]);
                return run;
            }
    }
    run.k = NULL;
    return run;
}

#define EACH_RUN(run) for (struct run run = nth_run(0); run.k != NULL; run = nth_run(run.index + 1))

static inline const struct qp_kernels *reference(void)
{
    return qp_kernels_open("ref");
}

/* ---- data ---- */

static inline uint64_t next_random(uint64_t *state) /* splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* Roughly normal with standard deviation 1. */
static inline float next_normal(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (double)(next_random(state) >> 11) * 0x1p-53;
    return (float)((sum - 2) * 1.7320508075688772);
}

static inline void *fresh(int64_t count, size_t size)
{
    void *memory =
        calloc(count > 0 ? (size_t)count : 1, size); /* exact size: the sanitizer sees the first byte too far */
    cr_assert_not_null(memory);
    return memory;
}

static inline float *random_floats(int64_t count, float deviation, uint64_t seed)
{
    float *x = fresh(count, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = deviation * next_normal(&seed);
    return x;
}

static const float edge_values[] = {NAN,       -NAN,       INFINITY,  -INFINITY, 0.0f,       -0.0f,
                                    0x1p-149f, -0x1p-149f, 0x1p-126f, 0x1p-127f, -0x1p-140f, 1.0f,
                                    -1.0f,     0.5f,       1.5f,      2.5f,      -2.5f,      3.4e38f,
                                    -3.4e38f,  65504.0f,   65520.0f,  448.0f,    464.0f,     57344.0f};

/* Overwrites every `every`-th number with edge values in turn, from `first` on. */
static inline void sprinkle(int64_t count, float *x, int first, int64_t every)
{
    for (int64_t i = 0; i < count; i += every)
        x[i] = edge_values[(first + (int)(i / every)) % COUNT(edge_values)];
}

static inline void *copy_of(const void *data, int64_t count, size_t size)
{
    void *copy = fresh(count, size);
    if (count > 0)
        memcpy(copy, data, (size_t)count * size);
    return copy;
}

/* ---- comparison ---- */

static inline bool same_float(float a, float b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

/* Ends the test for element `at`, with what was compared in front. Comparisons that pass come by the million, so that
 * nothing is formatted for these. */
#define FAIL_ELEMENT(at, format, got, want, ...)                                                                  \
    do {                                                                                                          \
        char what_[256];                                                                                          \
        snprintf(what_, sizeof what_, __VA_ARGS__);                                                               \
        cr_assert_fail("%s: element %lld is " format ", the reference says " format, what_, (long long)(at), got, \
                       want);                                                                                     \
    } while (0)

#define EXPECT_SAME_FLOATS(got, want, count, ...)                                           \
    do {                                                                                    \
        for (int64_t e_ = 0; e_ < (count); e_++)                                            \
            if (!same_float((got)[e_], (want)[e_]))                                         \
                FAIL_ELEMENT(e_, "%a", (double)(got)[e_], (double)(want)[e_], __VA_ARGS__); \
    } while (0)

#define EXPECT_SAME_BYTES(got, want, count, ...)                                      \
    do {                                                                              \
        for (int64_t e_ = 0; e_ < (count); e_++)                                      \
            if ((got)[e_] != (want)[e_])                                              \
                FAIL_ELEMENT(e_, "%d", (int)(got)[e_], (int)(want)[e_], __VA_ARGS__); \
    } while (0)

/* |got - want| <= bound for each element; infinities and NaN have to agree. */
#define EXPECT_NEAR(got, want, count, bound, ...)                                      \
    do {                                                                               \
        for (int64_t e_ = 0; e_ < (count); e_++) {                                     \
            double g_ = (double)(got)[e_], w_ = (double)(want)[e_];                    \
            bool good_ = isnan(w_) ? isnan(g_) : g_ == w_ || fabs(g_ - w_) <= (bound); \
            if (!good_)                                                                \
                FAIL_ELEMENT(e_, "%.9g", g_, w_, __VA_ARGS__);                         \
        }                                                                              \
    } while (0)

#endif
