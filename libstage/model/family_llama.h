/* The Llama family: Llama 2 and 3, SmolLM2, Mistral and whatever else has the same block. */
#ifndef QUANTPIPE_MODEL_FAMILY_LLAMA_H
#define QUANTPIPE_MODEL_FAMILY_LLAMA_H

#include "libstage/model/arch.h"

extern const struct qp_family qp_family_llama, qp_family_mistral;

#endif
