/* A stage for tests: it passes everything on, and on its way says odd things - bytes that are no UTF-8, numbers that
 * are not finite. */
#include <math.h>
#include <string.h>

#include "libstage/include/stage.h"

struct state {
    const char *does;
};

static const char *const choices[] = {"warn", "fail", "measure", NULL};
static const struct qp_param params[] = {{.name = "does",
                                          .type = QP_PARAM_STRING,
                                          .fallback = "warn",
                                          .choices = choices,
                                          .help = "what it does with the model unit",
                                          .offset = offsetof(struct state, does)},
                                         {0}};
static const struct qp_port inputs[] = {{.name = "in", .help = "any units"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same units"}, {0}};

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    const struct state *s = state;
    int r = 0;
    if (unit->kind == QP_UNIT_MODEL && strcmp(s->does, "warn") == 0) {
        qp_stage_log(stage, QP_INFO, "log \xff");
        qp_stage_warn(stage, "odd", "layer\xff", "seen %s", "\xfe\xff");
    } else if (unit->kind == QP_UNIT_MODEL && strcmp(s->does, "fail") == 0) {
        r = qp_fail(err, QP_ERR_INPUT, "tensor w%s: is odd", "\xff");
    } else if (unit->kind == QP_UNIT_MODEL) {
        qp_stage_report(stage, "metrics",
                        json_pack("{s:f, s:f, s:{s:f, s:f}}", "kl_divergence", (double)NAN, "top1_agreement", 0.5,
                                  "perplexity", "original", 2.0, "quantized", (double)INFINITY));
    }
    return qp_stage_pass(stage, unit, r, err);
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "odd",
    .summary = "says odd things",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .process = process,
};
