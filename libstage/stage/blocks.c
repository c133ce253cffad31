#include "libstage/include/block_stage.h"
#include "libstage/stage/internal.h"

static int begin(struct qp_stage *stage, void *state, const struct qp_unit *unit, struct qp_model *model,
                 qp_start_fn *start, struct qp_error *err)
{
    int r = qp_model_open_any(unit, model, err);
    if (r == 0 && !stage->desc->any_scheme)
        r = qp_model_expect_formats(model, err);
    if (r == 0 && !stage->desc->sequential)
        r = qp_model_expect_whole(model, err);
    return r == 0 && start ? start(stage, state, err) : r;
}

static int work_on(struct qp_stage *stage, void *state, struct qp_unit *unit, const struct qp_model *model,
                   qp_work_fn *work, struct qp_error *err)
{
    struct qp_block block;
    int r = qp_block_of(&model->arch, qp_stage_kernels(stage), unit, &block, err);
    if (r == 0)
        r = work(stage, state, &block, err);
    if (r == 0)
        qp_stage_progress(stage, block.layer + 2, qp_arch_blocks(&model->arch));
    return r;
}

int qp_stage_work(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_model *model, qp_start_fn *start,
                  qp_work_fn *work, struct qp_error *err)
{
    stage->model = model;
    if (unit->kind == QP_UNIT_MODEL)
        return begin(stage, state, unit, model, start, err);
    return unit->kind == QP_UNIT_BLOCK ? work_on(stage, state, unit, model, work, err) : 0;
}

int qp_stage_blocks(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_model *model,
                    qp_start_fn *start, qp_work_fn *work, struct qp_error *err)
{
    int r = qp_stage_work(stage, state, unit, model, start, work, err);
    return qp_stage_pass(stage, unit, r, err);
}
