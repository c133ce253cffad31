#include "libstage/network/turns.h"

int qp_turns_of(const struct qp_arch *arch, int64_t index)
{
    return index > 0 && index <= arch->layers ? qp_layer_type(arch, index - 1)->site_count : 1;
}

static int set(struct qp_unit *unit, const char *key, int64_t value, struct qp_error *err)
{
    return json_object_set_new(unit->attrs, key, json_integer(value)) < 0 ? qp_fail_memory(err, 0, key) : 0;
}

int qp_turns_announce(const struct qp_arch *arch, struct qp_unit *model, struct qp_error *err)
{
    return set(model, "turns", qp_arch_most_sites(arch), err);
}

int qp_turns_label(const struct qp_arch *arch, int turn, struct qp_unit *unit, struct qp_error *err)
{
    int64_t number = unit->seq;
    for (int64_t block = 1; block < number - 1 && block <= arch->layers; block++) /* layers before this one */
        unit->seq += qp_turns_of(arch, block) - 1;
    unit->seq += turn - 1;
    if (unit->kind != QP_UNIT_BLOCK)
        return 0;
    int r = set(unit, "block", number, err);
    return r == 0 && qp_turns_of(arch, number - 1) > 1 ? set(unit, "turn", turn, err) : r;
}

int qp_turns_whole(const struct qp_arch *arch, const struct qp_unit *unit, struct qp_unit **out, struct qp_error *err)
{
    const json_t *block = json_object_get(unit->attrs, "block"), *turn = json_object_get(unit->attrs, "turn");
    *out = NULL;
    if (turn && json_integer_value(turn) < qp_turns_of(arch, json_integer_value(block) - 1))
        return 0;
    int r = qp_unit_copy(unit, out, err);
    if (r < 0)
        return r;
    if (unit->kind == QP_UNIT_END)
        (*out)->seq = qp_arch_blocks(arch) + 1;
    else if (block)
        (*out)->seq = json_integer_value(block);
    json_object_del((*out)->attrs, "turns");
    json_object_del((*out)->attrs, "block");
    json_object_del((*out)->attrs, "turn");
    return 0;
}
