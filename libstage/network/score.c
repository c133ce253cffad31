/* What the logits of a stream's final hidden states say. */
#include "libstage/network/evaluate.h"

#include <math.h>
#include <stdlib.h>

#include "libstage/base/memory.h"
#include "libstage/tensor/operations.h"

/* Logits of both networks stay below this many floats, or a fourth of the largest layer's weights, or one row. */
#define LOGITS_FLOATS ((int64_t)16 << 20)
#define MAX_ROWS 512

struct scratch {
    int64_t rows; /* of a chunk */
    void *memory;
    double *nll, *reference_nll, *kl;
    float *x, *normed, *logits, *reference_logits;
    int32_t *target, *top, *reference_top;
};

struct sums {
    int64_t tokens, agreed;
    double nll, reference_nll, kl;
};

int64_t qp_score_rows(const struct qp_arch *arch, int64_t tokens)
{
    int64_t floats = LOGITS_FLOATS;
    for (int64_t layer = 0; layer < arch->layers; layer++) {
        int64_t part = qp_layer_weights(qp_layer_type(arch, layer)) / 4;
        floats = part > floats ? part : floats;
    }
    int64_t rows = floats / 2 / arch->vocab, most = tokens < MAX_ROWS ? tokens : MAX_ROWS;
    return rows < 1 ? 1 : rows > most ? most : rows;
}

static int scratch_open(const struct qp_head *head, int64_t tokens, struct scratch *s, struct qp_error *err)
{
    size_t vocab = (size_t)head->arch->vocab, hidden = (size_t)head->arch->hidden;
    size_t normed = (size_t)qp_head_scratch(head->arch);
    size_t n = (size_t)qp_score_rows(head->arch, tokens);
    size_t row_bytes = 3 * sizeof(double) + (hidden + normed + 2 * vocab) * sizeof(float) + 3 * sizeof(int32_t);
    double *d = qp_new_array((int64_t)n, row_bytes, "logits", err);
    if (!d)
        return QP_ERR_SPACE;
    float *f = (float *)(d + 3 * n);
    int32_t *i = (int32_t *)(f + n * (hidden + normed + 2 * vocab));
    *s = (struct scratch){
        .rows = (int64_t)n,
        .memory = d,
        .nll = d,
        .reference_nll = d + n,
        .kl = d + 2 * n,
        .x = f,
        .normed = f + n * hidden,
        .logits = f + n * (hidden + normed),
        .reference_logits = f + n * (hidden + normed + vocab),
        .target = i,
        .top = i + n,
        .reference_top = i + 2 * n,
    };
    return 0;
}

/* The next token of each row; -1 for the last one of a window, which predicts nothing that is known. */
static void set_targets(const struct qp_windows *w, int64_t row, int64_t rows, int32_t *target)
{
    for (int64_t r = 0; r < rows; r++)
        target[r] = (row + r + 1) % w->length == 0 ? -1 : w->ids[row + r + 1];
}

static void add_up(const struct scratch *s, int64_t rows, bool compared, struct sums *sums)
{
    for (int64_t r = 0; r < rows; r++) {
        if (s->target[r] < 0)
            continue;
        sums->tokens++;
        sums->nll += s->nll[r];
        if (!compared)
            continue;
        sums->reference_nll += s->reference_nll[r];
        sums->kl += s->kl[r];
        sums->agreed += s->top[r] == s->reference_top[r];
    }
}

/* The divergence is KL(reference || stream): the reference's distribution is the true one. */
static void score_rows(const struct qp_head *head, const struct qp_hidden_states *states,
                       const struct qp_hidden_states *reference, int64_t row, int64_t rows, struct scratch *s)
{
    set_targets(states->windows, row, rows, s->target);
    qp_hidden_read(states, head->kernels, row, rows, s->x);
    qp_head_logits(head, reference ? QP_QUANTIZED : QP_ORIGINAL, rows, s->x, s->normed, s->logits);
    struct qp_logits l = {.rows = rows, .vocab = head->arch->vocab, .target = s->target};
    if (reference) {
        qp_hidden_read(reference, head->kernels, row, rows, s->x);
        qp_head_logits(head, QP_ORIGINAL, rows, s->x, s->normed, s->reference_logits);
        l.p = s->reference_logits;
        l.nll_p = s->reference_nll;
        l.top_p = s->reference_top;
        l.q = s->logits;
        l.nll_q = s->nll;
        l.top_q = s->top;
        l.kl = s->kl;
    } else {
        l.p = s->logits;
        l.nll_p = s->nll;
    }
    head->kernels->logits(&l);
}

int qp_hidden_score(const struct qp_head *head, const struct qp_hidden_states *states,
                    const struct qp_hidden_states *reference, struct qp_metrics *out, struct qp_error *err)
{
    struct scratch s = {0};
    struct sums sums = {0};
    int64_t total = states->windows->count * states->windows->length;
    if (states->windows->length < 2)
        return qp_fail(err, QP_ERR_INPUT, "windows of %lld token predict nothing; set `length` to 2 or more",
                       (long long)states->windows->length);
    int r = scratch_open(head, total, &s, err);
    if (r < 0)
        return r;
    for (int64_t row = 0; r == 0 && row < total; row += s.rows) {
        int64_t rows = total - row < s.rows ? total - row : s.rows;
        r = qp_operations_go_on(err);
        score_rows(head, states, reference, row, rows, &s);
        add_up(&s, rows, reference != NULL, &sums);
    }
    free(s.memory);
    double n = (double)sums.tokens;
    *out = (struct qp_metrics){.tokens = sums.tokens,
                               .perplexity = exp(sums.nll / n),
                               .reference_perplexity = reference ? exp(sums.reference_nll / n) : NAN,
                               .kl_divergence = reference ? sums.kl / n : NAN,
                               .top1_agreement = reference ? (double)sums.agreed / n : NAN};
    return r;
}
