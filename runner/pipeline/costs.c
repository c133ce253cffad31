#include "runner/pipeline/costs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/formats/compressed_size.h"
#include "libstage/network/block.h"
#include "libstage/solvers/quality.h"
#include "libstage/tensor/scheme_budget.h"
#include "runner/pipeline/graph.h"
#include "runner/pipeline/sizes.h"

void qp_work_sum(struct qp_work *a, const struct qp_work *b)
{
    for (int i = 0; i < QP_WORK_KINDS; i++)
        a->operations[i] += b->operations[i];
    a->bytes_read += b->bytes_read;
    a->bytes_written += b->bytes_written;
    a->disk_read += b->disk_read;
    a->disk_written += b->disk_written;
}

/* ---- what the task holds ---- */

/* A parameter as given, or its default; a borrowed value or NULL. */
static const json_t *param(const struct qp_task *t, const char *name)
{
    const json_t *given = json_object_get(t->instance->params, name);
    size_t i;
    json_t *known;
    json_array_foreach(json_object_get(t->instance->descriptor, "params"), i, known)
        if (!given && strcmp(qp_text_of(known, "name"), name) == 0)
            return json_object_get(known, "default");
    return given;
}

static bool param_is(const struct qp_task *t, const char *name, const char *value)
{
    const char *text = json_string_value(param(t, name));
    return text && strcmp(text, value) == 0;
}

static bool is_on(const struct qp_task *t, const char *name)
{
    return json_is_true(param(t, name)) || param_is(t, name, "true");
}

