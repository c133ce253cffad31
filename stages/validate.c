/* validate: runs evaluation text through the original and the quantized network side by side, and judges the result.
 *
 * Reports perplexity of both, the divergence KL(original || quantized), top-1 agreement, and for each quantized linear
 * its signal-to-noise ratio and, where the Hessian is at hand, its site loss and that of round-to-nearest.
 * Activation quantization is simulated as the engine will do it. A perplexity that rises by more than
 * max_perplexity_increase fails the run before anything is published. In and out: quantized blocks. Without evaluation
 * data only the linears are judged. Memory: both versions of one block; hidden states are mapped files in the scratch
 * folder. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"
#include "libstage/network/block_content.h"
#include "libstage/network/evaluate.h"
#include "stages/validate/estimate.h"
#include "stages/validate/linears.h"

enum { ORIGINAL, QUANTIZED, NETWORKS };

struct state {
    double max_increase;
    const char *choice;
    enum qp_dtype compute;
    struct qp_model model;
    struct qp_windows windows;
    struct qp_text text;
    struct qp_hidden_states states[NETWORKS];
    bool evaluating;
    struct qp_digest *measured; /* of all that came (libstage/network/block_content.h) */
};

static const struct qp_param params[] = {{.name = "max_perplexity_increase",
                                          .type = QP_PARAM_PERCENT,
                                          .min = 0.0,
                                          .max = 1e6,
                                          .help = "fail the run (exit 5) when perplexity rises by more than this share",
                                          .offset = offsetof(struct state, max_increase)},
                                         {.name = "compute",
                                          .type = QP_PARAM_STRING,
                                          .fallback = "fp32",
                                          .choices = qp_compute_choices,
                                          .help = "what products are computed in: bf16 (sums in float32), fp32, or "
                                                  "auto: bf16 for checkpoints in BF16 or F16 where the processor is "
                                                  "faster at it; bf16 adds its own noise to what is measured",
                                          .offset = offsetof(struct state, choice)},
                                         {0}};
static const char *const needs[] = {"weights", "quantized", NULL};
static const char *const provides[] = {"validated", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "quantized blocks"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .provides = provides, .help = "the same", .optional = true},
                                         {0}};

static int start(struct qp_stage *stage, void *state, struct qp_error *err)
{
    struct state *s = state;
    const json_t *data = json_object_get(qp_stage_context(stage), "data");
    s->evaluating = json_is_object(data);
    s->measured = qp_digest_new();
    if (!s->measured)
        return qp_fail_memory(err, 0, "a digest");
    if (!s->evaluating && !isnan(s->max_increase))
        return qp_fail(err, QP_ERR_INPUT, "max_perplexity_increase needs evaluation data: add data.evaluation");
    if (!s->evaluating)
        return 0;
    s->compute = qp_compute(s->choice, &s->model.arch, qp_stage_kernels(stage));
    qp_stage_report(stage, "compute", json_string(qp_compute_name(s->compute)));
    int r = qp_model_windows(&s->model, data, &s->windows, err);
    if (r == 0)
        r = qp_text_open(&s->model.arch, &s->windows, &s->text, err);
    for (int n = 0; n < NETWORKS && r == 0; n++)
        r = qp_hidden_open_as(&s->windows, s->model.arch.hidden, s->compute, qp_stage_scratch(stage), &s->states[n],
                              err);
    return r;
}

static int embed(struct state *s, const struct qp_block *block, struct qp_error *err)
{
    int r = qp_text_embed(&s->text, block, QP_ORIGINAL, &s->states[ORIGINAL], err);
    return r < 0 ? r : qp_text_embed(&s->text, block, QP_QUANTIZED, &s->states[QUANTIZED], err);
}

static int forward(struct state *s, const struct qp_block *block, int network, struct qp_error *err)
{
    struct qp_layer layer;
    int r = qp_layer_load(block, network == ORIGINAL ? QP_ORIGINAL : QP_QUANTIZED, s->model.scheme, &layer, err);
    if (r < 0)
        return r;
    r = qp_text_forward(&s->text, &layer, &s->states[network], NULL, err);
    qp_layer_free(&layer);
    return r;
}

static int judge(struct qp_stage *stage, const struct state *s, const struct qp_metrics *m, struct qp_error *err)
{
    qp_stage_report(stage, "metrics",
                    json_pack("{s:{s:f, s:f}, s:f, s:f, s:I}", "perplexity", "original", m->reference_perplexity,
                              "quantized", m->perplexity, "kl_divergence", m->kl_divergence, "top1_agreement",
                              m->top1_agreement, "tokens", (json_int_t)m->tokens));
    double increase = m->perplexity / m->reference_perplexity - 1.0;
    if (!isfinite(increase))
        return qp_fail(err, QP_ERR_GATE, "perplexity is not finite (original %g, quantized %g)",
                       m->reference_perplexity, m->perplexity);
    if (!isnan(s->max_increase) && increase > s->max_increase)
        return qp_fail(err, QP_ERR_GATE,
                       "perplexity rose by %.2f %% (from %.4f to %.4f); at most %.2f %% is allowed: use more bits, "
                       "smaller groups or a better method, or raise max_perplexity_increase",
                       100.0 * increase, m->reference_perplexity, m->perplexity, 100.0 * s->max_increase);
    return 0;
}

static int score(struct qp_stage *stage, struct state *s, const struct qp_block *block, struct qp_error *err)
{
    struct qp_head head;
    struct qp_metrics metrics;
    int r = qp_head_load(block, &head, err);
    if (r < 0)
        return r;
    r = qp_hidden_score(&head, &s->states[QUANTIZED], &s->states[ORIGINAL], &metrics, err);
    qp_head_free(&head);
    return r < 0 ? r : judge(stage, s, &metrics, err);
}

static int validate(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    struct state *s = state;
    bool layer = qp_block_is_layer(block);
    int r = qp_block_digest(block, s->measured, err);
    if (r == 0 && layer)
        r = qp_judge_linears(stage, &s->model, block, err);
    if (r < 0 || !s->evaluating)
        return r;
    block->compute = s->compute;
    if (!layer)
        return block->layer < 0 ? embed(s, block, err) : score(stage, s, block, err);
    for (int n = 0; n < NETWORKS && r == 0; n++)
        r = forward(s, block, n, err);
    qp_workspace_empty(s->text.workspace);
    return r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    char measured[QP_DIGEST_TEXT];
    if (unit->kind == QP_UNIT_END) {
        int r = qp_content_text(s->model.scheme->source, s->measured, measured, err);
        if (r == 0)
            qp_stage_report(stage, "measured_digest", json_string(measured));
        return qp_stage_pass(stage, unit, r, err);
    }
    return qp_stage_blocks(stage, s, unit, &s->model, start, validate, err);
}

static void close_(struct qp_stage *stage, void *state)
{
    (void)stage;
    struct state *s = state;
    for (int n = 0; n < NETWORKS; n++)
        qp_hidden_close(&s->states[n]);
    qp_text_close(&s->text);
    qp_windows_free(&s->windows);
    qp_digest_free(s->measured);
}

static int estimate(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err)
{
    return qp_validate_estimate(task, ((const struct state *)state)->choice, out, err);
}

static const char *const forms[] = {"packed_codes", NULL};

static const char *const uses[] = {"hessian", NULL};

const struct qp_stage_desc qp_stage_desc = {
    .name = "validate",
    .summary = "compares the quantized network with the original on evaluation text",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .data = "evaluation",
    .data_optional = true,
    .stateful = true,
    .forms = forms,
    .estimate = estimate,
    .uses = uses,
    .process = process,
    .close = close_,
};
