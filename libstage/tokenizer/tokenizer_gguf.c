/* The tokenizer.json that GGUF metadata describes. Keys and token types: the GGUF specification; what a name under
 * tokenizer.ggml.pre means, and the defaults of missing keys: llama.cpp's src/llama-vocab.cpp. */
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/tokenizer/tokenizer.h"
#include "libstage/tokenizer/tokenizer_merges.h"

enum token_type { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4 };

struct source {
    const struct qp_gguf *file;
    const json_t *tokens, *types; /* types may be NULL: all normal */
    bool sentencepiece;
    const struct pre *pre; /* NULL for sentencepiece */
    struct qp_error *err;
};

/* What tokenizer.ggml.pre stands for. */
struct pre {
    const char *names;          /* separated by spaces */
    const char *digits;         /* "each": Digits, one by one, before ByteLevel with GPT-2's expression */
    const char *pattern;        /* NULL: GPT-2's; otherwise what the Split before ByteLevel isolates */
    bool nfc, bos, whole_words; /* normalizer, default of add_bos_token, ignore_merges */
};

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LETTERS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct pre pres[] = {
    {"default gpt-2 gpt2 phi-2 mpt olmo jais", NULL, NULL, false, false, false},
    {"smollm starcoder refact command-r", "each", NULL, false, false, false},
    {"llama-bpe llama3 llama-v3", NULL, CONTRACTIONS LETTERS "\\p{N}{1,3}" REST, false, true, true},
    {"dbrx smaug-bpe", NULL, CONTRACTIONS LETTERS "\\p{N}{1,3}" REST, false, false, false},
    {"qwen2 deepseek-r1-qwen", NULL, CONTRACTIONS LETTERS "\\p{N}" REST, true, false, false},
};

static int fail(const struct source *in, const char *key, const char *what)
{
    return qp_fail(in->err, QP_ERR_INPUT, "%s:tokenizer.ggml.%s: %s", in->file->path, key, what);
}

static const json_t *get(const struct source *in, const char *key)
{
    char name[64] = "tokenizer.ggml.";
    strncat(name, key, sizeof name - strlen(name) - 1);
    return json_object_get(in->file->metadata, name);
}

static int get_bool(const struct source *in, const char *key, bool missing, bool *out)
{
    const json_t *value = get(in, key);
    *out = value ? json_is_true(value) : missing;
    return !value || json_is_boolean(value) ? 0 : fail(in, key, "must be true or false");
}

/* The token that `key` names, or `missing` (NULL for none). */
static int get_token(const struct source *in, const char *key, json_int_t missing, json_int_t *id, const char **out)
{
    const json_t *value = get(in, key);
    *id = value ? json_integer_value(value) : missing;
    *out = json_string_value(json_array_get(in->tokens, (size_t)*id));
    if ((value && !json_is_integer(value)) || *id < 0 || !*out)
        return fail(in, key, value ? "must be the id of a token" : "is missing");
    return 0;
}

