#include <criterion/criterion.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/tensor/scheme/scheme.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static int parse(const char *text, struct qp_scheme **out, struct qp_error *err)
{
    json_error_t at;
    qp_auto_json json_t *value = json_loads(text, JSON_DECODE_ANY, &at);
    cr_assert_not_null(value, "%s: %s", text, at.text);
    return qp_scheme_parse(value, out, err);
}

static struct qp_scheme *parsed(const char *text)
{
    struct qp_error err;
    struct qp_scheme *scheme = NULL;
    cr_assert_eq(parse(text, &scheme, &err), 0, "%s", err.message);
    return scheme;
}

Test(scheme, presets_are_what_they_say)
{
    struct qp_scheme *s = parsed("\"int4\"");
    cr_assert_str_eq(s->name, "int4");
    cr_assert(s->base.weights.enabled && !s->base.activations.enabled);
    cr_assert_eq(s->base.weights.format.codes, QP_I8);
    cr_assert_eq(s->base.weights.format.bits, 4);
    cr_assert(s->base.weights.format.symmetric);
    cr_assert_eq(s->base.weights.granularity, QP_PER_GROUP);
    cr_assert_eq(s->base.weights.group, 128);
    qp_scheme_free(s);

    s = parsed("\"int4-asym\"");
    cr_assert(!s->base.weights.format.symmetric);
    qp_scheme_free(s);

    s = parsed("\"int8\"");
    cr_assert_eq(s->base.weights.granularity, QP_PER_CHANNEL);
    cr_assert_eq(s->base.weights.format.bits, 8);
    cr_assert(s->base.activations.enabled && s->base.activations.dynamic);
    cr_assert_eq(s->base.activations.granularity, QP_PER_TOKEN);
    qp_scheme_free(s);

    s = parsed("\"fp8-dynamic\"");
    cr_assert_eq(s->base.weights.format.codes, QP_F8_E4M3);
    cr_assert_eq(s->base.activations.format.codes, QP_F8_E4M3);
    cr_assert(s->base.activations.format.symmetric);
    qp_scheme_free(s);
}

Test(scheme, aliases_name_presets_in_any_case)
{
    static const char *const pairs[][2] = {{"\"W4A16\"", "int4"},
                                           {"\"w4a16_asym\"", "int4-asym"},
                                           {"\"INT8\"", "int8"},
                                           {"\"w8a8\"", "int8"},
                                           {"\"FP8_DYNAMIC\"", "fp8-dynamic"},
                                           {"\"fp8-per-channel_per_token\"", "fp8-dynamic"},
                                           {"\"INT4_AWQ_CFG\"", "int4"},
                                           {"\"Int8_SmoothQuant\"", "int8-static"},
                                           {"\"MXFP4XFP8\"", "mxfp4-fp8"},
                                           {"\"NVFP4_DEFAULT_CFG_kv_fp8\"", "nvfp4-kv-fp8"},
                                           {"\"w8a8-kv-int8\"", "int8-kv-int8"}};
    for (size_t i = 0; i < COUNT(pairs); i++) {
        struct qp_scheme *s = parsed(pairs[i][0]);
        cr_assert_str_eq(s->name, pairs[i][1]);
        qp_scheme_free(s);
    }
}

Test(scheme, every_name_of_every_preset_means_that_preset_alone)
{
    for (const struct qp_preset *p = qp_presets(); p->name; p++) {
        const char *const lists[] = {p->name, p->llm_compressor, p->modelopt};
        for (size_t i = 0; i < COUNT(lists); i++)
            for (const char *at = lists[i]; *at; at += strcspn(at, ", "), at += strspn(at, ", ")) {
                char text[96];
                snprintf(text, sizeof text, "\"%.*s\"", (int)strcspn(at, ", "), at);
                struct qp_scheme *s = parsed(text);
                cr_expect_str_eq(s->name, p->name, "%s", text);
                cr_expect(s->ignore_count == 1 && strcmp(s->ignore[0], "lm_head") == 0);
                qp_scheme_free(s);
            }
    }
    for (const struct qp_preset_method *m = qp_preset_methods(); m->names; m++) {
        struct qp_error err;
        qp_auto_json json_t *mapping = qp_preset_mapping(m->preset, &err);
        cr_expect_not_null(mapping, "%s", err.message);
        cr_expect(strchr(m->parameters, '='), "%s", m->names);
    }
}

