#include "stages/calibrate/estimate.h"

#include <math.h>
#include <string.h>

#include "libstage/calibration/histogram.h"
#include "libstage/network/block.h"

static void add_hessians(const struct qp_task *t, bool bf16, struct qp_work *add)
{
    for (int64_t layer = 0; layer < t->arch->layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
        for (int s = 0; s < type->site_count; s++) {
            int64_t n = type->sites[s].in;
            add->operations[bf16 ? QP_WORK_HESSIAN_BF16 : QP_WORK_HESSIAN] +=
                qp_hessian_operations(qp_task_tokens(t), n);
            add->bytes_written += 2 * (double)n * (double)(n + 1);
        }
    }
}

/* (x_original - x)ᵀ x for every site: full products; and a Hessian of what is held out (calibrate/asymmetry.h). */
static void add_asymmetry(const struct qp_task *t, struct qp_work *add)
{
    int64_t held = t->windows < 8 ? 1 : t->windows / 8;
    for (int64_t layer = 0; layer < t->arch->layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
        for (int s = 0; s < type->site_count; s++) {
            int64_t n = type->sites[s].in;
            add->operations[QP_WORK_GEMM] += qp_gemm_operations(n, n, qp_task_tokens(t));
            add->operations[QP_WORK_HESSIAN] += qp_hessian_operations(held * t->length, n);
            add->bytes_written += 3 * 4 * (double)n * (double)n;
        }
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

/* One forward of the original, up to the last site that has statistics; with feedback, where hidden states go on after
 * quantized layers, whole ones, another through each quantized layer but the last, and for the asymmetry one more
 * through the original. A layer in true-sequential steps has one forward a step. */
static void add_work(const struct qp_task *t, bool bf16, struct qp_work *add)
{
    const struct qp_arch *a = t->arch;
    bool asymmetry = qp_task_wants(t, "asymmetry");
    int sites = qp_arch_most_sites(a), steps = qp_task_has(t, "steps") ? sites : 1;
    qp_estimate_embedding(t, asymmetry ? 2 : 1, add);
    for (int step = 0; step < steps; step++) {
        qp_estimate_forward(t, a->layers, step, bf16, add);
        qp_estimate_loads(t, a->layers, step, add);
    }
    if (qp_task_wants(t, "hessian"))
        add_hessians(t, bf16, add);
    if (t->feedback) {
        qp_estimate_forward(t, a->layers - 1, sites, bf16, add);
        qp_estimate_loads(t, a->layers - 1, sites, add);
    } else
        add->operations[bf16 ? QP_WORK_GEMM_BF16 : QP_WORK_GEMM] -=
            operations_after_sites(qp_layer_type(a, a->layers - 1), qp_task_tokens(t));
    for (int step = 0; asymmetry && step < steps; step++)
        qp_estimate_forward(t, a->layers, 0, bf16, add);
    for (int step = 1; asymmetry && step < steps; step++)
        qp_estimate_loads(t, a->layers, 0, add);
    if (asymmetry)
        add_asymmetry(t, add);
}

/* ---- memory ---- */

/* A statistic of one site, as statistics.c has them. */
static double statistic_bytes(const struct qp_task *t, const char *name, double in)
{
    static const struct {
        const char *name;
        double rows; /* of `in` numbers */
    } lists[] = {{"absmax", 1}, {"absmean", 1}, {"min", 1}, {"max", 1}, {"histogram", QP_LOG_BINS}};
    double tokens = (double)qp_task_tokens(t), samples = tokens < 256 ? tokens : 256;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (strcmp(name, lists[i].name) == 0)
            return 4 * lists[i].rows * in;
    return strcmp(name, "hessian") == 0           ? 2 * in * (in + 1)
           : strcmp(name, "samples") == 0         ? 4 * samples * in
           : strncmp(name, "window_", 7) == 0     ? 4 * (double)t->windows * in
           : strcmp(name, "block_histogram") == 0 ? 4 * QP_BLOCK_BINS
                                                  : 0;
}

static double site_bytes(const struct qp_task *t, double in)
{
    double bytes = qp_task_wants(t, "asymmetry") ? 3 * qp_sent_bytes(4 * in * in) : 0;
    size_t i;
    json_t *name;
    json_array_foreach(t->wants, i, name)
        bytes += qp_sent_bytes(statistic_bytes(t, json_string_value(name), in));
    return bytes;
}

/* Statistics of all sites of a layer, or in steps of the one that has most. */
static double emitted_bytes(const struct qp_task *t, int64_t layer)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    double sum = 0, most = 0;
    for (int s = 0; s < type->site_count; s++) {
        double bytes = site_bytes(t, (double)type->sites[s].in);
        sum += bytes;
        most = fmax(most, bytes);
    }
    return qp_task_has(t, "steps") ? most : sum;
}

/* A Hessian while it is summed up: the pages of a square that its upper triangle, and the tiles on the diagonal, lie
 * on.
 */
static double square_bytes(double in)
{
    return fmin(4 * in * in, 2 * in * in + 4096 * in);
}

/* Hessians on top of the triangles that they are sent in: while they are summed up, and the most while they are packed,
 * one site after the other. */
struct sums {
    double summed, packed;
};

static struct sums sums_of(const struct qp_task *t)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, 0);
    bool steps = qp_task_has(t, "steps");
    struct sums sums = {0};
    for (int s = type->site_count - 1; qp_task_wants(t, "hessian") && s >= 0; s--) {
        double in = (double)type->sites[s].in, square = square_bytes(in);
        double more = square - qp_sent_bytes(statistic_bytes(t, "hessian", in)), later = steps ? 0 : sums.summed;
        sums.packed = fmax(sums.packed, square + later);
        sums.summed = fmax(sums.summed, more + later);
    }
    return sums;
}

