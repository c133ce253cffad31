#include "stages/quantize/estimate.h"

#include "libstage/solvers/quality.h"

static void add_scales(const struct qp_task *t, const struct qp_quantize_options *o, const struct qp_quant_spec *spec,
                       const struct qp_linear *d, struct qp_work *add)
{
    bool automatic = qp_is(o->scales, "auto");
    bool given = automatic && qp_task_has(t, "scales") && !qp_is(o->method, "hqq");
    if (given || qp_is(o->scales, "minmax") || (automatic && !qp_task_has(t, "hessian")))
        return;
    struct qp_scale_sweep sweep = {o->shrink, o->steps, qp_is(o->scales, "hessian")};
    qp_estimate_scales(spec, d->out, d->in, &sweep, add);
}

/* The loss of rounding to nearest and the gradient of the codes choose what coordinate descent starts from. With
 * asymmetric calibration, its product comes on top, all is done with it and without, and both are judged. Steps depend
 * on the weights, and count as none. */
static void add_descent(const struct qp_quantize_options *o, const struct qp_linear *d, struct qp_work *add)
{
    double product = qp_gemm_operations(d->out, d->in, d->in);
    double judged = qp_site_loss_operations(d->out, d->in) + product;
    bool asymmetric = o->asymmetric > 0;
    if (qp_descent_sweeps(o) == 0)
        return;
    add->operations[QP_WORK_GEMM] += asymmetric ? 4 * judged + product : judged;
    add->operations[QP_WORK_SOLVE] +=
        (asymmetric ? 2 : 1) * (o->refit ? 2 : 1) * qp_descent_operations(d->out, d->in, 0);
}

static void add_linear(const struct qp_task *t, const struct qp_quantize_options *o, const struct qp_quant_spec *spec,
                       const struct qp_linear *d, struct qp_work *add)
{
    double weights = (double)d->out * (double)d->in;
    double scales = (double)qp_scale_count(d->out, d->in, qp_spec_group(spec, d->in));
    add_scales(t, o, spec, d, add);
    if (qp_is(o->method, "gptq"))
        qp_gptq_work(d->out, d->in, o->block, add);
    add_descent(o, d, add);
    add->bytes_read += qp_task_stored(t, weights);
    add->bytes_written += weights + scales * (spec->format.symmetric ? 4 : 5);
}

static void add_layer(const struct qp_task *t, const struct qp_quantize_options *o, int64_t layer, struct qp_work *add)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    for (int site = 0; site < type->site_count; site++) {
        if (!qp_task_quantizes_site(t, layer, site))
            continue;
        add->bytes_read +=
            (o->asymmetric > 0 ? 4 : 1) * qp_task_hessian_bytes(t, layer, site); /* asymmetry, what is held out */
        if (qp_is(o->method, "gptq"))
            add->operations[QP_WORK_SOLVE] += qp_factor_operations(type->sites[site].in);
    }
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_quant_spec *spec = qp_task_spec(t, layer, l);
        if (spec)
            add_linear(t, o, spec, &type->linears[l], add);
    }
}

void qp_quantize_estimate(const struct qp_task *task, const struct qp_quantize_options *options,
                          struct qp_estimate *out)
{
    out->work_known = true;
    for (int64_t layer = 0; layer < task->arch->layers; layer++)
        add_layer(task, options, layer, &out->work);
}
