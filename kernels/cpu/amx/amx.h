/* Functions that use the tiles of AMX themselves. */
#ifndef QUANTPIPE_KERNELS_AMX_H
#define QUANTPIPE_KERNELS_AMX_H

#include "kernels/cpu/vector/vector.h"

qp_linear_bf16_fn qp_linear_bf16_amx;
qp_hessian_bf16_fn qp_hessian_bf16_amx;
qp_attention_bf16_fn qp_attention_bf16_amx;
qp_cholesky_fn qp_factor_amx;
qp_split_left_fn qp_split_left_amx;
qp_split_right_fn qp_split_right_amx;
qp_linear_split_fn qp_linear_split_amx;

#endif
