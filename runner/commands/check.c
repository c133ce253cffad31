/* `quantpipe check` */
#include <stdio.h>

#include "kernels/libraries.h"
#include "runner/pipeline/estimates.h"
#include "runner/commands/conformance.h"
#include "runner/pipeline/prepare.h"
#include "runner/subcommand.h"

static void print(const struct qp_plan *plan)
{
    const struct qp_pipeline *p = plan->pipeline;
    printf("%s: good: %zu stages, %zu edges, model %s (%s)", p->document->file, p->count, p->edge_count, p->model,
           plan->model->arch.class_name);
    for (size_t i = 0; i < p->branch_count; i++)
        printf(", scheme %s, output %s", p->branches[i].name, p->branches[i].output);
    printf("\n");
}

/* Stages find out at their first product; better now. */
static int check_libraries(const struct qp_plan *plan, struct qp_error *err)
{
    for (int i = 0; qp_plan_reads_text(plan) && i < QP_LIBRARIES; i++)
        if (qp_library_problem((enum qp_library)i))
            return qp_fail(err, QP_ERR_STAGE, "%s", qp_library_problem((enum qp_library)i));
    return 0;
}

static int check(const struct qp_args *args, struct qp_error *err)
{
    struct qp_plan plan;
    if (qp_arg(args, "stage"))
        return qp_conformance(args, err);
    int r = qp_prepare(args, true, &plan, err);
    if (r < 0)
        return r;
    const struct qp_pipeline *p = plan.pipeline;
    r = check_libraries(&plan, err);
    if (r == 0 && p->strict && json_array_size(plan.warnings) > 0)
        r = qp_fail(err, QP_ERR_GATE, "%s: %zu warnings, and the pipeline is strict", p->document->file,
                    json_array_size(plan.warnings));
    else if (r == 0 && qp_arg(args, "json"))
        r = qp_print_json(json_pack("{s:i, s:b, s:i, s:i, s:s, s:o, s:O}", "quantpipe", QP_PIPELINE_VERSION, "ok", 1,
                                    "stages", (int)p->count, "edges", (int)p->edge_count, "model", p->model, "outputs",
                                    qp_plan_outputs(&plan), "warnings", plan.warnings),
                          err);
    else if (r == 0)
        print(&plan);
    qp_plan_warn(&plan);
    qp_plan_free(&plan);
    return r;
}

const struct qp_subcommand qp_subcommand_check = {
    .name = "check",
    .summary =
        "check a pipeline, its stages, model, scheme and data without starting anything; or one stage's executable",
    .usage = "[PIPELINE] | --stage COMMAND --model DIR [--text FILE]",
    .max_arguments = 1,
    .options = {qp_pipeline_options, qp_json_option, qp_conformance_options},
    .run = check,
};
