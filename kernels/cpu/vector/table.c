#include "kernels/cpu/vector/vector.h"

void QP_NAME(qp_kernels_fill)(struct qp_kernels *table)
{
    table->to_f32 = QP_NAME(qp_to_f32);
    table->from_f32 = QP_NAME(qp_from_f32);
    table->column_stats = QP_NAME(qp_column_stats);
    table->rms_norm = QP_NAME(qp_rms_norm);
    table->rms_norm_bf16 = QP_NAME(qp_rms_norm_bf16);
    table->layer_norm = QP_NAME(qp_layer_norm);
    table->layer_norm_bf16 = QP_NAME(qp_layer_norm_bf16);
    table->multiply = QP_NAME(qp_multiply);
    table->add_scaled = QP_NAME(qp_add_scaled);
    table->soft_cap = QP_NAME(qp_soft_cap);
    table->rope = QP_NAME(qp_rope);
    table->attention = QP_NAME(qp_attention);
    table->attention_bf16 = QP_NAME(qp_attention_bf16);
    table->gated = QP_NAME(qp_gated);
    table->gated_bf16 = QP_NAME(qp_gated_bf16);
    table->logits = QP_NAME(qp_logits);
    table->qparams = QP_NAME(qp_qparams);
    table->quantize = QP_NAME(qp_quantize);
    table->dequantize = QP_NAME(qp_dequantize);
    table->fake_quantize = QP_NAME(qp_fake_quantize);
    table->pack = QP_NAME(qp_pack);
    table->unpack = QP_NAME(qp_unpack);
    table->rtn = QP_NAME(qp_rtn);
    table->gptq_block = QP_NAME(qp_gptq_block);
    table->scale_search = QP_NAME(qp_scale_search);
    table->descent = QP_NAME(qp_descent);
    table->mirror = QP_NAME(qp_mirror);
}
