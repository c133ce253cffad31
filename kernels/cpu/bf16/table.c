#include "kernels/cpu/bf16/bf16.h"

void qp_kernels_fill_bf16(struct qp_kernels *table)
{
    table->bf16 = true;
    table->linear_bf16 = qp_linear_bf16_cpu;
    table->hessian_bf16 = qp_hessian_bf16_pairs;
    table->attention_bf16 = qp_attention_bf16_pairs;
}
