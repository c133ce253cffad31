/* The shape that most stages have: they read the model unit, do something with each block, and pass every unit on. */
#ifndef QUANTPIPE_BLOCK_STAGE_H
#define QUANTPIPE_BLOCK_STAGE_H

#include "libstage/include/stage.h"
#include "libstage/network/block.h"
#include "libstage/network/estimate.h"
#include "libstage/network/model_unit.h"

/* Called once, when the model unit has been read; may be NULL. */
typedef int qp_start_fn(struct qp_stage *stage, void *state, struct qp_error *err);

/* Called with each block, the embedding and the head included. */
typedef int qp_work_fn(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err);

/* A whole process callback: the model unit fills *model, which is part of the state and closed after the stage's own
 * close, and calls `start`; a block unit calls `work` and tells progress; then the unit is passed on. Takes the unit
 * over. */
int qp_stage_blocks(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_model *model,
                    qp_start_fn *start, qp_work_fn *work, struct qp_error *err);

/* The same for a stage that passes units on by itself: the unit stays the caller's. */
int qp_stage_work(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_model *model, qp_start_fn *start,
                  qp_work_fn *work, struct qp_error *err);

#endif
