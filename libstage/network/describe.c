#include "libstage/network/describe.h"

#include <stdlib.h>
#include <string.h>

static json_t *describe_linears(const struct qp_layer_type *type)
{
    json_t *list = json_array();
    for (int i = 0; i < type->linear_count; i++) {
        const struct qp_linear *d = &type->linears[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I, s:b}", "module", d->module, "site",
                                              type->sites[d->site].name, "out", (json_int_t)d->out, "in",
                                              (json_int_t)d->in, "bias", d->bias));
    }
    return list;
}

/* What absorbs a site's scales; null: nothing can. */
static json_t *describe_fold(const struct qp_layer_type *type, const struct qp_site *site)
{
    if (site->fold == QP_FOLD_NORM)
        return json_pack("{s:s}", "norm", type->norms[site->fold_target].module);
    if (site->fold == QP_FOLD_ROWS)
        return json_pack("{s:s, s:I, s:I, s:I}", "linear", type->linears[site->fold_target].module, "first",
                         (json_int_t)site->fold_first, "head", (json_int_t)site->fold_head, "repeat",
                         (json_int_t)site->fold_repeat);
    return json_null();
}

static json_t *describe_sites(const struct qp_layer_type *type)
{
    json_t *list = json_array();
    for (int i = 0; i < type->site_count; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:o}", "name", type->sites[i].name, "in",
                                        (json_int_t)type->sites[i].in, "fold", describe_fold(type, &type->sites[i])));
    return list;
}

static json_t *describe_norms(const struct qp_layer_type *type)
{
    json_t *list = json_array();
    for (int i = 0; i < type->norm_count; i++) {
        const struct qp_norm *d = &type->norms[i];
        json_array_append_new(list, json_pack("{s:s, s:I, s:f, s:b}", "module", d->module, "width",
                                              (json_int_t)d->width, "offset", (double)d->offset, "bias", d->bias));
    }
    return list;
}

static json_t *describe_type(const struct qp_layer_type *type)
{
    return json_pack("{s:o, s:o, s:o}", "linears", describe_linears(type), "sites", describe_sites(type), "norms",
                     describe_norms(type));
}

/* Where a layer's type is among those that were described; appended when it is new. */
static size_t type_index(const struct qp_arch *arch, int64_t layer, json_t *types, const struct qp_layer_type **known)
{
    size_t count = json_array_size(types), i = 0;
    while (i < count && known[i] != arch->layer_types[layer])
        i++;
    if (i == count) {
        known[i] = arch->layer_types[layer];
        json_array_append_new(types, describe_type(known[i]));
    }
    return i;
}

json_t *qp_arch_describe(const struct qp_arch *arch)
{
    const struct qp_layer_type **known = calloc((size_t)arch->layers + 1, sizeof *known);
    json_t *types = json_array(), *layers = json_array();
    for (int64_t layer = 0; known && layer < arch->layers; layer++) {
        char name[256];
        size_t n = strlen(qp_layer_name(arch, layer, "", name, sizeof name));
        if (n > 0 && name[n - 1] == '.')
            name[n - 1] = '\0';
        json_array_append_new(
            layers, json_pack("{s:s, s:I}", "name", name, "type", (json_int_t)type_index(arch, layer, types, known)));
    }
    free(known);
    return json_pack("{s:s, s:I, s:I, s:s, s:s?, s:s, s:b, s:o, s:o}", "dtype", qp_dtype_name(arch->dtype), "hidden",
                     (json_int_t)arch->hidden, "vocab", (json_int_t)arch->vocab, "embedding", arch->embedding,
                     "final_norm", arch->output_norm.width > 0 ? arch->final_norm : NULL, "head", arch->head, "tied",
                     arch->tied, "layers", layers, "types", types);
}
