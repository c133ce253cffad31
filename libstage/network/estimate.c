#include "libstage/network/estimate.h"

#include <math.h>
#include <string.h>

#include "libstage/network/block.h"
#include "libstage/solvers/gptq.h"
#include "libstage/tensor/scheme/budget.h"

/* ---- the task ---- */

static bool has_name(const json_t *names, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(names, i, item) {
        const char *text = json_string_value(item);
        if (text && strcmp(text, name) == 0)
            return true;
    }
    return false;
}

bool qp_task_wants(const struct qp_task *task, const char *what)
{
    return has_name(task->wants, what);
}

bool qp_task_has(const struct qp_task *task, const char *what)
{
    return has_name(task->upstream, what);
}

int64_t qp_task_tokens(const struct qp_task *task)
{
    return task->windows * task->length;
}

double qp_task_stored(const struct qp_task *task, double weights)
{
    return weights * qp_dtype_bits(task->arch->dtype) / 8;
}

double qp_sent_bytes(double bytes)
{
    return bytes > QP_ALWAYS_INLINE ? (double)qp_segment_size((size_t)bytes) : bytes;
}

const struct qp_linear_scheme *qp_task_scheme(const struct qp_task *task, int64_t layer, int linear)
{
    char module[256];
    if (task->scheme->budget)
        return &task->scheme->budget->candidates[0].scheme;
    const struct qp_linear_scheme *scheme =
        qp_scheme_for(task->scheme, qp_module_name(task->arch, layer, linear, module, sizeof module));
    return scheme && scheme->weights.enabled ? scheme : NULL;
}

const struct qp_quant_spec *qp_task_spec(const struct qp_task *task, int64_t layer, int linear)
{
    const struct qp_linear_scheme *scheme = qp_task_scheme(task, layer, linear);
    return scheme ? &scheme->weights : NULL;
}

bool qp_task_quantizes_site(const struct qp_task *task, int64_t layer, int site)
{
    const struct qp_layer_type *type = qp_layer_type(task->arch, layer);
    for (int l = 0; l < type->linear_count; l++)
        if (type->linears[l].site == site && qp_task_spec(task, layer, l))
            return true;
    return false;
}

double qp_task_hessian_bytes(const struct qp_task *task, int64_t layer, int site)
{
    double n = (double)qp_layer_type(task->arch, layer)->sites[site].in;
    return qp_task_has(task, "hessian") ? 2 * n * (n + 1) : 0;
}

/* ---- forwards ---- */

double qp_layer_gemm_operations(const struct qp_layer_type *type, int64_t tokens)
{
    double sum = 0;
    for (int l = 0; l < type->linear_count; l++)
        sum += qp_gemm_operations(tokens, type->linears[l].out, type->linears[l].in);
    return sum;
}

/* The products of a layer's quantized linears that are products of codes. */
static double code_operations(const struct qp_task *t, int64_t layer, int quantized)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    double sum = 0;
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        const struct qp_linear_scheme *scheme = d->site < quantized ? qp_task_scheme(t, layer, l) : NULL;
        if (scheme && qp_multiplies_int8(t->kernels, scheme, d->in))
            sum += qp_gemm_operations(qp_task_tokens(t), d->out, d->in);
    }
    return sum;
}

void qp_estimate_forward(const struct qp_task *task, int64_t layers, int quantized, bool bf16, struct qp_work *add)
{
    for (int64_t layer = 0; layer < layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(task->arch, layer);
        double codes = quantized ? code_operations(task, layer, quantized) : 0;
        add->operations[QP_WORK_GEMM_INT8] += codes;
        add->operations[bf16 ? QP_WORK_GEMM_BF16 : QP_WORK_GEMM] +=
            qp_layer_gemm_operations(type, qp_task_tokens(task)) - codes;
        add->operations[bf16 ? QP_WORK_ATTENTION_BF16 : QP_WORK_ATTENTION] += qp_attention_operations(
            task->windows, task->length, type->attention.heads, type->attention.head_dim, type->attention.window);
    }
}

void qp_estimate_loads(const struct qp_task *task, int64_t layers, int quantized, struct qp_work *add)
{
    double weights = 0;
    for (int64_t layer = 0; layer < layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(task->arch, layer);
        weights += (double)qp_layer_parameters(type);
        for (int l = 0; quantized && l < type->linear_count; l++) {
            const struct qp_linear *d = &type->linears[l];
            bool coded = d->site < quantized && qp_task_spec(task, layer, l);
            weights -= coded ? (double)d->out * (double)d->in : 0;
        }
    }
    add->bytes_read += qp_task_stored(task, weights);
}

void qp_estimate_embedding(const struct qp_task *task, double times, struct qp_work *add)
{
    add->bytes_read += times * qp_task_stored(task, (double)qp_task_tokens(task) * (double)task->arch->hidden);
}

/* ---- scales and codes ---- */

static bool is_coarse(const struct qp_quant_spec *spec)
{
    return spec->format.scale_dtype == QP_F8_E4M3 || spec->format.scale_dtype == QP_F8_E8M0;
}

void qp_estimate_scales(const struct qp_quant_spec *spec, int64_t rows, int64_t cols,
                        const struct qp_scale_sweep *sweep, struct qp_work *add)
{
    int64_t steps = sweep->steps;
    if (is_coarse(spec))
        steps = 1 + (int64_t)((spec->format.scale_dtype == QP_F8_E4M3 ? 8 : 1) * log2(2.0 / sweep->shrink));
    int64_t group = sweep->block && spec->granularity == QP_PER_GROUP ? qp_spec_group(spec, cols) : 0;
    add->operations[QP_WORK_SEARCH] += qp_search_operations(rows * cols, steps, group);
}

double qp_gptq_sketch_operations(int64_t cols)
{
    return cols < QP_SKETCHED ? 0 : qp_gemm_operations(QP_SKETCH, cols, cols);
}

void qp_gptq_work(const struct qp_kernels *kernels, int64_t rows, int64_t cols, int64_t block, bool rest,
                  struct qp_work *add)
{
    bool split = kernels && kernels->split_products, sketched = cols >= QP_SKETCHED;
    double between = 0, inside = 0;
    for (int64_t at = 0; at < cols; at += block) {
        int64_t count = cols - at < block ? cols - at : block;
        add->operations[QP_WORK_SOLVE] += qp_gptq_block_operations(rows, count);
        between += split ? qp_split_operations(rows, cols - at - count, count)
                         : qp_gemm_operations(rows, cols - at - count, count);
        inside += qp_gemm_operations(rows, count, count);
    }
    /* The gradient once, and where nothing is estimated the loss of rounding to nearest. */
    add->operations[split ? QP_WORK_GEMM_BF16 : QP_WORK_GEMM] += between * (!rest ? 1 : sketched ? 2 : 3);
    add->operations[QP_WORK_GEMM] += !rest      ? 0
                                     : sketched ? inside + qp_gemm_operations(rows, QP_SKETCH, cols)
                                                : 2 * inside;
}