Test(scheme, presets_without_an_equivalent_say_why)
{
    struct qp_error err;
    for (const struct qp_preset_absence *a = qp_preset_absences(); a->peer; a++) {
        char first[96];
        snprintf(first, sizeof first, "%.*s", (int)strcspn(a->names, ","), a->names);
        cr_expect_null(qp_preset_mapping(first, &err), "%s", first);
        cr_expect(strstr(err.message, first) && strstr(err.message, a->reason), "%s", err.message);
    }
}

/* A format, what it has to become as weights, and how E8M0 exponents follow. */
Test(scheme, formats_are_the_number_formats_that_they_name)
{
    static const struct {
        const char *format;
        enum qp_dtype codes;
        int bits;
        enum qp_dtype scale;
        int64_t group;
    } cases[] = {
        {"int2", QP_I8, 2, QP_BF16, 0},           {"int7", QP_I8, 7, QP_BF16, 0},
        {"fp8_e4m3", QP_F8_E4M3, 8, QP_BF16, 0},  {"fp8_e5m2", QP_F8_E5M2, 8, QP_BF16, 0},
        {"nvfp4", QP_F4_E2M1, 4, QP_F8_E4M3, 16}, {"mxfp4", QP_F4_E2M1, 4, QP_F8_E8M0, 32},
        {"mxfp6", QP_F6_E3M2, 6, QP_F8_E8M0, 32}, {"mxfp6_e2m3", QP_F6_E2M3, 6, QP_F8_E8M0, 32},
        {"mxfp8", QP_F8_E4M3, 8, QP_F8_E8M0, 32}, {"mxint8", QP_I8, 8, QP_F8_E8M0, 32},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[96];
        snprintf(text, sizeof text, "{\"weights\": {\"format\": \"%s\"}}", cases[i].format);
        struct qp_scheme *s = parsed(text);
        const struct qp_quant_spec *w = &s->base.weights;
        qp_scheme_bind(s, QP_BF16);
        cr_expect(w->enabled && w->format.symmetric && !w->format.narrow, "%s", text);
        cr_expect(w->format.codes == cases[i].codes && w->format.bits == cases[i].bits, "%s", text);
        cr_expect_eq(w->format.scale_dtype, cases[i].scale, "%s", text);
        cr_expect_eq(w->format.rule, QP_SCALE_FLOOR, "%s", text);
        cr_expect_eq(w->granularity, cases[i].group ? QP_PER_GROUP : QP_PER_CHANNEL, "%s", text);
        cr_expect_eq(w->group, cases[i].group, "%s", text);
        qp_scheme_free(s);
    }
    static const char *const plain[] = {"bf16", "fp16", "fp32"};
    for (size_t i = 0; i < COUNT(plain); i++) {
        char text[160];
        snprintf(text, sizeof text,
                 "{\"weights\": {\"format\": \"int4\"}, \"rules\": [{\"match\": \"a\", \"weights\": {\"format\": "
                 "\"%s\"}}]}",
                 plain[i]);
        struct qp_scheme *s = parsed(text);
        cr_expect_null(qp_scheme_for(s, "a"), "%s", text);
        qp_scheme_free(s);
    }
}

