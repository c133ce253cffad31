#include "libstage/wire/unit_order.h"

void qp_unit_order_start(struct qp_unit_order *order)
{
    *order = (struct qp_unit_order){.seq = -1, .blocks = -1};
}

static int64_t attribute(const struct qp_unit *unit, const char *key, int64_t fallback)
{
    const json_t *value = json_object_get(unit->attrs, key);
    return json_is_integer(value) ? json_integer_value(value) : fallback;
}

/* The first unit or block that was left out, and how many. */
static int fail_missing(const char *what, int64_t found, int64_t last, struct qp_error *err)
{
    if (found - last == 2)
        return qp_fail(err, QP_ERR_STAGE, "%s %lld came after %s %lld: %s %lld is missing", what, (long long)found,
                       what, (long long)last, what, (long long)last + 1);
    return qp_fail(err, QP_ERR_STAGE, "%s %lld came after %s %lld: %ss %lld to %lld are missing", what,
                   (long long)found, what, (long long)last, what, (long long)last + 1, (long long)found - 1);
}

static int take_block(struct qp_unit_order *order, const struct qp_unit *unit, struct qp_error *err)
{
    int64_t block = qp_unit_block(unit), step = attribute(unit, "step", 0), last = order->block;
    if (block > order->blocks)
        return qp_fail(err, QP_ERR_STAGE, "it is block %lld of a model of %lld", (long long)block,
                       (long long)order->blocks);
    if (block > last + 1)
        return fail_missing("block", block, last, err);
    if (block < last)
        return qp_fail(err, QP_ERR_STAGE, "block %lld came after block %lld", (long long)block, (long long)last);
    if (block == last && (step == 0 || step != order->step + 1))
        return qp_fail(err, QP_ERR_STAGE, "block %lld came twice", (long long)block);
    order->block = block;
    order->step = step;
    return 0;
}

static int take_end(const struct qp_unit_order *order, const struct qp_unit *unit, struct qp_error *err)
{
    int64_t counted = attribute(unit, "blocks", order->blocks);
    if (order->block != order->blocks)
        return qp_fail(err, QP_ERR_STAGE, "the end came after block %lld of %lld: %lld missing",
                       (long long)order->block, (long long)order->blocks, (long long)(order->blocks - order->block));
    if (counted != order->blocks)
        return qp_fail(err, QP_ERR_STAGE, "the end counts %lld blocks, the model has %lld", (long long)counted,
                       (long long)order->blocks);
    return 0;
}

int qp_unit_order_take(struct qp_unit_order *order, const struct qp_unit *unit, struct qp_error *err)
{
    int64_t last = order->seq;
    order->seq = unit->seq;
    if (last >= 0 && unit->seq != last + 1)
        return fail_missing("unit", unit->seq, last, err);
    if (unit->kind == QP_UNIT_MODEL) {
        order->blocks = attribute(unit, "blocks", -1);
        return last < 0 ? 0 : qp_fail(err, QP_ERR_STAGE, "a second model unit");
    }
    if (order->blocks < 0)
        return 0;
    return unit->kind == QP_UNIT_BLOCK ? take_block(order, unit, err) : take_end(order, unit, err);
}
