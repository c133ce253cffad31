/* From a family's table and a layer's configuration to the lists of its type. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/network/families/family.h"

enum { LINEARS_MAX = 16, SITES_MAX = 8, NORMS_MAX = 8, BUFFERS_MAX = 24, OPS_MAX = 48, PARAMETERS_MAX = 4 };

/* A type while it is made; fixed sizes, as no dense layer has more. */
struct draft {
    struct qp_layer_type type;
    struct qp_linear linears[LINEARS_MAX];
    struct qp_site sites[SITES_MAX];
    struct qp_norm norms[NORMS_MAX];
    int64_t buffers[BUFFERS_MAX];
    struct qp_op ops[OPS_MAX];
    struct qp_parameter parameters[PARAMETERS_MAX];
    const struct qp_family *family;
    struct qp_layer_config config;
};

static struct qp_view new_buffer(struct draft *d, int64_t width)
{
    d->buffers[d->type.buffer_count] = width;
    return (struct qp_view){d->type.buffer_count++, 0, width};
}

static void add_op(struct draft *d, struct qp_op op)
{
    d->ops[d->type.op_count++] = op;
}

static int add_site(struct draft *d, struct qp_site site)
{
    d->sites[d->type.site_count] = site;
    return d->type.site_count++;
}

static int add_linear(struct draft *d, const struct qp_module *module, int site, int64_t out, bool bias,
                      int64_t permuted)
{
    d->linears[d->type.linear_count] =
        (struct qp_linear){module->name, module->gguf, site, out, d->sites[site].in, bias, permuted};
    return d->type.linear_count++;
}

static int add_norm(struct draft *d, const struct qp_module *module, int64_t width)
{
    const struct qp_family *f = d->family;
    d->norms[d->type.norm_count] =
        (struct qp_norm){module->name, module->gguf, f->norm, width, f->norm_offset, d->config.eps, f->norm_bias};
    return d->type.norm_count++;
}

static void add_norm_op(struct draft *d, int norm, int heads, struct qp_view in, struct qp_view out)
{
    add_op(d, (struct qp_op){.kind = QP_OP_NORM, .index = norm, .heads = heads, .in = {in}, .out = out});
}

static void apply_linear(struct draft *d, int linear, struct qp_view in, struct qp_view out, bool add)
{
    add_op(d, (struct qp_op){.kind = QP_OP_LINEAR, .index = linear, .in = {in}, .out = out, .add = add});
}

static void reach_site(struct draft *d, int site, struct qp_view in)
{
    add_op(d, (struct qp_op){.kind = QP_OP_SITE, .index = site, .in = {in}});
}

static struct qp_view residual_of(const struct draft *d)
{
    return (struct qp_view){0, 0, d->config.hidden};
}

static struct qp_view part_of(struct qp_view view, int64_t offset, int64_t width)
{
    return (struct qp_view){view.buffer, view.offset + offset, width};
}

/* What a part of the layer reads, the norm of the residual stream or, without a norm before it, the stream itself; and
 * its site. */
static struct qp_view enter_part(struct draft *d, const struct qp_module *norm, const char *site_name, int *site)
{
    struct qp_view in = new_buffer(d, d->config.hidden);
    bool before = norm->name && !d->config.post_norm;
    int index = before ? add_norm(d, norm, d->config.hidden) : 0;
    if (before)
        add_norm_op(d, index, 1, residual_of(d), in);
    else
        add_op(d, (struct qp_op){.kind = QP_OP_COPY, .in = {residual_of(d)}, .out = in});
    *site = add_site(
        d, (struct qp_site){site_name, d->config.hidden, before ? QP_FOLD_NORM : QP_FOLD_NONE, index, 0, 0, 0});
    reach_site(d, *site, in);
    return in;
}

