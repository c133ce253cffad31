#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/formats/safetensors.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define GOLDEN SOURCE_DIR "/tests/unit/golden/formats/"

/* What compressed-tensors 0.20 wrote, and the configs that go with it: see golden/formats.py. */
static struct qp_safetensors *golden;
static json_t *configs;

static void setup(void)
{
    struct qp_error err;
    cr_assert_eq(qp_safetensors_open(GOLDEN "compressed_tensors.safetensors", &golden, &err), 0, "%s", err.message);
    cr_assert_eq(qp_read_json(GOLDEN "configs.json", 1 << 20, &configs, &err), 0, "%s", err.message);
}

static void teardown(void)
{
    qp_safetensors_close(golden);
    json_decref(configs);
}

TestSuite(golden, .init = setup, .fini = teardown);

static struct qp_tensor *find(void *context, const char *name)
{
    (void)context;
    return qp_safetensors_find(golden, name);
}

/* GOLDEN tensor CASE SEPARATOR SUFFIX, or NULL. */
static struct qp_tensor *part(const char *name, const char *separator, const char *suffix)
{
    char full[128];
    snprintf(full, sizeof full, "%s%s%s", name, separator, suffix);
    return find(NULL, full);
}

/* The scheme of a case, as its config says it, bound to the dtype of its scales. */
static struct qp_scheme *scheme_of(const char *name)
{
    struct qp_error err;
    struct qp_scheme *scheme = NULL;
    cr_assert_eq(qp_compressed_parse(json_object_get(configs, name), "config.json", &scheme, &err), 0, "%s",
                 err.message);
    qp_scheme_bind(scheme, part(name, ".", "weight_scale")->dtype);
    return scheme;
}

static struct qp_quantized quantized_of(const char *name, const struct qp_scheme *scheme)
{
    const struct qp_tensor *codes = part(name, "/", "codes"), *zero = part(name, "/", "zero");
    const struct qp_tensor *global = part(name, "/", "global");
    struct qp_number_format format = scheme->base.weights.format;
    format.global = global ? *(const float *)global->data : 0;
    return (struct qp_quantized){.format = format,
                                 .rows = codes->shape[0],
                                 .cols = codes->shape[1],
                                 .group = qp_spec_group(&scheme->base.weights, codes->shape[1]),
                                 .codes = codes->data,
                                 .scale = part(name, "/", "scale")->data,
                                 .zero = zero ? zero->data : NULL};
}

static size_t count_stored(const char *name)
{
    char prefix[128];
    size_t count = 0;
    snprintf(prefix, sizeof prefix, "%s.", name);
    for (size_t i = 0; i < golden->count; i++)
        count += strncmp(golden->tensors[i]->name, prefix, strlen(prefix)) == 0;
    return count;
}

static void same(const struct qp_tensor *t)
{
    const struct qp_tensor *expected = find(NULL, t->name);
    cr_assert_not_null(expected, "%s is not what the library writes", t->name);
    cr_assert_eq(t->dtype, expected->dtype, "%s", t->name);
    cr_assert_eq(t->rank, expected->rank, "%s", t->name);
    cr_assert_arr_eq(t->shape, expected->shape, (size_t)t->rank * sizeof *t->shape, "%s", t->name);
    cr_assert_arr_eq(t->data, expected->data, t->bytes, "%s", t->name);
}

Test(golden, packed_tensors_are_the_library_s_byte_for_byte)
{
    const char *name;
    json_t *config;
    cr_assert_eq(json_object_size(configs), 50);
    json_object_foreach(configs, name, config) {
        struct qp_scheme *scheme = scheme_of(name);
        struct qp_quantized q = quantized_of(name, scheme);
        struct qp_tensor *out[QP_COMPRESSED_MAX];
        struct qp_error err;
        size_t count = 0;
        const char *format = qp_compressed_format(&scheme->base);
        cr_assert_str_eq(format, json_string_value(json_object_get(config, "format")), "%s", name);
        cr_assert_eq(qp_compressed_pack(name, &scheme->base, &q, out, &count, &err), 0, "%s", err.message);
        cr_assert_eq(count, count_stored(name), "%s", name);
        for (size_t i = 0; i < count; i++) {
            same(out[i]);
            qp_tensor_unref(out[i]);
        }
        qp_scheme_free(scheme);
    }
}