/* Of the widest site's input in BF16 what a Hessian's kernel copies (kernels/hessian.h). */
static double copied_bytes(const struct qp_task *t, bool bf16)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, 0);
    double widest = 0, tokens = (double)qp_task_part(t);
    for (int s = 0; s < type->site_count; s++)
        widest = fmax(widest, (double)type->sites[s].in);
    double rows = fmax(fmin(tokens, QP_HESSIAN_ROWS), 2 * fmin(tokens, QP_HESSIAN_ROWS / 4.0));
    return bf16 && qp_task_wants(t, "hessian") ? 2 * rows * widest : 0;
}

/* Inputs of sites in float32 beside the workspace: for statistics of values, of a layer in BF16; of a layer with
 * asymmetry, those after quantized layers and their difference from the original's. */
static double input_bytes(const struct qp_task *t, bool bf16)
{
    double widest = 0, sum = 0, tokens = (double)qp_task_part(t);
    const struct qp_layer_type *type = qp_layer_type(t->arch, 0);
    bool values = json_array_size(t->wants) > (size_t)qp_task_wants(t, "hessian") + qp_task_wants(t, "asymmetry");
    for (int s = 0; s < type->site_count; s++) {
        widest = fmax(widest, (double)type->sites[s].in);
        sum += (double)type->sites[s].in;
    }
    double kept = qp_task_has(t, "steps") ? widest : sum;
    return 4 * tokens * ((bf16 && values ? widest : 0) + (qp_task_wants(t, "asymmetry") ? kept + widest : 0));
}

/* Of a layer in true-sequential steps what the former step came to: codes and scales. */
static double kept_bytes(const struct qp_task *t)
{
    return qp_task_has(t, "steps") ? 1.04 * (double)qp_layer_weights(qp_layer_type(t->arch, 0)) : 0;
}

static int add_memory(const struct qp_task *t, bool bf16, struct qp_estimate *out, struct qp_error *err)
{
    struct qp_forward_bytes original, quantized = {0};
    bool parts = bf16 || t->feedback; /* hidden states of a part are copied */
    int r = qp_estimate_forward_bytes(t, false, bf16, &original, err);
    if (r == 0 && t->feedback)
        r = qp_estimate_forward_bytes(t, true, bf16, &quantized, err);
    double layers = qp_task_has(t, "steps") && qp_task_wants(t, "asymmetry") ? original.layer + quantized.layer
                                                                             : fmax(original.layer, quantized.layer);
    out->fixed_bytes = QP_PRODUCTS_BYTES + 4 * (double)qp_task_tokens(t) +
                       (parts ? 4 * (double)qp_task_part(t) * (double)t->arch->hidden : 0) + kept_bytes(t);
    for (int64_t layer = 0; layer < t->arch->layers; layer++)
        out->emitted_bytes = fmax(out->emitted_bytes, emitted_bytes(t, layer));
    double workspace = fmax(original.workspace, quantized.workspace);
    double forward = workspace + input_bytes(t, bf16) + copied_bytes(t, bf16);
    struct sums sums = sums_of(t);
    out->block_bytes = layers + fmax(fmax(original.loading, quantized.loading), forward) + sums.summed;
    out->block_bytes = fmax(fmax(0, out->block_bytes), sums.packed);
    if (qp_task_has(t, "steps")) { /* a step's statistics have been read when it is back, and then the next one goes */
        out->block_bytes += out->emitted_bytes;
        out->emitted_bytes = 0;
    }
    return r;
}

int qp_calibrate_estimate(const struct qp_task *task, const char *compute, struct qp_estimate *out,
                          struct qp_error *err)
{
    bool bf16 = qp_compute(compute, task->arch, task->kernels) == QP_BF16;
    out->work_known = out->memory_known = true;
    if (json_array_size(task->wants) == 0)
        return 0;
    add_work(task, bf16, &out->work);
    return add_memory(task, bf16, out, err);
}
