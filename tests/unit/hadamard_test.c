/* Hadamard matrices: orthogonal for every order that is claimed, and the fast product is the matrix's. */
#include <math.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/solvers/hadamard.h"

enum { LARGEST = 1024, LARGEST_APPLIED = 400, WORDS = LARGEST / 64 };

static int element(const struct qp_hadamard *h, int64_t i, int64_t j)
{
    int sign = 1;
    for (int f = h->count - 1; f >= 0; f--) { /* the last factor is the innermost */
        int64_t order = h->order[f], row = i % order, col = j % order;
        sign *= h->factor[f] ? h->factor[f][row * order + col] : row && col ? -1 : 1;
        i /= order;
        j /= order;
    }
    return sign;
}

/* H Hᵀ = n I: any two rows differ in half of their places. */
static void expect_orthogonal(const struct qp_hadamard *h)
{
    static uint64_t minus[LARGEST][WORDS];
    memset(minus, 0, sizeof minus);
    for (int64_t i = 0; i < h->n; i++)
        for (int64_t j = 0; j < h->n; j++) {
            int e = element(h, i, j);
            cr_assert(e == 1 || e == -1, "order %lld: element (%lld, %lld) is %d", (long long)h->n, (long long)i,
                      (long long)j, e);
            minus[i][j / 64] |= (uint64_t)(e < 0) << j % 64;
        }
    for (int64_t i = 0; i < h->n; i++)
        for (int64_t j = 0; j < i; j++) {
            int64_t different = 0;
            for (int w = 0; w < WORDS; w++)
                different += __builtin_popcountll(minus[i][w] ^ minus[j][w]);
            cr_assert_eq(2 * different, h->n, "order %lld: rows %lld and %lld", (long long)h->n, (long long)i,
                         (long long)j);
        }
}

/* The fast product of each unit vector is a row of H. */
static void expect_applied(const struct qp_hadamard *h)
{
    double x[LARGEST_APPLIED], scratch[LARGEST_APPLIED], norm = sqrt((double)h->n);
    for (int64_t i = 0; i < h->n; i++) {
        memset(x, 0, sizeof x);
        x[i] = 1.0;
        qp_hadamard_apply(h, x, scratch);
        for (int64_t j = 0; j < h->n; j++)
            cr_assert_float_eq(x[j] * norm, element(h, i, j), 1e-9, "order %lld: element (%lld, %lld) is %g",
                               (long long)h->n, (long long)i, (long long)j, x[j] * norm);
    }
}

Test(hadamard, every_claimed_order_is_orthogonal_and_of_ones)
{
    int claimed = 0;
    for (int64_t n = 1; n <= LARGEST; n++) {
        struct qp_error err;
        struct qp_hadamard h;
        if (!qp_hadamard_exists(n)) {
            cr_expect_eq(qp_hadamard_new(n, "n", &h, &err), QP_ERR_INPUT);
            continue;
        }
        claimed++;
        cr_assert_eq(qp_hadamard_new(n, "n", &h, &err), 0, "%s", err.message);
        expect_orthogonal(&h);
        if (n <= LARGEST_APPLIED)
            expect_applied(&h);
        qp_hadamard_free(&h);
    }
    cr_expect_gt(claimed, 180, "%d orders", claimed);
}

Test(hadamard, orders_of_networks_are_known)
{
    static const int64_t sizes[] = {1,    2,    4,    12,   36,   64,   80,   96,   128,   576,   640,   768,
                                    896,  960,  1152, 1536, 1600, 2048, 2304, 2560, 2880,  3072,  3584,  3840,
                                    4096, 5120, 5376, 6144, 6656, 7168, 5888, 8192, 11776, 12288, 13312, 16384};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        cr_expect(qp_hadamard_exists(sizes[i]), "%lld", (long long)sizes[i]);
    for (int64_t n = 1; n < 100; n++) /* no others can be */
        cr_expect_eq(qp_hadamard_exists(n), n < 3 || n % 4 == 0, "%lld", (long long)n);
}

Test(hadamard, an_unknown_order_is_refused_with_its_neighbours)
{
    struct qp_error err;
    struct qp_hadamard h;
    cr_assert_eq(qp_hadamard_new(116, "hidden_size", &h, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "hidden_size is 116") && strstr(err.message, "112 and 120"), "%s", err.message);
    cr_assert_eq(qp_hadamard_new(0, "hidden_size", &h, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_hadamard_new(-4, "hidden_size", &h, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_hadamard_new(INT64_MAX, "hidden_size", &h, &err), QP_ERR_INPUT);
}
