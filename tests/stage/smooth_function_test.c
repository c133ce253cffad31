/* smooth: scales between activations and weights leave the network as it is. */
#include <criterion/criterion.h>

#include "tests/support/function.h"

extern const struct qp_stage_desc qp_stage_desc;

Test(smooth_function, smoothquant_keeps_it)
{
    cr_expect_eq(function_is_kept(&qp_stage_desc, "\"int8\"", "{\"method\": \"smoothquant\", \"sites\": \"all\"}"),
                 FUNCTION_SITES);
    cr_expect_eq(function_is_kept(&qp_stage_desc, "\"int8\"",
                                  "{\"method\": \"smoothquant\", \"sites\": \"all\", \"alpha\": 0.9}"),
                 FUNCTION_SITES);
}

Test(smooth_function, log_equalization_keeps_it)
{
    cr_expect_eq(function_is_kept(&qp_stage_desc, "\"int8\"", "{\"method\": \"log-equalization\", \"sites\": \"all\"}"),
                 FUNCTION_SITES);
}
