#include "libstage/tokenizer/tokenizer.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/tokenizer/tokenizer_added.h"
#include "libstage/tokenizer/tokenizer_bpe.h"
#include "libstage/tokenizer/tokenizer_steps.h"
#include "libstage/tokenizer/tokenizer_text.h"

enum { JSON_LIMIT = 256 << 20, MAX_PROCESSORS = 16 };

struct qp_tokenizer {
    struct qp_bpe *bpe;
    struct qp_added *added;
    struct qp_steps normalizer, pre_tokenizer;
    struct qp_ids before, after; /* what the template puts around a text */
};

struct template
{
    struct qp_ids before, after;
    bool text; /* whether the text has been seen */
};

static int fail_template(const char *path, const char *what, struct qp_error *err)
{
    return qp_fail(err, QP_ERR_INPUT, "%s: post_processor: %s", path, what);
}

/* {"SpecialToken": {"id": NAME}}: the ids under `special_tokens`. */
static int parse_special(const struct qp_tokenizer *tokenizer, const json_t *item, const json_t *special,
                         const char *path, struct qp_ids *out, struct qp_error *err)
{
    const char *name = json_string_value(json_object_get(item, "id"));
    const json_t *ids = json_object_get(json_object_get(special, name ? name : ""), "ids");
    if (!json_is_array(ids))
        return fail_template(path, "a SpecialToken of the template has no ids under special_tokens", err);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= qp_tokenizer_vocabulary(tokenizer))
            return qp_fail(err, QP_ERR_INPUT, "%s: post_processor: the ids of \"%.100s\" must be in the vocabulary",
                           path, name);
        qp_ids_add(out, (int32_t)json_integer_value(id));
    }
    return out->failed ? qp_fail_memory(err, json_array_size(ids), "a template") : 0;
}

static int parse_items(const struct qp_tokenizer *tokenizer, const json_t *json, const char *path, struct template *out,
                       struct qp_error *err)
{
    const json_t *single = json_object_get(json, "single"), *special = json_object_get(json, "special_tokens");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i), *text = json_object_get(item, "Sequence");
        const char *name = json_string_value(json_object_get(text, "id"));
        if (text && (out->text || !name || strcmp(name, "A") != 0))
            return fail_template(path, "the template `single` must have the sequence A once", err);
        out->text = out->text || text;
        int r = text ? 0
                     : parse_special(tokenizer, json_object_get(item, "SpecialToken"), special, path,
                                     out->text ? &out->after : &out->before, err);
        if (r < 0)
            return r;
    }
    return out->text ? 0 : fail_template(path, "the template `single` must have the sequence A once", err);
}

/* A template that is applied to what is there already. */
static int parse_template(struct qp_tokenizer *tokenizer, const json_t *json, const char *path, struct qp_error *err)
{
    struct template template = {0};
    int r = parse_items(tokenizer, json, path, &template, err);
    if (r == 0) {
        qp_ids_add_all(&template.before, tokenizer->before.at, tokenizer->before.count);
        qp_ids_add_all(&tokenizer->after, template.after.at, template.after.count);
        struct qp_ids old = tokenizer->before;
        tokenizer->before = template.before;
        template.before = old;
        if (tokenizer->before.failed || tokenizer->after.failed)
            r = qp_fail_memory(err, 0, "a template");
    }
    free(template.before.at);
    free(template.after.at);
    return r;
}

static int parse_processor(struct qp_tokenizer *tokenizer, const json_t *json, const char *path, int depth,
                           struct qp_error *err)
{
    if (!json || json_is_null(json))
        return 0;
    const char *type = json_string_value(json_object_get(json, "type"));
    const json_t *list = json_object_get(json, "processors");
    if (!type)
        return fail_template(path, "expected a mapping with a type", err);
    if (strcmp(type, "ByteLevel") == 0) /* changes offsets only */
        return 0;
    if (strcmp(type, "TemplateProcessing") == 0)
        return parse_template(tokenizer, json, path, err);
    if (strcmp(type, "Sequence") != 0 || !json_is_array(list))
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: post_processor \"%.100s\" is not supported; these are: TemplateProcessing, ByteLevel, "
                       "Sequence of processors",
                       path, type);
    if (depth >= MAX_PROCESSORS)
        return fail_template(path, "sequences are nested too deeply", err);
    int r = 0;
    for (size_t i = 0; r == 0 && i < json_array_size(list); i++)
        r = parse_processor(tokenizer, json_array_get(list, i), path, depth + 1, err);
    return r;
}

