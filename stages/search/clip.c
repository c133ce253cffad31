#include "stages/search/clip.h"

#include <stdio.h>
#include <string.h>

struct form {
    enum qp_dtype dtype;
    int rank;
    const int64_t *shape;
};

/* Puts a copy of `data` into the unit under B.M.what. */
static int put(struct qp_block *block, int linear, const char *what, const struct form *form, const void *data,
               const struct qp_allocator *allocator, struct qp_error *err)
{
    char module[256], name[300];
    struct qp_tensor *t;
    qp_module_name(block->arch, block->layer, linear, module, sizeof module);
    snprintf(name, sizeof name, "%s.%s", module, what);
    int r = qp_allocate(allocator, name, form->dtype, form->rank, form->shape, &t, err);
    if (r < 0)
        return r;
    memcpy(t->data, data, t->bytes);
    return qp_unit_put(block->unit, t, err);
}

static int clip_member(struct trial *t, struct qp_block *block, const struct member *m,
                       const struct qp_allocator *allocator, struct qp_error *err)
{
    int64_t shape[2] = {m->group > 0 ? m->rows : 1, qp_groups(t->in, m->group)}, one = 1;
    int rank = m->group > 0 ? 2 : 1;
    int r = trial_quantize(t, m, 0, m->rows, err);
    if (r == 0)
        r = put(block, m->linear, "weight_scale", &(struct form){QP_F32, rank, shape}, t->scale, allocator, err);
    if (r == 0 && !m->format.symmetric)
        r = put(block, m->linear, "weight_zero_point", &(struct form){QP_I8, rank, shape}, t->zero, allocator, err);
    if (r == 0 && m->format.scale_dtype == QP_F8_E4M3)
        r = put(block, m->linear, "weight_global_scale", &(struct form){QP_F32, 1, &one}, &m->format.global, allocator,
                err);
    return r;
}

int clip_site(const struct qp_model *model, struct qp_block *block, int site, enum qp_scale_method method,
              const struct qp_allocator *allocator, struct qp_error *err)
{
    struct trial t;
    int r = trial_open(&t, model, block, site, method, err);
    if (r == 0)
        trial_prepare(&t);
    for (int i = 0; i < t.count && r == 0; i++)
        r = clip_member(&t, block, &t.members[i], allocator, err);
    trial_close(&t);
    return r;
}
