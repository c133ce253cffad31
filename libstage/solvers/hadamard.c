#include "libstage/solvers/hadamard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"

/* The largest matrix that is kept whole. */
enum { LARGEST_FACTOR = 1024 };

static bool is_prime(int64_t n)
{
    for (int64_t d = 2; d * d <= n; d++)
        if (n % d == 0)
            return false;
    return n > 1;
}

static bool is_paley_1(int64_t order)
{
    return order % 4 == 0 && is_prime(order - 1);
}

static bool is_paley_2(int64_t order)
{
    return order % 4 == 0 && order / 2 % 4 == 2 && is_prime(order / 2 - 1);
}

/* Four symmetric circulant matrices of order n, A, B, C and D, with A A + B B + C C + D D = 4 n I: their first rows, up
 * to the middle, after which they mirror. */
static const struct williamson {
    int64_t n;
    const char *rows[4];
} williamsons[] = {{13, {"++++-+-", "++---+-", "++---+-", "+---+-+"}},
                   {23, {"++---+---+-+", "+-++-++--+++", "+++---++-+-+", "+++-+++-+---"}}};

static const struct williamson *find_williamson(int64_t order)
{
    for (size_t i = 0; i < sizeof williamsons / sizeof *williamsons; i++)
        if (4 * williamsons[i].n == order)
            return &williamsons[i];
    return NULL;
}

/* Whether `order` is one of those that products are made of. */
static bool is_factor(int64_t order)
{
    return order == 2 || is_paley_1(order) || is_paley_2(order) || find_williamson(order);
}

/* What a product of factors costs for each element: their sum. Factors fall, so that each product is seen once.
 * Returns 0 when there is none for n with factors up to `largest`; `factors` gets the best. */
static int64_t cheapest(int64_t n, int64_t largest, int64_t *factors, int *count)
{
    int64_t best = 0, rest[QP_HADAMARD_FACTORS];
    int found;
    *count = 0;
    if (n == 1)
        return 1;
    for (int64_t f = n < largest ? n : largest; f >= 2; f--) {
        if (n % f != 0 || !is_factor(f))
            continue;
        int64_t cost = cheapest(n / f, f, rest, &found);
        if (cost == 0 || (best > 0 && cost + f > best))
            continue;
        best = cost + f;
        factors[0] = f;
        memcpy(factors + 1, rest, (size_t)found * sizeof *rest);
        *count = found + 1;
    }
    return best;
}

bool qp_hadamard_exists(int64_t n)
{
    int64_t factors[QP_HADAMARD_FACTORS];
    int count;
    return n >= 1 && n <= QP_HADAMARD_LARGEST && cheapest(n, LARGEST_FACTOR, factors, &count) > 0;
}

/* chi[a] = 1 when a is a square modulo the prime q, -1 when it is not, 0 for 0. */
static void quadratic_character(int64_t q, int8_t *chi)
{
    memset(chi, -1, (size_t)q);
    chi[0] = 0;
    for (int64_t a = 1; a < q; a++)
        chi[a * a % q] = 1;
}

/* Element (i, j) of Jacobsthal's matrix with a border: first row ones, first column `below`, 0 in the corner. */
static int bordered(const int8_t *chi, int64_t q, int below, int64_t i, int64_t j)
{
    if (i == 0)
        return j > 0;
    return j == 0 ? below : chi[(i - j + q) % q];
}

/* Paley I: I + S, S the bordered matrix with -1 in its first column, which is skew. */
static void fill_paley_1(const int8_t *chi, int64_t order, int8_t *m)
{
    for (int64_t i = 0; i < order; i++)
        for (int64_t j = 0; j < order; j++)
            m[i * order + j] = (int8_t)(bordered(chi, order - 1, -1, i, j) + (i == j));
}

/* Paley II: C x [1 1; 1 -1] + I x [1 -1; -1 -1], C the bordered matrix with 1 in its first column, which is symmetric.
 */
static void fill_paley_2(const int8_t *chi, int64_t order, int8_t *m)
{
    static const int around[2][2] = {{1, 1}, {1, -1}}, diagonal[2][2] = {{1, -1}, {-1, -1}};
    for (int64_t i = 0; i < order; i++)
        for (int64_t j = 0; j < order; j++) {
            int c = bordered(chi, order / 2 - 1, 1, i / 2, j / 2);
            m[i * order + j] = (int8_t)(i / 2 == j / 2 ? diagonal[i % 2][j % 2] : c * around[i % 2][j % 2]);
        }
}

