/* Codes that are none of their number format. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "libstage/network/block_content.h"

/* Checks a matrix of 2 x 3 whose second row ends with `code`, with this scale and zero point of the second row. */
static int check(struct qp_number_format format, uint8_t code, float scale, int8_t zero, struct qp_error *err)
{
    uint8_t codes[6] = {0, 1, 0, 1, 0, code};
    float scales[2] = {1, scale};
    int8_t zeros[2] = {0, zero};
    struct qp_quantized q = {.format = format,
                             .rows = 2,
                             .cols = 3,
                             .group = 3,
                             .codes = codes,
                             .scale = scales,
                             .zero = format.symmetric ? NULL : zeros};
    return qp_codes_check(&q, "m", err);
}

static const struct qp_number_format int4 = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_F32};
static const struct qp_number_format int4_asym = {.codes = QP_I8, .bits = 4, .scale_dtype = QP_F32};

Test(codes, every_byte_of_every_format)
{
    static const struct {
        enum qp_dtype codes;
        int bits, good; /* of 256 bytes: counted from the formats' definitions */
    } formats[] = {{QP_I8, 2, 4},       {QP_I8, 3, 8},        {QP_I8, 4, 16},
                   {QP_I8, 8, 256},     {QP_F8_E4M3, 8, 254}, {QP_F8_E5M2, 8, 248},
                   {QP_F6_E2M3, 6, 64}, {QP_F6_E3M2, 6, 64},  {QP_F4_E2M1, 4, 16}};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct qp_number_format format = {
            .codes = formats[i].codes, .bits = formats[i].bits, .symmetric = true, .scale_dtype = QP_F32};
        int good = 0;
        for (int code = 0; code < 256; code++)
            good += check(format, (uint8_t)code, 1, 0, NULL) == 0;
        cr_expect_eq(good, formats[i].good, "%s of %d bits: %d", qp_dtype_name(formats[i].codes), formats[i].bits,
                     good);
    }
}

Test(codes, what_is_wrong_is_said)
{
    struct qp_error err;
    cr_expect_eq(check(int4, 8, 1, 0, &err), QP_ERR_STAGE);
    cr_expect_str_eq(err.message, "m: code [1, 2] is 8; INT4 has -8 to 7");
    cr_expect_eq(check(int4, 0xf7, 1, 0, &err), QP_ERR_STAGE);
    cr_expect_str_eq(err.message, "m: code [1, 2] is -9; INT4 has -8 to 7");
    struct qp_number_format fp8 = {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F32};
    cr_expect_eq(check(fp8, 0xff, 1, 0, &err), QP_ERR_STAGE);
    cr_expect_str_eq(err.message, "m: code [1, 2] is 0xff, which is no number of F8_E4M3");
    cr_expect_eq(check(int4, 7, NAN, 0, &err), QP_ERR_STAGE);
    cr_expect(strstr(err.message, "m: scale 1 is nan"), "%s", err.message);
    cr_expect_eq(check(int4, 7, INFINITY, 0, NULL), QP_ERR_STAGE);
    cr_expect_eq(check(int4, 7, -1, 0, NULL), QP_ERR_STAGE);
    cr_expect_eq(check(int4, 7, 0, 0, NULL), 0);
    cr_expect_eq(check(int4_asym, 7, 1, -8, NULL), 0);
    cr_expect_eq(check(int4_asym, 7, 1, 8, &err), QP_ERR_STAGE);
    cr_expect_str_eq(err.message, "m: zero point 1 is 8; INT4 has -8 to 7");
}
