#include "libstage/tensor/scheme/spec.h"

#include <stdio.h>
#include <string.h>

#include "libstage/base/words.h"
#include "libstage/tensor/scheme/fields.h"

/* What a format's name stands for. MX: OCP Microscaling Formats v1.0, table 1; NVFP4: NVIDIA's E2M1 in blocks of 16. */
struct format {
    const char *name;
    enum qp_dtype codes; /* QP_DTYPE_NONE: left as it is */
    int bits;
    enum qp_dtype scale; /* QP_F32: a scale of any granularity, stored in the model's dtype */
    int64_t group;       /* that the format implies; 0: none */
};

static const struct format formats[] = {
    {"int2", QP_I8, 2, QP_F32, 0},
    {"int3", QP_I8, 3, QP_F32, 0},
    {"int4", QP_I8, 4, QP_F32, 0},
    {"int5", QP_I8, 5, QP_F32, 0},
    {"int6", QP_I8, 6, QP_F32, 0},
    {"int7", QP_I8, 7, QP_F32, 0},
    {"int8", QP_I8, 8, QP_F32, 0},
    {"fp8_e4m3", QP_F8_E4M3, 8, QP_F32, 0},
    {"fp8_e5m2", QP_F8_E5M2, 8, QP_F32, 0},
    {"nvfp4", QP_F4_E2M1, 4, QP_F8_E4M3, 16},
    {"mxfp4", QP_F4_E2M1, 4, QP_F8_E8M0, 32},
    {"mxfp6", QP_F6_E3M2, 6, QP_F8_E8M0, 32},
    {"mxfp6_e2m3", QP_F6_E2M3, 6, QP_F8_E8M0, 32},
    {"mxfp8", QP_F8_E4M3, 8, QP_F8_E8M0, 32},
    {"mxint8", QP_I8, 8, QP_F8_E8M0, 32},
    {"bf16", QP_DTYPE_NONE, 16, QP_DTYPE_NONE, 0},
    {"fp16", QP_DTYPE_NONE, 16, QP_DTYPE_NONE, 0},
    {"fp32", QP_DTYPE_NONE, 32, QP_DTYPE_NONE, 0},
};
#define FORMATS (sizeof formats / sizeof *formats)

static const char *const weights_keys[] = {"format",     "group",  "granularity",   "symmetric", "block",
                                           "scale_rule", "ragged", "four_over_six", NULL};
static const char *const activations_keys[] = {"format",  "granularity", "group", "symmetric",
                                               "dynamic", "scale_rule",  NULL};
static const char *const kv_keys[] = {"format", NULL};
static const char *const weights_granularities[] = {"tensor", "channel", "group", "block", NULL};
static const char *const activations_granularities[] = {"tensor", "token", "group", NULL};
static const char *const rules[] = {
    [QP_SCALE_FLOOR] = "floor", [QP_SCALE_CEIL] = "ceil", [QP_SCALE_EVEN] = "even", NULL};

/* Reads `format`. */
static int parse_format(const json_t *value, const char *path, const struct format **out, struct qp_error *err)
{
    const char *name = NULL, *known[FORMATS + 1] = {NULL};
    for (size_t i = 0; i < FORMATS; i++)
        known[i] = formats[i].name;
    if (qp_scheme_word(value, path, "format", known, &name, err) < 0)
        return QP_ERR_INPUT;
    if (!name)
        return qp_fail(err, QP_ERR_INPUT, "%s.format: missing; give a format, such as int4", path);
    for (size_t i = 0; i < FORMATS; i++)
        if (strcmp(formats[i].name, name) == 0)
            *out = &formats[i];
    if ((*out)->codes == QP_DTYPE_NONE && json_object_size(value) > 1)
        return qp_fail(err, QP_ERR_INPUT, "%s.format: %s leaves it as it is, so the other keys mean nothing", path,
                       name);
    return 0;
}

