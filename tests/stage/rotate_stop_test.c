/* rotate is asked to end in the middle of a block. */
#include <criterion/criterion.h>

#include "tests/support/stops.h"

extern const struct qp_stage_desc qp_stage_desc;

Test(rotate_stop, within_a_block)
{
    stops_everywhere(&qp_stage_desc, 2, NULL, NULL, NULL, "{\"weights\": {\"format\": \"int4\", \"group\": 32}}",
                     false);
}
