#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/bf16/bf16.h"

void qp_kernels_fill_amx(struct qp_kernels *table)
{
    table->hessian_bf16 = qp_hessian_bf16_tiles;
    table->split_products = true;
    table->split_left = qp_split_left_amx;
    table->split_right = qp_split_right_amx;
    table->linear_split = qp_linear_split_amx;
}