/* The rule for E8M0 scales: the user's, that of the peer to be exact to, or `rule`. */
static int parse_rule(const json_t *value, const char *path, enum qp_exact exact, enum qp_scale_rule rule,
                      struct qp_number_format *number_format, struct qp_error *err)
{
    const char *word = rules[exact == QP_EXACT_MODELOPT         ? QP_SCALE_CEIL
                             : exact == QP_EXACT_LLM_COMPRESSOR ? QP_SCALE_EVEN
                                                                : rule];
    if (json_object_get(value, "scale_rule") && number_format->scale_dtype != QP_F8_E8M0)
        return qp_fail(err, QP_ERR_INPUT, "%s.scale_rule: is for mx formats, whose scales are powers of two; drop it",
                       path);
    if (qp_scheme_word(value, path, "scale_rule", rules, &word, err) < 0)
        return QP_ERR_INPUT;
    for (int i = 0; rules[i]; i++)
        if (number_format->scale_dtype == QP_F8_E8M0 && strcmp(word, rules[i]) == 0)
            number_format->rule = (enum qp_scale_rule)i;
    return 0;
}

static int parse_symmetric(const json_t *value, const char *path, const struct format *format, enum qp_exact exact,
                           struct qp_number_format *number_format, struct qp_error *err)
{
    number_format->symmetric = true;
    if (qp_scheme_bool(value, path, "symmetric", &number_format->symmetric, err) < 0)
        return QP_ERR_INPUT;
    if (number_format->symmetric)
        return 0;
    if (format->codes != QP_I8 || format->group > 0)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s.symmetric: %s has no zero points; found false, expected true (int2 to int8 have them)", path,
                       format->name);
    if (exact == QP_EXACT_MODELOPT)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s.symmetric: modelopt has no zero points; found false, expected true, or another `exact`",
                       path);
    return 0;
}

/* Reads what all sides have: format, symmetric, scale_rule. */
static int parse_number_format(const json_t *value, const char *path, enum qp_exact exact, enum qp_scale_rule rule,
                               const struct format **format, struct qp_quant_spec *spec, struct qp_error *err)
{
    *spec = (struct qp_quant_spec){0};
    if (parse_format(value, path, format, err) < 0)
        return QP_ERR_INPUT;
    const struct format *f = *format;
    if (f->codes == QP_DTYPE_NONE)
        return 0;
    spec->enabled = true;
    spec->format = (struct qp_number_format){.codes = f->codes, .bits = f->bits, .scale_dtype = f->scale};
    spec->format.narrow = exact == QP_EXACT_MODELOPT && f->codes == QP_I8 && f->group == 0;
    int r = parse_symmetric(value, path, f, exact, &spec->format, err);
    return r < 0 ? r : parse_rule(value, path, exact, rule, &spec->format, err);
}

/* Formats that imply their groups. NVFP4's are 16 columns, and 32 in a variant of modelopt's. */
static int parse_implied(const json_t *value, const char *path, const struct format *format, struct qp_quant_spec *spec,
                         struct qp_error *err)
{
    const char *word = "group";
    spec->granularity = QP_PER_GROUP;
    spec->group = format->group;
    if (qp_scheme_string(value, path, "granularity", &word, err) < 0 ||
        qp_scheme_size(value, path, "group", &spec->group, err) < 0)
        return QP_ERR_INPUT;
    if (strcmp(word, "group") != 0)
        return qp_fail(err, QP_ERR_INPUT, "%s.granularity: found %s, but %s has groups of %lld; drop the key", path,
                       word, format->name, (long long)format->group);
    bool nvfp4 = format->scale == QP_F8_E4M3;
    if (spec->group != format->group && !(nvfp4 && spec->group == 32))
        return qp_fail(err, QP_ERR_INPUT, "%s.group: found %lld, but %s has groups of %lld%s; drop the key", path,
                       (long long)spec->group, format->name, (long long)format->group, nvfp4 ? " (or 32)" : "");
    for (size_t i = 0; i < 2; i++) {
        static const char *const others[] = {"block", "ragged"};
        if (json_object_get(value, others[i]))
            return qp_fail(err, QP_ERR_INPUT, "%s.%s: %s has groups of %lld; drop the key", path, others[i],
                           format->name, (long long)format->group);
    }
    return 0;
}

