#include "libstage/calibration/data.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/memory.h"
#include "libstage/base/words.h"
#include "libstage/base/random.h"
#include "libstage/calibration/data_ids.h"

enum { DEFAULT_LENGTH = 512, DEFAULT_SYNTHETIC = 128, LONGEST = 1 << 20 };

struct spec {
    const char *text; /* NULL when synthetic */
    int64_t samples;  /* 0: all */
    int64_t length;
    int64_t seed;
    bool bos; /* every window starts with the tokenizer's BOS */
};

enum kind { KIND_NONE, KIND_TXT, KIND_JSONL, KIND_NPY };

static enum kind kind_of(const char *path)
{
    const char *dot = strrchr(path, '.');
    return !dot                         ? KIND_NONE
           : strcmp(dot, ".txt") == 0   ? KIND_TXT
           : strcmp(dot, ".jsonl") == 0 ? KIND_JSONL
           : strcmp(dot, ".npy") == 0   ? KIND_NPY
                                        : KIND_NONE;
}

static int parse_number(const json_t *spec, const char *key, int64_t least, int64_t most, const char *where,
                        int64_t *out, struct qp_error *err)
{
    const json_t *value = json_object_get(spec, key);
    if (!value)
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < least || json_integer_value(value) > most)
        return qp_fail(err, QP_ERR_INPUT, "%s.%s: expected an integer from %lld to %lld", where, key, (long long)least,
                       (long long)most);
    *out = json_integer_value(value);
    return 0;
}

static int check_keys(const json_t *json, const char *where, struct qp_error *err)
{
    static const char *const known[] = {"text", "samples", "length", "seed", "synthetic", "bos", NULL};
    const char *key;
    json_t *value;
    if (!json_is_object(json))
        return qp_fail(err, QP_ERR_INPUT, "%s: expected a mapping with text or synthetic", where);
    json_object_foreach((json_t *)json, key, value)
        if (!qp_known(key, known))
            return qp_fail_unknown(err, QP_ERR_INPUT, where, "key", key, known);
    return 0;
}

/* Either text or synthetic: true. */
static int parse_source(const json_t *json, const char *where, struct spec *out, struct qp_error *err)
{
    const json_t *text = json_object_get(json, "text"), *synthetic = json_object_get(json, "synthetic");
    if (text && !json_is_string(text))
        return qp_fail(err, QP_ERR_INPUT, "%s.text: expected a path", where);
    if (synthetic && !json_is_boolean(synthetic))
        return qp_fail(err, QP_ERR_INPUT, "%s.synthetic: expected true or false", where);
    if (json_is_true(synthetic) == (text != NULL))
        return qp_fail(
            err, QP_ERR_INPUT,
            text ? "%s: text and synthetic exclude each other" : "%s: expected text: PATH, or synthetic: true", where);
    out->text = json_string_value(text);
    if (out->text && kind_of(out->text) == KIND_NONE)
        return qp_fail(err, QP_ERR_INPUT, "%s.text: %s: expected a .txt, .jsonl or .npy file", where, out->text);
    return 0;
}

static int parse_bos(const json_t *json, const char *where, struct spec *out, struct qp_error *err)
{
    const json_t *bos = json_object_get(json, "bos");
    if (bos && !json_is_boolean(bos))
        return qp_fail(err, QP_ERR_INPUT, "%s.bos: expected true or false", where);
    out->bos = json_is_true(bos);
    if (out->bos && (!out->text || kind_of(out->text) == KIND_NPY))
        return qp_fail(err, QP_ERR_INPUT, "%s.bos: only a text, .txt or .jsonl, has a tokenizer's BOS", where);
    return 0;
}

static int parse(const json_t *json, const char *where, struct spec *out, struct qp_error *err)
{
    *out = (struct spec){.length = DEFAULT_LENGTH};
    int r = check_keys(json, where, err);
    if (r == 0)
        r = parse_source(json, where, out, err);
    if (r == 0)
        r = parse_number(json, "samples", 0, INT32_MAX, where, &out->samples, err);
    if (r == 0)
        r = parse_number(json, "length", 2, LONGEST, where, &out->length, err);
    if (r == 0)
        r = parse_number(json, "seed", 0, INT64_MAX, where, &out->seed, err);
    if (r == 0)
        r = parse_bos(json, where, out, err);
    if (r == 0 && !out->text && out->samples == 0)
        out->samples = DEFAULT_SYNTHETIC;
    return r;
}

int qp_windows_check(const json_t *spec, const char *where, struct qp_error *err)
{
    struct spec parsed;
    int r = parse(spec, where, &parsed, err);
    if (r < 0 || !parsed.text)
        return r;
    qp_auto_close int fd = qp_open_file(parsed.text, err);
    return fd < 0 ? qp_wrap(err, "%s.text", where) : 0;
}

/* Uniform in [0, n): numbers of the last, incomplete interval of n are drawn again. */
static int64_t below(uint64_t *state, int64_t n)
{
    uint64_t size = (uint64_t)n, usable = UINT64_MAX - UINT64_MAX % size, x;
    do
        x = qp_random(state);
    while (x >= usable);
    return (int64_t)(x % size);
}

static int allocate(int64_t count, int64_t length, struct qp_windows *out, struct qp_error *err)
{
    int64_t elements;
    if (__builtin_mul_overflow(count, length, &elements))
        return qp_fail_memory(err, UINT64_MAX, "windows of token ids");
    out->ids = qp_new_array(elements, sizeof *out->ids, "windows of token ids", err);
    out->count = count;
    out->length = length;
    return out->ids ? 0 : QP_ERR_SPACE;
}

