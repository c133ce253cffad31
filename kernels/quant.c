#include "kernels/quant.h"

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