Test(golden, unpacked_weights_are_the_library_s)
{
    const char *name;
    json_t *config;
    json_object_foreach(configs, name, config) {
        struct qp_scheme *scheme = scheme_of(name);
        const struct qp_tensor *expected = part(name, "/", "weight");
        struct qp_error err;
        qp_auto_free float *w = malloc((size_t)expected->elements * sizeof *w);
        qp_auto_free char *rounded = malloc(expected->bytes);
        cr_assert_eq(qp_compressed_unpack(name, &scheme->base, expected->shape[0], expected->shape[1],
                                          (struct qp_finder){find, NULL}, w, &err),
                     0, "%s", err.message);
        qp_from_f32_ref(expected->dtype, expected->elements, w, rounded); /* the library multiplies in this dtype */
        cr_assert_arr_eq(rounded, expected->data, expected->bytes, "%s", name);
        qp_scheme_free(scheme);
    }
}

/* Every value that the library's config sets must be in ours, save for which of its fields it leaves out. */
static void contains(const json_t *ours, const json_t *theirs, const char *where)
{
    const char *key;
    json_t *value;
    if (!json_is_object(theirs)) {
        cr_assert(json_equal(ours, theirs), "%s differs", where);
        return;
    }
    json_object_foreach((json_t *)theirs, key, value)
        if (strcmp(key, "moe_sparsity_config") != 0)
            contains(json_object_get(ours, key), value, key);
}

Test(golden, configs_are_the_library_s)
{
    const char *name;
    json_t *config;
    qp_auto_json json_t *ignore = json_pack("[s]", "lm_head");
    json_object_foreach(configs, name, config) {
        struct qp_scheme *scheme = scheme_of(name);
        struct qp_error err;
        qp_auto_json json_t *ours = NULL;
        cr_assert_eq(qp_compressed_config(scheme, ignore, &ours, &err), 0, "%s", err.message);
        contains(ours, config, name);
        cr_assert_str_eq(json_string_value(json_object_get(ours, "version")), "0.20.0");
        qp_scheme_free(scheme);
    }
}

/* ---- what is wrong in a checkpoint ---- */

static struct qp_tensor *instead; /* takes the place of the golden tensor of its name */
static const char *missing;

static struct qp_tensor *find_wrong(void *context, const char *name)
{
    if (missing && strcmp(name, missing) == 0)
        return NULL;
    return instead && strcmp(name, instead->name) == 0 ? instead : find(context, name);
}

static void unpack_fails(const char *name, const char *fragment)
{
    struct qp_error err = {0};
    struct qp_scheme *scheme = scheme_of(name);
    const struct qp_tensor *weight = part(name, "/", "weight");
    qp_auto_free float *w = malloc((size_t)weight->elements * sizeof *w);
    cr_assert_eq(qp_compressed_unpack(name, &scheme->base, weight->shape[0], weight->shape[1],
                                      (struct qp_finder){find_wrong, NULL}, w, &err),
                 QP_ERR_INPUT, "%s", fragment);
    cr_assert_not_null(strstr(err.message, fragment), "'%s' lacks '%s'", err.message, fragment);
    qp_scheme_free(scheme);
}

static void replaced(const char *name, const char *tensor, enum qp_dtype dtype, int rank, const int64_t *shape,
                     const char *fragment)
{
    struct qp_error err;
    char full[128];
    snprintf(full, sizeof full, "%s.%s", name, tensor);
    cr_assert_eq(qp_tensor_new(full, dtype, rank, shape, &instead, &err), 0, "%s", err.message);
    memset(instead->data, 0, instead->bytes);
    unpack_fails(name, fragment);
    qp_tensor_unref(instead);
    instead = NULL;
}

Test(golden, wrong_tensors_are_refused)
{
    replaced("pack4_group_sym", "weight_packed", QP_I32, 2, (const int64_t[]){11, 7},
             "pack4_group_sym.weight_packed: shape [11, 7]; expected [11, 8]");
    replaced("pack4_group_sym", "weight_packed", QP_I64, 2, (const int64_t[]){11, 8},
             "weight_packed: I64; expected I32");
    replaced("pack4_group_sym", "weight_shape", QP_I64, 1, (const int64_t[]){2},
             "weight_shape: says [0, 0]; expected [11, 64]");
    replaced("pack4_group_sym", "weight_scale", QP_BF16, 2, (const int64_t[]){11, 3}, "expected [11, 2]");
    replaced("pack4_group_sym", "weight_scale", QP_F64, 2, (const int64_t[]){11, 2}, "expected BF16, F16 or F32");
    replaced("pack4_group_asym", "weight_zero_point", QP_I32, 2, (const int64_t[]){11, 2}, "expected [2, 2]");
    replaced("pack4_group_sym", "weight_g_idx", QP_I32, 1, (const int64_t[]){64}, "activation order");
    replaced("int8_channel_asym", "weight_zero_point", QP_I32, 2, (const int64_t[]){9, 1}, "I32; expected I8");
    replaced("fp8_channel", "weight", QP_I8, 2, (const int64_t[]){9, 40}, "I8; expected F8_E4M3");
    missing = "pack4_group_asym.weight_zero_point";
    unpack_fails("pack4_group_asym", "pack4_group_asym.weight_zero_point: is missing; expected shape [2, 2]");
    missing = "pack4_group_asym.weight_packed";
    unpack_fails("pack4_group_asym", "pack4_group_asym.weight: is missing");
}

