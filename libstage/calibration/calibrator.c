#include "libstage/calibration/calibrator.h"

#include <math.h>
#include <string.h>

#include "libstage/calibration/histogram.h"

/* ---- one histogram ---- */

/* Spreads `count` evenly over [low, high), of which the histogram has all. */
static void spread(struct qp_range_histogram *h, double count, double low, double high)
{
    double per_bin = QP_RANGE_BINS / h->absmax;
    double from = low * per_bin, to = high * per_bin;
    int first = (int)fmin(from, QP_RANGE_BINS - 1), last = (int)fmin(to, QP_RANGE_BINS - 1);
    if (first == last) {
        h->bins[first] += count;
        return;
    }
    double density = count / (to - from);
    h->bins[first] += density * (first + 1 - from);
    for (int b = first + 1; b < last; b++)
        h->bins[b] += density;
    h->bins[last] += density * (to - last);
}

static void add_channel(struct qp_range_histogram *h, const float *counts, double fold, double absmax)
{
    for (int b = 0; b < QP_LOG_BINS; b++) {
        if (counts[b] == 0.0f)
            continue;
        double low = b ? qp_log_bin_edge(b) / fold : 0.0, high = qp_log_bin_edge(b + 1) / fold;
        if (high > absmax || b == QP_LOG_BINS - 1)
            high = absmax;
        spread(h, counts[b], fmin(low, high), high);
        h->total += counts[b];
    }
}

void qp_range_histogram(int64_t n, const float *counts, const float *fold, const float *absmax,
                        struct qp_range_histogram *out)
{
    memset(out, 0, sizeof *out);
    for (int64_t i = 0; i < n; i++)
        out->absmax = fmax(out->absmax, absmax[i]);
    if (out->absmax == 0.0)
        return;
    for (int64_t i = 0; i < n; i++)
        add_channel(out, counts + i * QP_LOG_BINS, fold ? fold[i] : 1.0, absmax[i]);
}

static double edge(const struct qp_range_histogram *h, double bin)
{
    return h->absmax * bin / QP_RANGE_BINS;
}

/* ---- percentile ---- */

float qp_range_percentile(const struct qp_range_histogram *h, double percent)
{
    double wanted = h->total * percent / 100.0, seen = 0.0;
    if (percent >= 100.0)
        return (float)h->absmax;
    for (int b = 0; b < QP_RANGE_BINS; b++) {
        if (seen + h->bins[b] >= wanted && h->bins[b] > 0.0)
            return (float)edge(h, b + (wanted - seen) / h->bins[b]);
        seen += h->bins[b];
    }
    return (float)h->absmax;
}

double qp_range_clipped(const struct qp_range_histogram *h, double range)
{
    if (h->total == 0.0 || range >= h->absmax)
        return 0.0;
    double at = range / h->absmax * QP_RANGE_BINS, beyond = 0.0;
    int bin = (int)at;
    for (int b = bin + 1; b < QP_RANGE_BINS; b++)
        beyond += h->bins[b];
    return (beyond + h->bins[bin] * (bin + 1 - at)) / h->total;
}

/* ---- candidates ---- */

/* Q(c) of each bin's centre c below edge `count`, with the scale of that edge. */
static void round_centres(const struct qp_kernels *kernels, const struct qp_number_format *format,
                          const struct qp_range_histogram *h, int count, int bins, float *centres, float *rounded)
{
    float range = (float)edge(h, count), scale;
    uint8_t codes[QP_RANGE_BINS];
    kernels->qparams(format, 1, 1, 0, &range, &scale, NULL);
    for (int b = 0; b < bins; b++)
        centres[b] = (float)edge(h, b + 0.5);
    kernels->quantize(&(struct qp_grouped){format, 1, bins, 0, &scale, NULL}, centres, codes);
    kernels->dequantize(&(struct qp_grouped){format, 1, bins, 0, &scale, NULL}, codes, rounded);
}

float qp_range_mse(const struct qp_kernels *kernels, const struct qp_number_format *format, double norm,
                   const struct qp_range_histogram *h)
{
    float centres[QP_RANGE_BINS], rounded[QP_RANGE_BINS];
    double least = INFINITY;
    int best = QP_RANGE_BINS;
    for (int count = QP_RANGE_START; h->total > 0.0 && count <= QP_RANGE_BINS; count++) {
        double error = 0.0;
        round_centres(kernels, format, h, count, QP_RANGE_BINS, centres, rounded);
        for (int b = 0; b < QP_RANGE_BINS; b++)
            if (h->bins[b] > 0.0)
                error += h->bins[b] * pow(fabs((double)rounded[b] - centres[b]), norm);
        if (error <= least) {
            least = error;
            best = count;
        }
    }
    return (float)edge(h, best);
}