Test(scheme, blocks_and_grouped_or_fixed_activations_are_read)
{
    struct qp_scheme *s = parsed("\"fp8-block\"");
    cr_expect(s->base.weights.granularity == QP_PER_BLOCK && s->base.weights.group == 128);
    cr_expect_eq(s->base.weights.block_rows, 128);
    cr_expect(s->base.activations.granularity == QP_PER_GROUP && s->base.activations.group == 128);
    cr_expect(s->base.activations.dynamic);
    qp_scheme_free(s);

    s = parsed("{\"weights\": {\"format\": \"int4\", \"granularity\": \"block\"}}");
    cr_expect(s->base.weights.granularity == QP_PER_BLOCK && s->base.weights.group == 128);
    qp_scheme_free(s);
    s = parsed("{\"weights\": {\"format\": \"int4\", \"block\": [8, 24]}}");
    cr_expect(s->base.weights.block_rows == 8 && s->base.weights.group == 24);
    qp_scheme_free(s);

    s = parsed("{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"dynamic\": false},"
               " \"kv_cache\": {\"format\": \"int8\"}}");
    qp_scheme_bind(s, QP_F16);
    cr_expect(s->base.activations.granularity == QP_PER_TENSOR && !s->base.activations.dynamic);
    cr_expect_eq(s->base.activations.format.scale_dtype, QP_F16, "a fixed scale is stored");
    cr_expect(s->kv_cache.enabled && !s->kv_cache.dynamic && s->kv_cache.granularity == QP_PER_TENSOR);
    cr_expect(s->kv_cache.format.codes == QP_I8 && s->kv_cache.format.scale_dtype == QP_F16);
    qp_scheme_free(s);

    s = parsed("\"nvfp4\"");
    qp_scheme_bind(s, QP_F16);
    cr_expect(s->base.activations.granularity == QP_PER_GROUP && s->base.activations.group == 16);
    cr_expect(s->base.activations.dynamic && s->base.activations.format.scale_dtype == QP_F8_E4M3);
    cr_expect_not(s->kv_cache.enabled || s->base.weights.four_over_six);
    qp_scheme_free(s);
    s = parsed("\"nvfp4_four_over_six\"");
    cr_assert_str_eq(s->name, "nvfp4-4over6");
    cr_expect(s->base.weights.four_over_six && !s->base.activations.four_over_six);
    qp_scheme_free(s);
}

#define EXACT(word) "{\"weights\": {\"format\": \"int4\"}, \"activations\": {\"format\": \"int8\"}," word
#define MX_RULE                                                                                             \
    "\"rules\": [{\"match\": \"m\", \"weights\": {\"format\": \"mxfp4\"%s}, \"activations\": {\"format\": " \
    "\"mxfp8\"}}]}"

Test(scheme, exact_follows_a_peer_s_arithmetic)
{
    static const struct {
        const char *exact;
        bool narrow;
        enum qp_dtype scale;
        enum qp_scale_rule weights, activations;
    } cases[] = {{"", false, QP_BF16, QP_SCALE_FLOOR, QP_SCALE_EVEN},
                 {"\"exact\": \"llm-compressor\",", false, QP_BF16, QP_SCALE_EVEN, QP_SCALE_EVEN},
                 {"\"exact\": \"modelopt\",", true, QP_F32, QP_SCALE_CEIL, QP_SCALE_CEIL}};
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int own = 0; own < 2; own++) {
            char text[400], rules[200];
            snprintf(rules, sizeof rules, MX_RULE, own ? ", \"scale_rule\": \"ceil\"" : "");
            snprintf(text, sizeof text, EXACT("%s %s"), cases[i].exact, rules);
            struct qp_scheme *s = parsed(text);
            qp_scheme_bind(s, QP_BF16);
            cr_expect_eq(s->base.weights.format.narrow, cases[i].narrow, "%s", text);
            cr_expect_eq(s->base.activations.format.narrow, cases[i].narrow, "%s", text);
            cr_expect_eq(s->base.weights.format.scale_dtype, cases[i].scale, "%s", text);
            const struct qp_linear_scheme *mx = qp_scheme_for(s, "m");
            cr_expect_eq(mx->weights.format.rule, own ? QP_SCALE_CEIL : cases[i].weights, "%s", text);
            cr_expect_eq(mx->activations.format.rule, cases[i].activations, "%s", text);
            cr_expect_eq(mx->weights.format.scale_dtype, QP_F8_E8M0);
            qp_scheme_free(s);
        }
}

