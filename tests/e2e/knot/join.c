/* A stage that reads the same units from two inputs. */
#include "libstage/include/stage.h"

static const struct qp_port inputs[] = {{.name = "a", .help = "any units"}, {.name = "b", .help = "the same"}, {0}};

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    (void)stage;
    (void)state;
    (void)err;
    qp_unit_free(unit);
    return 0;
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "join",
    .summary = "reads the same units from two inputs",
    .version = 1,
    .inputs = inputs,
    .process = process,
};
