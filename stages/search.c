/* search: looks for per-channel scales that make the weights quantize better, keeping what lowers the site loss.
 *
 * awq (Lin et al. 2024, section 3.2): for each site that can be folded, with x[j] the mean of |x[:, j]| and w[j] the
 * mean of |W[:, j]| relative to its group's largest, candidates for ratio r on a grid are
 *   s = x^r  or, "duo",  s = x^r / (w^(1 - r) + 1e-4);  s at least 1e-4, divided by sqrt(max(s) min(s)).
 * A candidate's loss is tr(D H Dᵀ) with D = quantize(W diag(s)) diag(s)^-1 - W, summed over the linears of the site:
 * the error of the site's outputs over all calibration tokens, without the tokens. Identity is a candidate, so that no
 * site gets worse. In: blocks with absmean and second_moment; out: the same with folds. Memory: one site's weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"
#include "libstage/model/quality.h"

#define SMALLEST_SCALE 1e-4f /* of the original implementation */

struct state {
    const char *method, *form;
    int64_t grid;
    struct qp_model model;
};

static const char *const methods[] = {"none", "awq", NULL};
static const char *const forms[] = {"plain", "duo", "both", NULL};
static const struct qp_param params[] = {
    {.name = "method",
     .type = QP_PARAM_STRING,
     .fallback = "none",
     .choices = methods,
     .help = "awq searches activation-aware weight scales",
     .offset = offsetof(struct state, method)},
    {.name = "grid",
     .type = QP_PARAM_INT,
     .fallback = "20",
     .min = 2,
     .max = 1000,
     .help = "ratios tried for each form of scale",
     .offset = offsetof(struct state, grid)},
    {.name = "form",
     .type = QP_PARAM_STRING,
     .fallback = "plain",
     .choices = forms,
     .help = "scales from activations (plain), from activations and weights (duo), or both",
     .offset = offsetof(struct state, form)},
    {0}};
static const struct qp_need stage_needs[] = {{.what = "absmean", .param = "method", .value = "awq"}, {.what = "second_moment", .param = "method", .value = "awq"}, {0}};
static const char *const needs[] = {"weights", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "blocks with statistics"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same with folds"}, {0}};

/* One linear of the site: its weights as they stand, and what applies to it (NULL: it is not quantized). */
struct member {
    const struct qp_linear_scheme *scheme;
    int64_t rows;
    float *w;
};

/* All that the candidates of one site are judged with. */
struct trial {
    const struct qp_kernels *kernels;
    int64_t in;
    struct member members[QP_LINEARS];
    int count;
    float *h;                /* [in, in] */
    float *x, *w, *s, *best; /* [in] each: mean |x|, mean relative |W|, the candidate, the best so far */
    float *scaled, *scratch; /* [largest rows, in] */
    float *scale;            /* of the quantizer */
    int8_t *zero;
    uint8_t *codes;
    double best_loss;
};

static void close_trial(struct trial *t)
{
    for (int i = 0; i < t->count; i++)
        free(t->members[i].w);
    free(t->h);
    free(t->x);
    free(t->scaled);
    free(t->scratch);
    free(t->scale);
    free(t->zero);
    free(t->codes);
}

static int load_member(const struct state *s, const struct qp_block *block, enum qp_linear linear, struct trial *t,
                       struct qp_error *err)
{
    struct member *m = &t->members[t->count];
    m->rows = qp_arch_dim(block->arch, block->arch->family->linears[linear].out);
    m->scheme = qp_model_scheme(&s->model, block->layer, linear);
    if (m->scheme && !m->scheme->weights.enabled)
        m->scheme = NULL;
    m->w = qp_new_floats(m->rows * t->in, "a linear's weights", err);
    if (!m->w)
        return QP_ERR_ROOM;
    t->count++;
    return qp_block_weight(block, linear, true, m->w, err);
}

static int allocate_trial(struct trial *t, int64_t rows, struct qp_error *err)
{
    t->h = qp_new_floats(t->in * t->in, "a second moment", err);
    t->x = qp_new_floats(4 * t->in, "scales", err);
    t->scaled = qp_new_floats(rows * t->in, "scaled weights", err);
    t->scratch = qp_new_floats(rows * t->in, "scratch", err);
    t->scale = qp_new_floats(rows * t->in, "quantizer scales", err);
    t->zero = qp_new_array(rows * t->in, 1, "zero points", err);
    t->codes = qp_new_array(rows * t->in, 1, "codes", err);
    if (!t->h || !t->x || !t->scaled || !t->scratch || !t->scale || !t->zero || !t->codes)
        return QP_ERR_ROOM;
    t->w = t->x + t->in;
    t->s = t->w + t->in;
    t->best = t->s + t->in;
    return 0;
}

/* w[j] = mean over rows of |W[:, j]| / (largest of its group + 1e-6), over the quantized linears. */
static void relative_weights(struct trial *t)
{
    int64_t rows = 0;
    memset(t->w, 0, (size_t)t->in * sizeof *t->w);
    for (int i = 0; i < t->count; i++) {
        const struct member *m = &t->members[i];
        if (!m->scheme)
            continue;
        int64_t group = qp_spec_group(&m->scheme->weights, t->in);
        group = group > 0 ? group : t->in;
        rows += m->rows;
        for (int64_t r = 0; r < m->rows; r++)
            for (int64_t g = 0; g < t->in; g += group) {
                const float *w = m->w + r * t->in;
                int64_t end = g + group < t->in ? g + group : t->in;
                float largest = 0.0f;
                for (int64_t j = g; j < end; j++)
                    largest = fmaxf(largest, fabsf(w[j]));
                for (int64_t j = g; j < end; j++)
                    t->w[j] += fabsf(w[j]) / (largest + 1e-6f);
            }
    }
    for (int64_t j = 0; j < t->in; j++)
        t->w[j] /= (float)rows;
}

static void candidate(struct trial *t, bool duo, float ratio)
{
    float smallest = INFINITY, largest = 0.0f;
    for (int64_t j = 0; j < t->in; j++) {
        float s = powf(t->x[j], ratio);
        if (duo)
            s /= powf(t->w[j], 1.0f - ratio) + 1e-4f;
        t->s[j] = isfinite(s) ? fmaxf(s, SMALLEST_SCALE) : 1.0f;
        smallest = fminf(smallest, t->s[j]);
        largest = fmaxf(largest, t->s[j]);
    }
    float middle = sqrtf(smallest * largest);
    for (int64_t j = 0; j < t->in; j++)
        t->s[j] /= middle;
}

/* Loss of one linear for the scales t->s. */
static double member_loss(struct trial *t, const struct member *m)
{
    const struct qp_quant_spec *spec = &m->scheme->weights;
    int64_t group = qp_spec_group(spec, t->in);
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t j = 0; j < t->in; j++)
            t->scaled[r * t->in + j] = m->w[r * t->in + j] * t->s[j];
    t->kernels->qparams(&spec->grid, m->rows, t->in, group, t->scaled, t->scale, t->zero);
    t->kernels->quantize(&spec->grid, m->rows, t->in, group, t->scaled, t->scale, t->zero, t->codes);
    t->kernels->dequantize(&spec->grid, m->rows, t->in, group, t->codes, t->scale, t->zero, t->scaled);
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t j = 0; j < t->in; j++)
            t->scaled[r * t->in + j] = t->scaled[r * t->in + j] / t->s[j] - m->w[r * t->in + j];
    return qp_site_loss(t->kernels, m->rows, t->in, t->scaled, t->h, t->scratch);
}

