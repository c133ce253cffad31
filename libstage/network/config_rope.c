/* The ropes of a config.json. Facts: transformers' modeling_rope_utils.py. */
#include <math.h>
#include <string.h>

#include "libstage/network/config_read.h"

/* A top-level original_max_position_embeddings beats the dictionary's; without either it is all positions. */
static int get_original_length(const struct qp_config_object *config, const struct qp_config_object *o,
                               const struct qp_arch *arch, struct qp_rope_config *rope, struct qp_error *err)
{
    static const char key[] = "original_max_position_embeddings";
    const struct qp_config_object *from = qp_config_has(config, key) ? config : o;
    return qp_config_int(from, key, arch->max_length, 1, INT32_MAX, &rope->original_length, err);
}

static int get_llama3(const struct qp_config_object *o, struct qp_rope_config *rope, struct qp_error *err)
{
    if (qp_config_real(o, "factor", 0.0, &rope->factor, err) < 0 ||
        qp_config_real(o, "low_freq_factor", 0.0, &rope->low_freq_factor, err) < 0 ||
        qp_config_real(o, "high_freq_factor", 0.0, &rope->high_freq_factor, err) < 0)
        return err->code;
    if (rope->high_freq_factor <= rope->low_freq_factor)
        return qp_config_wrong(o, "high_freq_factor", "more than low_freq_factor", err);
    return 0;
}

/* 0.1 m ln(factor) + 1 (Peng et al. 2023, equation 22). */
static double mscale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

static int get_yarn(const struct qp_config_object *o, struct qp_rope_config *rope, struct qp_error *err)
{
    static const struct qp_number part = {"mscale", 0}, all = {"mscale_all_dim", 0}, given = {"attention_factor", 0};
    static const struct qp_flag truncate = {"truncate", true};
    double m, m_all, attention;
    if (qp_config_real(o, "factor", 0.0, &rope->factor, err) < 0 ||
        qp_config_real(o, "beta_fast", 32.0, &rope->beta_fast, err) < 0 ||
        qp_config_real(o, "beta_slow", 1.0, &rope->beta_slow, err) < 0 || qp_config_number(o, &part, &m, err) < 0 ||
        qp_config_number(o, &all, &m_all, err) < 0 || qp_config_number(o, &given, &attention, err) < 0 ||
        qp_config_flag(o, &truncate, &rope->truncate, err) < 0)
        return err->code;
    bool both = m > 0 && m_all > 0;
    rope->attention = attention > 0 ? attention
                      : both        ? mscale(rope->factor, m) / mscale(rope->factor, m_all)
                                    : mscale(rope->factor, 1);
    return 0;
}

static int get_factors(const struct qp_config_object *o, const char *key, int count, double *out, struct qp_error *err)
{
    const json_t *list = json_object_get(o->json, key);
    if (count > QP_ROPE_FACTORS_MAX || !json_is_array(list) || json_array_size(list) != (size_t)count)
        return qp_config_wrong(o, key, "a list with a number for each rotated pair", err);
    for (int i = 0; i < count; i++) {
        out[i] = json_number_value(json_array_get(list, (size_t)i));
        if (!isfinite(out[i]) || out[i] <= 0)
            return qp_config_wrong(o, key, "numbers above 0", err);
    }
    return 0;
}

static int get_longrope(const struct qp_config_object *o, const struct qp_arch *arch, struct qp_rope_config *rope,
                        struct qp_error *err)
{
    static const struct qp_number given = {"attention_factor", 0}, factor = {"factor", 0};
    double attention, f;
    if (get_factors(o, "short_factor", rope->dim / 2, rope->short_factor, err) < 0 ||
        get_factors(o, "long_factor", rope->dim / 2, rope->long_factor, err) < 0 ||
        qp_config_number(o, &given, &attention, err) < 0 || qp_config_number(o, &factor, &f, err) < 0)
        return err->code;
    double length = (double)rope->original_length;
    f = f > 0 ? f : (double)arch->max_length / length;
    rope->attention = attention > 0 ? attention : f <= 1 ? 1 : sqrt(1 + log(f) / log(length));
    return 0;
}