Test(scheme, source_parses_to_the_same_scheme)
{
    static const char *const texts[] = {
        "\"int4\"", "\"int8\"",
        ("{\"weights\": {\"format\": \"int3\", \"group\": 64, \"ragged\": true, \"symmetric\": false},"
         " \"rules\": [{\"match\": \"*.down_proj\", \"weights\": {\"format\": \"bf16\"}}]}")};
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct qp_scheme *a = parsed(texts[i]), *b = NULL;
        struct qp_error err;
        cr_assert_eq(qp_scheme_parse(a->source, &b, &err), 0, "%s", err.message);
        cr_assert(json_equal(a->source, b->source));
        cr_assert_str_eq(a->name, b->name);
        cr_assert_arr_eq(&a->base.weights.group, &b->base.weights.group, sizeof(int64_t));
        cr_assert_eq(a->ignore_count, b->ignore_count);
        cr_assert_eq(a->rule_count, b->rule_count);
        qp_scheme_free(a);
        qp_scheme_free(b);
    }
}

Test(scheme, weights_default_to_symmetric_channels)
{
    struct qp_scheme *s = parsed("{\"weights\": {\"format\": \"int5\"}}");
    cr_assert_str_eq(s->name, "custom");
    cr_assert_eq(s->base.weights.granularity, QP_PER_CHANNEL);
    cr_assert(s->base.weights.format.symmetric);
    cr_assert_eq(s->base.weights.format.bits, 5);
    cr_assert_not_null(qp_scheme_for(s, "model.layers.0.mlp.up_proj"));
    cr_assert_null(qp_scheme_for(s, "lm_head"));
    qp_scheme_free(s);
}

Test(scheme, first_matching_rule_wins_and_inherits_what_it_does_not_name)
{
    struct qp_scheme *s =
        parsed("{\"weights\": {\"format\": \"int4\", \"group\": 32}, \"activations\": {\"format\": \"int8\"},"
               " \"ignore\": [\"*.7.*\"], \"rules\": ["
               "{\"match\": \"*.down_proj\", \"weights\": {\"format\": \"int8\", \"granularity\": \"channel\"}},"
               "{\"match\": \"*.layers.1.*\", \"weights\": {\"format\": \"bf16\"}},"
               "{\"match\": \"*.layers.2.*\", \"activations\": {\"format\": \"bf16\"}}]}");
    const struct qp_linear_scheme *down = qp_scheme_for(s, "model.layers.1.mlp.down_proj");
    cr_assert_eq(down->weights.format.bits, 8);
    cr_assert_eq(down->weights.granularity, QP_PER_CHANNEL);
    cr_assert(down->activations.enabled);
    cr_assert_null(qp_scheme_for(s, "model.layers.1.mlp.up_proj"));
    const struct qp_linear_scheme *two = qp_scheme_for(s, "model.layers.2.mlp.up_proj");
    cr_assert(two->weights.enabled && two->weights.group == 32 && !two->activations.enabled);
    cr_assert_null(qp_scheme_for(s, "model.layers.7.mlp.down_proj"));
    cr_assert_eq(qp_scheme_for(s, "model.layers.3.mlp.up_proj"), &s->base);
    cr_assert_not_null(qp_scheme_for(s, "lm_head"), "an ignore list of the user's replaces the default");
    qp_scheme_free(s);
}

Test(scheme, binding_sets_the_dtype_of_weight_scales_everywhere)
{
    struct qp_scheme *s = parsed("{\"weights\": {\"format\": \"int4\"}, \"rules\": ["
                                 "{\"match\": \"a\", \"weights\": {\"format\": \"int8\"}}]}");
    qp_scheme_bind(s, QP_BF16);
    cr_assert_eq(s->base.weights.format.scale_dtype, QP_BF16);
    cr_assert_eq(s->rules[0].scheme.weights.format.scale_dtype, QP_BF16);
    qp_scheme_free(s);
}

