#include "stages/calibrate/estimate.h"

#include "libstage/network/block.h"

static void add_hessians(const struct qp_task *t, bool bf16, struct qp_work *add)
{
    for (int64_t layer = 0; layer < t->arch->layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
        for (int s = 0; s < type->site_count; s++) {
            int64_t n = type->sites[s].in;
            add->operations[bf16 ? QP_WORK_HESSIAN_BF16 : QP_WORK_HESSIAN] +=
                qp_hessian_operations(qp_task_tokens(t), n);
            add->bytes_written += 4 * (double)n * (double)n;
        }
    }
}

/* (x_original - x)ᵀ x for every site: full products; and a Hessian of what is held out (calibrate/asymmetry.h). */
static void add_asymmetry(const struct qp_task *t, struct qp_work *add)
{
    int64_t held = t->windows < 8 ? 1 : t->windows / 8;
    for (int64_t layer = 0; layer < t->arch->layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
        for (int s = 0; s < type->site_count; s++) {
            int64_t n = type->sites[s].in;
            add->operations[QP_WORK_GEMM] += qp_gemm_operations(n, n, qp_task_tokens(t));
            add->operations[QP_WORK_HESSIAN] += qp_hessian_operations(held * t->length, n);
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

/* One forward of the original, up to the last site that has statistics; with feedback, where hidden states go on after
 * quantized layers, whole ones, another through each quantized layer but the last, and for the asymmetry one more
 * through the original. A layer in true-sequential steps has one forward a step. */
static void add_work(const struct qp_task *t, bool bf16, struct qp_work *add)
{
    const struct qp_arch *a = t->arch;
    bool asymmetry = qp_task_wants(t, "asymmetry");
    int sites = qp_arch_most_sites(a), steps = qp_task_has(t, "steps") ? sites : 1;
    qp_estimate_embedding(t, asymmetry ? 2 : 1, add);
    for (int step = 0; step < steps; step++) {
        qp_estimate_forward(t, a->layers, step, bf16, add);
        qp_estimate_loads(t, a->layers, step, add);
    }
    if (qp_task_wants(t, "hessian"))
        add_hessians(t, bf16, add);
    if (t->feedback) {
        qp_estimate_forward(t, a->layers - 1, sites, bf16, add);
        qp_estimate_loads(t, a->layers - 1, sites, add);
    } else
        add->operations[bf16 ? QP_WORK_GEMM_BF16 : QP_WORK_GEMM] -=
            operations_after_sites(qp_layer_type(a, a->layers - 1), qp_task_tokens(t));
    for (int step = 0; asymmetry && step < steps; step++)
        qp_estimate_forward(t, a->layers, 0, bf16, add);
    for (int step = 1; asymmetry && step < steps; step++)
        qp_estimate_loads(t, a->layers, 0, add);
    if (asymmetry)
        add_asymmetry(t, add);
}

void qp_calibrate_estimate(const struct qp_task *task, const char *compute, struct qp_estimate *out)
{
    out->work_known = true;
    if (json_array_size(task->wants) > 0)
        add_work(task, qp_compute(compute, task->arch, task->kernels) == QP_BF16, &out->work);
}
