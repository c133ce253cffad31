#include "kernels/cpu/amx/amx.h"

void qp_kernels_fill_amx(struct qp_kernels *table)
{
    table->linear_bf16 = qp_linear_bf16_amx;
    table->hessian_bf16 = qp_hessian_bf16_amx;
    table->attention_bf16 = qp_attention_bf16_amx;
    table->factor = qp_factor_amx;
    table->split_products = true;
    table->split_left = qp_split_left_amx;
    table->split_right = qp_split_right_amx;
    table->linear_split = qp_linear_split_amx;
}
