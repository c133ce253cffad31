/* search is asked to end in the middle of each method. */
#include <criterion/criterion.h>

#include "tests/support/stops.h"

extern const struct qp_stage_desc qp_stage_desc;

Test(search_stop, every_method)
{
    stops_everywhere(&qp_stage_desc, 16, "{\"method\": \"awq\", \"form\": \"both\"}", NULL, NULL,
                     "{\"weights\": {\"format\": \"int4\", \"group\": 32}}", true);
    stops_everywhere(&qp_stage_desc, 16, "{\"method\": \"joint\"}", NULL, NULL,
                     "{\"weights\": {\"format\": \"int4\", \"group\": 32}}", true);
    stops_everywhere(&qp_stage_desc, 16, "{\"method\": \"clip\", \"metric\": \"block\"}", NULL, NULL,
                     "{\"weights\": {\"format\": \"int4\", \"group\": 32}}", true);
}
