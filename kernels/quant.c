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
    default:
        return (float)((1 << (grid->bits - 1)) - 1);
    }
}

enum qp_dtype qp_grid_storage(const struct qp_grid *grid)
{
    return grid->codes == QP_I8 || grid->codes == QP_F8_E4M3 || grid->codes == QP_F8_E5M2 ? grid->codes : QP_U8;
}
