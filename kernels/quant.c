#include "kernels/quant.h"

float qp_format_unit(const struct qp_number_format *format)
{
    return format->codes == QP_I8 && format->scale_dtype == QP_F8_E8M0 ? (float)(1 << (format->bits - 2)) : 1;
}

float qp_scale_stored(const struct qp_number_format *format, float scale)
{
    return format->scale_dtype == QP_F8_E4M3 ? scale * format->global : scale * qp_format_unit(format);
}

enum qp_dtype qp_format_storage(const struct qp_number_format *format)
{
    return format->codes == QP_I8 || format->codes == QP_F8_E4M3 || format->codes == QP_F8_E5M2 ? format->codes : QP_U8;
}