/* ---- schemes ---- */

static struct qp_scheme *parsed(const char *text)
{
    struct qp_error err;
    struct qp_scheme *scheme = NULL;
    qp_auto_json json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    cr_assert_eq(qp_scheme_parse(value, &scheme, &err), 0, "%s", err.message);
    return scheme;
}

static json_t *config_of(const struct qp_scheme *scheme)
{
    struct qp_error err;
    qp_auto_json json_t *ignore = json_pack("[s]", "lm_head");
    json_t *config = NULL;
    cr_assert_eq(qp_compressed_config(scheme, ignore, &config, &err), 0, "%s", err.message);
    return config;
}

static const char *target(const json_t *config, const char *group)
{
    const json_t *scheme = json_object_get(json_object_get(config, "config_groups"), group);
    return json_string_value(json_array_get(json_object_get(scheme, "targets"), 0));
}

#define RULES                                                                                               \
    "{\"weights\": {\"format\": \"int4\", \"group\": 32}, \"activations\": {\"format\": \"bf16\"},"         \
    " \"rules\": [{\"match\": \"*.down_proj\", \"weights\": {\"format\": \"int8\"}},"                       \
    "{\"match\": \"*.[!a]_x?y\", \"weights\": {\"format\": \"bf16\"}},"                                     \
    "{\"match\": \"model.layers.0.*\", \"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": " \
    "\"int8\"}}]}"

Test(config, rules_become_groups_that_exclude_each_other)
{
    struct qp_scheme *scheme = parsed(RULES);
    qp_auto_json json_t *config = config_of(scheme);
    cr_assert_str_eq(json_string_value(json_object_get(config, "format")), "mixed-precision");
    cr_assert_eq(json_object_size(json_object_get(config, "config_groups")), 3);
    cr_assert_str_eq(target(config, "group_0"), "Linear");
    cr_assert_str_eq(target(config, "group_1"), "re:.*\\.down_proj$");
    cr_assert_str_eq(target(config, "group_3"), "re:(?!(?:.*\\.down_proj|.*\\.[^a]_x.y)$)model\\.layers\\.0\\..*$");
    qp_scheme_free(scheme);
}

static void same_spec(const struct qp_quant_spec *a, const struct qp_quant_spec *b, const char *where)
{
    const struct qp_number_format *g = &a->format, *h = &b->format;
    cr_assert_eq(a->enabled, b->enabled, "%s", where);
    if (!a->enabled)
        return;
    cr_assert(g->bits == h->bits && g->codes == h->codes && g->scale_dtype == h->scale_dtype, "%s", where);
    cr_assert_eq(g->symmetric, h->symmetric, "%s", where);
    cr_assert(a->granularity == b->granularity && a->group == b->group, "%s", where);
    cr_assert(a->block_rows == b->block_rows && a->dynamic == b->dynamic, "%s", where);
}

static void comes_back(const char *text)
{
    static const char *const modules[] = {"model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj",
                                          "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.o_proj", "lm_head"};
    struct qp_scheme *there = parsed(text), *back = NULL;
    struct qp_error err;
    qp_auto_json json_t *config = config_of(there);
    cr_assert_eq(qp_compressed_parse(config, "config.json", &back, &err), 0, "%s", err.message);
    same_spec(&there->kv_cache, &back->kv_cache, text);
    for (size_t m = 0; m < COUNT(modules); m++) {
        const struct qp_linear_scheme *a = qp_scheme_for(there, modules[m]), *b = qp_scheme_for(back, modules[m]);
        cr_assert_eq(!a, !b, "%s %s", text, modules[m]);
        if (!a)
            continue;
        same_spec(&a->weights, &b->weights, text);
        same_spec(&a->activations, &b->activations, text);
    }
    qp_scheme_free(there);
    qp_scheme_free(back);
}