/* ---- entropy ---- */

/* part[b]: which of a candidate's codes stands for bin b < count, numbered from 0. */
static void parts_of(const struct qp_kernels *kernels, const struct qp_number_format *format,
                     const struct qp_range_histogram *h, int count, int *part)
{
    float centres[QP_RANGE_BINS], rounded[QP_RANGE_BINS];
    int64_t levels = (int64_t)1 << (format->bits - 1);
    if (format->codes == QP_I8) {
        for (int b = 0; b < count; b++)
            part[b] = (int)(b * levels / count);
        return;
    }
    round_centres(kernels, format, h, count, count, centres, rounded);
    part[0] = 0;
    for (int b = 1; b < count; b++)
        part[b] = part[b - 1] + (rounded[b] != rounded[b - 1]);
}

/* KL(p || q) with p the first `count` bins, those beyond in the last, and q the same bins after quantization. */
static double divergence(int count, const double *bins, double beyond, const int *part)
{
    double sum[QP_RANGE_BINS] = {0.0}, filled[QP_RANGE_BINS] = {0.0}, p_total = beyond, q_total = 0.0, kl = 0.0;
    for (int b = 0; b < count; b++) {
        sum[part[b]] += bins[b];
        filled[part[b]] += bins[b] > 0.0;
        p_total += bins[b];
        q_total += bins[b];
    }
    for (int b = 0; b < count; b++) {
        double p = (bins[b] + (b == count - 1 ? beyond : 0.0)) / p_total;
        double q = bins[b] > 0.0 ? sum[part[b]] / filled[part[b]] / q_total : 0.0;
        if (p > 0.0)
            kl += q > 0.0 ? p * log(p / q) : INFINITY;
    }
    return kl;
}

float qp_range_entropy(const struct qp_kernels *kernels, const struct qp_number_format *format,
                       const struct qp_range_histogram *h)
{
    double bins[QP_RANGE_BINS], least = INFINITY, beyond = 0.0;
    int part[QP_RANGE_BINS], best = QP_RANGE_BINS;
    memcpy(bins, h->bins, sizeof bins);
    bins[0] = bins[1];
    for (int count = QP_RANGE_BINS; h->total > 0.0 && count >= QP_RANGE_START; count--) {
        parts_of(kernels, format, h, count, part);
        double kl = divergence(count, bins, beyond, part);
        if (kl < least) {
            least = kl;
            best = count;
        }
        beyond += bins[count - 1];
    }
    return (float)edge(h, best);
}

/* ---- average ---- */

/* The least or the largest number of a window. */
static double end_of(int64_t n, const float *ends, const float *fold, bool most)
{
    double end = most ? -INFINITY : INFINITY;
    for (int64_t i = 0; i < n; i++) {
        double x = ends[i] / (fold ? fold[i] : 1.0f);
        end = most ? fmax(end, x) : fmin(end, x);
    }
    return end;
}

float qp_range_average(int64_t windows, int64_t n, const float *window_min, const float *window_max, const float *fold)
{
    double least = 0.0, most = 0.0;
    for (int64_t w = 0; w < windows; w++) {
        double low = end_of(n, window_min + w * n, fold, false), high = end_of(n, window_max + w * n, fold, true);
        least += w ? 0.01 * (low - least) : low;
        most += w ? 0.01 * (high - most) : high;
    }
    return (float)fmax(fmax(-least, most), 0.0);
}

/* ---- headroom ---- */

/* The centre of the bin in which `share` of the counts, from bin `first` on, is reached; 0 when there are none. */
static double block_percentile(const float *counts, int first, double share)
{
    double total = 0.0, seen = 0.0;
    int bin = first;
    for (int b = first; b < QP_BLOCK_BINS; b++)
        total += counts[b];
    for (; bin < QP_BLOCK_BINS - 1; bin++) {
        seen += counts[bin];
        if (seen >= share * total)
            break;
    }
    return total > 0.0 ? exp2(-40.0 + (bin + 0.5) / QP_BLOCK_BINS * 80.0) : 0.0;
}

float qp_range_headroom(const float *counts, float absmax, double rho)
{
    double high = block_percentile(counts, 0, 0.9999);
    double low = block_percentile(counts, high > 0.0 ? qp_block_bin((float)(high / 1e6)) : 0, 0.01);
    return low > 0.0 ? (float)fmax(rho * low, high) : absmax;
}