static int fill_paley(int64_t order, int8_t *m, struct qp_error *err)
{
    bool first = is_paley_1(order);
    int64_t q = first ? order - 1 : order / 2 - 1;
    qp_auto_free int8_t *chi = qp_new_array(q, 1, "a quadratic character", err);
    if (!chi)
        return QP_ERR_SPACE;
    quadratic_character(q, chi);
    if (first)
        fill_paley_1(chi, order, m);
    else
        fill_paley_2(chi, order, m);
    return 0;
}

/* Williamson: [A B C D; -B A -D C; -C D A -B; -D -C B A]. */
static void fill_williamson(const struct williamson *w, int8_t *m)
{
    static const int sign[4][4] = {{1, 1, 1, 1}, {-1, 1, -1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}};
    int64_t n = w->n;
    for (int64_t i = 0; i < 4 * n; i++)
        for (int64_t j = 0; j < 4 * n; j++) {
            int64_t apart = (j - i + 4 * n) % n, from_end = apart < n - apart ? apart : n - apart;
            char element = w->rows[i / n ^ j / n][from_end];
            m[i * 4 * n + j] = (int8_t)(sign[i / n][j / n] * (element == '+' ? 1 : -1));
        }
}

/* Fills m[order, order] with the factor of that order, which is_factor and not 2. */
static int fill_factor(int64_t order, int8_t *m, struct qp_error *err)
{
    const struct williamson *w = find_williamson(order);
    if (!w)
        return fill_paley(order, m, err);
    fill_williamson(w, m);
    return 0;
}

static int refuse(int64_t n, const char *what, struct qp_error *err)
{
    if (n < 1 || n >= QP_HADAMARD_LARGEST) /* itself a power of two */
        return qp_fail(err, QP_ERR_INPUT, "%s is %lld: rotations are known for sizes from 1 to %d", what, (long long)n,
                       QP_HADAMARD_LARGEST);
    int64_t below = n - 1, above = n + 1;
    while (!qp_hadamard_exists(below))
        below--;
    while (!qp_hadamard_exists(above))
        above++;
    return qp_fail(err, QP_ERR_INPUT,
                   "%s is %lld, a size for which no Hadamard matrix is known here; the nearest that are supported are "
                   "%lld and %lld: turn this rotation off",
                   what, (long long)n, (long long)below, (long long)above);
}

int qp_hadamard_new(int64_t n, const char *what, struct qp_hadamard *out, struct qp_error *err)
{
    struct qp_hadamard h = {.n = n};
    if (!qp_hadamard_exists(n))
        return refuse(n, what, err);
    cheapest(n, LARGEST_FACTOR, h.order, &h.count);
    int r = 0;
    for (int i = 0; i < h.count && r == 0; i++)
        if (h.order[i] > 2) {
            h.factor[i] = qp_new_array(h.order[i] * h.order[i], 1, "a Hadamard matrix", err);
            r = h.factor[i] ? fill_factor(h.order[i], h.factor[i], err) : QP_ERR_SPACE;
        }
    if (r < 0)
        qp_hadamard_free(&h);
    *out = h;
    return r;
}

void qp_hadamard_free(struct qp_hadamard *h)
{
    for (int i = 0; i < h->count; i++)
        free(h->factor[i]);
    *h = (struct qp_hadamard){0};
}

/* x = x (I x [1 1; 1 -1] x I), pairs `stride` apart. */
static void apply_two(int64_t n, int64_t stride, double *x)
{
    for (int64_t at = 0; at < n; at += 2 * stride)
        for (int64_t i = at; i < at + stride; i++) {
            double a = x[i], b = x[i + stride];
            x[i] = a + b;
            x[i + stride] = a - b;
        }
}

/* out = x (I x F x I), F[order, order], elements `stride` apart. */
static void apply_factor(int64_t n, int64_t stride, int64_t order, const int8_t *f, const double *x, double *out)
{
    memset(out, 0, (size_t)n * sizeof *out);
    for (int64_t at = 0; at < n; at += order * stride)
        for (int64_t i = 0; i < order; i++)
            for (int64_t j = 0; j < order; j++) {
                const double *from = x + at + i * stride;
                double *to = out + at + j * stride, sign = f[i * order + j];
                for (int64_t k = 0; k < stride; k++)
                    to[k] += sign * from[k];
            }
}

void qp_hadamard_apply(const struct qp_hadamard *h, double *x, double *scratch)
{
    int64_t stride = h->n;
    for (int i = 0; i < h->count; i++) {
        stride /= h->order[i];
        if (h->order[i] == 2) {
            apply_two(h->n, stride, x);
            continue;
        }
        apply_factor(h->n, stride, h->order[i], h->factor[i], x, scratch);
        memcpy(x, scratch, (size_t)h->n * sizeof *x);
    }
    double norm = 1.0 / sqrt((double)h->n);
    for (int64_t i = 0; i < h->n; i++)
        x[i] *= norm;
}
