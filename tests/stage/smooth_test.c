/* smooth: SmoothQuant's scales by the formula, folded where they belong. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

static const float *find(const struct qp_unit *unit, const char *name)
{
    struct qp_tensor *t = qp_unit_find(unit, name);
    cr_assert_not_null(t, "%s is missing", name);
    return t->data;
}

Test(smooth, scales_follow_the_formula)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    const double alpha = 0.75;
    tiny_units("\"int8\"", true, units);
    out = tiny_call(&qp_stage_desc, "{\"method\": \"smoothquant\", \"alpha\": 0.75}", NULL, NULL, units, TINY_UNITS, 0,
                    &count, NULL);
    const float *fold = find(out[2], "model.layers.0.mlp_in.fold");
    const float *absmax = find(out[2], "model.layers.0.mlp_in.absmax");
    const float *gate = find(out[2], "model.layers.0.mlp.gate_proj.weight");
    const float *up = find(out[2], "model.layers.0.mlp.up_proj.weight");
    for (int j = 0; j < TINY_HIDDEN; j++) {
        double w = 0.0;
        for (int r = 0; r < TINY_FFN; r++)
            w = fmax(w, fmax(fabs(gate[r * TINY_HIDDEN + j]), fabs(up[r * TINY_HIDDEN + j])));
        double expected = pow(absmax[j], alpha) / pow(w, 1.0 - alpha);
        cr_expect_lt(fabs(fold[j] / expected - 1.0), 1e-5, "channel %d: %g, expected %g", j, fold[j], expected);
    }
    tiny_free(out, count);
    free(out);
}

Test(smooth, touches_only_sites_behind_norms)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", true, units);
    out = tiny_call(&qp_stage_desc, "{\"method\": \"smoothquant\"}", NULL, NULL, units, TINY_UNITS, 0, &count, NULL);
    cr_expect_not_null(qp_unit_find(out[3], "model.layers.1.attn_in.fold"));
    cr_expect_null(qp_unit_find(out[3], "model.layers.1.attn_out.fold"));
    cr_expect_null(qp_unit_find(out[3], "model.layers.1.mlp_out.fold"));
    tiny_free(out, count);
    free(out);
}

Test(smooth, none_passes_everything_as_it_is)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", false, units);
    out = tiny_call(&qp_stage_desc, NULL, NULL, NULL, units, TINY_UNITS, 0, &count, NULL);
    cr_assert_eq(count, TINY_UNITS);
    cr_expect_null(qp_unit_find(out[2], "model.layers.0.attn_in.fold"));
    tiny_free(out, count);
    free(out);
}
