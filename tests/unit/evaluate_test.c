#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny.h"

TestSuite(evaluate, .init = scratch_make, .fini = scratch_drop);

static const struct qp_windows *windows(void)
{
    return golden_windows();
}

/* log softmax of one row, in float64. */
static void log_softmax(const float *logits, double *out)
{
    double largest = -INFINITY, sum = 0.0;
    for (int v = 0; v < GOLDEN_VOCAB; v++)
        largest = fmax(largest, logits[v]);
    for (int v = 0; v < GOLDEN_VOCAB; v++)
        sum += exp(logits[v] - largest);
    for (int v = 0; v < GOLDEN_VOCAB; v++)
        out[v] = logits[v] - largest - log(sum);
}

static int64_t largest_of(const double *p)
{
    int64_t best = 0;
    for (int v = 1; v < GOLDEN_VOCAB; v++)
        best = p[v] > p[best] ? v : best;
    return best;
}

/* What the metrics are defined to be, from logits; q NULL: perplexity alone. */
static struct qp_metrics by_definition(const float *p, const float *q)
{
    struct qp_metrics m = {0};
    double a[GOLDEN_VOCAB], b[GOLDEN_VOCAB], nll = 0.0, reference = 0.0, kl = 0.0, agreed = 0.0;
    for (int row = 0; row < GOLDEN_TOKENS; row++) {
        if (row % GOLDEN_LENGTH == GOLDEN_LENGTH - 1)
            continue;
        int32_t next = windows()->ids[row + 1];
        log_softmax(p + row * GOLDEN_VOCAB, a);
        log_softmax((q ? q : p) + row * GOLDEN_VOCAB, b);
        m.tokens++;
        nll -= b[next];
        reference -= a[next];
        agreed += largest_of(a) == largest_of(b);
        for (int v = 0; v < GOLDEN_VOCAB; v++)
            kl += exp(a[v]) * (a[v] - b[v]);
    }
    m.perplexity = exp(nll / (double)m.tokens);
    m.reference_perplexity = exp(reference / (double)m.tokens);
    m.kl_divergence = kl / (double)m.tokens;
    m.top1_agreement = agreed / (double)m.tokens;
    return m;
}

static void count_blocks(void *context, int64_t done, int64_t total)
{
    int64_t *last = context;
    cr_assert_eq(done, *last + 1);
    cr_assert_eq(total, 4);
    *last = done;
}

Test(evaluate, perplexity_is_that_of_the_logits_of_transformers)
{
    struct qp_error err;
    struct qp_metrics m;
    int64_t done = 0;
    struct qp_checkpoint *checkpoint = golden_open("biased");
    struct qp_metrics expected = by_definition(golden_logits("biased"), NULL);
    cr_assert_eq(qp_evaluate(checkpoint, windows(), qp_kernels_open("cpu"), count_blocks, &done, &m, &err), 0, "%s",
                 err.message);
    cr_assert_eq(done, 4);
    cr_assert_eq(m.tokens, GOLDEN_SEQUENCES * (GOLDEN_LENGTH - 1));
    cr_assert_float_eq(m.perplexity, expected.perplexity, 1e-4 * expected.perplexity);
    cr_assert(isnan(m.reference_perplexity) && isnan(m.kl_divergence) && isnan(m.top1_agreement));
    qp_checkpoint_close(checkpoint);
}

/* Two streams of final states that differ a little, scored by one head. */
Test(evaluate, divergence_is_from_the_reference)
{
    enum { HIDDEN = 24, COUNT = GOLDEN_TOKENS * HIDDEN };
    static float p[GOLDEN_LOGITS], q[GOLDEN_LOGITS], noise[COUNT], normed[COUNT];
    struct qp_error err;
    struct qp_metrics m;
    struct qp_hidden_states reference, states;
    struct qp_head head;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 3);
    cr_assert_eq(qp_head_load(&block, &head, &err), 0, "%s", err.message);
    cr_assert_eq(qp_hidden_open(windows(), HIDDEN, scratch(""), &reference, &err), 0, "%s", err.message);
    cr_assert_eq(qp_hidden_open(windows(), HIDDEN, NULL, &states, &err), 0, "%s", err.message);
    tiny_random(1, COUNT, 1.0f, reference.x);
    tiny_random(2, COUNT, 0.3f, noise);
    for (int i = 0; i < COUNT; i++)
        states.x[i] = reference.x[i] + noise[i];
    cr_assert_eq(qp_hidden_score(&head, &states, &reference, &m, &err), 0, "%s", err.message);
    qp_head_logits(&head, QP_ORIGINAL, GOLDEN_TOKENS, reference.x, normed, p);
    qp_head_logits(&head, QP_ORIGINAL, GOLDEN_TOKENS, states.x, normed, q);
    struct qp_metrics expected = by_definition(p, q);
    cr_assert_eq(m.tokens, expected.tokens);
    cr_assert_float_eq(m.perplexity, expected.perplexity, 1e-4 * expected.perplexity);
    cr_assert_float_eq(m.reference_perplexity, expected.reference_perplexity, 1e-4 * expected.reference_perplexity);
    cr_assert_float_eq(m.kl_divergence, expected.kl_divergence, 1e-5);
    cr_assert_gt(m.kl_divergence, 1e-3);
    cr_assert_float_eq(m.top1_agreement, expected.top1_agreement, 1e-12);
    cr_assert_lt(m.top1_agreement, 1.0);
    qp_hidden_close(&reference);
    qp_hidden_close(&states);
    cr_assert_eq(rmdir(scratch("")), 0, "the scratch file is not hidden");
    qp_head_free(&head);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

Test(evaluate, what_cannot_be_scored_is_refused)
{
    struct qp_error err;
    struct qp_metrics m;
    struct qp_hidden_states states;
    int32_t ids[300] = {0};
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_windows w = {ids, 1, 1};
    cr_assert_eq(qp_evaluate(checkpoint, &w, qp_kernels_open("ref"), NULL, NULL, &m, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "predict nothing"), "%s", err.message);
    w.length = 300;
    cr_assert_eq(qp_evaluate(checkpoint, &w, qp_kernels_open("ref"), NULL, NULL, &m, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "sequences of 300 tokens; this model takes 1 to 256"), "%s", err.message);
    cr_assert_lt(qp_hidden_open(&w, 24, "/nonexistent", &states, &err), 0);
    w.count = INT64_MAX / 16;
    cr_assert_lt(qp_hidden_open(&w, 24, NULL, &states, &err), 0);
    qp_checkpoint_close(checkpoint);
}