Test(scheme, errors_name_the_key_and_what_is_accepted)
{
    static const struct {
        const char *text, *fragments[3];
    } cases[] = {
        {"3", {"scheme: found an integer", "name of a preset or a mapping"}},
        {"\"int44\"", {"unknown preset 'int44'", "did you mean 'int4'", "fp8-dynamic"}},
        {"{\"wieghts\": {}}", {"scheme: unknown key 'wieghts'", "did you mean 'weights'"}},
        {"{\"weights\": 4}", {"scheme.weights: found an integer, expected a mapping"}},
        {"{\"weights\": {}}", {"scheme.weights.format: missing"}},
        {"{\"weights\": {\"format\": 4}}", {"scheme.weights.format: found an integer, expected a string"}},
        {"{\"weights\": {\"format\": \"itn4\"}}", {"scheme.weights.format", "'itn4'", "did you mean 'int4'"}},
        {"{\"weights\": {\"format\": \"int4\", \"group\": \"64\"}}",
         {"scheme.weights.group: found a string, expected an integer"}},
        {"{\"weights\": {\"format\": \"int4\", \"group\": 0}}", {"scheme.weights.group: found 0, expected 1 to"}},
        {"{\"weights\": {\"format\": \"int4\", \"granularity\": \"group\"}}", {"scheme.weights.group: missing"}},
        {"{\"weights\": {\"format\": \"int4\", \"granularity\": \"channel\", \"group\": 64}}",
         {"scheme.weights.granularity: found channel, but group is given"}},
        {"{\"weights\": {\"format\": \"int4\", \"granularity\": \"token\"}}",
         {"scheme.weights.granularity: unknown granularity 'token'", "tensor, channel, group, block"}},
        {"{\"weights\": {\"format\": \"int4\", \"ragged\": true}}", {"scheme.weights.ragged: only groups"}},
        {"{\"weights\": {\"format\": \"int4\", \"ragged\": 1, \"group\": 64}}",
         {"scheme.weights.ragged: found an integer, expected true or false"}},
        {"{\"weights\": {\"format\": \"fp8_e4m3\", \"symmetric\": false}}",
         {"scheme.weights.symmetric: fp8_e4m3 has no"}},
        {"{\"weights\": {\"format\": \"bf16\", \"group\": 64}}", {"scheme.weights.format: bf16"}},
        {"{\"weights\": {\"format\": \"bf16\"}}", {"scheme: quantizes nothing"}},
        {"{}", {"scheme: quantizes nothing"}},
        {"{\"activations\": {\"format\": \"int8\"}}", {"scheme.activations: are quantized only together"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"dynamic\": false, "
         "\"granularity\": \"token\"}}",
         {"scheme.activations.dynamic: found false", "granularity: tensor, or dynamic: true"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"ragged\": 3}}",
         {"scheme.activations: unknown key 'ragged'"}},
        {"{\"weights\": {\"format\": \"fp8_e4m3\"}, \"activations\": {\"format\": \"int8\"}}",
         {"scheme.activations.format: fp8, fp4 and mx weights"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"ignore\": \"lm_head\"}", {"scheme.ignore: found a string"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"ignore\": [1]}", {"scheme.ignore[0]: found an integer"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"rules\": {}}", {"scheme.rules: found a mapping, expected a list"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"rules\": [{\"weights\": {\"format\": \"int4\"}}]}",
         {"scheme.rules[0].match: missing"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"rules\": [{\"match\": \"*\"}]}",
         {"scheme.rules[0]: changes nothing"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"rules\": [{\"match\": \"*\", \"weights\": {\"format\": \"int9\"}}]}",
         {"scheme.rules[0].weights.format: unknown format 'int9'"}},
        {"{\"weights\": {\"format\": \"int4\", \"block\": [128]}}",
         {"scheme.weights.block: found a list, expected a list of two"}},
        {"{\"weights\": {\"format\": \"int4\", \"block\": [0, 128]}}",
         {"scheme.weights.block[0]: found 0, expected 1"}},
        {"{\"weights\": {\"format\": \"int4\", \"block\": [128, \"a\"]}}", {"scheme.weights.block[1]: found a string"}},
        {"{\"weights\": {\"format\": \"int4\", \"block\": [8, 8], \"group\": 8}}",
         {"scheme.weights.granularity: found block"}},
        {"{\"weights\": {\"format\": \"int4\", \"block\": [8, 8], \"granularity\": \"channel\"}}",
         {"scheme.weights.granularity: found channel, but block is given"}},
        {"{\"weights\": {\"format\": \"int4\", \"block\": [8, 8], \"symmetric\": false}}",
         {"scheme.weights.symmetric: blocks"}},
        {"{\"weights\": {\"format\": \"nvfp4\", \"group\": 64}}",
         {"scheme.weights.group: found 64, but nvfp4 has groups of 16 (or 32)"}},
        {"{\"weights\": {\"format\": \"mxfp4\", \"group\": 16}}",
         {"scheme.weights.group: found 16, but mxfp4 has groups of 32;"}},
        {"{\"weights\": {\"format\": \"mxfp4\", \"granularity\": \"tensor\"}}",
         {"scheme.weights.granularity: found tensor, but mxfp4"}},
        {"{\"weights\": {\"format\": \"mxfp4\", \"ragged\": true}}", {"scheme.weights.ragged: mxfp4 has groups"}},
        {"{\"weights\": {\"format\": \"mxint8\", \"symmetric\": false}}",
         {"scheme.weights.symmetric: mxint8 has no zero points"}},
        {"{\"weights\": {\"format\": \"mxfp4\", \"scale_rule\": \"up\"}}",
         {"scheme.weights.scale_rule: unknown scale_rule 'up'", "floor, ceil, even"}},
        {"{\"weights\": {\"format\": \"int4\", \"scale_rule\": \"ceil\"}}",
         {"scheme.weights.scale_rule: is for mx formats"}},
        {"{\"weights\": {\"format\": \"mxfp4\", \"four_over_six\": true}}",
         {"scheme.weights.four_over_six: found with mxfp4, but it is for nvfp4"}},
        {"{\"weights\": {\"format\": \"nvfp4\", \"four_over_six\": 6}}", {"scheme.weights.four_over_six"}},
        {"{\"weights\": {\"format\": \"fp16\", \"symmetric\": true}}",
         {"scheme.weights.format: fp16 leaves it as it is"}},
        {"{\"exact\": \"gptqmodel\", \"weights\": {\"format\": \"int4\"}}",
         {"scheme.exact: unknown exact 'gptqmodel'", "llm-compressor, modelopt"}},
        {"{\"exact\": \"modelopt\", \"weights\": {\"format\": \"int4\", \"symmetric\": false}}",
         {"scheme.weights.symmetric: modelopt has no zero points"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"dynamic\": false, "
         "\"symmetric\": false}}",
         {"scheme.activations.symmetric: found false, but ranges fixed beforehand are symmetric"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"granularity\": \"group\"}}",
         {"scheme.activations.group: missing"}},
        {"{\"weights\": {\"format\": \"nvfp4\"}, \"activations\": {\"format\": \"nvfp4\", \"dynamic\": false}}",
         {"scheme.activations.dynamic: found false, but nvfp4"}},
        {"{\"weights\": {\"format\": \"fp8_e4m3\"}, \"activations\": {\"format\": \"nvfp4\"}}",
         {"scheme.activations.format: nvfp4 activations need nvfp4 weights"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"mxfp8\"}}",
         {"scheme.activations.format: mx activations need mx weights"}},
        {"{\"weights\": {\"format\": \"mxint8\"}, \"activations\": {\"format\": \"int8\"}}",
         {"scheme.activations.format: fp8, fp4 and mx weights cannot"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"kv_cache\": {\"format\": \"nvfp4\"}}",
         {"scheme.kv_cache.format: found nvfp4, but a KV cache is held in fp8_e4m3 or int8"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"kv_cache\": {\"format\": \"int4\"}}",
         {"scheme.kv_cache.format: found int4"}},
        {"{\"weights\": {\"format\": \"int8\"}, \"kv_cache\": {\"format\": \"int8\", \"dynamic\": true}}",
         {"scheme.kv_cache: unknown key 'dynamic'"}},
        {"{\"kv_cache\": {\"format\": \"int8\"}}", {"scheme: quantizes nothing"}},
        {"\"-kv-fp8\"", {"unknown preset '-kv-fp8'"}},
        {"{\"name\": 3, \"weights\": {\"format\": \"int8\"}}", {"scheme.name: found an integer"}},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct qp_error err = {0};
        struct qp_scheme *scheme = NULL;
        cr_assert_eq(parse(cases[i].text, &scheme, &err), QP_ERR_INPUT, "%s", cases[i].text);
        cr_assert_null(scheme);
        for (size_t k = 0; k < COUNT(cases[i].fragments) && cases[i].fragments[k]; k++)
            cr_assert_not_null(strstr(err.message, cases[i].fragments[k]), "%s: '%s' lacks '%s'", cases[i].text,
                               err.message, cases[i].fragments[k]);
    }
}

static int check(const char *weights, int64_t cols, struct qp_error *err)
{
    char text[256];
    snprintf(text, sizeof text, "{\"weights\": %s}", weights);
    struct qp_scheme *s = parsed(text);
    int r = qp_scheme_check(&s->base, "model.layers.0.mlp.up_proj", 48, cols, err);
    qp_scheme_free(s);
    return r;
}

Test(scheme, a_group_that_does_not_divide_names_those_that_do)
{
    struct qp_error err;
    cr_assert_eq(check("{\"format\": \"int4\", \"group\": 128}", 576, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "model.layers.0.mlp.up_proj: group 128 does not divide its 576 columns"));
    cr_assert_not_null(strstr(err.message, "576 is divisible by 16, 32, 64, 96, 192, 288, 576:"), "%s", err.message);
    cr_assert_not_null(strstr(err.message, "ragged: true"));
    cr_assert_eq(check("{\"format\": \"int4\", \"group\": 8}", 35, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "divisible by 5, 7, 35:"), "%s", err.message);
    cr_assert_eq(check("{\"format\": \"int4\", \"group\": 64}", 576, &err), 0);
    cr_assert_eq(check("{\"format\": \"int4\", \"group\": 128, \"ragged\": true}", 576, &err), 0);
    cr_assert_eq(check("{\"format\": \"int4\"}", 577, &err), 0);
    cr_assert_eq(check("{\"format\": \"int4\"}", 0, &err), QP_ERR_INPUT);
}

Test(scheme, groups_of_formats_and_of_activations_have_to_divide)
{
    struct qp_error err;
    cr_assert_eq(check("{\"format\": \"mxfp4\"}", 48, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "its 48 columns are no multiple of 32"), "%s", err.message);
    cr_assert_eq(check("{\"format\": \"nvfp4\"}", 48, &err), 0);
    cr_assert_eq(check("{\"format\": \"nvfp4\"}", 40, &err), QP_ERR_INPUT);
    cr_assert_eq(check("{\"format\": \"fp8_e4m3\", \"block\": [128, 128]}", 577, &err), 0, "blocks may be short");
    static const char both[] =
        "{\"format\": \"fp8_e4m3\"}, \"activations\": {\"format\": \"fp8_e4m3\", \"group\": 128}";
    cr_assert_eq(check(both, 256, &err), 0);
    cr_assert_eq(check(both, 576, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "group 128 of its activations does not divide its 576 columns"));
    cr_assert_not_null(strstr(err.message, "or granularity: token"), "%s", err.message);
}

Test(scheme, group_of_a_spec_is_in_the_terms_of_the_kernels)
{
    cr_assert_eq(qp_spec_group(&(struct qp_quant_spec){.granularity = QP_PER_TENSOR}, 96), 0);
    cr_assert_eq(qp_spec_group(&(struct qp_quant_spec){.granularity = QP_PER_CHANNEL}, 96), 96);
    cr_assert_eq(qp_spec_group(&(struct qp_quant_spec){.granularity = QP_PER_TOKEN}, 96), 96);
    cr_assert_eq(qp_spec_group(&(struct qp_quant_spec){.granularity = QP_PER_GROUP, .group = 32}, 96), 32);
    cr_assert_eq(qp_spec_group(&(struct qp_quant_spec){.granularity = QP_PER_GROUP, .group = 128}, 96), 96);
    cr_assert_eq(qp_spec_group(&(struct qp_quant_spec){.granularity = QP_PER_BLOCK, .group = 32}, 96), 32);
    cr_assert_eq(qp_spec_group(&(struct qp_quant_spec){.granularity = QP_PER_BLOCK, .group = 128}, 96), 96);
}
