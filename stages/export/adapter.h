/* Low-rank corrections beside a checkpoint, as what PEFT calls a LoRA adapter, which engines load beside a quantized
 * model: OUTPUT/low_rank with adapter_config.json (r = lora_alpha, so that they are added as they are) and
 * adapter_model.safetensors (base_model.model.MODULE.lora_A.weight [R, in], .lora_B.weight [out, R]). */
#ifndef QUANTPIPE_STAGES_EXPORT_ADAPTER_H
#define QUANTPIPE_STAGES_EXPORT_ADAPTER_H

#include "libstage/network/block.h"
#include "libstage/tensor/digest.h"

struct qp_adapter;

/* `folder`: of the checkpoint. Nothing is written before the first correction is put. */
int qp_adapter_new(const char *folder, const struct qp_arch *arch, struct qp_adapter **out, struct qp_error *err);
void qp_adapter_free(struct qp_adapter *adapter); /* NULL is accepted */

/* Writes the linear's factors, if it has any; all have to have the same rank. */
int qp_adapter_put(struct qp_adapter *adapter, const struct qp_block *block, int linear, struct qp_digest *digest,
                   struct qp_error *err);

/* Completes the adapter. *rank: 0 when there was nothing to write; *bytes: of its tensors. */
int qp_adapter_finish(struct qp_adapter *adapter, int64_t *rank, uint64_t *bytes, struct qp_error *err);

#endif