/* HunYuan's alpha raises theta whatever the length. */
static int get_dynamic(const struct qp_config_object *o, const struct qp_arch *arch, struct qp_rope_config *rope,
                       struct qp_error *err)
{
    static const struct qp_number key = {"alpha", 0};
    double alpha;
    if (qp_config_number(o, &key, &alpha, err) < 0)
        return err->code;
    if (alpha > 0) {
        rope->kind = QP_ROPE_DEFAULT;
        rope->theta *= pow(alpha, rope->dim / (rope->dim - 2.0));
        return 0;
    }
    rope->original_length = arch->max_length;
    return qp_config_real(o, "factor", 0.0, &rope->factor, err);
}

static int get_kind(const struct qp_config_object *o, enum qp_rope_kind *out, struct qp_error *err)
{
    static const struct {
        const char *name;
        enum qp_rope_kind kind;
    } known[] = {{"default", QP_ROPE_DEFAULT}, {"mrope", QP_ROPE_DEFAULT},   {"linear", QP_ROPE_LINEAR},
                 {"llama3", QP_ROPE_LLAMA3},   {"dynamic", QP_ROPE_DYNAMIC}, {"yarn", QP_ROPE_YARN},
                 {"longrope", QP_ROPE_LONG},   {"su", QP_ROPE_LONG}};
    const char *type;
    if (qp_config_string(o, "type", "default", &type, err) < 0 ||
        qp_config_string(o, "rope_type", type, &type, err) < 0)
        return err->code;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(type, known[i].name) == 0) {
            *out = known[i].kind;
            return 0;
        }
    return qp_fail(err, QP_ERR_INPUT,
                   "%s: %srope_type: found %s; supported: default, linear, dynamic, llama3, yarn, longrope", o->path,
                   o->prefix, type);
}

/* How many numbers of a head are rotated. */
static int get_width(const struct qp_config_object *config, const struct qp_config_object *o,
                     const struct qp_arch *arch, struct qp_rope_config *rope, struct qp_error *err)
{
    double rotary = arch->family->rotary;
    if (qp_config_real(config, "partial_rotary_factor", rotary == 0 ? 1 : rotary, &rotary, err) < 0 ||
        qp_config_real(o, "partial_rotary_factor", rotary, &rotary, err) < 0)
        return err->code;
    rope->dim = (int)(arch->head_dim * rotary);
    if (rotary > 1 || rope->dim < 2 || rope->dim % 2 != 0)
        return qp_fail(err, QP_ERR_INPUT, "%s: partial_rotary_factor: found %g, of which %d numbers a head are %d",
                       o->path, rotary, arch->head_dim, rope->dim);
    return 0;
}

/* theta: what counts when the dictionary has none. */
static int get_rope(const struct qp_config_object *config, const struct qp_config_object *o, const struct qp_arch *arch,
                    double theta, struct qp_rope_config *rope, struct qp_error *err)
{
    const struct qp_family *f = arch->family;
    bool unsaid = !o->json && f->rope.kind != QP_ROPE_DEFAULT;
    *rope = unsaid ? f->rope : (struct qp_rope_config){.factor = 1, .attention = 1};
    rope->pairs = f->rope_pairs;
    if (get_width(config, o, arch, rope, err) < 0)
        return err->code;
    if (unsaid)
        return 0;
    if (qp_config_real(o, "rope_theta", theta, &rope->theta, err) < 0 || get_kind(o, &rope->kind, err) < 0 ||
        qp_config_number(o, &f->query_temper, &rope->temper, err) < 0 ||
        get_original_length(config, o, arch, rope, err) < 0)
        return err->code;
    switch (rope->kind) {
    case QP_ROPE_LINEAR:
        return qp_config_real(o, "factor", 0.0, &rope->factor, err);
    case QP_ROPE_DYNAMIC:
        return get_dynamic(o, arch, rope, err);
    case QP_ROPE_LLAMA3:
        return get_llama3(o, rope, err);
    case QP_ROPE_YARN:
        return get_yarn(o, rope, err);
    case QP_ROPE_LONG:
        return get_longrope(o, arch, rope, err);
    case QP_ROPE_DEFAULT:
        break;
    }
    return 0;
}

