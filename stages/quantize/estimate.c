#include "stages/quantize/estimate.h"

#include <math.h>
#include <omp.h>

#include "libstage/formats/compressed_tensors.h"
#include "libstage/solvers/gptq.h"
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

/* GPTQ gives the gradient of its codes then. */
static bool descends_from_gptq(const struct qp_quantize_options *o)
{
    return qp_is(o->method, "gptq") && qp_descent_sweeps(o) > 0 && !(o->asymmetric > 0);
}

/* After other methods than GPTQ: the loss of rounding to nearest and the gradient of the codes choose what coordinate
 * descent starts from. With asymmetric calibration, its product comes on top, all is done with it and without, and both
 * are judged. Steps depend on the weights, and count as none. */
static void add_descent(const struct qp_quantize_options *o, const struct qp_linear *d, struct qp_work *add)
{
    double product = qp_gemm_operations(d->out, d->in, d->in);
    double judged = qp_site_loss_operations(d->out, d->in) + product;
    bool asymmetric = o->asymmetric > 0;
    if (qp_descent_sweeps(o) == 0)
        return;
    if (!descends_from_gptq(o))
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
        qp_gptq_work(t->kernels, d->out, d->in, o->block, descends_from_gptq(o), add);
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
        add->bytes_read += qp_task_hessian_bytes(t, layer, site);
        if (o->asymmetric > 0) /* asymmetry and what is held out are whole squares */
            add->bytes_read += 3 * 4 * (double)type->sites[site].in * (double)type->sites[site].in;
        if (qp_is(o->method, "gptq"))
            add->operations[QP_WORK_SOLVE] += qp_factor_operations(type->sites[site].in);
        if (descends_from_gptq(o))
            add->operations[QP_WORK_GEMM] += qp_gptq_sketch_operations(type->sites[site].in);
    }
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_quant_spec *spec = qp_task_spec(t, layer, l);
        if (spec)
            add_linear(t, o, spec, &type->linears[l], add);
    }
}

/* ---- memory ---- */

static double weights_of(const struct qp_linear *d)
{
    return (double)d->out * (double)d->in;
}

static double scales_of(const struct qp_quant_spec *spec, const struct qp_linear *d)
{
    return (double)qp_scale_count(d->out, d->in, qp_spec_group(spec, d->in));
}

static bool wants_hessian(const struct qp_task *t, const struct qp_quantize_options *o)
{
    bool optional = (qp_is(o->scales, "auto") || o->low_rank > 0) && qp_task_has(t, "hessian");
    return qp_quantize_learns(o) || optional;
}

/* Whether folds may have changed a site's weights: by its own channels, or by rows that another site's scales are in.
 */
static bool is_folded(const struct qp_task *t, const struct qp_layer_type *type, int site)
{
    bool folded = type->sites[site].fold != QP_FOLD_NONE;
    for (int s = 0; s < type->site_count; s++)
        folded |= type->sites[s].fold == QP_FOLD_ROWS && type->linears[type->sites[s].fold_target].site == site;
    return folded && qp_task_has(t, "folds");
}

static bool is_plain(const struct qp_quant_spec *spec)
{
    return (spec->granularity == QP_PER_GROUP || spec->granularity == QP_PER_CHANNEL) && !spec->four_over_six &&
           spec->format.scale_dtype != QP_F8_E4M3;
}

/* Whether a site is rounded from the stored weights straight into what is passed on (direct.c). */
static bool is_direct(const struct qp_task *t, const struct qp_quantize_options *o, int64_t layer, int site)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    bool ranges = qp_is(o->scales, "minmax") || qp_is(o->scales, "auto");
    bool direct = ranges && qp_is(o->method, "rtn") && !wants_hessian(t, o) && o->low_rank == 0 &&
                  !qp_task_has(t, "scales") && t->scheme->exact != QP_EXACT_MODELOPT && !is_folded(t, type, site);
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_quant_spec *spec = type->linears[l].site == site ? qp_task_spec(t, layer, l) : NULL;
        direct = direct && (!spec || is_plain(spec));
    }
    return direct;
}

static double square_of(double in)
{
    return 4 * in * in;
}

/* Beside the factor: while it is made the signs of its sketch, and panels; then what rows are solved with, and the
 * gradient of all, with which descent begins. */
static double gptq_bytes(const struct qp_task *t, const struct qp_quantize_options *o, const struct qp_linear *d)
{
    bool rest = descends_from_gptq(o);
    double columns = (double)(d->in < QP_FACTOR_COLUMNS ? d->in : QP_FACTOR_COLUMNS);
    double copied = (t->kernels && t->kernels->split_products ? 4 : 1) * columns;
    double making = 4 * (double)d->in * (copied + (d->in < QP_SKETCHED ? 0 : QP_SKETCH));
    double solving = qp_gptq_solve_bytes(t->kernels, d->out, d->in, o->block, rest) + (rest ? 4 * weights_of(d) : 0);
    return fmax(making, solving);
}