#define MODULES                                                                           \
    "{\"weights\": {\"format\": \"int4\", \"group\": 32}, \"rules\": ["                   \
    "{\"match\": \"model.layers.0.mlp.down_proj\", \"weights\": {\"format\": \"int8\"}}," \
    "{\"match\": \"model.layers.1.*\", \"weights\": {\"format\": \"int6\"}},"             \
    "{\"match\": \"model.layers.0.mlp.up_proj\", \"weights\": {\"format\": \"int8\"}},"   \
    "{\"match\": \"model.layers.1.mlp.up_proj\", \"weights\": {\"format\": \"int8\"}}]}"

Test(config, modules_of_one_format_share_a_group)
{
    struct qp_scheme *scheme = parsed(MODULES);
    qp_auto_json json_t *config = config_of(scheme);
    const json_t *groups = json_object_get(config, "config_groups");
    const json_t *modules = json_object_get(json_object_get(groups, "group_1"), "targets");
    cr_assert_eq(json_object_size(groups), 4);
    cr_assert_eq(json_array_size(modules), 2);
    cr_assert_str_eq(json_string_value(json_array_get(modules, 0)), "model.layers.0.mlp.down_proj");
    cr_assert_str_eq(json_string_value(json_array_get(modules, 1)), "model.layers.0.mlp.up_proj");
    cr_assert_str_eq(target(config, "group_2"), "re:model\\.layers\\.1\\..*$");
    cr_assert_str_eq(target(config, "group_4"),
                     "re:(?!(?:model\\.layers\\.1\\..*)$)model\\.layers\\.1\\.mlp\\.up_proj$",
                     "a rule that the one before it covers stays after it");
    qp_scheme_free(scheme);
}

/* Presets of numbers that the layout has no place for, with what the refusal says. */
static const char *const unheld[][2] = {{"mxfp6", "use mxfp6_e2m3, mxfp4 or mxfp8"},
                                        {"mxint8", "use mxfp8 or int8"},
                                        {"nvfp4-fp8", "use groups of 16"},
                                        {"nvfp4-mlp-weight-only", "use groups of 16"}};

static const char *why_unheld(const char *preset)
{
    for (size_t i = 0; i < COUNT(unheld); i++)
        if (strcmp(unheld[i][0], preset) == 0)
            return unheld[i][1];
    return NULL;
}

Test(config, every_preset_comes_back_from_its_config_or_is_refused)
{
    comes_back(RULES);
    comes_back(MODULES);
    for (const struct qp_preset *p = qp_presets(); p->name; p++) {
        static const char *const endings[] = {"", "-kv-fp8", "-kv-int8"};
        for (size_t e = 0; e < COUNT(endings); e++) {
            qp_auto_free char *text = qp_format("\"%s%s\"", p->name, endings[e]);
            const char *why = why_unheld(p->name);
            if (!why) {
                comes_back(text);
                continue;
            }
            struct qp_scheme *scheme = parsed(text);
            struct qp_error err = {0};
            qp_auto_json json_t *ignore = json_array();
            json_t *config = NULL;
            cr_assert_eq(qp_compressed_config(scheme, ignore, &config, &err), QP_ERR_INPUT, "%s", text);
            cr_assert_not_null(strstr(err.message, why), "%s: %s", text, err.message);
            qp_scheme_free(scheme);
        }
    }
}

Test(config, simple_expressions_of_others_are_read)
{
    struct qp_scheme *int4 = parsed("\"int4\"");
    qp_auto_json json_t *config = config_of(int4);
    qp_scheme_free(int4);
    json_t *groups = json_object_get(config, "config_groups");
    json_object_set_new(json_object_get(groups, "group_0"), "targets",
                        json_pack("[s, s, s]", "re:.*self_attn\\.[qk]_proj$", "re:^model.layers.1[0-9]", "a.b*c"));
    json_object_set_new(config, "ignore", json_pack("[s]", "re:.*mlp.gate$"));
    struct qp_scheme *scheme = NULL;
    struct qp_error err;
    cr_assert_eq(qp_compressed_parse(config, "config.json", &scheme, &err), 0, "%s", err.message);
    cr_assert_not_null(qp_scheme_for(scheme, "model.layers.0.self_attn.q_proj"));
    cr_assert_null(qp_scheme_for(scheme, "model.layers.0.self_attn.v_proj"));
    cr_assert_not_null(qp_scheme_for(scheme, "model.layers.12.self_attn.v_proj"));
    cr_assert_null(qp_scheme_for(scheme, "model.layers.12.mlp.gate"));
    cr_assert_not_null(qp_scheme_for(scheme, "a.b*c"));
    cr_assert_null(qp_scheme_for(scheme, "a.bxc"));
    qp_scheme_free(scheme);
}