static double try_scales(struct trial *t)
{
    double loss = 0.0;
    for (int i = 0; i < t->count; i++)
        if (t->members[i].scheme)
            loss += member_loss(t, &t->members[i]);
    if (loss < t->best_loss) {
        t->best_loss = loss;
        memcpy(t->best, t->s, (size_t)t->in * sizeof *t->s);
    }
    return loss;
}

static void try_grid(struct trial *t, bool duo, int64_t grid)
{
    for (int64_t i = duo ? 0 : 1; i < grid; i++) { /* plain at ratio 0 is identity */
        candidate(t, duo, (float)i / (float)(grid - 1));
        try_scales(t);
    }
}

static int open_trial(const struct state *s, const struct qp_block *block, enum qp_site site, struct trial *t,
                      struct qp_error *err)
{
    const struct qp_family *family = block->arch->family;
    int64_t rows = 0;
    int r = 0;
    for (int i = 0; i < QP_LINEARS && r == 0; i++)
        if (family->linears[i].site == site) {
            r = load_member(s, block, (enum qp_linear)i, t, err);
            rows = t->count > 0 && t->members[t->count - 1].rows > rows ? t->members[t->count - 1].rows : rows;
        }
    if (r == 0)
        r = allocate_trial(t, rows, err);
    if (r == 0)
        r = qp_block_second_moment(block, site, t->h, err);
    if (r == 0)
        r = qp_block_stat(block, site, "absmean", t->x, err);
    return r;
}

/* Searches one site and folds the best scales; *kept is the loss that is left, as a share of identity's. */
static int search_site(const struct state *s, struct qp_block *block, enum qp_site site, double *kept,
                       struct qp_error *err)
{
    struct trial t = {.kernels = block->kernels,
                      .in = qp_arch_dim(block->arch, block->arch->family->sites[site].dim),
                      .best_loss = INFINITY};
    int r = open_trial(s, block, site, &t, err);
    if (r == 0) {
        for (int64_t j = 0; j < t.in; j++)
            t.s[j] = 1.0f;
        double identity = try_scales(&t);
        relative_weights(&t);
        if (site == QP_SITE_ATTN_OUT) {
            qp_share_heads(block->arch, t.x);
            qp_share_heads(block->arch, t.w);
        }
        if (strcmp(s->form, "duo") != 0)
            try_grid(&t, false, s->grid);
        if (strcmp(s->form, "plain") != 0)
            try_grid(&t, true, s->grid);
        *kept = identity > 0.0 ? t.best_loss / identity : 1.0;
        if (t.best_loss < identity)
            r = qp_block_fold(block, site, t.best, err);
    }
    close_trial(&t);
    return r;
}

static int search(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    const struct state *s = state;
    int r = 0;
    for (int site = 0; site < QP_SITES && r == 0 && qp_block_is_layer(block); site++) {
        double kept = 1.0;
        if (s->model.arch.family->sites[site].fold == QP_FOLD_NONE ||
            !qp_model_quantizes_site(&s->model, block->layer, (enum qp_site)site))
            continue;
        r = search_site(s, block, (enum qp_site)site, &kept, err);
        qp_stage_log(stage, QP_DEBUG, "layer %lld %s: loss %.3f of that without scales", (long long)block->layer,
                     s->model.arch.family->sites[site].name, kept);
    }
    return r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    if (strcmp(s->method, "none") == 0)
        return qp_stage_emit(stage, NULL, unit, err);
    return qp_stage_blocks(stage, s, unit, &s->model, NULL, search, err);
}

static void close_(struct qp_stage *stage, void *state)
{
    (void)stage;
    qp_model_close(&((struct state *)state)->model);
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "search",
    .summary = "searches weight scales that lower the site loss (AWQ)",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .needs = stage_needs,
    .process = process,
    .close = close_,
};
