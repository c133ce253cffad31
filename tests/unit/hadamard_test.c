/* Hadamard matrices: orthogonal for every order that is claimed, and the fast product is the matrix's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/model/hadamard.h"

enum { LARGEST = 400 };

/* m[n, n] = H, row by row: what the fast product makes of the unit vectors. */
static void write_out(const struct qp_hadamard *h, double *m)
{
    int64_t n = h->n;
    double *scratch = malloc((size_t)n * sizeof *scratch);
    memset(m, 0, (size_t)(n * n) * sizeof *m);
    for (int64_t i = 0; i < n; i++) {
        m[i * n + i] = 1.0;
        qp_hadamard_apply(h, m + i * n, scratch);
        for (int64_t j = 0; j < n; j++)
            m[i * n + j] *= sqrt((double)n);
    }
    free(scratch);
}

static double largest_error(const double *m, int64_t n)
{
    double worst = 0.0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double dot = 0.0;
            for (int64_t k = 0; k < n; k++)
                dot += m[i * n + k] * m[j * n + k];
            worst = fmax(worst, fabs(dot - (i == j ? (double)n : 0.0)));
        }
    return worst;
}

Test(hadamard, every_claimed_order_is_orthogonal_and_of_ones)
{
    static double m[LARGEST * LARGEST];
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
        write_out(&h, m);
        for (int64_t i = 0; i < n * n; i++)
            cr_assert_lt(fabs(fabs(m[i]) - 1.0), 1e-9, "order %lld: element %lld is %g", (long long)n, (long long)i,
                         m[i]);
        cr_expect_lt(largest_error(m, n), 1e-9 * (double)n, "order %lld", (long long)n);
        qp_hadamard_free(&h);
    }
    cr_expect_gt(claimed, 70, "%d orders", claimed);
}

Test(hadamard, orders_of_networks_are_known)
{
    static const int64_t sizes[] = {1,    2,    4,    12,   36,   64,   80,   96,   128,  576,   640,
                                    768,  896,  960,  1152, 1536, 1600, 2048, 2304, 2560, 2880,  3072,
                                    3584, 3840, 4096, 5120, 5376, 6144, 6656, 7168, 8192, 12288, 16384};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        cr_expect(qp_hadamard_exists(sizes[i]), "%lld", (long long)sizes[i]);
    for (int64_t n = 4; n < 100; n += 4) /* orders that Paley's constructions over prime fields do not reach */
        cr_expect_eq(qp_hadamard_exists(n), n != 52 && n != 92, "%lld", (long long)n);
}

Test(hadamard, an_unknown_order_is_refused_with_its_neighbours)
{
    struct qp_error err;
    struct qp_hadamard h;
    cr_assert_eq(qp_hadamard_new(92, "hidden_size", &h, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "hidden_size is 92") && strstr(err.message, "88 and 96"), "%s", err.message);
    cr_assert_eq(qp_hadamard_new(0, "hidden_size", &h, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_hadamard_new(-4, "hidden_size", &h, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_hadamard_new(INT64_MAX, "hidden_size", &h, &err), QP_ERR_INPUT);
}