#define FLOAT(rest) "{\"type\": \"float\", \"num_bits\": " rest "}"

/* Sets `path` (keys with slashes) of the config of preset int8 to the JSON `value`, and parses it. */
static void refused(const char *path, const char *value, const char *fragment)
{
    struct qp_scheme *int8 = parsed("\"int8\""), *scheme = NULL;
    struct qp_error err = {0};
    qp_auto_json json_t *config = config_of(int8);
    char copy[128];
    snprintf(copy, sizeof copy, "%s", path);
    json_t *at = config;
    char *key = copy;
    for (char *slash; (slash = strchr(key, '/')); key = slash + 1) {
        *slash = '\0';
        at = json_object_get(at, key);
    }
    json_object_set_new(at, key, json_loads(value, JSON_DECODE_ANY, NULL));
    cr_assert_eq(qp_compressed_parse(config, "x/config.json", &scheme, &err), QP_ERR_INPUT, "%s = %s", path, value);
    cr_assert_null(scheme);
    cr_assert_eq(strncmp(err.message, "x/config.json: quantization_config", 34), 0, "%s", err.message);
    cr_assert_not_null(strstr(err.message, fragment), "'%s' lacks '%s'", err.message, fragment);
    qp_scheme_free(int8);
}

Test(config, what_cannot_be_read_is_refused_with_its_key)
{
    refused("quant_method", "\"gptq\"", ".quant_method: only compressed-tensors");
    refused("quantization_status", "\"frozen\"", ".quantization_status: only compressed");
    refused("sparsity_config", "{\"format\": \"sparse-24-bitmask\"}", ".sparsity_config: sparse");
    refused("transform_config", "{\"config_groups\": {}}", ".transform_config: rotated");
    refused("kv_cache_scheme", "3", ".kv_cache_scheme: expected a mapping");
    refused("kv_cache_scheme", "{\"type\": \"float\", \"strategy\": \"token\"}", ".kv_cache_scheme.strategy: expected");
    refused("kv_cache_scheme", "{\"type\": \"float\", \"dynamic\": true}", ".kv_cache_scheme.dynamic: expected false");
    refused("kv_cache_scheme", "{\"symmetric\": false}", ".kv_cache_scheme.symmetric: expected true");
    refused("kv_cache_scheme", "{\"num_bits\": 4}", "scheme.kv_cache.format: found int4");
    refused("config_groups", "{}", ".config_groups: expected a mapping of 1 to 1000");
    refused("config_groups", "[]", ".config_groups: expected a mapping");
    refused("config_groups/group_0", "[]", ".config_groups.group_0: expected a mapping");
    refused("config_groups/group_0/targets", "\"Linear\"", ".group_0.targets: expected a list");
    refused("config_groups/group_0/targets", "[3]", ".group_0.targets: 'something that is no string'");
    refused("config_groups/group_0/targets", "[\"re:(a|b)\"]", ".group_0.targets: 're:(a|b)' cannot be read");
    refused("config_groups/group_0/targets", "[\"re:a+\"]", "'re:a+' cannot be read");
    refused("config_groups/group_0/targets", "[\"re:\\\\d\"]", "cannot be read");
    refused("config_groups/group_0/targets", "[\"re:[a\"]", "cannot be read");
    refused("config_groups/group_0/output_activations", "{\"num_bits\": 8}", ".output_activations: quantized outputs");
    refused("config_groups/group_0/weights", "3", ".group_0.weights: expected a mapping");
    refused("config_groups/group_0/weights", "null", "activations");
    refused("config_groups/group_0/weights/num_bits", "9", ".weights.num_bits: expected 2 to 8 for type int");
    refused("config_groups/group_0/weights/num_bits", "1", ".weights.num_bits: expected 2 to 8 for type int");
    refused("config_groups/group_0/weights/type", "\"complex\"", ".weights.type: expected");
    refused("config_groups/group_0/weights/type", "3", ".weights.type: expected");
    refused("config_groups/group_0/weights/symmetric", "3", ".weights.symmetric: expected");
    refused("config_groups/group_0/weights/strategy", "\"row\"", ".weights.strategy: expected");
    refused("config_groups/group_0/weights/strategy", "\"block\"", ".weights.block_structure: expected rows");
    refused("config_groups/group_0/weights/strategy", "\"group\"", ".weights.group_size: expected an integer");
    refused("config_groups/group_0/weights/scale_dtype", "\"torch.uint8\"", ".weights.scale_dtype: scales");
    refused("config_groups/group_0/weights", FLOAT("3, \"group_size\": 32"), ".weights.num_bits: expected 4, 6 or 8");
    refused("config_groups/group_0/weights", FLOAT("4, \"group_size\": 64"), ".weights.group_size: expected 16 or 32");
    refused("config_groups/group_0/weights", FLOAT("6"), ".weights.group_size: expected 32");
    refused("config_groups/group_0/weights", FLOAT("4, \"group_size\": 16, \"strategy\": \"group\""),
            ".weights.strategy: expected \"tensor_group\" for nvfp4");
    refused("config_groups/group_0/weights", FLOAT("8, \"group_size\": 16, \"scale_dtype\": \"torch.uint8\""),
            ".weights.scale_dtype: torch.uint8 scales of 8 bits in groups of 16 cannot");
    refused("config_groups/group_0/weights", FLOAT("8, \"symmetric\": false"), ".weights.symmetric: expected true");
    refused("config_groups/group_0/weights/actorder", "\"group\"", ".weights.actorder: columns");
    refused("config_groups/group_0/input_activations/dynamic", "false", "scheme.activations.dynamic: found false");
    refused("config_groups/group_0/input_activations/dynamic", "\"local\"",
            ".input_activations.dynamic: expected true");
    refused("config_groups/group_0/input_activations", FLOAT("4, \"group_size\": 16, \"strategy\": \"tensor_group\""),
            ".input_activations.dynamic: expected \"local\"");
    refused("config_groups/group_0/input_activations/strategy", "\"block\"", ".input_activations.strategy: expected");
    refused("config_groups/group_0/input_activations/strategy", "\"group\"", ".input_activations.group_size: expected");
    refused("ignore", "3", ".ignore: expected a list");
    refused("ignore", "[3]", ".ignore: 'something that is no string'");
}

