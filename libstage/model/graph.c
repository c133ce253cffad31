/* From a family's table and a layer's configuration to the lists of its type. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/model/family.h"

enum { LINEARS_MAX = 16, SITES_MAX = 8, NORMS_MAX = 8, BUFFERS_MAX = 24, OPS_MAX = 48 };

/* A type while it is made; fixed sizes, as no dense layer has more. */
struct draft {
    struct qp_layer_type type;
    struct qp_linear linears[LINEARS_MAX];
    struct qp_site sites[SITES_MAX];
    struct qp_norm norms[NORMS_MAX];
    int64_t buffers[BUFFERS_MAX];
    struct qp_op ops[OPS_MAX];
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
    d->norms[d->type.norm_count] =
        (struct qp_norm){module->name, module->gguf, d->family->norm, width, 0, d->config.eps, false};
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

/* The norm before a part of the layer, and the site that reads it. */
static struct qp_view enter_part(struct draft *d, const struct qp_module *norm, const char *site_name, int *site)
{
    struct qp_view in = new_buffer(d, d->config.hidden);
    int index = add_norm(d, norm, d->config.hidden);
    add_norm_op(d, index, 1, residual_of(d), in);
    *site = add_site(d, (struct qp_site){site_name, d->config.hidden, QP_FOLD_NORM, index, 0, 0, 0});
    reach_site(d, *site, in);
    return in;
}

static void rotate(struct draft *d, struct qp_view x, int heads)
{
    if (d->config.rope >= 0)
        add_op(d, (struct qp_op){.kind = QP_OP_ROPE, .index = d->config.rope, .heads = heads, .in = {x}});
}

static void add_attention(struct draft *d)
{
    const struct qp_family *f = d->family;
    const struct qp_layer_config *c = &d->config;
    int64_t q_dim = (int64_t)c->heads * c->head_dim, kv_dim = (int64_t)c->kv_heads * c->head_dim;
    int site, permuted = f->permuted ? c->head_dim : 0;
    struct qp_view in = enter_part(d, &f->attn_in, "attn_in", &site);
    struct qp_view q = new_buffer(d, q_dim), k = new_buffer(d, kv_dim), v = new_buffer(d, kv_dim);
    apply_linear(d, add_linear(d, &f->q, site, q_dim, c->qkv_bias, permuted), in, q, false);
    d->type.key_linear = add_linear(d, &f->k, site, kv_dim, c->qkv_bias, permuted);
    apply_linear(d, d->type.key_linear, in, k, false);
    d->type.value_linear = add_linear(d, &f->v, site, kv_dim, c->qkv_bias, 0);
    apply_linear(d, d->type.value_linear, in, v, false);
    if (f->q_norm.name) {
        add_norm_op(d, add_norm(d, &f->q_norm, c->head_dim), c->heads, q, q);
        add_norm_op(d, add_norm(d, &f->k_norm, c->head_dim), c->kv_heads, k, k);
    }
    rotate(d, q, c->heads);
    rotate(d, k, c->kv_heads);
    add_op(d, (struct qp_op){.kind = QP_OP_CACHE, .in = {k, v}});
    struct qp_view mixed = new_buffer(d, q_dim);
    add_op(d, (struct qp_op){.kind = QP_OP_ATTENTION, .in = {q, k, v}, .out = mixed});
    site = add_site(d, (struct qp_site){"attn_out", q_dim, QP_FOLD_ROWS, d->type.value_linear, 0, c->head_dim,
                                        c->heads / c->kv_heads});
    reach_site(d, site, mixed);
    apply_linear(d, add_linear(d, &f->o, site, c->hidden, c->o_bias, 0), mixed, residual_of(d), true);
}

static void add_mlp(struct draft *d)
{
    const struct qp_family *f = d->family;
    const struct qp_layer_config *c = &d->config;
    int site;
    struct qp_view in = enter_part(d, &f->mlp_in, "mlp_in", &site);
    struct qp_view gate = new_buffer(d, c->ffn), up = new_buffer(d, c->ffn), gated = new_buffer(d, c->ffn);
    apply_linear(d, add_linear(d, &f->gate, site, c->ffn, c->mlp_bias, 0), in, gate, false);
    int up_linear = add_linear(d, &f->up, site, c->ffn, c->mlp_bias, 0);
    apply_linear(d, up_linear, in, up, false);
    add_op(d, (struct qp_op){.kind = QP_OP_GATED, .in = {gate, up}, .out = gated});
    site = add_site(d, (struct qp_site){"mlp_out", c->ffn, QP_FOLD_ROWS, up_linear, 0, c->ffn, 1});
    reach_site(d, site, gated);
    apply_linear(d, add_linear(d, &f->down, site, c->hidden, c->mlp_bias, 0), gated, residual_of(d), true);
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
           a->mlp_bias == b->mlp_bias && a->window == b->window && a->rope == b->rope && a->act == b->act;
}

static void build(struct draft *d)
{
    const struct qp_layer_config *c = &d->config;
    new_buffer(d, c->hidden); /* the residual stream */
    add_attention(d);
    add_mlp(d);
    d->type.attention = (struct qp_attention_shape){
        c->heads, c->kv_heads, c->head_dim, (float)(1.0 / sqrt((double)c->head_dim)), c->window, 0};
    d->type.act = c->act;
    d->type.linears = d->linears;
    d->type.sites = d->sites;
    d->type.norms = d->norms;
    d->type.buffers = d->buffers;
    d->type.ops = d->ops;
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
