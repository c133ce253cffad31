/* A multimodal model: its text part is quantized under the names that checkpoints have for it, the rest is copied. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/network/checkpoint.h"
#include "tests/support/runs.h"

#define GEMMA SOURCE_DIR "/tests/unit/golden/families/gemma3"
#define MISTRAL SOURCE_DIR "/tests/unit/golden/families/mistral3"

TestSuite(multimodal, .init = runs_make, .fini = scratch_drop);

static bool lists(const json_t *array, const char *word)
{
    size_t i;
    const json_t *value;
    json_array_foreach((json_t *)array, i, value)
        if (strcmp(json_string_value(value), word) == 0)
            return true;
    return false;
}

Test(multimodal, other_parts_are_copied_and_left_alone_by_engines, .timeout = 300)
{
    struct qp_error err;
    struct qp_checkpoint *source, *output;
    const char *path = scratch("out");
    run_well(WORDS(QUANTPIPE, "run", "--default", "--model", GEMMA, "--output", path, "--scheme", "int8"));
    cr_assert_eq(qp_checkpoint_open(GEMMA, &source, &err), 0, "%s", err.message);
    cr_assert_eq(qp_checkpoint_open(path, &output, &err), 0, "%s", err.message);
    for (size_t i = 0; i < source->safetensors->count; i++) {
        const char *name = source->safetensors->tensors[i]->name;
        if (strncmp(name, "language_model.", strlen("language_model.")) != 0)
            cr_expect(runs_same_tensor(GEMMA, path, name), "%s", name);
    }
    cr_expect_not_null(
        qp_safetensors_find(output->safetensors, "language_model.model.layers.1.mlp.up_proj.weight_scale"));
    cr_expect_not_null(qp_checkpoint_find(output, "model.language_model.layers.1.mlp.up_proj.weight_scale"));
    const json_t *ignore = json_object_get(json_object_get(output->config, "quantization_config"), "ignore");
    cr_expect(lists(ignore, "lm_head") && lists(ignore, "re:.*vision_tower.*") &&
              lists(ignore, "re:.*multi_modal_projector.*"));
    cr_expect_not_null(json_object_get(output->config, "vision_config"));
    qp_checkpoint_close(source);
    qp_checkpoint_close(output);
}

/* transformers' class ties by default, the file has a head: both configurations say so then. */
Test(multimodal, a_head_in_the_file_is_not_tied, .timeout = 300)
{
    struct qp_error err;
    char *config;
    size_t size;
    json_t *written;
    cr_assert_eq(qp_read_file(MISTRAL "/config.json", 1 << 16, &config, &size, &err), 0, "%s", err.message);
    char *said = strstr(config, "\"tie_word_embeddings\": false");
    cr_assert(said);
    memcpy(said, "\"tie_word_embeddings\": true ", strlen("\"tie_word_embeddings\": true "));
    scratch_write("config.json", config, size);
    free(config);
    cr_assert_eq(qp_copy_file(MISTRAL "/model.safetensors", scratch("model.safetensors"), &err), 0, "%s", err.message);
    run_well(
        WORDS(QUANTPIPE, "run", "--default", "--model", scratch(""), "--output", scratch("out"), "--scheme", "int8"));
    cr_assert_eq(qp_read_json(scratch("out/config.json"), 1 << 20, &written, &err), 0, "%s", err.message);
    cr_expect(json_is_false(json_object_get(written, "tie_word_embeddings")));
    cr_expect(json_is_false(json_object_get(json_object_get(written, "text_config"), "tie_word_embeddings")));
    cr_expect(runs_same_tensor(MISTRAL, scratch("out"), "language_model.lm_head.weight"));
    json_decref(written);
}
