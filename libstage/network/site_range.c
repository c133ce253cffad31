/* Ranges from the statistics of a block unit. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/network/block_internal.h"
#include "libstage/network/site_range.h"
#include "libstage/calibration/histogram.h"

static float largest(const float *x, int64_t count)
{
    float most = 0.0f;
    for (int64_t i = 0; i < count; i++)
        most = fmaxf(most, x[i]);
    return most;
}

/* absmax[in] in new memory. */
static int get_absmax(const struct qp_block *block, int site, int64_t in, float **out, struct qp_error *err)
{
    float *absmax = qp_new_floats(in, "a site's ranges", err);
    int r = absmax ? qp_block_stat(block, site, "absmax", absmax, err) : QP_ERR_SPACE;
    if (r < 0) {
        free(absmax);
        return r;
    }
    *out = absmax;
    return 0;
}

int qp_site_absmax(const struct qp_block *block, int site, float *range, struct qp_error *err)
{
    int64_t in = block->type->sites[site].in;
    float *absmax;
    int r = get_absmax(block, site, in, &absmax, err);
    if (r < 0)
        return r;
    *range = largest(absmax, in);
    free(absmax);
    return 0;
}

static int get_histogram(const struct qp_block *block, int site, struct qp_range_histogram *out, struct qp_error *err)
{
    const struct qp_site *desc = &block->type->sites[site];
    int64_t in = desc->in;
    const struct qp_tensor *counts;
    const float *fold = NULL;
    float *absmax;
    int r = qp_block_get(block, desc->name, "histogram", QP_F32, (const int64_t[2]){in, QP_LOG_BINS}, &counts, err);
    if (r == 0)
        r = qp_block_site_fold(block, site, &fold, err);
    if (r >= 0)
        r = get_absmax(block, site, in, &absmax, err);
    if (r < 0)
        return r;
    qp_range_histogram(in, counts->data, fold, absmax, out);
    free(absmax);
    return 0;
}

static int average(const struct qp_block *block, int site, float *range, struct qp_error *err)
{
    const struct qp_site *desc = &block->type->sites[site];
    int64_t in = desc->in;
    const struct qp_tensor *found = qp_block_find(block, desc->name, "window_min"), *least, *most;
    const int64_t windows = found && found->rank == 2 ? found->shape[0] : 1;
    const float *fold = NULL;
    int r = qp_block_get(block, desc->name, "window_min", QP_F32, (const int64_t[2]){windows, in}, &least, err);
    if (r == 0)
        r = qp_block_get(block, desc->name, "window_max", QP_F32, (const int64_t[2]){windows, in}, &most, err);
    if (r == 0)
        r = qp_block_site_fold(block, site, &fold, err);
    if (r < 0)
        return r;
    *range = qp_range_average(windows, in, least->data, most->data, fold);
    return 0;
}

int qp_site_range(const struct qp_block *block, int site, const struct qp_calibrator *c,
                  const struct qp_number_format *format, float *range, double *clipped, struct qp_error *err)
{
    *clipped = 0.0;
    if (strcmp(c->method, "minmax") == 0)
        return qp_site_absmax(block, site, range, err);
    struct qp_range_histogram *h = qp_new_array(1, sizeof *h, "a histogram", err);
    int r = h ? get_histogram(block, site, h, err) : QP_ERR_SPACE;
    if (r < 0) {
        free(h);
        return r;
    }
    if (strcmp(c->method, "percentile") == 0)
        *range = qp_range_percentile(h, c->percentile);
    else if (strcmp(c->method, "entropy") == 0)
        *range = qp_range_entropy(block->kernels, format, h);
    else if (strcmp(c->method, "mse") == 0)
        *range = qp_range_mse(block->kernels, format, c->norm, h);
    else
        r = average(block, site, range, err);
    if (r == 0)
        *clipped = qp_range_clipped(h, *range);
    free(h);
    return r;
}

/* counts[512] of the blocks of a folded site's samples. */
static int count_samples(const struct qp_block *block, int site, float *counts, struct qp_error *err)
{
    int64_t in = block->type->sites[site].in, count;
    float *x;
    int r = qp_block_samples(block, site, &count, &x, err);
    if (r < 0)
        return r;
    qp_block_histogram_add(count, in, x, counts);
    free(x);
    return 0;
}

int qp_site_headroom(const struct qp_block *block, int site, double rho, float *range, struct qp_error *err)
{
    float counts[QP_BLOCK_BINS] = {0.0f}, absmax;
    const struct qp_tensor *counted;
    const float *fold = NULL;
    int r = qp_site_absmax(block, site, &absmax, err);
    if (r == 0)
        r = qp_block_site_fold(block, site, &fold, err);
    if (r >= 0 && fold)
        r = count_samples(block, site, counts, err);
    else if (r >= 0) {
        r = qp_block_get(block, block->type->sites[site].name, "block_histogram", QP_F32,
                         (const int64_t[2]){QP_BLOCK_BINS, 0}, &counted, err);
        if (r == 0)
            memcpy(counts, counted->data, sizeof counts);
    }
    if (r == 0)
        *range = qp_range_headroom(counts, absmax, rho);
    return r;
}

int qp_cache_absmax(const struct qp_block *block, float *keys, float *values, struct qp_error *err)
{
    const struct qp_tensor *key, *value;
    const float *fold = NULL;
    const struct qp_layer_type *type = block->type;
    int64_t dim = (int64_t)type->attention.kv_heads * type->attention.head_dim;
    int site = qp_site_of_rows(type, type->value_linear);
    int r = qp_block_get(block, "kv", "key_absmax", QP_F32, (const int64_t[2]){dim, 0}, &key, err);
    if (r == 0)
        r = qp_block_get(block, "kv", "value_absmax", QP_F32, (const int64_t[2]){dim, 0}, &value, err);
    if (r == 0 && site >= 0)
        r = qp_block_site_fold(block, site, &fold, err);
    if (r < 0)
        return r;
    *keys = largest(key->data, dim);
    *values = 0.0f;
    for (int64_t i = 0; i < dim; i++) {
        int64_t at = fold ? qp_fold_index(&type->sites[site], type->value_first + i) : -1;
        *values = fmaxf(*values, ((const float *)value->data)[i] / (at < 0 ? 1 : fold[at]));
    }
    return 0;
}
