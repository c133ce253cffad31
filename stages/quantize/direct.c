#include "stages/quantize/direct.h"

#include "libstage/formats/compressed_tensors.h"

static const struct qp_linear_scheme *scheme_of(const struct qp_model *model, const struct qp_block *block, int linear,
                                                int site)
{
    const struct qp_linear_scheme *scheme = qp_model_scheme(model, block->layer, linear);
    bool belongs = block->type->linears[linear].site == site && scheme && scheme->weights.enabled;
    return belongs ? scheme : NULL;
}

static bool is_plain(const struct qp_quant_spec *spec)
{
    return (spec->granularity == QP_PER_GROUP || spec->granularity == QP_PER_CHANNEL) && !spec->four_over_six &&
           spec->format.scale_dtype != QP_F8_E4M3;
}

static int is_direct(const struct qp_quantize_options *o, const struct qp_linear_scheme *scheme,
                     const struct qp_block *block, int linear, struct qp_error *err)
{
    struct qp_quantized given;
    const struct qp_tensor *stored;
    if (!is_plain(&scheme->weights))
        return 0;
    int chosen = qp_is(o->scales, "auto") ? qp_block_scales(block, linear, scheme, &given, err) : 0;
    return chosen != 0 ? (chosen < 0 ? chosen : 0) : qp_block_stored_weight(block, linear, &stored, err);
}

int qp_site_is_direct(const struct qp_quantize_options *options, const struct qp_model *model,
                      const struct qp_block *block, int site, struct qp_error *err)
{
    bool ranges = qp_is(options->scales, "minmax") ||
                  (qp_is(options->scales, "auto") && !qp_block_has_stat(block, site, "hessian"));
    int r = qp_is(options->method, "rtn") && qp_descent_sweeps(options) == 0 && options->low_rank == 0 && ranges &&
            model->scheme->exact != QP_EXACT_MODELOPT;
    for (int i = 0; i < block->type->linear_count && r > 0; i++) {
        const struct qp_linear_scheme *scheme = scheme_of(model, block, i, site);
        if (scheme)
            r = is_direct(options, scheme, block, i, err);
    }
    return r;
}

static int round_linear(const struct qp_linear_scheme *scheme, struct qp_block *block, int linear, bool packed,
                        const struct qp_allocator *allocator, struct qp_error *err)
{
    const struct qp_quant_spec *spec = &scheme->weights;
    const struct qp_tensor *stored;
    int r = qp_block_stored_weight(block, linear, &stored, err);
    if (r < 0)
        return r;
    struct qp_rtn job = {.format = &spec->format,
                         .rows = stored->shape[0],
                         .cols = stored->shape[1],
                         .group = qp_spec_group(spec, stored->shape[1]),
                         .dtype = stored->dtype,
                         .w = stored->data,
                         .packed = packed && qp_compressed_packs_words(scheme)};
    r = qp_block_new_quantized(block, linear, allocator, &job, err);
    if (r == 0)
        block->kernels->rtn(&job);
    return r;
}

int qp_site_round(const struct qp_model *model, struct qp_block *block, int site, bool packed,
                  const struct qp_allocator *allocator, struct qp_error *err)
{
    int r = 0;
    for (int i = 0; i < block->type->linear_count && r == 0; i++) {
        const struct qp_linear_scheme *scheme = scheme_of(model, block, i, site);
        if (scheme)
            r = round_linear(scheme, block, i, packed, allocator, err);
    }
    return r;
}
