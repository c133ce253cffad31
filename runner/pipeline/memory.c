#include "runner/pipeline/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "libstage/stage/window.h"
#include "runner/machine.h"
#include "runner/pipeline/sizes.h"
#include "runner/size.h"

#define PROCESS_BYTES ((double)(1 << 20)) /* of a stage, before the first unit */

/* A run whose largest layer, in float32, fits so often is not asked for its estimates. */
#define PLENTY 32

/* The sum of the `count` largest blocks in process. */
static double largest_blocks(const struct qp_pipeline *p, const struct qp_estimate *stages, int64_t count)
{
    bool taken[QP_MAX_INSTANCES] = {false};
    double sum = 0;
    for (; count > 0; count--) {
        size_t best = p->count;
        for (size_t i = 0; i < p->count; i++)
            if (!taken[i] && (best == p->count || stages[i].block_bytes > stages[best].block_bytes))
                best = i;
        if (best == p->count)
            break;
        taken[best] = true;
        sum += stages[best].block_bytes;
    }
    return sum;
}

double qp_memory_need(const struct qp_pipeline *p, const struct qp_estimate *stages, int64_t blocks)
{
    double sum = PROCESS_BYTES * (double)(p->count + 1);
    for (size_t i = 0; i < p->count; i++)
        sum += stages[i].fixed_bytes + (double)blocks * stages[i].emitted_bytes;
    return sum + largest_blocks(p, stages, blocks * (int64_t)p->branch_count);
}

uint64_t qp_memory_budget(const struct qp_pipeline *p)
{
    return p->memory ? p->memory : qp_machine_available() / 2;
}

/* "calibrate 120 MiB, quantize 310 MiB, ..." of what is held for one block. */
static void sizes_text(const struct qp_pipeline *p, const struct qp_estimate *stages, char *text, size_t size)
{
    char amount[32];
    size_t used = 0;
    *text = '\0';
    for (size_t o = 0; o < p->count; o++) {
        const struct qp_estimate *e = &stages[p->order[o]];
        double bytes = e->fixed_bytes + e->block_bytes + e->emitted_bytes;
        if (bytes < PROCESS_BYTES || used >= size)
            continue;
        used += (size_t)snprintf(text + used, size - used, "%s%s %s", used ? ", " : "", p->instances[p->order[o]].name,
                                 qp_size_text((uint64_t)bytes, amount, sizeof amount));
    }
}

static int refuse(const struct qp_pipeline *p, const struct qp_estimate *stages, uint64_t limit, struct qp_error *err)
{
    char sizes[512], need[32], found[32];
    sizes_text(p, stages, sizes, sizeof sizes);
    snprintf(need, sizeof need, "%.0fMB", ceil(qp_memory_need(p, stages, 1) / 1e6));
    qp_size_text(limit, found, sizeof found);
    if (!p->memory)
        return qp_fail(err, QP_ERR_SPACE,
                       "%s of memory are available, and the stages need about %s with one block on its way (%s); free "
                       "some, or calibrate and evaluate on shorter windows",
                       found, need, sizes);
    qp_document_fail(p->document, "memory", err,
                     "found %s for all processes together; the stages need about %s with one block on its way (%s): "
                     "write memory: %s or more, or calibrate and evaluate on shorter windows",
                     found, need, sizes, need);
    err->code = QP_ERR_SPACE;
    return err->code;
}

int qp_memory_divide(struct qp_pipeline *p, const struct qp_estimate *stages, struct qp_error *err)
{
    double budget = (double)qp_memory_budget(p);
    uint64_t limit = p->memory ? p->memory : qp_machine_available();
    p->blocks = QP_WINDOW_BLOCKS;
    while (p->blocks > 1 && qp_memory_need(p, stages, p->blocks) > budget)
        p->blocks--;
    return qp_memory_need(p, stages, p->blocks) > (double)limit ? refuse(p, stages, limit, err) : 0;
}

static bool has_plenty(const struct qp_plan *plan)
{
    double most = 0;
    const struct qp_arch *arch = &plan->model->arch;
    for (int64_t i = 0; i < qp_arch_blocks(arch); i++) {
        double bytes = 4 * (double)qp_block_parameters(arch, i);
        most = bytes > most ? bytes : most;
    }
    return !plan->pipeline->memory &&
           PLENTY * most * (double)plan->pipeline->branch_count < (double)qp_memory_budget(plan->pipeline);
}

int qp_plan_divide_memory(struct qp_plan *plan, struct qp_error *err)
{
    struct qp_estimate stages[QP_MAX_INSTANCES];
    if (has_plenty(plan))
        return 0;
    int r = qp_plan_estimates(plan, stages, err);
    return r < 0 ? r : qp_memory_divide(plan->pipeline, stages, err);
}