/* Reads `block`, rows and columns: 128 by 128 (DeepSeek's) when it is absent. */
static int parse_block(const json_t *value, const char *path, struct qp_quant_spec *spec, struct qp_error *err)
{
    const json_t *block = json_object_get(value, "block");
    spec->block_rows = spec->group = 128;
    if (!spec->format.symmetric)
        return qp_fail(err, QP_ERR_INPUT, "%s.symmetric: blocks have no zero points; found false, expected true", path);
    if (!block)
        return 0;
    if (!json_is_array(block) || json_array_size(block) != 2)
        return qp_scheme_wrong_type(block, path, "block", "a list of two: rows and columns, as in [128, 128]", err);
    int r = qp_scheme_check_size(json_array_get(block, 0), path, "block[0]", &spec->block_rows, err);
    return r < 0 ? r : qp_scheme_check_size(json_array_get(block, 1), path, "block[1]", &spec->group, err);
}

/* That `group` is there when the granularity is group, and not otherwise. */
static int check_group(const json_t *value, const char *path, const char *word, struct qp_error *err)
{
    bool given = json_object_get(value, "group"), grouped = strcmp(word, "group") == 0;
    if (grouped && !given)
        return qp_fail(err, QP_ERR_INPUT, "%s.group: missing; granularity group needs the columns of a group: 128, say",
                       path);
    if (!grouped && given)
        return qp_fail(err, QP_ERR_INPUT, "%s.granularity: found %s, but group is given; drop one of the two", path,
                       word);
    return 0;
}

static int parse_weights_granularity(const json_t *value, const char *path, struct qp_quant_spec *spec,
                                     struct qp_error *err)
{
    const bool block = json_object_get(value, "block");
    const char *word = block ? "block" : json_object_get(value, "group") ? "group" : "channel";
    if (qp_scheme_word(value, path, "granularity", weights_granularities, &word, err) < 0 ||
        qp_scheme_size(value, path, "group", &spec->group, err) < 0 ||
        qp_scheme_bool(value, path, "ragged", &spec->ragged, err) < 0 || check_group(value, path, word, err) < 0)
        return QP_ERR_INPUT;
    if (block && word[0] != 'b')
        return qp_fail(err, QP_ERR_INPUT, "%s.granularity: found %s, but block is given; drop one of the two", path,
                       word);
    if (spec->ragged && word[0] != 'g')
        return qp_fail(err, QP_ERR_INPUT, "%s.ragged: only groups can be ragged; give group as well", path);
    spec->granularity = word[0] == 'g'   ? QP_PER_GROUP
                        : word[0] == 'b' ? QP_PER_BLOCK
                        : word[0] == 'c' ? QP_PER_CHANNEL
                                         : QP_PER_TENSOR;
    return spec->granularity == QP_PER_BLOCK ? parse_block(value, path, spec, err) : 0;
}

static int parse_four_over_six(const json_t *value, const char *path, const struct format *format,
                               struct qp_quant_spec *spec, struct qp_error *err)
{
    if (json_object_get(value, "four_over_six") && format->scale != QP_F8_E4M3)
        return qp_fail(err, QP_ERR_INPUT, "%s.four_over_six: found with %s, but it is for nvfp4; drop the key", path,
                       format->name);
    return qp_scheme_bool(value, path, "four_over_six", &spec->four_over_six, err);
}

int qp_scheme_parse_weights(const json_t *value, const char *path, enum qp_exact exact, struct qp_quant_spec *spec,
                            struct qp_error *err)
{
    const struct format *format = NULL;
    if (qp_scheme_check_keys(value, path, weights_keys, err) < 0 ||
        parse_number_format(value, path, exact, QP_SCALE_FLOOR, &format, spec, err) < 0)
        return QP_ERR_INPUT;
    if (!spec->enabled)
        return 0;
    if (parse_four_over_six(value, path, format, spec, err) < 0)
        return QP_ERR_INPUT;
    return format->group ? parse_implied(value, path, format, spec, err)
                         : parse_weights_granularity(value, path, spec, err);
}

