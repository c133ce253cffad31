/* calibrate is asked to end in the middle of its text. */
#include <criterion/criterion.h>

#include "tests/support/stops.h"

extern const struct qp_stage_desc qp_stage_desc;

#define CONTEXT "{\"data\": {\"synthetic\": true, \"samples\": 40, \"length\": 128, \"seed\": 3}}"

Test(calibrate_stop, within_a_layer)
{
    static const char *const wants[] = {"hessian", "absmax", NULL};
    stops_everywhere(&qp_stage_desc, 16, "{\"compute\": \"fp32\"}", CONTEXT, wants,
                     "{\"weights\": {\"format\": \"int4\", \"group\": 32}}", false);
}