static int parse(struct qp_tokenizer *tokenizer, const json_t *json, const char *path, struct qp_error *err)
{
    int r = qp_bpe_parse(json_object_get(json, "model"), path, &tokenizer->bpe, err);
    if (r == 0)
        r = qp_steps_normalizer(json_object_get(json, "normalizer"), path, &tokenizer->normalizer, err);
    if (r == 0)
        r = qp_steps_pre_tokenizer(json_object_get(json, "pre_tokenizer"), path, &tokenizer->pre_tokenizer, err);
    if (r == 0)
        r = qp_added_parse(json_object_get(json, "added_tokens"), path, tokenizer->bpe, &tokenizer->normalizer,
                           &tokenizer->added, err);
    if (r == 0)
        r = parse_processor(tokenizer, json_object_get(json, "post_processor"), path, 0, err);
    return r;
}

int qp_tokenizer_parse(const json_t *json, const char *path, struct qp_tokenizer **out, struct qp_error *err)
{
    if (!json_is_object(json))
        return qp_fail(err, QP_ERR_INPUT, "%s: expected a mapping with a model", path);
    struct qp_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return qp_fail_memory(err, sizeof *tokenizer, "a tokenizer");
    int r = parse(tokenizer, json, path, err);
    if (r < 0)
        qp_tokenizer_free(tokenizer);
    else
        *out = tokenizer;
    return r;
}

static int read_gguf(const char *path, json_t **out, struct qp_error *err)
{
    struct qp_gguf *file = NULL;
    int r = qp_gguf_open(path, &file, err);
    if (r == 0)
        r = qp_tokenizer_from_gguf(file, out, err);
    qp_gguf_close(file);
    return r;
}

int qp_tokenizer_open(const char *path, struct qp_tokenizer **out, struct qp_error *err)
{
    qp_auto_json json_t *json = NULL;
    size_t n = strlen(path);
    bool gguf = n >= 5 && strcmp(path + n - 5, ".gguf") == 0;
    int r = gguf ? read_gguf(path, &json, err) : qp_read_json(path, JSON_LIMIT, &json, err);
    return r < 0 ? r : qp_tokenizer_parse(json, path, out, err);
}

void qp_tokenizer_free(struct qp_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    qp_bpe_free(tokenizer->bpe);
    qp_added_free(tokenizer->added);
    qp_steps_clear(&tokenizer->normalizer);
    qp_steps_clear(&tokenizer->pre_tokenizer);
    free(tokenizer->before.at);
    free(tokenizer->after.at);
    free(tokenizer);
}

/* Cuts a text into words and added tokens. */
static int prepare(const struct qp_tokenizer *tokenizer, struct qp_text *text, struct qp_error *err)
{
    int r = qp_added_cut(tokenizer->added, false, text, err);
    if (r == 0)
        r = qp_steps_apply(&tokenizer->normalizer, text, err);
    if (r == 0)
        r = qp_added_cut(tokenizer->added, true, text, err);
    if (r == 0)
        r = qp_steps_apply(&tokenizer->pre_tokenizer, text, err);
    return r;
}

int qp_tokenizer_encode(const struct qp_tokenizer *tokenizer, const char *text, size_t size, bool special,
                        int32_t **ids, size_t *count, struct qp_error *err)
{
    if (size > INT32_MAX)
        return qp_fail(err, QP_ERR_INPUT, "a text of %zu bytes; at most %d are tokenized at once: cut it", size,
                       INT32_MAX);
    struct qp_text pieces = {0};
    struct qp_ids all = {0};
    qp_text_add_any(&pieces, text, size);
    qp_text_cut(&pieces, (struct qp_piece){0, pieces.size, QP_NO_ID, true});
    if (special)
        qp_ids_add_all(&all, tokenizer->before.at, tokenizer->before.count);
    int r = pieces.failed ? qp_fail_memory(err, size, "a text") : prepare(tokenizer, &pieces, err);
    if (r == 0)
        r = qp_bpe_encode(tokenizer->bpe, &pieces, &all, err);
    if (r == 0 && special)
        qp_ids_add_all(&all, tokenizer->after.at, tokenizer->after.count);
    if (r == 0 && all.failed)
        r = qp_fail_memory(err, all.count * sizeof *all.at, "token ids");
    qp_text_clear(&pieces);
    if (r < 0) {
        free(all.at);
        return r;
    }
    *ids = all.at;
    *count = all.count;
    return 0;
}

int64_t qp_tokenizer_vocabulary(const struct qp_tokenizer *tokenizer)
{
    return qp_added_vocabulary(tokenizer->added);
}
