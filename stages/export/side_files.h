/* The files of a Hugging Face folder that are neither weights nor config.json: tokenizer, generation, chat template. */
#ifndef QUANTPIPE_STAGES_EXPORT_SIDE_FILES_H
#define QUANTPIPE_STAGES_EXPORT_SIDE_FILES_H

#include "libstage/base/error.h"

/* Copies them from the model folder `model`, those that are there; for a .gguf file makes tokenizer.json,
 * tokenizer_config.json and generation_config.json of its metadata. */
int qp_write_side_files(const char *model, const char *folder, struct qp_error *err);

#endif
