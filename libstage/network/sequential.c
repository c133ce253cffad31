#include "libstage/network/sequential.h"

int qp_sequential_steps(const struct qp_arch *arch, int64_t index)
{
    return index > 0 && index <= arch->layers ? qp_layer_type(arch, index - 1)->site_count : 1;
}

static int set(struct qp_unit *unit, const char *key, int64_t value, struct qp_error *err)
{
    return json_object_set_new(unit->attrs, key, json_integer(value)) < 0 ? qp_fail_memory(err, 0, key) : 0;
}

int qp_sequential_announce(const struct qp_arch *arch, struct qp_unit *model, struct qp_error *err)
{
    return set(model, "steps", qp_arch_most_sites(arch), err);
}

int qp_sequential_label(const struct qp_arch *arch, int step, struct qp_unit *unit, struct qp_error *err)
{
    int64_t number = unit->seq;
    for (int64_t block = 1; block < number - 1 && block <= arch->layers; block++) /* layers before this one */
        unit->seq += qp_sequential_steps(arch, block) - 1;
    unit->seq += step - 1;
    if (unit->kind != QP_UNIT_BLOCK)
        return 0;
    int r = set(unit, "block", number, err);
    return r == 0 && qp_sequential_steps(arch, number - 1) > 1 ? set(unit, "step", step, err) : r;
}

int qp_sequential_whole(const struct qp_arch *arch, const struct qp_unit *unit, struct qp_unit **out,
                        struct qp_error *err)
{
    const json_t *block = json_object_get(unit->attrs, "block"), *step = json_object_get(unit->attrs, "step");
    *out = NULL;
    if (step && json_integer_value(step) < qp_sequential_steps(arch, json_integer_value(block) - 1))
        return 0;
    int r = qp_unit_copy(unit, out, err);
    if (r < 0)
        return r;
    if (unit->kind == QP_UNIT_END)
        (*out)->seq = qp_arch_blocks(arch) + 1;
    else if (block)
        (*out)->seq = json_integer_value(block);
    json_object_del((*out)->attrs, "steps");
    json_object_del((*out)->attrs, "block");
    json_object_del((*out)->attrs, "step");
    return 0;
}
