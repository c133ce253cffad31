/* What search says of its work and adds to blocks. */
#include <criterion/criterion.h>

#include "tests/support/estimates.h"

static json_t *provides_of(json_t *params)
{
    struct qp_error err = {0};
    json_t *answer = NULL, *question = estimate_question(params, NULL, json_pack("[s]", "hessian"), 8);
    cr_assert_eq(qp_stage_estimate(&qp_stage_desc, question, &answer, &err), 0, "%s", err.message);
    json_t *provides = json_incref(json_object_get(answer, "provides"));
    json_decref(answer);
    json_decref(question);
    return provides;
}

Test(search_estimate, adds_folds_and_scales)
{
    static const struct {
        const char *method;
        int clip;
        const char *names;
    } rows[] = {{"none", 1, ""}, {"awq", 0, "folds "}, {"awq", 1, "folds scales "}, {"clip", 0, "scales "}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *provides = provides_of(json_pack("{s:s, s:b}", "method", rows[i].method, "clip", rows[i].clip));
        char names[64] = "";
        size_t n;
        json_t *name;
        json_array_foreach(provides, n, name)
            strcat(strcat(names, json_string_value(name)), " ");
        cr_expect_str_eq(names, rows[i].names, "%s, %d", rows[i].method, rows[i].clip);
        json_decref(provides);
    }
}

Test(search_estimate, none_does_nothing)
{
    struct qp_estimate e = estimate_of(estimate_question(json_pack("{s:s}", "method", "none"), NULL, NULL, 8));
    cr_expect(e.work_known);
    cr_expect_eq(e.work.bytes_read + e.work.operations[QP_WORK_GEMM], 0);
}
