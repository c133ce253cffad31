#include "stages/export/side_files.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/gguf.h"
#include "libstage/tokenizer/tokenizer.h"

static const char *const copied[] = {"tokenizer.json",     "tokenizer_config.json",    "special_tokens_map.json",
                                     "added_tokens.json",  "tokenizer.model",          "vocab.json",
                                     "merges.txt",         "generation_config.json",   "chat_template.jinja",
                                     "chat_template.json", "preprocessor_config.json", "processor_config.json"};

static int copy_all(const char *model, const char *folder, struct qp_error *err)
{
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
        qp_auto_free char *from = qp_format("%s/%s", model, copied[i]);
        qp_auto_free char *to = qp_format("%s/%s", folder, copied[i]);
        if (!from || !to)
            return qp_fail_memory(err, 0, "a path");
        int r = qp_exists(from) ? qp_copy_file(from, to, err) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static int write_json(const char *folder, const char *name, const json_t *value, struct qp_error *err)
{
    qp_auto_free char *path = qp_format("%s/%s", folder, name);
    if (!path || !value)
        return qp_fail_memory(err, 0, name);
    return qp_write_json(path, value, err);
}

/* Sets `key` to the token that metadata's id `id_key` names; nothing when there is no such token. */
static void set_token(json_t *config, const char *key, const json_t *metadata, const char *id_key)
{
    const json_t *id = json_object_get(metadata, id_key);
    json_t *tokens = json_object_get(metadata, "tokenizer.ggml.tokens");
    json_t *token = json_is_integer(id) ? json_array_get(tokens, (size_t)json_integer_value(id)) : NULL;
    if (token)
        json_object_set(config, key, token);
}

static json_t *tokenizer_config(const json_t *metadata)
{
    json_t *config =
        json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", 0);
    set_token(config, "bos_token", metadata, "tokenizer.ggml.bos_token_id");
    set_token(config, "eos_token", metadata, "tokenizer.ggml.eos_token_id");
    set_token(config, "pad_token", metadata, "tokenizer.ggml.padding_token_id");
    set_token(config, "unk_token", metadata, "tokenizer.ggml.unknown_token_id");
    json_t *chat = json_object_get(metadata, "tokenizer.chat_template");
    if (json_is_string(chat))
        json_object_set(config, "chat_template", chat);
    const json_t *architecture = json_object_get(metadata, "general.architecture");
    qp_auto_free char *length = qp_format("%s.context_length", json_string_value(architecture));
    json_t *context = length ? json_object_get(metadata, length) : NULL;
    if (json_is_integer(context))
        json_object_set(config, "model_max_length", context);
    return config;
}

static json_t *generation_config(const json_t *metadata)
{
    static const struct {
        const char *key, *from;
    } ids[] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"},
               {"eos_token_id", "tokenizer.ggml.eos_token_id"},
               {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
    json_t *config = json_object();
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        json_t *id = json_object_get(metadata, ids[i].from);
        if (json_is_integer(id))
            json_object_set(config, ids[i].key, id);
    }
    return config;
}

static int from_gguf(const char *model, const char *folder, struct qp_error *err)
{
    struct qp_gguf *file;
    json_t *made = NULL;
    int r = qp_gguf_open(model, &file, err);
    if (r < 0)
        return r;
    bool tokens = json_object_get(file->metadata, "tokenizer.ggml.model");
    r = tokens ? qp_tokenizer_from_gguf(file, &made, err) : 0;
    qp_auto_json json_t *tokenizer = made;
    qp_auto_json json_t *config = tokenizer_config(file->metadata);
    qp_auto_json json_t *generation = generation_config(file->metadata);
    if (r == 0 && tokens)
        r = write_json(folder, "tokenizer.json", tokenizer, err);
    if (r == 0 && tokens)
        r = write_json(folder, "tokenizer_config.json", config, err);
    if (r == 0)
        r = write_json(folder, "generation_config.json", generation, err);
    qp_gguf_close(file);
    return r;
}

int qp_write_side_files(const char *model, const char *folder, struct qp_error *err)
{
    return qp_is_folder(model) ? copy_all(model, folder, err) : from_gguf(model, folder, err);
}
