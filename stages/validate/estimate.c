#include "stages/validate/estimate.h"

#include <math.h>
#include <omp.h>

#include "libstage/network/block.h"
#include "libstage/network/evaluate.h"
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

/* ---- memory ---- */

/* A linear as it is and quantized; with a Hessian that, scratch and codes. */
static double judged_bytes(const struct qp_task *t, int64_t layer)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    bool hessians = qp_task_has(t, "hessian");
    double most = 0;
    for (int l = 0; l < type->linear_count; l++) {
        double in = (double)type->linears[l].in, weights = in * (double)type->linears[l].out;
        if (qp_task_spec(t, layer, l))
            most = fmax(most, hessians ? (3 * 4 + 1) * weights + 4 * in * in : 2 * 4 * weights);
    }
    return most;
}

/* Two chunks of logits with what they are of, and a panel of the head a thread (score.c, head.c). */
static double head_bytes(const struct qp_task *t, bool bf16)
{
    const struct qp_arch *a = t->arch;
    double rows = (double)qp_score_rows(a, qp_task_tokens(t)), panel = (double)qp_head_panel(a);
    bool there = bf16 && a->dtype == QP_BF16 && !a->project_out;
    double panels = there ? 0 : omp_get_max_threads() * panel * 4 * ((double)a->embed_width + (bf16 ? rows : 0));
    return panels + rows * 4 * (2 * (double)a->vocab + (double)(a->hidden + qp_head_scratch(a)));
}

static int add_memory(const struct qp_task *t, bool bf16, struct qp_estimate *out, struct qp_error *err)
{
    struct qp_forward_bytes original, quantized;
    for (int64_t layer = 0; layer < t->arch->layers; layer++)
        out->block_bytes = fmax(out->block_bytes, judged_bytes(t, layer));
    if (t->windows == 0)
        return 0;
    int r = qp_estimate_forward_bytes(t, false, bf16, &original, err);
    if (r == 0)
        r = qp_estimate_forward_bytes(t, true, bf16, &quantized, err);
    if (r < 0)
        return r;
    double part = bf16 ? 4 * (double)qp_task_part(t) * (double)t->arch->hidden : 0;
    double plain = original.layer + fmax(original.loading, original.workspace);
    double coded = quantized.layer + fmax(quantized.loading, quantized.workspace);
    out->fixed_bytes = QP_PRODUCTS_BYTES + 4 * (double)qp_task_tokens(t);
    out->block_bytes = fmax(fmax(plain, coded) + part, fmax(out->block_bytes, head_bytes(t, bf16)));
    return 0;
}

int qp_validate_estimate(const struct qp_task *task, const char *compute, struct qp_estimate *out, struct qp_error *err)
{
    bool bf16 = qp_compute(compute, task->arch, task->kernels) == QP_BF16;
    out->work_known = out->memory_known = true;
    for (int64_t layer = 0; layer < task->arch->layers; layer++)
        add_judgements(task, layer, &out->work);
    if (task->windows > 0)
        add_networks(task, bf16, &out->work);
    return add_memory(task, bf16, out, err);
}
