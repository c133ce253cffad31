/* The streams of measure.h: their text, their start and their end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/failure.h"
#include "libstage/base/memory.h"
#include "stages/allocate/measure.h"

#define LONGEST_WINDOW 256
#define SCORED_ROWS 128 /* tokens whose logits are at hand at a time */

static int64_t at_most(int64_t value, int64_t limit)
{
    return value < limit ? value : limit;
}

/* The data entry, cut down to a few short windows. */
static int load_windows(const struct qp_model *model, const json_t *spec, int64_t tokens, struct qp_windows *out,
                        struct qp_error *err)
{
    const json_t *length = json_object_get(spec, "length");
    int64_t window = at_most(at_most(length ? json_integer_value(length) : LONGEST_WINDOW, LONGEST_WINDOW), tokens);
    json_t *few = json_deep_copy(spec);
    if (!few || json_object_set_new(few, "length", json_integer(window)) < 0 ||
        json_object_set_new(few, "samples", json_integer(tokens / window)) < 0) {
        json_decref(few);
        return qp_fail_memory(err, 0, "a data entry");
    }
    int r = qp_model_windows(model, few, out, err);
    json_decref(few);
    return r;
}

int qp_probes_open(const struct qp_model *model, const struct qp_probes_options *options, struct qp_probes *out,
                   struct qp_error *err)
{
    size_t states = options->perturbed ? 1 + options->groups : 1;
    *out = (struct qp_probes){.perturbed = options->perturbed, .used = 1};
    out->owners = calloc(states, sizeof *out->owners);
    int r = out->owners ? load_windows(model, options->spec, options->tokens, &out->windows, err)
                        : qp_fail_memory(err, states * sizeof *out->owners, "streams");
    if (r == 0)
        r = qp_text_open(&model->arch, &out->windows, &out->text, err);
    out->all = (struct qp_windows){NULL, out->windows.count * (int64_t)states, out->windows.length};
    return r < 0 ? r : qp_hidden_open(&out->all, model->arch.hidden, options->scratch, &out->states, err);
}

void qp_probes_close(struct qp_probes *probes)
{
    qp_hidden_close(&probes->states);
    qp_text_close(&probes->text);
    qp_windows_free(&probes->windows);
    free(probes->owners);
    *probes = (struct qp_probes){0};
}

int qp_probes_embed(struct qp_probes *probes, const struct qp_block *block, struct qp_error *err)
{
    return qp_text_embed(&probes->text, block, QP_TRANSFORMED, &probes->states, err);
}

/* Logits of a few rows, of the clean stream and of another. */
struct scoring {
    float *normed, *clean, *other;
    double divergence[SCORED_ROWS];
    int32_t target[SCORED_ROWS];
};

static void score_rows(const struct qp_probes *p, const struct qp_head *head, int64_t row, int64_t rows,
                       struct scoring *s)
{
    int64_t hidden = p->states.hidden, tokens = p->windows.count * p->windows.length;
    qp_head_logits(head, QP_TRANSFORMED, rows, p->states.x + row * hidden, s->normed, s->clean);
    for (size_t i = 1; i < p->used; i++) {
        qp_head_logits(head, QP_TRANSFORMED, rows, p->states.x + ((int64_t)i * tokens + row) * hidden, s->normed,
                       s->other);
        struct qp_logits l = {.rows = rows, .vocab = head->arch->vocab, .p = s->clean, .q = s->other};
        l.target = s->target;
        l.kl = s->divergence;
        head->kernels->logits(&l);
        for (int64_t r = 0; r < rows; r++)
            p->owners[i]->divergence += s->divergence[r];
    }
}

static int score(const struct qp_probes *p, const struct qp_head *head, struct qp_error *err)
{
    struct scoring s;
    int64_t tokens = p->windows.count * p->windows.length, vocab = head->arch->vocab;
    memset(s.target, 0xff, sizeof s.target); /* -1: what comes next does not matter */
    s.normed = qp_new_floats(SCORED_ROWS * qp_head_scratch(head->arch), "hidden states", err);
    s.clean = qp_new_floats(SCORED_ROWS * vocab, "logits", err);
    s.other = qp_new_floats(SCORED_ROWS * vocab, "logits", err);
    bool capacity = s.normed && s.clean && s.other;
    for (size_t i = 1; i < p->used; i++)
        p->owners[i]->divergence = 0.0;
    for (int64_t row = 0; capacity && row < tokens && !qp_failure_is_set(); row += SCORED_ROWS)
        score_rows(p, head, row, at_most(tokens - row, SCORED_ROWS), &s);
    for (size_t i = 1; i < p->used; i++) {
        struct qp_group *g = p->owners[i];
        g->divergence *= g->probe_loss > 0.0 ? g->weight_loss[g->probe] / g->probe_loss / (double)tokens : 0.0;
    }
    free(s.normed);
    free(s.clean);
    free(s.other);
    return capacity ? 0 : QP_ERR_SPACE;
}

int qp_probes_score(struct qp_probes *probes, const struct qp_block *block, struct qp_error *err)
{
    struct qp_head head;
    if (!probes->perturbed)
        return 0;
    int r = qp_head_load(block, &head, err);
    if (r < 0)
        return r;
    r = score(probes, &head, err);
    qp_head_free(&head);
    return r;
}
