/* Which activation quantization a site sees, and whether a scheme fits a model. */
#include <math.h>
#include <stdio.h>

#include "libstage/network/block_internal.h"
#include "libstage/network/checkpoint.h"

static bool same_format(const struct qp_number_format *a, const struct qp_number_format *b)
{
    return a->codes == b->codes && a->bits == b->bits && a->symmetric == b->symmetric && a->narrow == b->narrow &&
           a->scale_dtype == b->scale_dtype && a->rule == b->rule;
}

static bool same_activations(const struct qp_quant_spec *a, const struct qp_quant_spec *b)
{
    if (!a->enabled || !b->enabled)
        return a->enabled == b->enabled;
    return same_format(&a->format, &b->format) && a->granularity == b->granularity && a->group == b->group &&
           a->dynamic == b->dynamic;
}

/* One site: the spec of its first quantized linear, which the others have to share. */
static int site_spec(const struct qp_arch *arch, int64_t layer, int site, const struct qp_scheme *scheme,
                     const bool *quantized, struct qp_quant_spec *out, struct qp_error *err)
{
    const struct qp_layer_type *type = qp_layer_type(arch, layer);
    static const struct qp_quant_spec off;
    char module[256], first[256] = "";
    *out = off;
    for (int l = 0; l < type->linear_count; l++) {
        if (type->linears[l].site != site || (quantized && !quantized[l]))
            continue;
        qp_module_name(arch, layer, l, module, sizeof module);
        const struct qp_linear_scheme *linear = qp_scheme_for(scheme, module);
        const struct qp_quant_spec *spec = linear ? &linear->activations : &off;
        if (first[0] && !same_activations(out, spec))
            return qp_fail(err, QP_ERR_INPUT,
                           "%s and %s read the same activations, but their schemes quantize them differently; give "
                           "them the same `activations`",
                           first, module);
        if (!first[0])
            qp_module_name(arch, layer, l, first, sizeof first);
        *out = *spec;
    }
    return 0;
}

int qp_site_activations(const struct qp_arch *arch, int64_t layer, const struct qp_scheme *scheme,
                        const bool *quantized, struct qp_quant_spec *out, struct qp_error *err)
{
    int r = 0;
    for (int s = 0; r == 0 && s < qp_layer_type(arch, layer)->site_count; s++)
        r = site_spec(arch, layer, s, scheme, quantized, &out[s], err);
    return r;
}

/* ---- numbers from calibration ---- */

int qp_block_number(const struct qp_block *block, const char *module, const char *what, float *value,
                    struct qp_error *err)
{
    const struct qp_tensor *t;
    int r = qp_block_get(block, module, what, QP_F32, (const int64_t[2]){1, 0}, &t, err);
    if (r < 0)
        return r;
    *value = *(const float *)t->data;
    if (!isfinite(*value) || *value <= 0.0f)
        return qp_fail(err, QP_ERR_INPUT, "%s is %g, expected a finite number above 0", t->name, (double)*value);
    return 0;
}

int qp_block_set_number(struct qp_block *block, const char *module, const char *what, float value,
                        const struct qp_allocator *allocator, struct qp_error *err)
{
    char name[256];
    int64_t one = 1;
    struct qp_tensor *t;
    qp_block_name(block, module, what, name, sizeof name);
    if (!isfinite(value) || value <= 0.0f)
        return qp_fail(err, QP_ERR_INPUT, "%s comes out as %g, expected a finite number above 0", name, (double)value);
    int r = qp_allocate(allocator, name, QP_F32, 1, &one, &t, err);
    if (r < 0)
        return r;
    *(float *)t->data = value;
    return qp_unit_put(block->unit, t, err);
}

static int cache_scales(const struct qp_block *block, const struct qp_scheme *scheme, struct qp_layer *layer,
                        struct qp_error *err)
{
    layer->cache = scheme->kv_cache;
    if (!layer->cache.enabled)
        return 0;
    int r = qp_block_number(block, "kv", "key_scale", &layer->key_scale, err);
    return r < 0 ? r : qp_block_number(block, "kv", "value_scale", &layer->value_scale, err);
}

int qp_layer_activations(const struct qp_block *block, const struct qp_scheme *scheme, const bool *quantized,
                         struct qp_layer *layer, struct qp_error *err)
{
    int r = qp_site_activations(block->arch, block->layer, scheme, quantized, layer->activations, err);
    for (int s = 0; r == 0 && s < block->type->site_count; s++) {
        const char *site = block->type->sites[s].name;
        struct qp_quant_spec *spec = &layer->activations[s];
        if (qp_spec_is_static(spec))
            r = qp_block_number(block, site, "input_scale", &layer->input_scale[s], err);
        else if (qp_spec_has_global(spec))
            r = qp_block_number(block, site, "input_global_scale", &spec->format.global, err);
    }
    return r < 0 ? r : cache_scales(block, scheme, layer, err);
}

/* ---- schemes against models ---- */

static int check_layer(const struct qp_scheme *scheme, const struct qp_arch *arch, int64_t layer, struct qp_error *err)
{
    char module[256];
    const struct qp_layer_type *type = qp_layer_type(arch, layer);
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        qp_module_name(arch, layer, l, module, sizeof module);
        const struct qp_linear_scheme *linear = qp_scheme_for(scheme, module);
        int r = linear ? qp_scheme_check(linear, module, d->out, d->in, err) : 0;
        if (r < 0)
            return r;
    }
    struct qp_quant_spec unused;
    int r = 0;
    for (int s = 0; r == 0 && s < type->site_count; s++)
        r = site_spec(arch, layer, s, scheme, NULL, &unused, err);
    return r;
}

int qp_scheme_check_model(const struct qp_scheme *scheme, const struct qp_arch *arch, struct qp_error *err)
{
    if (qp_scheme_for(scheme, arch->head))
        return qp_fail(err, QP_ERR_INPUT, "%s: quantizing the head is not supported; put it under scheme.ignore",
                       arch->head);
    int r = 0;
    for (int64_t i = 0; r == 0 && i < arch->layers; i++)
        r = check_layer(scheme, arch, i, err);
    return r;
}