static int draw(const struct spec *spec, int64_t vocab, struct qp_windows *out, struct qp_error *err)
{
    uint64_t state = (uint64_t)spec->seed;
    int r = allocate(spec->samples, spec->length, out, err);
    for (int64_t i = 0; r == 0 && i < out->count * out->length; i++)
        out->ids[i] = (int32_t)below(&state, vocab);
    return r;
}

static int read_runs(const struct spec *spec, const struct qp_tokenizer *tokenizer, int64_t vocab,
                     struct qp_id_runs *out, struct qp_error *err)
{
    enum kind kind = kind_of(spec->text);
    if (kind == KIND_NPY)
        return qp_ids_from_npy(spec->text, vocab, out, err);
    if (!tokenizer)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: text needs a tokenizer, and the model has none; put a tokenizer.json "
                       "beside it or give token ids as .npy",
                       spec->text);
    return kind == KIND_TXT ? qp_ids_from_text(spec->text, tokenizer, out, err)
                            : qp_ids_from_jsonl(spec->text, tokenizer, out, err);
}

static int check_runs(const struct spec *spec, int64_t vocab, const struct qp_id_runs *runs, struct qp_error *err)
{
    if (runs->length < spec->length || runs->count == 0)
        return qp_fail(err, QP_ERR_INPUT, "%s: %lld tokens%s; a window needs %lld: give more text or a smaller length",
                       spec->text, (long long)(runs->count ? runs->length : 0), runs->count > 1 ? " a row" : "",
                       (long long)spec->length);
    for (int64_t i = 0; i < runs->count * runs->length; i++)
        if (runs->ids[i] < 0 || runs->ids[i] >= vocab)
            return qp_fail(err, QP_ERR_INPUT,
                           "%s: the tokenizer gives the id %d, and the model's go from 0 to %lld; they do not belong "
                           "together",
                           spec->text, runs->ids[i], (long long)vocab - 1);
    return 0;
}

/* The id that the tokenizer's template puts before a text. */
static int find_bos(const struct qp_tokenizer *tokenizer, int32_t *bos, struct qp_error *err)
{
    qp_auto_free int32_t *with = NULL, *without = NULL;
    size_t n, m;
    int r = qp_tokenizer_encode(tokenizer, "a", 1, true, &with, &n, err);
    if (r == 0)
        r = qp_tokenizer_encode(tokenizer, "a", 1, false, &without, &m, err);
    if (r < 0)
        return r;
    if (n == 0 || m == 0 || with[0] == without[0])
        return qp_fail(err, QP_ERR_INPUT, "data: bos: the model's tokenizer puts no BOS before a text; leave bos out");
    *bos = with[0];
    return 0;
}

/* Copies the chosen windows: the first ones, or with a seed a random choice in text order (Knuth, The Art of Computer
 * Programming, volume 2, 3.4.2, algorithm S). `bos`, unless negative, goes before each, once before the first. */
static int choose(const struct spec *spec, const struct qp_id_runs *runs, int32_t bos, struct qp_windows *out,
                  struct qp_error *err)
{
    int64_t before = bos >= 0, own = spec->length - before, first = before && runs->ids[0] == bos;
    int64_t each = (runs->length - first) / own, total = runs->count * each, taken = 0;
    int64_t wanted = spec->samples > 0 && spec->samples < total ? spec->samples : total;
    uint64_t state = (uint64_t)spec->seed;
    int r = allocate(wanted, spec->length, out, err);
    for (int64_t i = 0; r == 0 && taken < wanted; i++) {
        if (spec->seed != 0 && below(&state, total - i) >= wanted - taken)
            continue;
        int32_t *window = out->ids + taken++ * spec->length;
        window[0] = bos;
        memcpy(window + before, runs->ids + i / each * runs->length + first + i % each * own,
               (size_t)own * sizeof *out->ids);
    }
    return r;
}

int qp_windows_load(const json_t *json, const struct qp_tokenizer *tokenizer, int64_t vocab, struct qp_windows *out,
                    struct qp_error *err)
{
    struct spec spec;
    struct qp_id_runs runs = {0};
    int32_t bos = -1;
    *out = (struct qp_windows){0};
    int r = parse(json, "data", &spec, err);
    if (r < 0)
        return r;
    if (vocab < 1 || vocab > INT32_MAX)
        return qp_fail(err, QP_ERR_INPUT, "a vocabulary of %lld ids; expected 1 to %d", (long long)vocab, INT32_MAX);
    if (!spec.text)
        return draw(&spec, vocab, out, err);
    r = read_runs(&spec, tokenizer, vocab, &runs, err);
    if (r == 0)
        r = check_runs(&spec, vocab, &runs, err);
    if (r == 0 && spec.bos)
        r = find_bos(tokenizer, &bos, err);
    if (r == 0)
        r = choose(&spec, &runs, bos, out, err);
    free(runs.ids);
    return r;
}

int qp_windows_open(const json_t *spec, const char *path, int64_t vocab, struct qp_windows *out, struct qp_error *err)
{
    struct qp_tokenizer *tokenizer = NULL;
    int r = path ? qp_tokenizer_open(path, &tokenizer, err) : 0;
    if (r == 0)
        r = qp_windows_load(spec, tokenizer, vocab, out, err);
    qp_tokenizer_free(tokenizer);
    return r;
}

void qp_windows_free(struct qp_windows *windows)
{
    free(windows->ids);
    *windows = (struct qp_windows){0};
}