/* The gradient, and where GPTQ does not leave it, errors and codes to start from; with asymmetric calibration a linear
 * term and what two attempts came to. */
static double descent_bytes(const struct qp_quantize_options *o, const struct qp_linear *d)
{
    double w = weights_of(d), more = descends_from_gptq(o) ? 0 : 4 * w + w + (o->asymmetric > 0 ? 4 * w + 2 * w : 0);
    return qp_descent_sweeps(o) > 0 ? 4 * w + more + qp_descent_bytes(d->out, d->in, omp_get_max_threads()) : 0;
}

/* As spare_hessian of site.c: the square is there only when the factor is not. */
static bool spares_hessian(const struct qp_quantize_options *o, int members)
{
    return qp_is(o->method, "gptq") && members == 1 && !o->reestimate && o->low_rank == 0 && o->asymmetric == 0 &&
           !qp_is(o->scales, "hessian");
}

/* What a site's largest linear needs on top of its members: Hessians, GPTQ's factor, and what either step works with.
 */
static double solve_bytes(const struct qp_task *t, const struct qp_quantize_options *o, const struct qp_linear *d,
                          int members)
{
    bool gptq = qp_is(o->method, "gptq"), spared = spares_hessian(o, members);
    double square = square_of((double)d->in), factor = gptq ? qp_gptq_factor_bytes(t->kernels, d->in) : 0;
    double hessians = (wants_hessian(t, o) ? square : 0) + (o->asymmetric > 0 ? 3 * square : 0);
    double rounding = gptq ? factor + gptq_bytes(t, o, d) + (spared ? 0 : hessians) : 0;
    double descent = hessians + descent_bytes(o, d) + (spared ? 0 : factor);
    return fmax(rounding, descent);
}

/* A site's members with their codes, low-rank corrections, and what its largest needs. */
static double site_bytes(const struct qp_task *t, const struct qp_quantize_options *o, int64_t layer, int site)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    const struct qp_linear *largest = NULL;
    double in = (double)type->sites[site].in, bytes = 0;
    int members = 0;
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        const struct qp_quant_spec *spec = d->site == site ? qp_task_spec(t, layer, l) : NULL;
        if (!spec)
            continue;
        members++;
        largest = !largest || d->out > largest->out ? d : largest;
        bytes += 5 * weights_of(d) + 5 * scales_of(spec, d);
        if (o->low_rank > 0)
            bytes += 4 * weights_of(d) + 4 * (double)o->low_rank * (in + (double)d->out) + square_of(in);
    }
    if (!largest || is_direct(t, o, layer, site))
        return 0;
    return bytes + solve_bytes(t, o, largest, members);
}

/* Codes of a linear, packed where they are rounded straight into words, scales, zero points and corrections. */
static double sent_bytes(const struct qp_task *t, const struct qp_quantize_options *o, int64_t layer, int linear)
{
    const struct qp_linear *d = &qp_layer_type(t->arch, layer)->linears[linear];
    const struct qp_linear_scheme *scheme = qp_task_scheme(t, layer, linear);
    if (!scheme)
        return 0;
    bool packed = is_direct(t, o, layer, d->site) && qp_compressed_packs_words(scheme);
    double scales = scales_of(&scheme->weights, d), rank = (double)o->low_rank;
    return qp_sent_bytes((packed ? scheme->weights.format.bits / 8.0 : 1) * weights_of(d)) + qp_sent_bytes(4 * scales) +
           (scheme->weights.format.symmetric ? 0 : qp_sent_bytes(scales)) +
           qp_sent_bytes(qp_task_stored(t, rank * (double)d->in)) +
           qp_sent_bytes(qp_task_stored(t, rank * (double)d->out));
}

/* Of all sites of a layer, or in true-sequential steps of the one that has most. */
static double emitted_bytes(const struct qp_task *t, const struct qp_quantize_options *o, int64_t layer)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    double sum = 0, most = 0;
    for (int site = 0; site < type->site_count; site++) {
        double bytes = 0;
        for (int l = 0; l < type->linear_count; l++)
            bytes += type->linears[l].site == site ? sent_bytes(t, o, layer, l) : 0;
        sum += bytes;
        most = fmax(most, bytes);
    }
    return qp_task_has(t, "steps") ? most : sum;
}

void qp_quantize_estimate(const struct qp_task *task, const struct qp_quantize_options *options,
                          struct qp_estimate *out)
{
    out->work_known = out->memory_known = true;
    for (int64_t layer = 0; layer < task->arch->layers; layer++) {
        double emitted = emitted_bytes(task, options, layer);
        add_layer(task, options, layer, &out->work);
        out->emitted_bytes = emitted > out->emitted_bytes ? emitted : out->emitted_bytes;
        for (int site = 0; site < qp_layer_type(task->arch, layer)->site_count; site++) {
            double held = site_bytes(task, options, layer, site);
            out->block_bytes = held > out->block_bytes ? held : out->block_bytes;
        }
    }
}