static bool has_name(const char *names, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = names; n > 0 && (at = strstr(at, name)); at += n)
        if ((at == names || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return true;
    return false;
}

static int find_pre(struct source *in)
{
    const json_t *value = get(in, "pre");
    const char *name = value ? json_string_value(value) : "default";
    for (size_t i = 0; name && i < sizeof pres / sizeof *pres; i++)
        if (has_name(pres[i].names, name)) {
            in->pre = &pres[i];
            return 0;
        }
    return qp_fail(
        in->err, QP_ERR_INPUT,
        "%s:tokenizer.ggml.pre: \"%.100s\" is not supported; these are: %s %s %s %s %s; put a tokenizer.json "
        "beside the model",
        in->file->path, name ? name : "?", pres[0].names, pres[1].names, pres[2].names, pres[3].names, pres[4].names);
}

static int read_source(struct source *in)
{
    const char *model = json_string_value(get(in, "model"));
    in->sentencepiece = model && strcmp(model, "llama") == 0;
    if (!in->sentencepiece && (!model || strcmp(model, "gpt2") != 0))
        return qp_fail(in->err, QP_ERR_INPUT,
                       "%s:tokenizer.ggml.model: \"%.100s\" is not supported; these are: gpt2, llama", in->file->path,
                       model ? model : "none");
    in->tokens = get(in, "tokens");
    in->types = get(in, "token_type");
    if (!json_is_array(in->tokens) || json_array_size(in->tokens) == 0 || json_array_size(in->tokens) > INT32_MAX)
        return fail(in, "tokens", "must be a list of strings, and not empty");
    if (in->types && (!json_is_array(in->types) || json_array_size(in->types) != json_array_size(in->tokens)))
        return fail(in, "token_type", "must be a list as long as tokens");
    return in->sentencepiece ? 0 : find_pre(in);
}

static json_int_t type_of(const struct source *in, size_t id)
{
    return in->types ? json_integer_value(json_array_get(in->types, id)) : NORMAL;
}

static int make_vocabulary(const struct source *in, json_t *vocabulary)
{
    for (size_t id = 0; id < json_array_size(in->tokens); id++) {
        const char *token = json_string_value(json_array_get(in->tokens, id));
        if (!token)
            return fail(in, "tokens", "must be a list of strings, and not empty");
        if (json_object_get(vocabulary, token))
            return qp_fail(in->err, QP_ERR_INPUT, "%s:tokenizer.ggml.tokens: token %zu, \"%.100s\", is there twice",
                           in->file->path, id, token);
        if (json_object_set_new(vocabulary, token, json_integer((json_int_t)id)) < 0)
            return qp_fail_memory(in->err, 0, "a vocabulary");
    }
    return 0;
}

static int make_added(const struct source *in, json_t *added)
{
    for (size_t id = 0; id < json_array_size(in->tokens); id++) {
        json_int_t type = type_of(in, id);
        if (type != UNKNOWN && type != CONTROL && type != USER_DEFINED)
            continue;
        json_t *token = json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
                                  json_array_get(in->tokens, id), "single_word", 0, "lstrip", 0, "rstrip", 0,
                                  "normalized", 0, "special", type != USER_DEFINED);
        if (json_array_append_new(added, token) < 0)
            return qp_fail_memory(in->err, 0, "added tokens");
    }
    return 0;
}

/* Merges that make normal tokens of normal ones, by score. */
static int make_scored_merges(const struct source *in, const json_t *vocabulary, json_t *merges)
{
    const json_t *scores = get(in, "scores");
    size_t count = json_array_size(in->tokens);
    if (!json_is_array(scores) || json_array_size(scores) != count)
        return fail(in, "scores", "must be a list as long as tokens");
    struct qp_scored *pieces = calloc(count, sizeof *pieces);
    if (!pieces)
        return qp_fail_memory(in->err, count * sizeof *pieces, "merges");
    int r = 0;
    for (size_t id = 0; r == 0 && id < count; id++) {
        const json_t *token = json_array_get(in->tokens, id), *score = json_array_get(scores, id);
        if (!json_is_number(score))
            r = fail(in, "scores", "must be numbers");
        pieces[id] = (struct qp_scored){json_string_value(token), json_string_length(token), json_number_value(score),
                                        type_of(in, id) == NORMAL};
    }
    if (r == 0) {
        r = qp_merges_from_scores(pieces, count, vocabulary, merges, in->err);
        if (r < 0 && in->err)
            qp_wrap(in->err, "%s:tokenizer.ggml.tokens", in->file->path);
    }
    free(pieces);
    return r;
}

static json_t *special_item(const char *token)
{
    return json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", token, "type_id", 0);
}

/* BOS and EOS around a text, as the file's flags say; null when there is neither. */
static int make_template(const struct source *in, json_t **out)
{
    bool bos, eos;
    json_int_t bos_id = 0, eos_id = 0;
    const char *first = NULL, *last = NULL;
    int r = get_bool(in, "add_bos_token", in->sentencepiece || in->pre->bos, &bos);
    if (r == 0)
        r = get_bool(in, "add_eos_token", false, &eos);
    if (r == 0 && bos)
        r = get_token(in, "bos_token_id", in->sentencepiece ? 1 : -1, &bos_id, &first);
    if (r == 0 && eos)
        r = get_token(in, "eos_token_id", in->sentencepiece ? 2 : -1, &eos_id, &last);
    if (r < 0)
        return r;
    if (!bos && !eos) {
        *out = json_null();
        return 0;
    }
    json_t *single = json_array(), *special = json_object();
    if (bos) {
        json_array_append_new(single, special_item(first));
        json_object_set_new(special, first,
                            json_pack("{s:s, s:[I], s:[s]}", "id", first, "ids", bos_id, "tokens", first));
    }
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    if (eos) {
        json_array_append_new(single, special_item(last));
        json_object_set_new(special, last, json_pack("{s:s, s:[I], s:[s]}", "id", last, "ids", eos_id, "tokens", last));
    }
    *out = json_pack("{s:s, s:o, s:[], s:o}", "type", "TemplateProcessing", "single", single, "pair", "special_tokens",
                     special);
    return *out ? 0 : qp_fail_memory(in->err, 0, "a template");
}