static double param_number(const struct qp_task *t, const char *name, double fallback)
{
    const json_t *value = param(t, name);
    if (json_is_string(value))
        return strtod(json_string_value(value), NULL);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

static bool wants(const struct qp_task *t, const char *what)
{
    size_t i;
    json_t *want;
    json_array_foreach(t->instance->wants, i, want)
        if (strcmp(json_string_value(want), what) == 0)
            return true;
    return false;
}

/* ---- linears ---- */

struct shape {
    int64_t rows, cols;
};

static const struct qp_layer_type *type_of(const struct qp_task *t, int64_t layer)
{
    return qp_layer_type(t->arch, layer);
}

static struct shape shape_of(const struct qp_task *t, int64_t layer, int linear)
{
    const struct qp_linear *d = &type_of(t, layer)->linears[linear];
    return (struct shape){d->out, d->in};
}

/* How a linear will be quantized; NULL: its weights stay. Of a budget the first format there is to choose. */
static const struct qp_linear_scheme *scheme_of(const struct qp_task *t, int64_t layer, int linear)
{
    char module[256];
    qp_module_name(t->arch, layer, linear, module, sizeof module);
    if (t->scheme->budget)
        return &t->scheme->budget->candidates[0].scheme;
    const struct qp_linear_scheme *scheme = qp_scheme_for(t->scheme, module);
    return scheme && scheme->weights.enabled ? scheme : NULL;
}

static const struct qp_quant_spec *spec_of(const struct qp_task *t, int64_t layer, int linear)
{
    const struct qp_linear_scheme *scheme = scheme_of(t, layer, linear);
    return scheme ? &scheme->weights : NULL;
}

static bool quantizes_site(const struct qp_task *t, int64_t layer, int site)
{
    for (int l = 0; l < type_of(t, layer)->linear_count; l++)
        if (type_of(t, layer)->linears[l].site == site && spec_of(t, layer, l))
            return true;
    return false;
}

static double stored_bytes(const struct qp_arch *arch, double weights)
{
    return weights * qp_dtype_bits(arch->dtype) / 8;
}

static bool is_coarse(const struct qp_quant_spec *spec)
{
    return spec->grid.scale_dtype == QP_F8_E4M3 || spec->grid.scale_dtype == QP_F8_E8M0;
}

/* A search for the scales of a linear (libstage/solvers/scales.h): `steps` shares of the range down to `shrink`; scales
 * that are coarse themselves are swept from twice the range down, 8 E4M3 numbers or one E8M0 an octave. */
static void add_scale_search(const struct qp_quant_spec *spec, struct shape s, double shrink, int64_t steps, bool block,
                             struct qp_work *out)
{
    if (is_coarse(spec))
        steps = 1 + (int64_t)((spec->grid.scale_dtype == QP_F8_E4M3 ? 8 : 1) * log2(2.0 / shrink));
    int64_t group = block && spec->granularity == QP_PER_GROUP ? qp_spec_group(spec, s.cols) : 0;
    out->operations[QP_WORK_SEARCH] += qp_search_operations(s.rows * s.cols, steps, group);
}

/* ---- forwards ---- */

double qp_layer_gemm_operations(const struct qp_layer_type *type, int64_t tokens)
{
    double sum = 0;
    for (int l = 0; l < type->linear_count; l++)
        sum += qp_gemm_operations(tokens, type->linears[l].out, type->linears[l].in);
    return sum;
}

/* Products are of the dtype that the stage's `compute` says; a stage without it computes in float32. */
static bool computes_bf16(const struct qp_task *t)
{
    const char *choice = json_string_value(param(t, "compute"));
    return choice && qp_compute(choice, t->arch, t->kernels) == QP_BF16;
}

/* The product of a quantized linear where that is one of codes, else 0. */
static double code_operations(const struct qp_task *t, int64_t layer, int linear)
{
    struct shape s = shape_of(t, layer, linear);
    const struct qp_linear_scheme *scheme = scheme_of(t, layer, linear);
    bool codes = scheme && qp_multiplies_int8(t->kernels, scheme, s.cols);
    return codes ? qp_gemm_operations(t->windows * t->length, s.rows, s.cols) : 0;
}

/* Through the first `layers` layers, whose linears that read the first `quantized` sites are quantized. */
static void add_forward(const struct qp_task *t, int64_t layers, int quantized, bool bf16, struct qp_work *out)
{
    for (int64_t layer = 0; layer < layers; layer++) {
        const struct qp_layer_type *type = type_of(t, layer);
        double codes = 0;
        for (int l = 0; quantized && l < type->linear_count; l++)
            codes += type->linears[l].site < quantized ? code_operations(t, layer, l) : 0;
        out->operations[QP_WORK_GEMM_INT8] += codes;
        out->operations[bf16 ? QP_WORK_GEMM_BF16 : QP_WORK_GEMM] +=
            qp_layer_gemm_operations(type, t->windows * t->length) - codes;
        out->operations[bf16 ? QP_WORK_ATTENTION_BF16 : QP_WORK_ATTENTION] += qp_attention_operations(
            t->windows, t->length, type->attention.heads, type->attention.head_dim, type->attention.window);
    }
}

/* Loading the first `layers` layers, in float32 or BF16: of linears that read the first `quantized` sites the weights
 * that are left as they were, codes aside. */
static void add_layers(const struct qp_task *t, int64_t layers, int quantized, struct qp_work *out)
{
    double weights = 0;
    for (int64_t layer = 0; layer < layers; layer++) {
        const struct qp_layer_type *type = type_of(t, layer);
        weights += (double)qp_layer_parameters(type);
        for (int l = 0; quantized && l < type->linear_count; l++) {
            struct shape s = shape_of(t, layer, l);
            bool coded = type->linears[l].site < quantized && spec_of(t, layer, l);
            weights -= coded ? (double)s.rows * (double)s.cols : 0;
        }
    }
    out->bytes_read += stored_bytes(t->arch, weights);
}

/* A site's second moment is read by who works with it. */
static double moment_bytes(const struct qp_task *t, int64_t layer, int site)
{
    double n = (double)type_of(t, layer)->sites[site].in;
    return t->moments ? 4 * n * n : 0;
}

/* Rows of the embedding, one a token. */
static void add_embedding(const struct qp_task *t, double times, struct qp_work *out)
{
    out->bytes_read += times * stored_bytes(t->arch, (double)(t->windows * t->length) * (double)t->arch->hidden);
}

static void add_moments(const struct qp_task *t, bool bf16, struct qp_work *out)
{
    for (int64_t layer = 0; layer < t->arch->layers; layer++)
        for (int s = 0; s < type_of(t, layer)->site_count; s++) {
            int64_t n = type_of(t, layer)->sites[s].in;
            out->operations[bf16 ? QP_WORK_MOMENT_BF16 : QP_WORK_MOMENT] +=
                qp_moment_operations(t->windows * t->length, n);
            out->bytes_written += 4 * (double)n * (double)n;
        }
}

/* (x_original - x)ᵀ x for every site: full products; and a moment of what is held out (calibrate/drift.h). */
static void add_drift(const struct qp_task *t, struct qp_work *out)
{
    int64_t held = t->windows < 8 ? 1 : t->windows / 8;
    for (int64_t layer = 0; layer < t->arch->layers; layer++)
        for (int s = 0; s < type_of(t, layer)->site_count; s++) {
            int64_t n = type_of(t, layer)->sites[s].in;
            out->operations[QP_WORK_GEMM] += qp_gemm_operations(n, n, t->windows * t->length);
            out->operations[QP_WORK_MOMENT] += qp_moment_operations(held * t->length, n);
            out->bytes_written += 3 * 4 * (double)n * (double)n;
        }
}

/* Of the products after the last site, which the last layer does not compute. */
static double operations_after_sites(const struct qp_layer_type *type, int64_t tokens)
{
    double sum = 0;
    for (int i = type->op_count; i-- > 0 && type->ops[i].kind != QP_OP_SITE;)
        if (type->ops[i].kind == QP_OP_LINEAR) {
            const struct qp_linear *d = &type->linears[type->ops[i].index];
            sum += qp_gemm_operations(tokens, d->out, d->in);
        }
    return sum;
}

/* One forward of the original, up to the last site that has statistics; with feedback, where hidden states go on behind
 * quantized layers, whole ones, another through each quantized layer but the last, and for the drift one more through
 * the original. A layer in turns has one forward a turn. */
static bool calibrate(const struct qp_task *t, struct qp_work *out)
{
    const struct qp_arch *a = t->arch;
    bool bf16 = computes_bf16(t);
    if (json_array_size(t->instance->wants) == 0)
        return true;
    add_embedding(t, wants(t, "drift") ? 2 : 1, out);
    int sites = qp_arch_most_sites(a), turns = t->turns ? sites : 1;
    for (int turn = 0; turn < turns; turn++) {
        add_forward(t, a->layers, turn, bf16, out);
        add_layers(t, a->layers, turn, out);
    }
    if (wants(t, "second_moment"))
        add_moments(t, bf16, out);
    if (t->feedback) {
        add_forward(t, a->layers - 1, sites, bf16, out);
        add_layers(t, a->layers - 1, sites, out);
    } else
        out->operations[bf16 ? QP_WORK_GEMM_BF16 : QP_WORK_GEMM] -=
            operations_after_sites(type_of(t, a->layers - 1), t->windows * t->length);
    if (wants(t, "drift")) {
        for (int turn = 0; turn < turns; turn++)
            add_forward(t, a->layers, 0, bf16, out);
        for (int turn = 1; turn < turns; turn++)
            add_layers(t, a->layers, 0, out);
        add_drift(t, out);
    }
    return true;
}

/* Both networks' forwards and logits; with second moments two losses tr(D H Dᵀ) a linear. */
static bool validate(const struct qp_task *t, struct qp_work *out)
{
    const struct qp_arch *a = t->arch;
    bool bf16 = computes_bf16(t);
    for (int64_t layer = 0; layer < a->layers; layer++) {
        for (int site = 0; site < type_of(t, layer)->site_count; site++)
            out->bytes_read += quantizes_site(t, layer, site) ? moment_bytes(t, layer, site) : 0;
        for (int l = 0; l < type_of(t, layer)->linear_count; l++) {
            struct shape s = shape_of(t, layer, l);
            if (!spec_of(t, layer, l))
                continue;
            out->bytes_read += stored_bytes(a, (double)s.rows * (double)s.cols);
            if (t->moments)
                out->operations[QP_WORK_GEMM] += 2 * qp_site_loss_operations(s.rows, s.cols);
        }
    }
    if (t->windows == 0)
        return true;
    add_embedding(t, 2, out);
    for (int quantized = 0; quantized < 2; quantized++) {
        int sites = quantized ? qp_arch_most_sites(a) : 0;
        add_forward(t, a->layers, sites, bf16, out);
        add_layers(t, a->layers, sites, out);
    }
    out->operations[bf16 ? QP_WORK_GEMM_BF16 : QP_WORK_GEMM] +=
        2 * qp_gemm_operations(t->windows * t->length, a->vocab, a->hidden);
    out->bytes_read += stored_bytes(a, (double)a->vocab * (double)a->hidden);
    return true;
}

/* ---- quantize ---- */

void qp_gptq_work(int64_t rows, int64_t cols, int64_t block, struct qp_work *add)
{
    for (int64_t at = 0; at < cols; at += block) {
        int64_t count = cols - at < block ? cols - at : block;
        add->operations[QP_WORK_SOLVE] += qp_gptq_block_operations(rows, count);
        add->operations[QP_WORK_GEMM] += qp_gemm_operations(rows, cols - at - count, count);
    }
}

static int64_t sweeps_of(const struct qp_task *t)
{
    return (int64_t)param_number(t, "polish", param_is(t, "method", "gptq") ? 4 : 0);
}

static void add_scales(const struct qp_task *t, const struct qp_quant_spec *spec, struct shape s, struct qp_work *out)
{
    bool automatic = param_is(t, "scales", "auto");
    bool given = automatic && t->scales && !param_is(t, "method", "hqq");
    if (given || param_is(t, "scales", "minmax") || (automatic && !t->moments))
        return;
    add_scale_search(spec, s, param_number(t, "shrink", 0.4), (int64_t)param_number(t, "steps", 40),
                     param_is(t, "scales", "hessian"), out);
}

/* The loss of rounding to nearest and the gradient of the codes choose what polish starts from. With a pull, its
 * product comes on top, all is done with it and without, and both are judged. Steps depend on the weights, and count as
 * none. */
static void add_polish(const struct qp_task *t, struct shape s, struct qp_work *out)
{
    double product = qp_gemm_operations(s.rows, s.cols, s.cols);
    double judged = qp_site_loss_operations(s.rows, s.cols) + product;
    bool pulled = param_number(t, "pull", 0) > 0;
    if (sweeps_of(t) == 0)
        return;
    out->operations[QP_WORK_GEMM] += pulled ? 4 * judged + product : judged;
    out->operations[QP_WORK_SOLVE] +=
        (pulled ? 2 : 1) * (is_on(t, "refit") ? 2 : 1) * qp_polish_operations(s.rows, s.cols, 0);
}

static void add_linear(const struct qp_task *t, const struct qp_quant_spec *spec, struct shape s, struct qp_work *out)
{
    double scales = (double)qp_scale_count(s.rows, s.cols, qp_spec_group(spec, s.cols));
    add_scales(t, spec, s, out);
    if (param_is(t, "method", "gptq"))
        qp_gptq_work(s.rows, s.cols, (int64_t)param_number(t, "block", 128), out);
    add_polish(t, s, out);
    out->bytes_read += stored_bytes(t->arch, (double)s.rows * (double)s.cols);
    out->bytes_written += (double)s.rows * (double)s.cols + scales * (spec->grid.symmetric ? 4 : 5);
}

static bool quantize(const struct qp_task *t, struct qp_work *out)
{
    const struct qp_arch *a = t->arch;
    for (int64_t layer = 0; layer < a->layers; layer++) {
        for (int site = 0; site < type_of(t, layer)->site_count; site++) {
            if (!quantizes_site(t, layer, site))
                continue;
            out->bytes_read +=
                (param_number(t, "pull", 0) > 0 ? 4 : 1) * moment_bytes(t, layer, site); /* drift, what is held out */
            if (param_is(t, "method", "gptq"))
                out->operations[QP_WORK_SOLVE] += qp_factor_operations(type_of(t, layer)->sites[site].in);
        }
        for (int l = 0; l < type_of(t, layer)->linear_count; l++) {
            const struct qp_quant_spec *spec = spec_of(t, layer, l);
            if (spec)
                add_linear(t, spec, shape_of(t, layer, l), out);
        }
    }
    return true;
}

/* ---- search and smooth ---- */

static enum qp_fold_kind folds_of(const struct qp_task *t, int64_t layer, int site)
{
    return type_of(t, layer)->sites[site].fold;
}

/* Trials a site gets at least: no scales, then AWQ's grids, or the four starts of joint and, for each of three axes and
 * three widths of step, one step in either direction. Where rows have scales of their own, a trial can be over after
 * the first of 16 slices of them. */
static double trials_of(const struct qp_task *t, const struct qp_quant_spec *spec)
{
    double grid = param_number(t, "grid", 20), others;
    bool sliced = spec->granularity != QP_PER_TENSOR && spec->granularity != QP_PER_BLOCK;
    if (param_is(t, "method", "joint"))
        others = 4 + 3 * 3 * 2;
    else
        others = (param_is(t, "form", "duo") ? 0 : grid - 1) + (param_is(t, "form", "plain") ? 0 : grid);
    return 1 + others / (sliced ? 16 : 1);
}

/* A trial of a linear rounds it, by clipped ranges or as it is, and takes tr(D H Dᵀ). */
static void add_trials(const struct qp_task *t, const struct qp_quant_spec *spec, struct shape s, bool folds,
                       bool clips, struct qp_work *out)
{
    double trials = folds && !param_is(t, "method", "clip") ? trials_of(t, spec) : 0;
    struct qp_work candidates = {0};
    if (clips)
        add_scale_search(spec, s, 0.4, 25, param_is(t, "metric", "block"), &candidates);
    out->operations[QP_WORK_SEARCH] += (trials + clips) * candidates.operations[QP_WORK_SEARCH];
    out->operations[QP_WORK_GEMM] += trials * qp_site_loss_operations(s.rows, s.cols);
    out->bytes_read += ((trials > 0) + clips) * stored_bytes(t->arch, (double)s.rows * (double)s.cols);
    if (clips)
        out->bytes_written += 4 * (double)qp_scale_count(s.rows, s.cols, qp_spec_group(spec, s.cols));
}

static bool search(const struct qp_task *t, struct qp_work *out)
{
    bool clips = is_on(t, "clip") || param_is(t, "method", "clip");
    if (param_is(t, "method", "none"))
        return true;
    for (int64_t layer = 0; layer < t->arch->layers; layer++) {
        for (int site = 0; site < type_of(t, layer)->site_count; site++)
            if (quantizes_site(t, layer, site))
                out->bytes_read += ((folds_of(t, layer, site) != QP_FOLD_NONE) + clips) * moment_bytes(t, layer, site);
        for (int l = 0; l < type_of(t, layer)->linear_count; l++) {
            const struct qp_quant_spec *spec = spec_of(t, layer, l);
            if (spec)
                add_trials(t, spec, shape_of(t, layer, l),
                           folds_of(t, layer, type_of(t, layer)->linears[l].site) != QP_FOLD_NONE, clips, out);
        }
    }
    return true;
}

/* With a grid the outputs of up to 256 samples, as they are and for each alpha and none. */
static bool smooth(const struct qp_task *t, struct qp_work *out)
{
    double grid = param_is(t, "method", "smoothquant") ? param_number(t, "grid", 0) : 0;
    int64_t tokens = t->windows * t->length, samples = tokens > 0 && tokens < 256 ? tokens : 256;
    if (param_is(t, "method", "none"))
        return true;
    for (int64_t layer = 0; layer < t->arch->layers; layer++)
        for (int l = 0; l < type_of(t, layer)->linear_count; l++) {
            struct shape s = shape_of(t, layer, l);
            enum qp_fold_kind fold = folds_of(t, layer, type_of(t, layer)->linears[l].site);
            bool chosen = fold == QP_FOLD_NORM || (fold == QP_FOLD_ROWS && param_is(t, "sites", "all"));
            if (!chosen || !quantizes_site(t, layer, type_of(t, layer)->linears[l].site))
                continue;
            out->bytes_read += (1 + (grid > 0)) * stored_bytes(t->arch, (double)s.rows * (double)s.cols);
            if (grid > 0 && spec_of(t, layer, l))
                out->operations[QP_WORK_GEMM] += (2 + grid) * qp_gemm_operations(samples, s.rows, s.cols);
        }
    return true;
}

/* ---- the ends ---- */

static bool load(const struct qp_task *t, struct qp_work *out)
{
    (void)t;
    (void)out;
    return true; /* maps files; who needs the weights reads them */
}

static bool export_(const struct qp_task *t, struct qp_work *out)
{
    const struct qp_arch *a = t->arch;
    double rest = (double)qp_arch_parameters(a);
    if (t->scheme->budget)
        return false;
    for (int64_t layer = 0; layer < a->layers; layer++)
        for (int l = 0; l < type_of(t, layer)->linear_count; l++) {
            char module[256];
            struct shape s = shape_of(t, layer, l);
            qp_module_name(a, layer, l, module, sizeof module);
            rest -= (double)s.rows * (double)s.cols;
            out->disk_written +=
                (double)qp_compressed_stored(qp_scheme_for(t->scheme, module), a->dtype, s.rows, s.cols).bytes;
        }
    out->disk_written += stored_bytes(a, rest);
    return true;
}

bool qp_task_work(const struct qp_task *task, struct qp_work *out)
{
    static const struct {
        const char *name;
        bool (*work)(const struct qp_task *, struct qp_work *);
    } stages[] = {{"load", load},         {"calibrate", calibrate}, {"smooth", smooth}, {"search", search},
                  {"quantize", quantize}, {"validate", validate},   {"export", export_}};
    const char *name = qp_text_of(task->instance->descriptor, "name");
    *out = (struct qp_work){0};
    for (size_t i = 0; name && task->instance->use && i < sizeof stages / sizeof *stages; i++)
        if (strcmp(stages[i].name, name) == 0)
            return stages[i].work(task, out);
    return false;
}
