/* `quantpipe check` */
#include <stdio.h>

#include "runner/prepare.h"

static int check(const struct qp_args *args, struct qp_error *err)
{
    struct qp_plan plan;
    int r = qp_prepare(args, true, &plan, err);
    if (r < 0)
        return r;
    const struct qp_pipeline *p = plan.pipeline;
    if (qp_arg(args, "json"))
        r = qp_print_json(json_pack("{s:i, s:b, s:i, s:i, s:s, s:s, s:s}", "quantpipe", QP_PIPELINE_VERSION, "ok", 1,
                                    "stages", (int)p->count, "edges", (int)p->edge_count, "model", p->model, "scheme",
                                    plan.scheme->name, "output", p->output),
                          err);
    else
        printf("%s: good: %zu stages, %zu edges, model %s (%s), scheme %s, output %s\n", p->document->file, p->count,
               p->edge_count, p->model, plan.model->arch.family->class_name, plan.scheme->name, p->output);
    qp_plan_free(&plan);
    return r;
}

const struct qp_verb qp_verb_check = {
    .name = "check",
    .summary = "check a pipeline, its stages, model, scheme and data without starting anything",
    .usage = "[PIPELINE]",
    .max_words = 1,
    .options = {qp_pipeline_options, qp_json_option},
    .run = check,
};
