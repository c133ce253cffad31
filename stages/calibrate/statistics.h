/* The statistics of one decoder layer: collected over the tokens of a forward, then put into the layer's unit under the
 * names of libstage/network/block.h. All are sums, maxima or rows of their own, so that those of several parts of a
 * text can be merged. */
#ifndef QUANTPIPE_CALIBRATE_STATISTICS_H
#define QUANTPIPE_CALIBRATE_STATISTICS_H

#include "libstage/include/stage.h"
#include "libstage/network/block.h"
#include "libstage/calibration/data.h"

/* What can be collected, ended by NULL: what the stage's descriptor says. */
extern const char *const qp_statistics_names[];

/* Whether a stage downstream wants any of it. */
bool qp_statistics_wanted(const struct qp_stage *stage);

struct qp_statistics;

/* Opens what is wanted of the layer `block`, whose tokens will be those of `windows`; of one that comes in steps, what
 * its step is about (the KV cache: the first). */
int qp_statistics_open(struct qp_stage *stage, const struct qp_block *block, const struct qp_windows *windows,
                       struct qp_statistics **out, struct qp_error *err);

/* Adds x[rows, in], the next tokens' inputs of a site: a qp_site_fn. */
int qp_statistics_site(void *statistics, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err);

/* The same of BF16 numbers: a qp_site_bf16_fn. */
int qp_statistics_site_bf16(void *statistics, int site, const uint16_t *x, int64_t rows, int64_t in,
                            struct qp_error *err);

/* Adds what a KV cache holds of the next tokens: a qp_cache_fn. */
int qp_statistics_cache(void *statistics, const float *keys, const float *values, int64_t rows, int64_t dim,
                        struct qp_error *err);

/* Moves all of it, Hessians packed, and the attribute `tokens`, into the block's unit. */
int qp_statistics_put(struct qp_statistics *statistics, struct qp_stage *stage, struct qp_block *block,
                      struct qp_error *err);

void qp_statistics_free(struct qp_statistics *statistics); /* NULL is accepted */

#endif
