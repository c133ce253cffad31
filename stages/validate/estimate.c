#include "stages/validate/estimate.h"

#include "libstage/network/block.h"
#include "libstage/solvers/quality.h"

/* Weights and codes of each quantized linear; with Hessians two losses tr(D H Dᵀ). */
static void add_judgements(const struct qp_task *t, int64_t layer, struct qp_work *add)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    for (int site = 0; site < type->site_count; site++)
        add->bytes_read += qp_task_quantizes_site(t, layer, site) ? qp_task_hessian_bytes(t, layer, site) : 0;
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        if (!qp_task_spec(t, layer, l))
            continue;
        add->bytes_read += qp_task_stored(t, (double)d->out * (double)d->in);
        if (qp_task_has(t, "hessian"))
            add->operations[QP_WORK_GEMM] += 2 * qp_site_loss_operations(d->out, d->in);
    }
}

/* Both networks' forwards and logits. */
static void add_networks(const struct qp_task *t, bool bf16, struct qp_work *add)
{
    const struct qp_arch *a = t->arch;
    qp_estimate_embedding(t, 2, add);
    for (int quantized = 0; quantized < 2; quantized++) {
        int sites = quantized ? qp_arch_most_sites(a) : 0;
        qp_estimate_forward(t, a->layers, sites, bf16, add);
        qp_estimate_loads(t, a->layers, sites, add);
    }
    add->operations[bf16 ? QP_WORK_GEMM_BF16 : QP_WORK_GEMM] +=
        2 * qp_gemm_operations(qp_task_tokens(t), a->vocab, a->embed_width);
    add->bytes_read += qp_task_stored(t, (double)a->vocab * (double)a->embed_width);
}

void qp_validate_estimate(const struct qp_task *task, const char *compute, struct qp_estimate *out)
{
    out->work_known = true;
    for (int64_t layer = 0; layer < task->arch->layers; layer++)
        add_judgements(task, layer, &out->work);
    if (task->windows > 0)
        add_networks(task, qp_compute(compute, task->arch, task->kernels) == QP_BF16, &out->work);
}
