#include "stages/quantize/activations.h"

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/solvers/scales.h"

static const double clipped_most = 1e-3;

static int put_scale(struct qp_stage *stage, struct qp_block *block, const char *module, const char *what,
                     const struct qp_number_format *format, float range, struct qp_error *err)
{
    float scale;
    block->kernels->qparams(format, 1, 1, 0, &range, &scale, NULL);
    return qp_block_set_number(block, module, what, scale, qp_stage_allocator(stage), err);
}

static int fix_range(struct qp_stage *stage, const struct qp_calibrator *calibrator, struct qp_block *block, int site,
                     const struct qp_number_format *format, struct qp_error *err)
{
    const char *name = block->type->sites[site].name;
    float range;
    double clipped;
    char where[192];
    int r = qp_site_range(block, site, calibrator, format, &range, &clipped, err);
    if (r < 0)
        return r;
    if (clipped > clipped_most) {
        qp_layer_name(block->arch, block->layer, name, where, sizeof where);
        qp_stage_warn(stage, "activation-saturates", where,
                      "%.2f %% of the calibration text's activations lie beyond the range %g that %s chose; choose a "
                      "wider one (activation_calibrator), or ranges at run time (dynamic: true)",
                      100.0 * clipped, (double)range, calibrator->method);
    }
    return put_scale(stage, block, name, "input_scale", format, range, err);
}

static int fix_global(struct qp_stage *stage, const struct qp_calibrator *calibrator, struct qp_block *block, int site,
                      struct qp_error *err)
{
    float absmax;
    int r = calibrator->headroom > 0.0 ? qp_site_headroom(block, site, calibrator->headroom, &absmax, err)
                                       : qp_site_absmax(block, site, &absmax, err);
    return r < 0 ? r
                 : qp_block_set_number(block, block->type->sites[site].name, "input_global_scale",
                                       qp_global_scale(absmax, false), qp_stage_allocator(stage), err);
}

static int fix_cache(struct qp_stage *stage, const struct qp_quant_spec *spec, struct qp_block *block,
                     struct qp_error *err)
{
    float keys, values;
    if (!spec->enabled)
        return 0;
    int r = qp_cache_absmax(block, &keys, &values, err);
    if (r == 0)
        r = put_scale(stage, block, "kv", "key_scale", &spec->format, keys, err);
    return r < 0 ? r : put_scale(stage, block, "kv", "value_scale", &spec->format, values, err);
}

int qp_quantize_activations(struct qp_stage *stage, const struct qp_model *model,
                            const struct qp_calibrator *calibrator, struct qp_block *block, struct qp_error *err)
{
    const struct qp_layer_type *type = block->type;
    qp_auto_free struct qp_quant_spec *specs =
        qp_new_array(type->site_count, sizeof *specs, "how activations are quantized", err);
    qp_auto_free bool *quantized = qp_new_array(type->linear_count, sizeof *quantized, "a layer's linears", err);
    if (!specs || !quantized)
        return QP_ERR_SPACE;
    for (int l = 0; l < type->linear_count; l++)
        quantized[l] = qp_model_scheme(model, block->layer, l) != NULL;
    int r = qp_site_activations(block->arch, block->layer, model->scheme, quantized, specs, err);
    for (int s = 0; r == 0 && s < type->site_count; s++) {
        if (!qp_block_has_step(block, s))
            continue;
        if (qp_spec_is_static(&specs[s]))
            r = fix_range(stage, calibrator, block, s, &specs[s].format, err);
        else if (qp_spec_has_global(&specs[s]))
            r = fix_global(stage, calibrator, block, s, err);
    }
    return r < 0 || block->step > 1 ? r : fix_cache(stage, &model->scheme->kv_cache, block, err);
}
