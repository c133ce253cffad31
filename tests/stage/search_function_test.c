/* search: scales for weights leave the network as it is. */
#include <criterion/criterion.h>

#include "tests/support/function.h"

extern const struct qp_stage_desc qp_stage_desc;

#define INT4_G32 "{\"weights\": {\"format\": \"int4\", \"group\": 32}}"

Test(search_function, awq_keeps_it_in_all_forms)
{
    cr_expect_eq(
        function_is_kept(&qp_stage_desc, INT4_G32, "{\"method\": \"awq\", \"form\": \"plain\", \"clip\": false}"),
        FUNCTION_SITES);
    cr_expect_eq(
        function_is_kept(&qp_stage_desc, INT4_G32, "{\"method\": \"awq\", \"form\": \"duo\", \"clip\": false}"),
        FUNCTION_SITES);
    cr_expect_eq(
        function_is_kept(&qp_stage_desc, INT4_G32, "{\"method\": \"awq\", \"form\": \"both\", \"clip\": false}"),
        FUNCTION_SITES);
}

Test(search_function, awq_with_clipped_ranges_keeps_it)
{
    cr_expect_gt(function_is_kept(&qp_stage_desc, INT4_G32, "{\"method\": \"awq\"}"), 0);
}

Test(search_function, joint_keeps_it)
{
    cr_expect_eq(function_is_kept(&qp_stage_desc, INT4_G32, "{\"method\": \"joint\"}"), FUNCTION_SITES);
}
