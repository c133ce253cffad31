/* The text part of a multimodal model's config.json. */
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/network/config_read.h"

static const struct qp_wrapper *find_wrapper(const json_t *config)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const char *class_name = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    for (const struct qp_wrapper *const *w = qp_wrappers(); type && *w; w++)
        if (strcmp(type, (*w)->name) == 0 && (!class_name || strcmp(class_name, (*w)->class_name) == 0))
            return *w;
    return NULL;
}

/* What stands at the top counts for the text part as well; tokens only where that has none of its own. */
static void take_over(const json_t *config, json_t *text)
{
    static const struct {
        const char *key;
        bool wins;
    } keys[] = {{"dtype", true},
                {"torch_dtype", true},
                {"tie_word_embeddings", true},
                {"bos_token_id", false},
                {"eos_token_id", false}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *value = json_object_get(config, keys[i].key);
        if (value && !json_is_null(value) && (keys[i].wins || !json_object_get(text, keys[i].key)))
            json_object_set(text, keys[i].key, value);
    }
}

int qp_config_text(const json_t *config, const char *path, const struct qp_wrapper **wrapper, json_t **out,
                   struct qp_error *err)
{
    const struct qp_config_object o = {config, path, ""};
    const json_t *text = json_object_get(config, "text_config");
    *wrapper = find_wrapper(config);
    if (*wrapper && !json_is_object(text))
        return qp_config_wrong(&o, "text_config", "an object", err);
    *out = *wrapper ? json_copy((json_t *)text) : json_incref((json_t *)config);
    if (!*out)
        return qp_fail_memory(err, 0, path);
    if (*wrapper) {
        json_object_del(*out, "architectures");
        take_over(config, *out);
    }
    return 0;
}
