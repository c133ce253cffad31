#include "libstage/network/model_unit.h"

const char *qp_model_string(const struct qp_model *model, const char *key)
{
    return json_string_value(json_object_get(model->attrs, key));
}

int qp_model_open_any(const struct qp_unit *unit, struct qp_model *out, struct qp_error *err)
{
    const json_t *config = json_object_get(unit->attrs, "config");
    const json_t *scheme = json_object_get(unit->attrs, "scheme");
    const char *path = json_string_value(json_object_get(unit->attrs, "path"));
    if (unit->kind != QP_UNIT_MODEL || !path || !json_is_object(config) || !scheme)
        return qp_fail(err, QP_ERR_INPUT, "the first unit is no model unit with path, config and scheme (kind %s)",
                       qp_unit_kind_name(unit->kind));
    *out = (struct qp_model){0};
    int r = qp_arch_parse(config, path, &out->arch, err);
    if (r < 0)
        return r;
    r = qp_scheme_parse(scheme, &out->scheme, err);
    if (r < 0)
        return r;
    qp_scheme_bind(out->scheme, out->arch.dtype);
    out->attrs = json_incref(unit->attrs);
    out->sequential = json_object_get(unit->attrs, "steps") != NULL;
    return 0;
}

int qp_model_expect_formats(const struct qp_model *model, struct qp_error *err)
{
    if (!model->scheme->budget)
        return 0;
    return qp_fail(err, QP_ERR_INPUT,
                   "the scheme is a budget (%s), and its formats are not chosen yet: put stage `allocate` before this "
                   "one, after calibrate",
                   json_string_value(json_object_get(model->scheme->source, "budget")));
}

int qp_model_expect_whole(const struct qp_model *model, struct qp_error *err)
{
    if (!model->sequential)
        return 0;
    return qp_fail(
        err, QP_ERR_INPUT,
        "layers come in steps (`true_sequential` of stage load), each with a part of the statistics, and this "
        "needs them whole: put it after quantize, give it `method: none`, or take true_sequential away");
}

int qp_model_open(const struct qp_unit *unit, struct qp_model *out, struct qp_error *err)
{
    int r = qp_model_open_any(unit, out, err);
    if (r == 0)
        r = qp_model_expect_formats(out, err);
    return r < 0 ? r : qp_model_expect_whole(out, err);
}

void qp_model_close(struct qp_model *model)
{
    qp_scheme_free(model->scheme);
    json_decref(model->attrs);
    *model = (struct qp_model){0};
}

const struct qp_linear_scheme *qp_model_scheme(const struct qp_model *model, int64_t layer, int linear)
{
    char module[256];
    return qp_scheme_for(model->scheme, qp_module_name(&model->arch, layer, linear, module, sizeof module));
}

bool qp_model_quantizes_site(const struct qp_model *model, int64_t layer, int site)
{
    const struct qp_layer_type *type = qp_layer_type(&model->arch, layer);
    for (int i = 0; i < type->linear_count; i++)
        if (type->linears[i].site == site && qp_model_scheme(model, layer, i))
            return true;
    return false;
}

int qp_model_fold_sites(const struct qp_model *model, int64_t layer, int *sites)
{
    static const enum qp_fold_kind order[] = {QP_FOLD_ROWS, QP_FOLD_NORM};
    const struct qp_layer_type *type = qp_layer_type(&model->arch, layer);
    int count = 0;
    for (int i = 0; i < 2; i++)
        for (int site = 0; site < type->site_count; site++)
            if (type->sites[site].fold == order[i] && qp_model_quantizes_site(model, layer, site))
                sites[count++] = site;
    return count;
}

int qp_model_windows(const struct qp_model *model, const json_t *spec, struct qp_windows *out, struct qp_error *err)
{
    return qp_windows_open(spec, qp_model_string(model, "tokenizer"), model->arch.vocab, out, err);
}