static int make_model(const struct source *in, json_t *vocabulary, json_t *merges, json_t **out)
{
    const char *unknown = NULL;
    json_int_t id = 0;
    const json_t *listed = get(in, "merges");
    int r = 0;
    if (in->sentencepiece)
        r = get_token(in, "unknown_token_id", 0, &id, &unknown);
    if (r == 0 && listed && json_array_extend(merges, (json_t *)listed) < 0)
        r = fail(in, "merges", "must be a list of strings");
    if (r == 0 && !listed)
        r = in->sentencepiece ? make_scored_merges(in, vocabulary, merges) : fail(in, "merges", "is missing");
    if (r < 0)
        return r;
    *out = json_pack("{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b, s:O, s:O}", "type", "BPE", "dropout", "unk_token",
                     unknown, "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", in->sentencepiece,
                     "byte_fallback", in->sentencepiece, "ignore_merges", in->pre && in->pre->whole_words, "vocab",
                     vocabulary, "merges", merges);
    return *out ? 0 : qp_fail_memory(in->err, 0, "a tokenizer");
}

/* SentencePiece: spaces become U+2581, and one goes before the text unless add_space_prefix is false. */
static int make_normalizer(const struct source *in, json_t **out)
{
    bool prefix;
    int r = get_bool(in, "add_space_prefix", true, &prefix);
    if (r < 0)
        return r;
    if (!in->sentencepiece)
        *out = in->pre->nfc ? json_pack("{s:s}", "type", "NFC") : json_null();
    else {
        json_t *list = json_array();
        if (prefix)
            json_array_append_new(list, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", "\xe2\x96\x81"));
        json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ",
                                              "content", "\xe2\x96\x81"));
        *out = json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", list);
    }
    return *out ? 0 : qp_fail_memory(in->err, 0, "a normalizer");
}

static json_t *make_pre_tokenizer(const struct source *in)
{
    if (in->sentencepiece)
        return json_null();
    const struct pre *pre = in->pre;
    json_t *list = json_array();
    if (pre->digits)
        json_array_append_new(list, json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
    if (pre->pattern)
        json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                                              pre->pattern, "behavior", "Isolated", "invert", 0));
    json_array_append_new(list, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                                          "trim_offsets", 1, "use_regex", pre->pattern == NULL));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

/* As a fast tokenizer of that kind has it; nothing here decodes, but what is exported must. */
static json_t *make_decoder(const struct source *in)
{
    return in->sentencepiece
               ? json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}, {s:s, s:s, s:i, s:i}]}", "type", "Sequence",
                           "decoders", "type", "Replace", "pattern", "String", "\xe2\x96\x81", "content", " ", "type",
                           "ByteFallback", "type", "Fuse", "type", "Strip", "content", " ", "start", 1, "stop", 0)
               : json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1,
                           "use_regex", 1);
}

/* Takes over the references of `model`, `normalizer` and `template`. */
static int assemble(const struct source *in, json_t *added, json_t *model, json_t *normalizer, json_t *template,
                    json_t **out)
{
    *out = json_pack("{s:s, s:n, s:n, s:O, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding",
                     "added_tokens", added, "normalizer", normalizer, "pre_tokenizer", make_pre_tokenizer(in),
                     "post_processor", template, "decoder", make_decoder(in), "model", model);
    return *out ? 0 : qp_fail_memory(in->err, 0, "a tokenizer");
}

int qp_tokenizer_from_gguf(const struct qp_gguf *file, json_t **out, struct qp_error *err)
{
    struct source in = {.file = file, .err = err};
    qp_auto_json json_t *vocabulary = json_object(), *added = json_array(), *merges = json_array();
    json_t *model = NULL, *normalizer = NULL, *template = NULL;
    int r = read_source(&in);
    if (r == 0)
        r = make_vocabulary(&in, vocabulary);
    if (r == 0)
        r = make_added(&in, added);
    if (r == 0)
        r = make_template(&in, &template);
    if (r == 0)
        r = make_normalizer(&in, &normalizer);
    if (r == 0)
        r = make_model(&in, vocabulary, merges, &model);
    if (r == 0)
        return assemble(&in, added, model, normalizer, template, out);
    json_decref(model);
    json_decref(normalizer);
    json_decref(template);
    return r;
}
