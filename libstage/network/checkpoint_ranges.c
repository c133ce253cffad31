/* The fixed ranges of activations that a quantized checkpoint has, as a block unit carries them. */
#include <stdio.h>
#include <string.h>

#include "libstage/network/block_internal.h"
#include "libstage/network/checkpoint.h"

/* The checkpoint's tensor `name`, one number. */
static int stored_number(const struct qp_checkpoint *c, const struct qp_kernels *kernels, const char *name,
                         float *value, struct qp_error *err)
{
    const struct qp_tensor *t = qp_checkpoint_find(c, name);
    if (!t)
        return qp_fail(err, QP_ERR_INPUT, "%s: %s is missing, though quantization_config says that it is there",
                       c->path, name);
    if (t->elements != 1 || !qp_dtype_is_plain_float(t->dtype))
        return qp_fail(err, QP_ERR_INPUT, "%s: %s: found %lld elements of %s, expected one of F32, F16, BF16 or F64",
                       c->path, name, (long long)t->elements, qp_dtype_name(t->dtype));
    kernels->to_f32(t->dtype, 1, t->data, value);
    return 0;
}

/* Linears of a site were given the same range, since they read the same activations. */
static int add_site_number(const struct qp_checkpoint *c, struct qp_block *block, int linear, const char *what,
                           struct qp_error *err)
{
    const char *site = block->type->sites[block->type->linears[linear].site].name;
    char name[256], stored[256];
    float value, before;
    qp_module_name(block->arch, block->layer, linear, name, sizeof name);
    if ((size_t)snprintf(stored, sizeof stored, "%s.%s", name, what) >= sizeof stored)
        return qp_fail(err, QP_ERR_INPUT, "%s: the name %s.%s is too long", c->path, name, what);
    int r = stored_number(c, block->kernels, stored, &value, err);
    if (r < 0 || !qp_block_find(block, site, what))
        return r < 0 ? r : qp_block_set_number(block, site, what, value, NULL, err);
    r = qp_block_number(block, site, what, &before, err);
    if (r == 0 && before != value)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: %s is %g, but another linear that reads the same activations has %g; expected one range",
                       c->path, stored, (double)value, (double)before);
    return r;
}

static int add_cache_number(const struct qp_checkpoint *c, struct qp_block *block, const char *what, const char *stored,
                            struct qp_error *err)
{
    char module[256], name[320];
    float value;
    qp_module_name(block->arch, block->layer, block->type->key_linear, module, sizeof module);
    *strrchr(module, '.') = '\0'; /* "model.layers.3.self_attn" */
    snprintf(name, sizeof name, "%s.%s", module, stored);
    int r = stored_number(c, block->kernels, name, &value, err);
    return r < 0 ? r : qp_block_set_number(block, "kv", what, value, NULL, err);
}

int qp_checkpoint_ranges(const struct qp_checkpoint *c, struct qp_block *block, struct qp_error *err)
{
    char module[256];
    int r = 0;
    for (int l = 0; c->scheme && r == 0 && l < block->type->linear_count; l++) {
        const struct qp_linear_scheme *linear =
            qp_scheme_for(c->scheme, qp_module_name(block->arch, block->layer, l, module, sizeof module));
        if (linear && qp_spec_is_static(&linear->activations))
            r = add_site_number(c, block, l, "input_scale", err);
        else if (linear && qp_spec_has_global(&linear->activations))
            r = add_site_number(c, block, l, "input_global_scale", err);
    }
    if (r < 0 || !c->scheme || !c->scheme->kv_cache.enabled)
        return r;
    r = add_cache_number(c, block, "key_scale", "k_scale", err);
    return r < 0 ? r : add_cache_number(c, block, "value_scale", "v_scale", err);
}