/* Queries get a rope of their own: what scales all of cos and sin scales what they rotate. */
static int add_tempered(const struct qp_config_object *o, struct qp_arch *arch, struct qp_rope_choice *choice,
                        struct qp_error *err)
{
    struct qp_rope_config *keys = &arch->ropes[choice->k];
    if (keys->dim != arch->head_dim)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: %s%s: heads of which %d numbers of %d are rotated cannot be scaled by it", o->path,
                       o->prefix, arch->family->query_temper.key, keys->dim, arch->head_dim);
    choice->q = arch->rope_count++;
    arch->ropes[choice->q] = *keys;
    keys->temper = 0;
    return 0;
}

/* One kind of layers; a nested dictionary that is null says that they do not rotate. */
static int add_rope(const struct qp_config_object *config, const struct qp_config_object *o, double theta,
                    struct qp_arch *arch, struct qp_rope_choice *choice, struct qp_error *err)
{
    *choice = (struct qp_rope_choice){-1, -1};
    if (json_is_null(o->json))
        return 0;
    if (o->json && !json_is_object(o->json))
        return qp_fail(err, QP_ERR_INPUT, "%s: %s: a layer type's entry is no object", o->path, o->prefix);
    choice->q = choice->k = arch->rope_count++;
    int r = get_rope(config, o, arch, theta, &arch->ropes[choice->k], err);
    return r < 0 || arch->ropes[choice->k].temper == 0 ? r : add_tempered(o, arch, choice, err);
}

/* transformers 5 writes rope_parameters, with theta in it, by layer type where types differ; before, rope_theta stood
 * beside an optional rope_scaling, which wins where both are there. */
int qp_config_ropes(const struct qp_config_object *config, struct qp_arch *arch, struct qp_rope_choice rope_of[2],
                    struct qp_error *err)
{
    const struct qp_family *f = arch->family;
    const char *key = qp_config_has(config, "rope_scaling") ? "rope_scaling" : "rope_parameters";
    const json_t *dict = qp_config_has(config, key) ? json_object_get(config->json, key) : NULL;
    const json_t *full = json_object_get(dict, "full_attention"), *sliding = json_object_get(dict, "sliding_attention");
    bool scaling = strcmp(key, "rope_scaling") == 0, nested = full || sliding;
    double theta, theta_sliding;
    rope_of[0] = rope_of[1] = (struct qp_rope_choice){-1, -1};
    if (f->rope_rule == QP_ROPE_NONE)
        return 0;
    if (dict && !json_is_object(dict))
        return qp_config_wrong(config, key, "an object or null", err);
    if (qp_config_real(config, f->rope_theta.key, f->rope_theta.fallback, &theta, err) < 0)
        return err->code;
    struct qp_config_object o = {nested ? full : dict, config->path, scaling ? "rope_scaling." : "rope_parameters."};
    int r = add_rope(config, &o, theta, arch, &rope_of[0], err);
    rope_of[1] = rope_of[0];
    if (r < 0 || (!nested && !f->rope_theta_sliding.key))
        return r;
    theta_sliding = theta;
    if (f->rope_theta_sliding.key &&
        qp_config_real(config, f->rope_theta_sliding.key, f->rope_theta_sliding.fallback, &theta_sliding, err) < 0)
        return err->code;
    o.json = nested ? sliding : NULL; /* a scaling that is not by type is that of full attention */
    return add_rope(config, &o, theta_sliding, arch, &rope_of[1], err);
}