/* Adds the last linear of a part to the residual stream: at once, or by way of a norm and a scale. */
static void add_part(struct draft *d, const struct qp_module *norm, int linear, struct qp_view in)
{
    float scale = d->config.residual_scale;
    if (!norm->name && scale == 1) {
        apply_linear(d, linear, in, residual_of(d), true);
        return;
    }
    struct qp_view out = new_buffer(d, d->config.hidden);
    apply_linear(d, linear, in, out, false);
    if (norm->name)
        add_norm_op(d, add_norm(d, norm, d->config.hidden), 1, out, out);
    add_op(d, (struct qp_op){.kind = QP_OP_ADD, .in = {out}, .out = residual_of(d), .value = scale});
}

/* The end of a part that `norms` stand around, those before and after it: where it leaves the former to be of the
 * stream that it has been added to (Vaswani et al. 2017, section 3.1). */
static void leave_part(struct draft *d, const struct qp_module *before, const struct qp_module *after, int linear,
                       struct qp_view in)
{
    add_part(d, after, linear, in);
    if (before->name && d->config.post_norm)
        add_norm_op(d, add_norm(d, before, d->config.hidden), 1, residual_of(d), residual_of(d));
}

static struct qp_view copy_part(struct draft *d, struct qp_view part)
{
    struct qp_view out = new_buffer(d, part.width);
    add_op(d, (struct qp_op){.kind = QP_OP_COPY, .in = {part}, .out = out});
    return out;
}

/* Queries, keys and values of a layer on their way. */
struct heads {
    struct qp_view q, k, v;
    int64_t q_dim, kv_dim;
};

static void add_projections(struct draft *d, int site, struct qp_view in, struct heads *h)
{
    const struct qp_family *f = d->family;
    const struct qp_layer_config *c = &d->config;
    int64_t permuted = f->permuted ? c->head_dim : 0;
    if (f->qkv.name) {
        struct qp_view all = new_buffer(d, h->q_dim + 2 * h->kv_dim);
        d->type.key_linear = d->type.value_linear = add_linear(d, &f->qkv, site, all.width, c->qkv_bias, 0);
        d->type.value_first = h->q_dim + h->kv_dim;
        apply_linear(d, d->type.key_linear, in, all, false);
        h->q = part_of(all, 0, h->q_dim);
        h->k = copy_part(d, part_of(all, h->q_dim, h->kv_dim)); /* a cache holds them by themselves */
        h->v = copy_part(d, part_of(all, h->q_dim + h->kv_dim, h->kv_dim));
        return;
    }
    h->q = new_buffer(d, h->q_dim);
    h->k = new_buffer(d, h->kv_dim);
    h->v = new_buffer(d, h->kv_dim);
    apply_linear(d, add_linear(d, &f->q, site, h->q_dim, c->qkv_bias, permuted), in, h->q, false);
    d->type.key_linear = add_linear(d, &f->k, site, h->kv_dim, c->qkv_bias, permuted);
    apply_linear(d, d->type.key_linear, in, h->k, false);
    d->type.value_linear = add_linear(d, &f->v, site, h->kv_dim, c->qkv_bias, 0);
    apply_linear(d, d->type.value_linear, in, h->v, false);
}

static void normalize_heads(struct draft *d, const struct heads *h)
{
    const struct qp_layer_config *c = &d->config;
    bool width = d->family->qk_norm == QP_QK_NORM_WIDTH;
    int q = add_norm(d, &d->family->q_norm, width ? h->q_dim : c->head_dim);
    int k = add_norm(d, &d->family->k_norm, width ? h->kv_dim : c->head_dim);
    add_norm_op(d, q, width ? 1 : c->heads, h->q, h->q);
    add_norm_op(d, k, width ? 1 : c->kv_heads, h->k, h->k);
}

static void rotate(struct draft *d, struct qp_view x, int heads, int rope)
{
    if (rope >= 0)
        add_op(d, (struct qp_op){.kind = QP_OP_ROPE, .index = rope, .heads = heads, .in = {x}});
}

