/* Exact folds: scaling a site's input channels down where they are made and its weights up. */
#include "libstage/network/block.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/network/block_internal.h"

static int site_with_target(const struct qp_layer_type *type, enum qp_fold_kind kind, int target)
{
    for (int s = 0; s < type->site_count; s++)
        if (type->sites[s].fold == kind && type->sites[s].fold_target == target)
            return s;
    return -1;
}

int qp_site_of_rows(const struct qp_layer_type *type, int linear)
{
    return site_with_target(type, QP_FOLD_ROWS, linear);
}

int qp_site_of_norm(const struct qp_layer_type *type, int norm)
{
    return site_with_target(type, QP_FOLD_NORM, norm);
}

/* Grouped value heads: row j of value head g makes channel j of every query head of group g; the first stands for all,
 * as they have one scale. */
int64_t qp_fold_index(const struct qp_site *site, int64_t row)
{
    int64_t i = row - site->fold_first, head = site->fold_head;
    if (i < 0 || i >= site->in / site->fold_repeat)
        return -1;
    return i / head * site->fold_repeat * head + i % head;
}

void qp_round_to(const struct qp_kernels *kernels, enum qp_dtype dtype, int64_t count, float *v)
{
    enum { CHUNK = 1024 };
    float rounded[CHUNK]; /* large enough for any dtype of at most 32 bits */
    for (int64_t i = 0; dtype != QP_F32 && i < count; i += CHUNK) {
        int64_t n = count - i < CHUNK ? count - i : CHUNK;
        kernels->from_f32(dtype, n, v + i, rounded);
        kernels->to_f32(dtype, n, rounded, v + i);
    }
}

static void share_group(const struct qp_site *site, float *s)
{
    int64_t dim = site->fold_head, repeat = site->fold_repeat;
    for (int64_t j = 0; j < dim; j++) {
        double sum = 0.0;
        for (int64_t h = 0; h < repeat; h++)
            sum += log(fmax((double)s[h * dim + j], FLT_MIN));
        for (int64_t h = 0; h < repeat; h++)
            s[h * dim + j] = (float)exp(sum / (double)repeat);
    }
}

void qp_share_heads(const struct qp_site *site, float *s)
{
    if (site->fold != QP_FOLD_ROWS || site->fold_head == site->in)
        return;
    int64_t group = site->fold_head * site->fold_repeat;
    for (int64_t at = 0; at < site->in; at += group)
        share_group(site, s + at);
}

void qp_round_gain(const struct qp_block *block, const struct qp_norm *norm, float *gain)
{
    for (int64_t i = 0; norm->offset != 0 && i < norm->width; i++)
        gain[i] -= norm->offset;
    qp_round_to(block->kernels, block->arch->dtype, norm->width, gain);
    for (int64_t i = 0; norm->offset != 0 && i < norm->width; i++)
        gain[i] += norm->offset;
}

/* The scale that the gain's dtype can absorb: where the divided gain is g, s = gain / g in place of what was asked for.
 * A gain that would vanish or overflow is left alone. before[n]: earlier folds; s becomes the whole of both. */
static int fold_into_norm(const struct qp_block *block, int norm, const float *before, float *s, struct qp_error *err)
{
    const struct qp_norm *d = &block->type->norms[norm];
    int64_t n = d->width;
    qp_auto_free float *gain = qp_new_floats(2 * n, "the gain of a norm", err);
    if (!gain)
        return QP_ERR_SPACE;
    float *divided = gain + n;
    int r = qp_block_norm(block, norm, false, gain, err);
    if (r < 0)
        return r;
    for (int64_t i = 0; i < n; i++)
        divided[i] = gain[i] / (before[i] * s[i]);
    qp_round_gain(block, d, divided);
    for (int64_t i = 0; i < n; i++) {
        float whole = gain[i] == 0.0f ? before[i] * s[i] : gain[i] / divided[i];
        s[i] = isfinite(whole) && whole > 0.0f ? whole : before[i];
    }
    return 0;
}

static int check_scale(const struct qp_site *site, int64_t n, const float *s, struct qp_error *err)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(s[i]) || s[i] <= 0.0f)
            return qp_fail(err, QP_ERR_INPUT, "site %s: scale %lld is %g, expected a finite number above 0", site->name,
                           (long long)i, (double)s[i]);
    return 0;
}

static int put_fold(struct qp_block *block, const char *site, int64_t n, const float *fold, struct qp_error *err)
{
    char name[256];
    struct qp_tensor *t;
    qp_block_name(block, site, "fold", name, sizeof name);
    int r = qp_tensor_new(name, QP_F32, 1, &n, &t, err);
    if (r < 0)
        return r;
    memcpy(t->data, fold, t->bytes);
    return qp_unit_put(block->unit, t, err);
}

int qp_block_fold(struct qp_block *block, int site, float *s, struct qp_error *err)
{
    const struct qp_site *d = &block->type->sites[site];
    int64_t n = d->in;
    const float *stored = NULL;
    if (d->fold == QP_FOLD_NONE)
        return qp_fail(err, QP_ERR_INPUT, "site %s: nothing before it can absorb a scale", d->name);
    int r = check_scale(d, n, s, err);
    if (r == 0)
        r = qp_block_site_fold(block, site, &stored, err);
    if (r < 0)
        return r;
    qp_auto_free float *before = qp_new_floats(2 * n, "a fold", err);
    if (!before)
        return QP_ERR_SPACE;
    float *whole = before + n;
    for (int64_t i = 0; i < n; i++)
        before[i] = stored ? stored[i] : 1.0f;
    qp_share_heads(d, s);
    memcpy(whole, s, (size_t)n * sizeof *whole);
    for (int64_t i = 0; d->fold == QP_FOLD_ROWS && i < n; i++)
        whole[i] *= before[i];
    r = d->fold == QP_FOLD_NORM ? fold_into_norm(block, d->fold_target, before, whole, err) : 0;
    if (r == 0)
        r = check_scale(d, n, whole, err);
    if (r == 0)
        r = put_fold(block, d->name, n, whole, err);
    for (int64_t i = 0; r == 0 && i < n; i++)
        s[i] = whole[i] / before[i];
    return r;
}
