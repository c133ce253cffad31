/* Parameters and ports under the names that they had in the version before: taken, with a warning. */
#include "runner/pipeline/renamed.h"

int qp_warn_renamed(const struct qp_pipeline *p, const char *path, const char *was, const char *name,
                    struct qp_error *err)
{
    json_t *message =
        json_sprintf("`%s` is called `%s` now; the old name will not be taken by the next version", was, name);
    json_t *warning =
        json_pack("{s:s, s:s, s:o}", "code", "renamed", "where", qp_document_at(p->document, path), "message", message);
    return warning && json_array_append_new(p->warnings, warning) == 0 ? 0 : qp_fail_memory(err, 0, "a warning");
}

static int rename_param(const struct qp_pipeline *p, const struct qp_instance *in, const json_t *param,
                        struct qp_error *err)
{
    const char *was = json_string_value(json_object_get(param, "was"));
    const char *name = json_string_value(json_object_get(param, "name"));
    json_t *value = was ? json_object_get(in->params, was) : NULL;
    if (!value)
        return 0;
    qp_auto_free char *path = qp_format("%s.with.%s", in->path, was);
    if (!path)
        return qp_fail_memory(err, 0, was);
    if (json_object_get(in->params, name))
        return qp_document_fail_key(p->document, path, err, "found `%s` and `%s`, which is its name now; expected one",
                                    was, name);
    int r = qp_warn_renamed(p, path, was, name, err);
    if (r == 0 && (json_object_set(in->params, name, value) < 0 || json_object_del(in->params, was) < 0))
        r = qp_fail_memory(err, 0, name);
    return r;
}

int qp_params_rename(const struct qp_pipeline *p, const struct qp_instance *in, struct qp_error *err)
{
    size_t i;
    json_t *param;
    int r = 0;
    json_array_foreach(json_object_get(in->descriptor, "params"), i, param)
        if (r == 0)
            r = rename_param(p, in, param, err);
    return r;
}