Test(config, what_the_layout_cannot_hold_is_refused)
{
    struct qp_error err;
    struct qp_scheme *ragged = parsed("{\"weights\": {\"format\": \"int4\", \"group\": 32, \"ragged\": true}}");
    cr_assert_eq(qp_compressed_check(&ragged->base, "a.b", 8, 64, &err), 0);
    cr_assert_eq(qp_compressed_check(&ragged->base, "a.b", 8, 65, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "a.b: compressed-tensors cannot hold 65 columns in groups of 32"));
    cr_assert_eq(qp_compressed_check(&ragged->base, "a.b", 8, 16, &err), QP_ERR_INPUT, "a group wider than the matrix");

    static const uint8_t codes[65] = {0};
    static const float scale[3] = {1, 1, 1};
    struct qp_quantized q = {ragged->base.weights.format, 1, 65, 32, codes, scale, NULL, NULL, NULL};
    struct qp_tensor *out[QP_COMPRESSED_MAX];
    size_t count = 9;
    cr_assert_eq(qp_compressed_pack("a.b", &ragged->base, &q, out, &count, &err), QP_ERR_INPUT);
    cr_assert_eq(count, 0);
    qp_scheme_free(ragged);

    static const char *const e5m2[] = {
        "{\"weights\": {\"format\": \"fp8_e5m2\"}}",
        "{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"fp8_e5m2\"}}",
        ("{\"weights\": {\"format\": \"int8\"}, \"rules\": [{\"match\": \"m\", \"weights\": {\"format\": "
         "\"fp8_e5m2\"}}]}")};
    for (size_t i = 0; i < COUNT(e5m2); i++) {
        struct qp_scheme *scheme = parsed(e5m2[i]);
        qp_auto_json json_t *ignore = json_array();
        json_t *config = NULL;
        cr_assert_eq(qp_compressed_config(scheme, ignore, &config, &err), QP_ERR_INPUT);
        cr_assert_not_null(strstr(err.message, "has no fp8_e5m2; use fp8_e4m3"), "%s", err.message);
        qp_scheme_free(scheme);
    }
}