/* Returns what the site of q, k and v reads, for an MLP that reads the same. */
static struct qp_view add_attention(struct draft *d, int *site)
{
    const struct qp_family *f = d->family;
    const struct qp_layer_config *c = &d->config;
    struct heads h = {.q_dim = (int64_t)c->heads * c->head_dim, .kv_dim = (int64_t)c->kv_heads * c->head_dim};
    struct qp_view in = enter_part(d, &f->attn_in, "attn_in", site);
    bool late = f->qk_norm == QP_QK_NORM_AFTER_ROPE;
    add_projections(d, *site, in, &h);
    if (f->q_norm.name && !late)
        normalize_heads(d, &h);
    rotate(d, h.q, c->heads, c->q_rope);
    rotate(d, h.k, c->kv_heads, c->k_rope);
    if (f->q_norm.name && late)
        normalize_heads(d, &h);
    add_op(d, (struct qp_op){.kind = QP_OP_CACHE, .in = {h.k, h.v}});
    struct qp_view mixed = new_buffer(d, h.q_dim);
    add_op(d, (struct qp_op){.kind = QP_OP_ATTENTION, .in = {h.q, h.k, h.v}, .out = mixed});
    int out = add_site(d, (struct qp_site){"attn_out", h.q_dim, QP_FOLD_ROWS, d->type.value_linear, d->type.value_first,
                                           c->head_dim, c->heads / c->kv_heads});
    reach_site(d, out, mixed);
    leave_part(d, &f->attn_in, &f->attn_out, add_linear(d, &f->o, out, c->hidden, c->o_bias, 0), mixed);
    return in;
}

/* Rows of `up` can be scaled where the activation is not applied to them, or where it lets scales through. */
static bool can_fold_up(const struct draft *d)
{
    return d->family->gate.name || d->family->gate_up.name || d->config.act == QP_ACT_RELU;
}

/* gated = act(gate) * up, or act(up); returns the linear of `up` and the first of its rows in it. */
static int add_gate(struct draft *d, int site, struct qp_view in, struct qp_view gated, int64_t *first)
{
    const struct qp_family *f = d->family;
    const struct qp_layer_config *c = &d->config;
    struct qp_view gate = {0}, up;
    int linear;
    *first = 0;
    if (f->gate_up.name) {
        struct qp_view both = new_buffer(d, 2 * c->ffn);
        linear = add_linear(d, &f->gate_up, site, 2 * c->ffn, c->mlp_bias, 0);
        apply_linear(d, linear, in, both, false);
        gate = part_of(both, 0, c->ffn);
        up = part_of(both, c->ffn, c->ffn);
        *first = c->ffn;
    } else {
        if (f->gate.name) {
            gate = new_buffer(d, c->ffn);
            up = new_buffer(d, c->ffn);
            apply_linear(d, add_linear(d, &f->gate, site, c->ffn, c->mlp_bias, 0), in, gate, false);
        } else
            up = new_buffer(d, c->ffn);
        linear = add_linear(d, &f->up, site, c->ffn, c->mlp_bias, 0);
        apply_linear(d, linear, in, up, false);
    }
    struct qp_op op = {.kind = QP_OP_GATED, .in = {gate, up}, .out = gated};
    if (gate.width == 0) {
        op.in[0] = up;
        op.in[1] = gate;
    }
    add_op(d, op);
    return linear;
}

/* in, site: of attention, which an MLP beside it reads as well. */
static void add_mlp(struct draft *d, struct qp_view in, int site)
{
    const struct qp_family *f = d->family;
    const struct qp_layer_config *c = &d->config;
    int64_t first;
    if (!f->parallel)
        in = enter_part(d, &f->mlp_in, "mlp_in", &site);
    struct qp_view gated = new_buffer(d, c->ffn);
    int up = add_gate(d, site, in, gated, &first);
    enum qp_fold_kind fold = can_fold_up(d) ? QP_FOLD_ROWS : QP_FOLD_NONE;
    site = add_site(d, (struct qp_site){"mlp_out", c->ffn, fold, up, first, c->ffn, 1});
    reach_site(d, site, gated);
    leave_part(d, &f->mlp_in, &f->mlp_out, add_linear(d, &f->down, site, c->hidden, c->mlp_bias, 0), gated);
}

/* ---- keeping ---- */

