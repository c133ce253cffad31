/* smooth is asked to end in the middle of its search. */
#include <criterion/criterion.h>

#include "tests/support/stops.h"

extern const struct qp_stage_desc qp_stage_desc;

Test(smooth_stop, within_a_site)
{
    stops_everywhere(&qp_stage_desc, 2, "{\"method\": \"log-equalization\", \"sites\": \"all\"}", NULL, NULL,
                     "{\"weights\": {\"format\": \"int4\", \"group\": 32}}", true);
}
