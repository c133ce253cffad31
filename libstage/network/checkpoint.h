/* A model on disk, whatever its format: its architecture, its tensors under Hugging Face names, block by block. */
#ifndef QUANTPIPE_NETWORK_CHECKPOINT_H
#define QUANTPIPE_NETWORK_CHECKPOINT_H

#include "libstage/formats/gguf.h"
#include "libstage/formats/safetensors.h"
#include "libstage/network/arch.h"
#include "libstage/tensor/scheme/scheme.h"
#include "libstage/tensor/unit.h"

/* Corrections of low rank lie in a folder of the checkpoint's, as a LoRA adapter of PEFT; names of its tensors by
 * module and "A" or "B". */
#define QP_ADAPTER_FOLDER "low_rank"
#define QP_ADAPTER_CONFIG "adapter_config.json"
#define QP_ADAPTER_TENSORS "adapter_model.safetensors"
#define QP_ADAPTER_NAME "base_model.model.%s.lora_%s.weight"

struct qp_checkpoint {
    char *path;
    struct qp_arch arch;
    json_t *config;                     /* config.json; for GGUF what it would have been */
    struct qp_safetensors *safetensors; /* one of these two */
    struct qp_gguf *gguf;
    bool gpt2;                      /* safetensors of a GPT-2, read as OPT; arch and config are OPT's */
    struct qp_scheme *scheme;       /* how the checkpoint itself is quantized (compressed-tensors), or NULL */
    struct qp_safetensors *adapter; /* its corrections of low rank, or NULL */
};

/* Opens a Hugging Face folder (config.json and safetensors) or a .gguf file and checks that every tensor that the
 * architecture needs is there with the right shape and a known dtype. The dtype that the embedding is stored in becomes
 * arch.dtype and the config's, whatever config.json says. GGUF: arch.dtype is BF16 unless all its matrices
 * are F16 or F32. */
int qp_checkpoint_open(const char *path, struct qp_checkpoint **out, struct qp_error *err);
void qp_checkpoint_close(struct qp_checkpoint *checkpoint); /* NULL is accepted */

/* The tensor of a folder that has a module's name and ".weight", ".weight_scale" ...; NULL: there is none. Its own name
 * is the stored one. */
struct qp_tensor *qp_checkpoint_find(const struct qp_checkpoint *checkpoint, const char *name);

/* A tensor by its Hugging Face name, a new reference. From safetensors a view of the mapped file. From GGUF a new
 * tensor of arch.dtype, dequantized, q and k unpermuted. A weight that is stored quantized comes dequantized to F32.
 * `allocator` (NULL: heap) gives what has to be computed its memory. */
int qp_checkpoint_tensor(struct qp_checkpoint *checkpoint, const char *name, const struct qp_allocator *allocator,
                         struct qp_tensor **out, struct qp_error *err);

/* The unit of block `index` (0 the embedding, layers + 1 the head) with all its tensors; see network/block.h. A tied
 * head carries the embedding's tensor under its own name. */
int qp_checkpoint_block(struct qp_checkpoint *checkpoint, int64_t index, const struct qp_allocator *allocator,
                        struct qp_unit **out, struct qp_error *err);

/* The path of what qp_tokenizer_open reads, tokenizer.json or the .gguf, in new memory; NULL when the model has no
 * tokenizer. */
int qp_checkpoint_tokenizer(const struct qp_checkpoint *checkpoint, char **out, struct qp_error *err);

/* The model unit: attributes `path`, `config`, `tokenizer` (qp_checkpoint_tokenizer, or null), `scheme`
 * (scheme->source), `blocks`; no tensors. */
int qp_checkpoint_model(struct qp_checkpoint *checkpoint, const struct qp_scheme *scheme, struct qp_unit **out,
                        struct qp_error *err);

/* Checks a scheme against every linear of an architecture (qp_scheme_check), that linears of one site agree on its
 * activations, and that the head is ignored, so that nothing fails halfway. */
int qp_scheme_check_model(const struct qp_scheme *scheme, const struct qp_arch *arch, struct qp_error *err);

#endif