static int check_static(const char *path, const struct qp_quant_spec *spec, struct qp_error *err)
{
    if (spec->granularity != QP_PER_TENSOR)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s.dynamic: found false, but only one range for the whole tensor can be fixed beforehand; use "
                       "granularity: tensor, or dynamic: true",
                       path);
    if (!spec->format.symmetric)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s.symmetric: found false, but ranges fixed beforehand are symmetric; use symmetric: true, or "
                       "dynamic: true",
                       path);
    return 0;
}

static int parse_activations_granularity(const json_t *value, const char *path, struct qp_quant_spec *spec,
                                         struct qp_error *err)
{
    const char *word = json_object_get(value, "group") ? "group" : spec->dynamic ? "token" : "tensor";
    if (qp_scheme_word(value, path, "granularity", activations_granularities, &word, err) < 0 ||
        qp_scheme_size(value, path, "group", &spec->group, err) < 0 || check_group(value, path, word, err) < 0)
        return QP_ERR_INPUT;
    spec->granularity = word[0] == 'g' ? QP_PER_GROUP : word[1] == 'o' ? QP_PER_TOKEN : QP_PER_TENSOR;
    return spec->dynamic ? 0 : check_static(path, spec, err);
}

int qp_scheme_parse_activations(const json_t *value, const char *path, enum qp_exact exact, struct qp_quant_spec *spec,
                                struct qp_error *err)
{
    const struct format *format = NULL;
    if (qp_scheme_check_keys(value, path, activations_keys, err) < 0 ||
        parse_number_format(value, path, exact, QP_SCALE_EVEN, &format, spec, err) < 0)
        return QP_ERR_INPUT;
    if (!spec->enabled)
        return 0;
    spec->dynamic = true;
    if (qp_scheme_bool(value, path, "dynamic", &spec->dynamic, err) < 0)
        return QP_ERR_INPUT;
    if (!format->group)
        return parse_activations_granularity(value, path, spec, err);
    if (!spec->dynamic)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s.dynamic: found false, but %s takes the ranges of its groups at run time; drop the key", path,
                       format->name);
    return parse_implied(value, path, format, spec, err);
}

int qp_scheme_parse_kv_cache(const json_t *value, const char *path, enum qp_exact exact, struct qp_quant_spec *spec,
                             struct qp_error *err)
{
    const struct format *format = NULL;
    if (qp_scheme_check_keys(value, path, kv_keys, err) < 0 ||
        parse_number_format(value, path, exact, QP_SCALE_FLOOR, &format, spec, err) < 0)
        return QP_ERR_INPUT;
    spec->granularity = QP_PER_TENSOR;
    bool held = format->group == 0 && (format->codes == QP_F8_E4M3 || (format->codes == QP_I8 && format->bits == 8));
    return held || !spec->enabled ? 0
                                  : qp_fail(err, QP_ERR_INPUT,
                                            "%s.format: found %s, but a KV cache is held in fp8_e4m3 or int8, with one "
                                            "fixed scale for keys and one for values",
                                            path, format->name);
}

static bool is_plain_integer(const struct qp_number_format *number_format)
{
    return number_format->codes == QP_I8 && number_format->scale_dtype != QP_F8_E8M0;
}

int qp_scheme_check_pair(const struct qp_linear_scheme *linear, const char *path, struct qp_error *err)
{
    const struct qp_number_format *w = &linear->weights.format, *a = &linear->activations.format;
    if (!linear->activations.enabled)
        return 0;
    if (!linear->weights.enabled)
        return qp_fail(err, QP_ERR_INPUT, "%s.activations: are quantized only together with weights; give weights too",
                       path);
    if (!is_plain_integer(w) && is_plain_integer(a))
        return qp_fail(
            err, QP_ERR_INPUT,
            "%s.activations.format: fp8, fp4 and mx weights cannot be multiplied by plain integers; use an fp8 "
            "or mx format",
            path);
    if (a->scale_dtype == QP_F8_E4M3 && w->scale_dtype != QP_F8_E4M3)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s.activations.format: nvfp4 activations need nvfp4 weights; use nvfp4 for both, or fp8_e4m3",
                       path);
    if (is_plain_integer(w) && a->scale_dtype == QP_F8_E8M0)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s.activations.format: mx activations need mx weights; use an int or fp8 format, or mx weights",
                       path);
    return 0;
}
