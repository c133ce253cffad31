#include "libstage/tensor/scheme.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct qp_preset presets[] = {
    {"int4", "INT4 weights in groups of 128, symmetric; activations as they are", "W4A16",
     "{\"weights\": {\"format\": \"int4\", \"group\": 128, \"symmetric\": true}, \"ignore\": [\"lm_head\"]}"},
    {"int4-asym", "INT4 weights in groups of 128 with zero points; activations as they are", "W4A16_ASYM",
     "{\"weights\": {\"format\": \"int4\", \"group\": 128, \"symmetric\": false}, \"ignore\": [\"lm_head\"]}"},
    {"int8", "INT8 weights per channel, INT8 activations per token at run time", "W8A8, INT8",
     "{\"weights\": {\"format\": \"int8\", \"granularity\": \"channel\", \"symmetric\": true},"
     " \"activations\": {\"format\": \"int8\", \"granularity\": \"token\", \"dynamic\": true}, \"ignore\": "
     "[\"lm_head\"]}"},
    {"fp8-dynamic", "FP8 E4M3 weights per channel, FP8 E4M3 activations per token at run time", "FP8_DYNAMIC",
     "{\"weights\": {\"format\": \"fp8_e4m3\", \"granularity\": \"channel\"},"
     " \"activations\": {\"format\": \"fp8_e4m3\", \"granularity\": \"token\", \"dynamic\": true},"
     " \"ignore\": [\"lm_head\"]}"},
    {NULL, NULL, NULL, NULL},
};

const struct qp_preset *qp_presets(void)
{
    return presets;
}

void qp_scheme_free(struct qp_scheme *scheme)
{
    if (!scheme)
        return;
    for (size_t i = 0; i < scheme->ignore_count; i++)
        free(scheme->ignore[i]);
    for (size_t i = 0; i < scheme->rule_count; i++)
        free(scheme->rules[i].match);
    free(scheme->ignore);
    free(scheme->rules);
    free(scheme->name);
    json_decref(scheme->source);
    free(scheme);
}

static void bind_linear(struct qp_linear_scheme *linear, enum qp_dtype model_dtype)
{
    linear->weights.grid.scale_dtype = model_dtype;
    linear->activations.grid.scale_dtype = QP_F32; /* engines keep dynamic scales in float32 */
}

void qp_scheme_bind(struct qp_scheme *scheme, enum qp_dtype model_dtype)
{
    bind_linear(&scheme->base, model_dtype);
    for (size_t i = 0; i < scheme->rule_count; i++)
        bind_linear(&scheme->rules[i].scheme, model_dtype);
}

const struct qp_linear_scheme *qp_scheme_for(const struct qp_scheme *scheme, const char *module)
{
    for (size_t i = 0; i < scheme->ignore_count; i++)
        if (fnmatch(scheme->ignore[i], module, 0) == 0)
            return NULL;
    const struct qp_linear_scheme *found = &scheme->base;
    for (size_t i = 0; i < scheme->rule_count; i++)
        if (fnmatch(scheme->rules[i].match, module, 0) == 0) {
            found = &scheme->rules[i].scheme;
            break;
        }
    return found->weights.enabled ? found : NULL;
}

int64_t qp_spec_group(const struct qp_quant_spec *spec, int64_t cols)
{
    if (spec->granularity == QP_PER_TENSOR)
        return 0;
    return spec->granularity == QP_PER_GROUP && spec->group < cols ? spec->group : cols;
}

/* Writes the divisors of `cols` that kernels like (16 and the multiples of 32), at most a dozen; all but 1 if there are
 * none of those. */
static const char *divisors(int64_t cols, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (int fallback = 0; fallback < 2 && at == 0; fallback++)
        for (int64_t d = 2, listed = 0; d <= cols && listed < 12 && at < size; d++)
            if (cols % d == 0 && (fallback || d == 16 || d % 32 == 0)) {
                at += (size_t)snprintf(text + at, size - at, "%s%lld", at ? ", " : "", (long long)d);
                listed++;
            }
    return text;
}

int qp_scheme_check(const struct qp_linear_scheme *scheme, const char *module, int64_t rows, int64_t cols,
                    struct qp_error *err)
{
    const struct qp_quant_spec *w = &scheme->weights;
    if (rows < 1 || cols < 1)
        return qp_fail(err, QP_ERR_INPUT, "%s: [%lld, %lld] is no matrix to quantize", module, (long long)rows,
                       (long long)cols);
    if (w->granularity != QP_PER_GROUP || w->ragged || cols % w->group == 0)
        return 0;
    char text[256];
    return qp_fail(err, QP_ERR_INPUT,
                   "%s: group %lld does not divide its %lld columns; %lld is divisible by %s: use one of these, or "
                   "ragged: true for a short last group",
                   module, (long long)w->group, (long long)cols, (long long)cols, divisors(cols, text, sizeof text));
}