/* All types and lists of types that were made, newest first. */
struct kept_type {
    struct kept_type *next;
    struct draft draft;
};
struct kept_list {
    struct kept_list *next;
    int64_t count;
    const struct qp_layer_type *types[];
};

static pthread_mutex_t keeper = PTHREAD_MUTEX_INITIALIZER;
static struct kept_type *kept_types;
static struct kept_list *kept_lists;

static bool same_config(const struct qp_layer_config *a, const struct qp_layer_config *b)
{
    return a->hidden == b->hidden && a->ffn == b->ffn && a->heads == b->heads && a->kv_heads == b->kv_heads &&
           a->head_dim == b->head_dim && a->eps == b->eps && a->qkv_bias == b->qkv_bias && a->o_bias == b->o_bias &&
           a->mlp_bias == b->mlp_bias && a->post_norm == b->post_norm && a->residual_scale == b->residual_scale &&
           a->attn_scale == b->attn_scale && a->attn_cap == b->attn_cap && a->window == b->window &&
           a->q_rope == b->q_rope && a->k_rope == b->k_rope && a->act == b->act;
}

/* XIELU's alpha_p and alpha_n are lists of one number, beta and eps are numbers. */
static void add_act_parameters(struct draft *d)
{
    for (int p = 0; d->config.act == QP_ACT_XIELU && p < PARAMETERS_MAX; p++)
        d->parameters[d->type.parameter_count++] =
            (struct qp_parameter){d->family->act_parameters[p], p < 2 ? 1 : 0, 1};
}

static void build(struct draft *d)
{
    const struct qp_layer_config *c = &d->config;
    new_buffer(d, c->hidden); /* the residual stream */
    int site;
    struct qp_view in = add_attention(d, &site);
    add_mlp(d, in, site);
    d->type.attention =
        (struct qp_attention_shape){c->heads, c->kv_heads, c->head_dim, c->attn_scale, c->window, c->attn_cap};
    d->type.act = c->act;
    add_act_parameters(d);
    d->type.linears = d->linears;
    d->type.sites = d->sites;
    d->type.norms = d->norms;
    d->type.buffers = d->buffers;
    d->type.ops = d->ops;
    d->type.parameters = d->parameters;
}

static const struct qp_layer_type *find_type(const struct qp_family *family, const struct qp_layer_config *config)
{
    for (struct kept_type *t = kept_types; t; t = t->next)
        if (t->draft.family == family && same_config(&t->draft.config, config))
            return &t->draft.type;
    return NULL;
}

int qp_layer_type_new(const struct qp_family *family, const struct qp_layer_config *config,
                      const struct qp_layer_type **out, struct qp_error *err)
{
    pthread_mutex_lock(&keeper);
    *out = find_type(family, config);
    struct kept_type *made = *out ? NULL : calloc(1, sizeof *made);
    if (made) {
        made->draft.family = family;
        made->draft.config = *config;
        build(&made->draft);
        made->next = kept_types;
        kept_types = made;
        *out = &made->draft.type;
    }
    pthread_mutex_unlock(&keeper);
    return *out ? 0 : qp_fail_memory(err, sizeof *made, "the graph of a layer");
}

static const struct qp_layer_type *const *find_list(int64_t count, const struct qp_layer_type **types)
{
    for (struct kept_list *l = kept_lists; l; l = l->next)
        if (l->count == count && memcmp(l->types, types, (size_t)count * sizeof *types) == 0)
            return l->types;
    return NULL;
}

int qp_layer_types_keep(int64_t count, const struct qp_layer_type **types, const struct qp_layer_type *const **out,
                        struct qp_error *err)
{
    size_t size = sizeof(struct kept_list) + (size_t)count * sizeof *types;
    pthread_mutex_lock(&keeper);
    *out = find_list(count, types);
    struct kept_list *made = *out ? NULL : malloc(size);
    if (made) {
        made->count = count;
        memcpy(made->types, types, (size_t)count * sizeof *types);
        made->next = kept_lists;
        kept_lists = made;
        *out = made->types;
    }
    pthread_mutex_unlock(&keeper);
    return *out ? 0 : qp_fail_memory(err, size, "the types of layers");
}
