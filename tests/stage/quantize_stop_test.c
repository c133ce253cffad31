/* quantize is asked to end in the middle of each method. */
#include <criterion/criterion.h>

#include "tests/support/stops.h"

extern const struct qp_stage_desc qp_stage_desc;

Test(quantize_stop, gptq_and_descent)
{
    stops_everywhere(&qp_stage_desc, 16, "{\"method\": \"gptq\", \"block\": 16, \"refit\": true}", NULL, NULL,
                     "{\"weights\": {\"format\": \"int4\", \"group\": 32}}", true);
}

Test(quantize_stop, rounding_with_a_search_of_scales)
{
    stops_everywhere(&qp_stage_desc, 16, "{\"method\": \"rtn\", \"scales\": \"mse\"}", NULL, NULL,
                     "{\"weights\": {\"format\": \"int4\", \"group\": 32}}", true);
}

Test(quantize_stop, low_rank_in_rounds)
{
    stops_everywhere(&qp_stage_desc, 16, "{\"method\": \"gptq\", \"low_rank\": 4, \"low_rank_rounds\": 3}", NULL, NULL,
                     "{\"weights\": {\"format\": \"int4\", \"group\": 32}}", true);
}
