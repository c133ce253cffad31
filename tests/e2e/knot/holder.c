/* A stage that keeps all units back until the last has come, and does not say so. */
#include "libstage/include/stage.h"

enum { MOST = 64 };

struct state {
    struct qp_unit *kept[MOST];
    size_t count;
};

static const struct qp_port inputs[] = {{.name = "in", .help = "any units"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same units"}, {0}};

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    int r = 0;
    if (s->count == MOST) {
        qp_unit_free(unit);
        return qp_fail(err, QP_ERR_STAGE, "more than %d units", MOST);
    }
    bool last = unit->kind == QP_UNIT_END;
    s->kept[s->count++] = unit;
    for (size_t i = 0; last && i < s->count; i++) {
        unit = s->kept[i];
        s->kept[i] = NULL;
        if (r == 0)
            r = qp_stage_emit(stage, NULL, unit, err);
        else
            qp_unit_free(unit);
    }
    return r;
}

static void close_(struct qp_stage *stage, void *state)
{
    struct state *s = state;
    (void)stage;
    for (size_t i = 0; i < s->count; i++)
        qp_unit_free(s->kept[i]);
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "holder",
    .summary = "keeps all units back until the last has come",
    .version = 1,
    .state_size = sizeof(struct state),
    .inputs = inputs,
    .outputs = outputs,
    .process = process,
    .close = close_,
};
