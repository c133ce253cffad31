/* search: AWQ finds a planted outlier channel, and never makes a site worse. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

#define INT4_G32 "{\"weights\": {\"format\": \"int4\", \"group\": 32}}"
enum { OUTLIER = 11 };

/* Makes channel OUTLIER of a site 30 times as loud as it was, in all statistics. */
static void plant_outlier(struct qp_unit *unit, const char *site)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.0.%s.second_moment", site);
    struct qp_tensor *h = qp_unit_find(unit, name);
    int64_t n = h->shape[0];
    for (int64_t i = 0; i < n; i++) {
        ((float *)h->data)[OUTLIER * n + i] *= 30.0f;
        ((float *)h->data)[i * n + OUTLIER] *= 30.0f;
    }
    snprintf(name, sizeof name, "model.layers.0.%s.absmean", site);
    ((float *)qp_unit_find(unit, name)->data)[OUTLIER] *= 30.0f;
}

Test(search, awq_protects_a_loud_channel)
{
    const char *forms[] = {"plain", "duo", "both"};
    for (int f = 0; f < 3; f++) {
        struct qp_unit *units[TINY_UNITS], **out;
        size_t count;
        char params[128];
        snprintf(params, sizeof params, "{\"method\": \"awq\", \"form\": \"%s\"}", forms[f]);
        tiny_units(INT4_G32, true, units);
        plant_outlier(units[2], "mlp_in");
        out = tiny_call(&qp_stage_desc, params, NULL, NULL, units, TINY_UNITS, 0, &count, NULL);
        struct qp_tensor *fold = qp_unit_find(out[2], "model.layers.0.mlp_in.fold");
        cr_assert_not_null(fold, "%s: no scales were found", forms[f]);
        const float *s = fold->data;
        for (int64_t i = 0; i < fold->elements; i++)
            cr_expect(i == OUTLIER || s[i] < s[OUTLIER], "%s: channel %lld has %g, the loud one %g", forms[f],
                      (long long)i, s[i], s[OUTLIER]);
        tiny_free(out, count);
        free(out);
    }
}

Test(search, heads_that_share_value_rows_get_one_scale)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT4_G32, true, units);
    plant_outlier(units[2], "attn_out");
    out = tiny_call(&qp_stage_desc, "{\"method\": \"awq\"}", NULL, NULL, units, TINY_UNITS, 0, &count, NULL);
    struct qp_tensor *fold = qp_unit_find(out[2], "model.layers.0.attn_out.fold");
    cr_assert_not_null(fold);
    const float *s = fold->data; /* heads 0 and 1 read value head 0, heads 2 and 3 value head 1; 16 channels each */
    for (int pair = 0; pair < 2; pair++)
        for (int d = 0; d < 16; d++)
            cr_expect_float_eq(s[pair * 32 + d], s[pair * 32 + 16 + d], 1e-6f);
    cr_expect_gt(s[OUTLIER], 1.0f);
    tiny_free(out, count);
    free(out);
}

Test(search, none_passes_everything_as_it_is)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT4_G32, false, units);
    out = tiny_call(&qp_stage_desc, NULL, NULL, NULL, units, TINY_UNITS, 0, &count, NULL);
    cr_assert_eq(count, TINY_UNITS);
    cr_expect_null(qp_unit_find(out[2], "model.layers.0.mlp_in.fold"));
    tiny_free(out, count);
    free(out);
}
