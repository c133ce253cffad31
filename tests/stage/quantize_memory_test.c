/* quantize when memory runs out inside an operation. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/failure.h"
#include "kernels/scratch.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

/* The stage fails whichever workspace is missing, emits nothing that follows from it, and works again afterwards. */
static void fail_each(const char *params)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    for (int n = 0; n < 40; n += n < 8 ? 1 : 7) {
        tiny_units("\"int4\"", true, units);
        qp_scratch_fail_after(n);
        out = tiny_call(
            &qp_stage_desc,
            &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS, .expected = QP_ERR_SPACE},
            &count, NULL);
        qp_scratch_fail_after(-1);
        cr_expect(strstr(tiny_message, "out of memory"), "allocation %d: %s", n, tiny_message);
        cr_assert_null(out);
        cr_assert_not(qp_failure_is_set());
    }
    tiny_units("\"int4\"", true, units);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS}, &count,
                    NULL);
    cr_assert_eq(count, TINY_UNITS);
    tiny_free(out, count);
    free(out);
}

Test(quantize_memory, gptq_and_descent)
{
    fail_each("{\"method\": \"gptq\"}");
}

Test(quantize_memory, rounding_to_nearest_with_a_search)
{
    fail_each("{\"method\": \"rtn\", \"scales\": \"mse\"}");
}

Test(quantize_memory, low_rank)
{
    fail_each("{\"method\": \"gptq\", \"low_rank\": 4}");
}
