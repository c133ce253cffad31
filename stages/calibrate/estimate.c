#include "stages/calibrate/estimate.h"

#include "libstage/network/block.h"

static void add_moments(const struct qp_task *t, bool bf16, struct qp_work *add)
{
    for (int64_t layer = 0; layer < t->arch->layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
        for (int s = 0; s < type->site_count; s++) {
            int64_t n = type->sites[s].in;
            add->operations[bf16 ? QP_WORK_MOMENT_BF16 : QP_WORK_MOMENT] += qp_moment_operations(qp_task_tokens(t), n);
            add->bytes_written += 4 * (double)n * (double)n;
        }
    }
}

/* (x_original - x)ᵀ x for every site: full products; and a moment of what is held out (calibrate/drift.h). */
static void add_drift(const struct qp_task *t, struct qp_work *add)
{
    int64_t held = t->windows < 8 ? 1 : t->windows / 8;
    for (int64_t layer = 0; layer < t->arch->layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
        for (int s = 0; s < type->site_count; s++) {
            int64_t n = type->sites[s].in;
            add->operations[QP_WORK_GEMM] += qp_gemm_operations(n, n, qp_task_tokens(t));
            add->operations[QP_WORK_MOMENT] += qp_moment_operations(held * t->length, n);
            add->bytes_written += 3 * 4 * (double)n * (double)n;
        }
    }
}

/* Of the products after the last site, which the last layer does not compute. */
static double operations_after_sites(const struct qp_layer_type *type, int64_t tokens)
{
    double sum = 0;
    for (int i = type->op_count; i-- > 0 && type->ops[i].kind != QP_OP_SITE;)
        if (type->ops[i].kind == QP_OP_LINEAR) {
            const struct qp_linear *d = &type->linears[type->ops[i].index];
            sum += qp_gemm_operations(tokens, d->out, d->in);
        }
    return sum;
}

/* One forward of the original, up to the last site that has statistics; with feedback, where hidden states go on behind
 * quantized layers, whole ones, another through each quantized layer but the last, and for the drift one more through
 * the original. A layer in turns has one forward a turn. */
static void add_work(const struct qp_task *t, bool bf16, struct qp_work *add)
{
    const struct qp_arch *a = t->arch;
    bool drift = qp_task_wants(t, "drift");
    int sites = qp_arch_most_sites(a), turns = qp_task_has(t, "turns") ? sites : 1;
    qp_estimate_embedding(t, drift ? 2 : 1, add);
    for (int turn = 0; turn < turns; turn++) {
        qp_estimate_forward(t, a->layers, turn, bf16, add);
        qp_estimate_loads(t, a->layers, turn, add);
    }
    if (qp_task_wants(t, "second_moment"))
        add_moments(t, bf16, add);
    if (t->feedback) {
        qp_estimate_forward(t, a->layers - 1, sites, bf16, add);
        qp_estimate_loads(t, a->layers - 1, sites, add);
    } else
        add->operations[bf16 ? QP_WORK_GEMM_BF16 : QP_WORK_GEMM] -=
            operations_after_sites(qp_layer_type(a, a->layers - 1), qp_task_tokens(t));
    for (int turn = 0; drift && turn < turns; turn++)
        qp_estimate_forward(t, a->layers, 0, bf16, add);
    for (int turn = 1; drift && turn < turns; turn++)
        qp_estimate_loads(t, a->layers, 0, add);
    if (drift)
        add_drift(t, add);
}

void qp_calibrate_estimate(const struct qp_task *task, const char *compute, struct qp_estimate *out)
{
    out->work_known = true;
    if (json_array_size(task->wants) > 0)
        add_work(task, qp_compute(compute, task->arch, task->kernels) == QP_BF16, &out->work);
}
