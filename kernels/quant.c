#include "kernels/quant.h"

float qp_grid_min(const struct qp_grid *grid)
{
    return grid->codes == QP_I8 ? (float)-(1 << (grid->bits - 1)) : -qp_grid_max(grid);
}

float qp_grid_max(const struct qp_grid *grid)
{
    switch ((int)grid->codes) {
    case QP_F8_E4M3:
        return 448;
    case QP_F8_E5M2:
        return 57344;
    case QP_F6_E2M3:
        return 7.5f;
    case QP_F6_E3M2:
        return 28;
    case QP_F4_E2M1:
        return 6;
    default:
        return (float)((1 << (grid->bits - 1)) - 1);
    }
}

float qp_grid_unit(const struct qp_grid *grid)
{
    return grid->codes == QP_I8 && grid->scale_dtype == QP_F8_E8M0 ? (float)(1 << (grid->bits - 2)) : 1;
}

float qp_scale_stored(const struct qp_grid *grid, float scale)
{
    return grid->scale_dtype == QP_F8_E4M3 ? scale * grid->global : scale * qp_grid_unit(grid);
}

enum qp_dtype qp_grid_storage(const struct qp_grid *grid)
{
    return grid->codes == QP_I8 || grid->codes == QP_F8_E4M3 || grid->codes == QP_F8_E5M2 ? grid->codes : QP_U8;
}
