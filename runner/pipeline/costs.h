/* What a stage will have to do, from the architecture, the scheme, its parameters and its data: the formulas behind the
 * plan. They count what kernels/work.h counts, so that a plan and the report of its run can be compared. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_COSTS_H
#define QUANTPIPE_RUNNER_PIPELINE_COSTS_H

#include "kernels/kernels.h"
#include "kernels/work.h"
#include "libstage/network/arch.h"
#include "runner/pipeline/pipeline.h"

/* What the stage works with. */
struct qp_task {
    const struct qp_arch *arch;
    const struct qp_scheme *scheme;
    const struct qp_instance *instance; /* described; its parameters count */
    int64_t windows, length;            /* of the text it reads; 0: none */
    bool moments;                       /* blocks carry second moments when they reach it */
    bool scales;                        /* ... and scales that were chosen upstream */
    bool feedback;                      /* its blocks come back to it, quantized */
    bool turns;                         /* layers reach it in turns (libstage/network/turns.h) */
    const struct qp_kernels *kernels;   /* what the stages will use */
};

/* False where no formula is known: for stages of the user's own, and where what is done depends on the weights. What
 * depends on them in part (how far a descent goes) counts with its least. */
bool qp_task_work(const struct qp_task *task, struct qp_work *out);

/* a += b */
void qp_work_sum(struct qp_work *a, const struct qp_work *b);

/* A forward of `windows` windows through one decoder layer: 2 tokens out in for each linear, and causal attention. */
double qp_layer_gemm_operations(const struct qp_layer_type *type, int64_t tokens);

/* GPTQ of one linear [rows, cols] in blocks: what its columns pass on inside a block (a solve) and what each block then
 * passes on to all columns behind it (a product). */
void qp_gptq_work(int64_t rows, int64_t cols, int64_t block, struct qp_work *add);

#endif
