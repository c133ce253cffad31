#include "tests/kernel/harness.h"

struct scores {
    double *nll_p, *nll_q, *kl;
    int32_t *top_p, *top_q;
};

static struct scores run_on(const struct qp_kernels *k, struct qp_logits l)
{
    struct scores s = {fresh(l.rows, 8), fresh(l.rows, 8), fresh(l.rows, 8), fresh(l.rows, 4), fresh(l.rows, 4)};

    l.nll_p = s.nll_p;
    l.nll_q = s.nll_q;
    l.kl = s.kl;
    l.top_p = s.top_p;
    l.top_q = s.top_q;
    k->logits(&l);
    return s;
}

static void release(struct scores *s)
{
    free(s->nll_p);
    free(s->nll_q);
    free(s->kl);
    free(s->top_p);
    free(s->top_q);
}

static void compare(const struct qp_logits *l)
{
    struct scores want = run_on(reference(), *l);

    EACH_RUN(run)
    {
        struct scores got = run_on(run.k, *l);
        EXPECT_NEAR(got.nll_p, want.nll_p, l->rows, 1e-5, "%s: nll of p, %lld", run.name, (long long)l->vocab);
        EXPECT_NEAR(got.nll_q, want.nll_q, l->rows, 1e-5, "%s: nll of q, %lld", run.name, (long long)l->vocab);
        EXPECT_NEAR(got.kl, want.kl, l->rows, 1e-5, "%s: divergence, %lld", run.name, (long long)l->vocab);
        EXPECT_SAME_BYTES(got.top_p, want.top_p, l->rows, "%s: top of p, %lld", run.name, (long long)l->vocab);
        EXPECT_SAME_BYTES(got.top_q, want.top_q, l->rows, "%s: top of q, %lld", run.name, (long long)l->vocab);
        release(&got);
    }
    release(&want);
}

static int32_t *targets(int64_t rows, int64_t vocab)
{
    uint64_t seed = 9;
    int32_t *t = fresh(rows, 4);
    for (int64_t r = 0; r < rows; r++)
        t[r] = r % 5 == 4 ? -1 : (int32_t)(next_random(&seed) % (uint64_t)vocab);
    return t;
}

Test(logits, agrees_with_the_reference)
{
    static const int64_t vocabularies[] = {1, 2, 15, 16, 17, 33, 1000, 49152};

    for (int v = 0; v < COUNT(vocabularies); v++) {
        int64_t rows = 11, vocab = vocabularies[v];
        float *p = random_floats(rows * vocab, 6, 1), *q = random_floats(rows * vocab, 6, 2);
        int32_t *target = targets(rows, vocab);
        struct qp_logits l = {.rows = rows, .vocab = vocab, .p = p, .q = q, .target = target};
        for (int64_t i = 0; i < rows / 2 * vocab; i++)
            q[i] = p[i] + 0.01f * q[i]; /* near each other, as a network and its quantized self */
        compare(&l);
        free(p);
        free(q);
        free(target);
    }
}

Test(logits, edge_values)
{
    float p[] = {NAN, 1, 2, 3, -INFINITY, 0, 0, 1, INFINITY, 1, 2, 3, 300, -300, 300, 0, NAN, NAN, NAN, NAN};
    float q[] = {1, 1, 2, 3, -INFINITY, 0, 1, 0, 1, 1, 2, 3, 300, -300, 299, 0, 1, NAN, 3, 3};
    int32_t target[] = {1, 2, 3, 0, 1};

    compare(&(struct qp_logits){.rows = 5, .vocab = 4, .p = p, .q = q, .target = target});
    compare(&(struct qp_logits){.rows = 0, .vocab = 4, .p = p, .q = q, .target = target});
}

Test(logits, by_hand)
{
    const float p[] = {0, 0, 0, 0}, q[] = {0, (float)M_LN2, 0, (float)M_LN2};
    const int32_t target[] = {3};
    double nll_p, nll_q, kl;
    int32_t top_p, top_q;

    EACH_RUN(run)
    { /* P uniform, Q = (1, 2, 1, 2) / 6 */
        run.k->logits(&(struct qp_logits){1, 4, p, q, target, &nll_p, &nll_q, &kl, &top_p, &top_q});
        cr_assert_float_eq(nll_p, log(4), 1e-6);
        cr_assert_float_eq(nll_q, log(3), 1e-6);
        cr_assert_float_eq(kl, (log(6.0 / 4) + log(3.0 / 4)) / 2, 1e-6);
        cr_assert_eq(top_p, 0);
        cr_assert_eq(top_q, 1);
    }
}

Test(logits, of_one_network_alone)
{
    const float p[] = {1, 5, 2, 5, 9, 1};
    double nll[2];
    int32_t top[2];

    EACH_RUN(run)
    {
        run.k->logits(&(struct qp_logits){.rows = 2, .vocab = 3, .p = p, .top_p = top});
        EXPECT_SAME_BYTES(top, ((int32_t[]){1, 1}), 2, "%s", run.name);
        run.k->logits(&(struct qp_logits){.rows = 2, .vocab = 3, .p = p, .nll_p = nll});
        EXPECT_NEAR(nll, ((double[]){0, 0}), 2, 0, "%s", run.name);
    }
}
