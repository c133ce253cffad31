#include "stages/search/scales.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"

#define SMALLEST_SCALE 1e-4f /* of AWQ's implementations, as the two below */
#define SMALLEST_RANGE 1e-6f
#define SMALLEST_DIVISOR 1e-4f

/* Adds |w| relative to the largest of its group over the rows of one member. */
static void add_relative(const struct member *m, int64_t in, float *sum)
{
    int64_t group = m->group > 0 ? m->group : in;
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t g = 0; g < in; g += group) {
            const float *w = m->w + r * in;
            int64_t end = g + group < in ? g + group : in;
            float largest = 0.0f;
            for (int64_t j = g; j < end; j++)
                largest = fmaxf(largest, fabsf(w[j]));
            for (int64_t j = g; j < end; j++)
                sum[j] += fabsf(w[j]) / (largest + SMALLEST_RANGE);
        }
}

int profile_open(struct profile *p, const struct trial *t, const struct qp_block *block, int site, struct qp_error *err)
{
    int64_t rows = 0;
    *p = (struct profile){.x = qp_new_floats(3 * t->in, "what scales are made of", err)};
    if (!p->x)
        return QP_ERR_SPACE;
    p->w = p->x + t->in;
    p->u = p->w + t->in;
    int r = qp_block_stat(block, site, "absmean", p->x, err);
    memset(p->w, 0, (size_t)t->in * sizeof *p->w);
    for (int i = 0; i < t->count; i++) {
        add_relative(&t->members[i], t->in, p->w);
        rows += t->members[i].rows;
    }
    for (int64_t j = 0; j < t->in; j++)
        p->w[j] /= (float)rows;
    qp_share_heads(&block->type->sites[site], p->x);
    qp_share_heads(&block->type->sites[site], p->w);
    return r;
}

void profile_close(struct profile *p)
{
    free(p->x);
}

void propose_awq(const struct profile *p, struct trial *t, float a, float b)
{
    float smallest = INFINITY, largest = 0.0f;
    for (int64_t j = 0; j < t->in; j++) {
        float s = powf(p->x[j], a);
        if (b > 0.0f)
            s /= powf(p->w[j], b) + SMALLEST_DIVISOR;
        t->s[j] = isfinite(s) ? fmaxf(s, SMALLEST_SCALE) : 1.0f;
        smallest = fminf(smallest, t->s[j]);
        largest = fmaxf(largest, t->s[j]);
    }
    float middle = sqrtf(smallest * largest);
    for (int64_t j = 0; j < t->in; j++)
        t->s[j] /= middle;
}
