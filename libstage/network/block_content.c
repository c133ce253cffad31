#include "libstage/network/block_content.h"

#include <math.h>
#include <stdio.h>

#include "libstage/base/cleanup.h"
#include "libstage/network/block_internal.h"
#include "libstage/network/parts.h"

/* ---- the digest ---- */

static int add_named(const struct qp_block *block, const char *name, struct qp_digest *digest, struct qp_error *err)
{
    const struct qp_tensor *tensor = qp_unit_find(block->unit, name);
    return tensor ? qp_digest_add(digest, tensor, err) : 0;
}

static int add_all(const struct qp_block *block, const char *module, const char *const *what, struct qp_digest *digest,
                   struct qp_error *err)
{
    char name[256];
    int r = 0;
    for (; r == 0 && *what; what++)
        r = add_named(block, qp_block_name(block, module, *what, name, sizeof name), digest, err);
    return r;
}

static int add_parts(const struct qp_block *block, struct qp_digest *digest, struct qp_error *err)
{
    char name[256];
    struct qp_part part;
    int r = 0;
    QP_EACH_PART(part, block->arch, block->layer + 1)
    {
        bool coded = part.kind == QP_PART_LINEAR && !part.bias && qp_block_has_codes(block, part.index);
        if (r == 0 && !coded)
            r = add_named(block, qp_part_name(block->arch, &part, name, sizeof name), digest, err);
    }
    return r;
}

int qp_block_digest(const struct qp_block *block, struct qp_digest *digest, struct qp_error *err)
{
    static const char *const of_linears[] = {
        "weight_codes",        "weight_packed", "weight_scale", "weight_zero_point",
        "weight_global_scale", "low_rank_a",    "low_rank_b",   NULL};
    static const char *const of_sites[] = {"fold", "input_scale", "input_global_scale", NULL};
    static const char *const of_cache[] = {"key_scale", "value_scale", NULL};
    int r = add_parts(block, digest, err);
    if (!block->type)
        return r;
    for (int i = 0; r == 0 && i < block->type->linear_count; i++)
        if (qp_block_has_codes(block, i))
            r = add_all(block, block->type->linears[i].module, of_linears, digest, err);
    for (int i = 0; r == 0 && i < block->type->site_count; i++)
        r = add_all(block, block->type->sites[i].name, of_sites, digest, err);
    return r < 0 ? r : add_all(block, "kv", of_cache, digest, err);
}

int qp_content_text(const json_t *scheme, struct qp_digest *digest, char text[QP_DIGEST_TEXT], struct qp_error *err)
{
    qp_auto_free char *written = json_dumps(scheme, JSON_COMPACT | JSON_SORT_KEYS);
    if (!written)
        return qp_fail_memory(err, 0, "a digest");
    int r = qp_digest_add_text(digest, "", written, err);
    if (r == 0)
        qp_digest_text(digest, text);
    return r;
}

/* ---- codes ---- */

/* Which bytes are codes: after `mask` and `flip` those up to `most`, and from `least`. */
struct code_range {
    uint8_t mask, flip, least, most;
};

static struct code_range range_of(const struct qp_number_format *format)
{
    switch ((int)format->codes) {
    case QP_I8:
        return (struct code_range){0xff, 0x80, (uint8_t)(0x80 + (int)qp_format_min(format)),
                                   (uint8_t)(0x80 + (int)qp_format_max(format))};
    case QP_F8_E4M3: /* S1111111 is NaN */
        return (struct code_range){0x7f, 0, 0, 0x7e};
    case QP_F8_E5M2: /* S11111xx are infinities and NaN */
        return (struct code_range){0x7f, 0, 0, 0x7b};
    default:
        return (struct code_range){0xff, 0, 0, (uint8_t)((1 << format->bits) - 1)};
    }
}

/* A code as a number that least and most compare with. */
static inline uint8_t ordered(uint8_t code, struct code_range range)
{
    return (uint8_t)((code & range.mask) ^ range.flip);
}

static bool all_within(const uint8_t *codes, int64_t count, struct code_range range)
{
    uint8_t least = 0xff, most = 0;
#pragma omp parallel for schedule(static) reduction(min : least) reduction(max : most)
    for (int64_t i = 0; i < count; i++) {
        uint8_t code = ordered(codes[i], range);
        least = code < least ? code : least;
        most = code > most ? code : most;
    }
    return count == 0 || (least >= range.least && most <= range.most);
}

static int64_t first_outside(const uint8_t *codes, int64_t count, struct code_range range)
{
    int64_t i = 0;
    while (i < count && ordered(codes[i], range) >= range.least && ordered(codes[i], range) <= range.most)
        i++;
    return i;
}

static int fail_codes(const struct qp_quantized *q, const char *module, struct code_range range, struct qp_error *err)
{
    const struct qp_number_format *f = &q->format;
    int64_t i = first_outside(q->codes, q->rows * q->cols, range);
    long long row = i / q->cols, col = i % q->cols;
    if (f->codes == QP_I8)
        return qp_fail(err, QP_ERR_STAGE, "%s: code [%lld, %lld] is %d; INT%d has %g to %g", module, row, col,
                       (int)(int8_t)q->codes[i], f->bits, (double)qp_format_min(f), (double)qp_format_max(f));
    return qp_fail(err, QP_ERR_STAGE, "%s: code [%lld, %lld] is 0x%02x, which is no number of %s", module, row, col,
                   q->codes[i], qp_dtype_name(f->codes));
}

static int check_zero_points(const struct qp_quantized *q, const char *module, int64_t count, struct qp_error *err)
{
    for (int64_t i = 0; q->zero && i < count; i++)
        if (q->zero[i] < qp_format_min(&q->format) || q->zero[i] > qp_format_max(&q->format))
            return qp_fail(err, QP_ERR_STAGE, "%s: zero point %lld is %d; INT%d has %g to %g", module, (long long)i,
                           q->zero[i], q->format.bits, (double)qp_format_min(&q->format),
                           (double)qp_format_max(&q->format));
    return 0;
}

int qp_codes_check(const struct qp_quantized *q, const char *module, struct qp_error *err)
{
    struct code_range range = range_of(&q->format);
    int64_t scales = qp_scale_count(q->rows, q->cols, q->group);
    if (q->codes && !all_within(q->codes, q->rows * q->cols, range))
        return fail_codes(q, module, range, err);
    for (int64_t i = 0; i < scales; i++)
        if (!isfinite(q->scale[i]) || q->scale[i] < 0)
            return qp_fail(err, QP_ERR_STAGE, "%s: scale %lld is %g; expected a finite number, not negative", module,
                           (long long)i, (double)q->scale[i]);
    return check_zero_points(q, module, scales, err);
}
