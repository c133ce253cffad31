/* The normalizers and pre-tokenizers of a tokenizer.json, each by its name there, as primitive steps. */
#include "libstage/tokenizer/tokenizer_steps.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* GPT-2's expression, which ByteLevel with use_regex splits by. */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Rust's \w, which has the joiners and lacks the numbers that Oniguruma's has. */
#define RUST_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}"

enum { MAX_DEPTH = 16 };

struct context {
    const char *path;
    const char *section; /* "normalizer" or "pre_tokenizer" */
    const char *list;    /* the key that holds a Sequence's */
    const struct kind *kinds;
    struct qp_steps *steps;
    int depth;
    struct qp_error *err;
};

struct kind {
    const char *name;
    int (*add)(struct context *, const json_t *);
};

static int add(struct context *in, struct qp_step step)
{
    struct qp_step *list = realloc(in->steps->list, (in->steps->count + 1) * sizeof *list);
    if (!list) {
        qp_pattern_free(step.pattern);
        free(step.content);
        return qp_fail_memory(in->err, sizeof *list, "a tokenizer");
    }
    in->steps->list = list;
    list[in->steps->count++] = step;
    return 0;
}

static int fail(struct context *in, const json_t *json, const char *what)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    return qp_fail(in->err, QP_ERR_INPUT, "%s: %s: %s: %s", in->path, in->section, type ? type : "?", what);
}

static int boolean(struct context *in, const json_t *json, const char *key, bool missing, bool *out)
{
    const json_t *value = json_object_get(json, key);
    *out = value && !json_is_null(value) ? json_is_true(value) : missing;
    if (value && !json_is_null(value) && !json_is_boolean(value))
        return qp_fail(in->err, QP_ERR_INPUT, "%s: %s: %s must be true or false", in->path, in->section, key);
    return 0;
}

/* Takes a copy of the content into a step that is then added. */
static int add_content(struct context *in, struct qp_step step, const char *content, size_t size)
{
    step.content = malloc(size + 1);
    if (!step.content) {
        qp_pattern_free(step.pattern);
        return qp_fail_memory(in->err, size, "a tokenizer");
    }
    memcpy(step.content, content, size);
    step.content_size = size;
    return add(in, step);
}

static int compile(struct context *in, const char *source, size_t size, bool regex, struct qp_pattern **out)
{
    int r = regex ? qp_pattern_regex(source, size, out, in->err) : qp_pattern_literal(source, size, out, in->err);
    return r < 0 && in->err ? qp_wrap(in->err, "%s: %s", in->path, in->section) : r;
}

static int split(struct context *in, const char *source, bool regex, enum qp_split how, bool invert)
{
    struct qp_step step = {.kind = QP_STEP_SPLIT, .split = how, .invert = invert};
    int r = compile(in, source, strlen(source), regex, &step.pattern);
    return r < 0 ? r : add(in, step);
}

static int replace(struct context *in, const char *source, bool regex, const char *content)
{
    struct qp_step step = {.kind = QP_STEP_REPLACE};
    int r = compile(in, source, strlen(source), regex, &step.pattern);
    return r < 0 ? r : add_content(in, step, content, strlen(content));
}

/* {"String": text} or {"Regex": expression}. */
static int pattern(struct context *in, const json_t *json, struct qp_pattern **out)
{
    const json_t *value = json_object_get(json, "pattern");
    const json_t *string = json_object_get(value, "String"), *regex = json_object_get(value, "Regex");
    if (json_object_size(value) != 1 || !json_is_string(string ? string : regex))
        return fail(in, json, "pattern must be {\"String\": text} or {\"Regex\": expression}");
    const json_t *source = string ? string : regex;
    return compile(in, json_string_value(source), json_string_length(source), regex, out);
}

static int behavior(struct context *in, const json_t *json, enum qp_split missing, enum qp_split *out)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const json_t *value = json_object_get(json, "behavior");
    *out = missing;
    if (!value)
        return 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (json_is_string(value) && strcmp(json_string_value(value), names[i]) == 0) {
            *out = (enum qp_split)i;
            return 0;
        }
    return fail(in, json, "behavior must be Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
}

/* One {"type": NAME, ...}. */
static int add_kind(struct context *in, const json_t *json)
{
    const char *name = json_string_value(json_object_get(json, "type"));
    if (!name)
        return fail(in, json, "expected a mapping with a type");
    char known[512] = "";
    for (const struct kind *kind = in->kinds; kind->name; kind++) {
        if (strcmp(kind->name, name) == 0)
            return kind->add(in, json);
        strncat(known, kind == in->kinds ? "" : ", ", sizeof known - strlen(known) - 1);
        strncat(known, kind->name, sizeof known - strlen(known) - 1);
    }
    return qp_fail(in->err, QP_ERR_INPUT, "%s: %s \"%.100s\" is not supported; these are: %s", in->path, in->section,
                   name, known);
}

static int sequence(struct context *in, const json_t *json)
{
    const json_t *list = json_object_get(json, in->list);
    if (!json_is_array(list))
        return qp_fail(in->err, QP_ERR_INPUT, "%s: %s: a Sequence needs a list %s", in->path, in->section, in->list);
    if (++in->depth > MAX_DEPTH)
        return fail(in, json, "sequences are nested too deeply");
    for (size_t i = 0; i < json_array_size(list); i++) {
        int r = add_kind(in, json_array_get(list, i));
        if (r < 0)
            return r;
    }
    in->depth--;
    return 0;
}

static int prepend(struct context *in, const json_t *json)
{
    const json_t *text = json_object_get(json, "prepend");
    if (!json_is_string(text))
        return fail(in, json, "prepend must be a string");
    return add_content(in, (struct qp_step){.kind = QP_STEP_PREPEND}, json_string_value(text),
                       json_string_length(text));
}

static int replace_kind(struct context *in, const json_t *json)
{
    const json_t *content = json_object_get(json, "content");
    struct qp_step step = {.kind = QP_STEP_REPLACE};
    if (!json_is_string(content))
        return fail(in, json, "content must be a string");
    int r = pattern(in, json, &step.pattern);
    return r < 0 ? r : add_content(in, step, json_string_value(content), json_string_length(content));
}

static int unicode(struct context *in, const json_t *json)
{
    const char *name = json_string_value(json_object_get(json, "type"));
    int options = UTF8PROC_STABLE | (strchr(name, 'C') ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    return add(in, (struct qp_step){.kind = QP_STEP_UNICODE,
                                    .unicode = strchr(name, 'K') ? options | UTF8PROC_COMPAT : options});
}

static int lowercase(struct context *in, const json_t *json)
{
    (void)json;
    return add(in, (struct qp_step){.kind = QP_STEP_LOWERCASE});
}

static int strip(struct context *in, const json_t *json)
{
    bool left = false, right = false;
    int r = boolean(in, json, "strip_left", true, &left);
    if (r == 0)
        r = boolean(in, json, "strip_right", true, &right);
    if (r == 0 && left)
        r = replace(in, "\\A\\s+", true, "");
    if (r == 0 && right) /* with a lookbehind, so that a long run inside the text is tried once */
        r = replace(in, "(?<!\\s)\\s++\\z", true, "");
    return r;
}

static int bytes(struct context *in, const json_t *json)
{
    (void)json;
    return add(in, (struct qp_step){.kind = QP_STEP_BYTES});
}

static int byte_level(struct context *in, const json_t *json)
{
    bool prefix = false, regex = false;
    int r = boolean(in, json, "add_prefix_space", true, &prefix);
    if (r == 0)
        r = boolean(in, json, "use_regex", true, &regex);
    if (r == 0 && prefix)
        r = add_content(in, (struct qp_step){.kind = QP_STEP_PREPEND, .prepend = QP_PREPEND_MISSING}, " ", 1);
    if (r == 0 && regex)
        r = split(in, GPT2, true, QP_SPLIT_ISOLATED, false);
    return r < 0 ? r : bytes(in, json);
}

static int split_kind(struct context *in, const json_t *json)
{
    struct qp_step step = {.kind = QP_STEP_SPLIT};
    int r = boolean(in, json, "invert", false, &step.invert);
    if (r == 0)
        r = json_object_get(json, "behavior") ? behavior(in, json, QP_SPLIT_ISOLATED, &step.split)
                                              : fail(in, json, "behavior is missing");
    if (r == 0)
        r = pattern(in, json, &step.pattern);
    return r < 0 ? r : add(in, step);
}

static int digits(struct context *in, const json_t *json)
{
    bool individual;
    int r = boolean(in, json, "individual_digits", false, &individual);
    return r < 0 ? r : split(in, "\\p{N}", true, individual ? QP_SPLIT_ISOLATED : QP_SPLIT_CONTIGUOUS, false);
}

/* When Metaspace prepends: `prepend_scheme`, or the older `add_prefix_space`. *never: not at all. */
static int prepend_scheme(struct context *in, const json_t *json, enum qp_prepend *out, bool *never)
{
    const json_t *value = json_object_get(json, "prepend_scheme");
    const char *scheme = value ? json_string_value(value) : "always";
    bool prefix;
    int r = boolean(in, json, "add_prefix_space", true, &prefix);
    if (r < 0)
        return r;
    if (!scheme || (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 && strcmp(scheme, "never") != 0))
        return fail(in, json, "prepend_scheme must be always, first or never");
    if (!prefix && strcmp(scheme, "first") == 0)
        return fail(in, json, "prepend_scheme first contradicts add_prefix_space false");
    *never = !prefix || strcmp(scheme, "never") == 0;
    *out = strcmp(scheme, "first") == 0 ? QP_PREPEND_MISSING_FIRST : QP_PREPEND_MISSING;
    return 0;
}

static int metaspace(struct context *in, const json_t *json)
{
    const json_t *value = json_object_get(json, "replacement");
    const char *text = json_string_value(value);
    struct qp_step step = {.kind = QP_STEP_PREPEND};
    bool never = false, apart = false;
    utf8proc_int32_t c;
    if (!text || json_string_length(value) == 0 ||
        utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &c) != (utf8proc_ssize_t)strlen(text))
        return fail(in, json, "replacement must be one character");
    int r = prepend_scheme(in, json, &step.prepend, &never);
    if (r == 0)
        r = boolean(in, json, "split", true, &apart);
    if (r == 0)
        r = replace(in, " ", false, text);
    if (r == 0 && !never)
        r = add_content(in, step, text, strlen(text));
    return r < 0 || !apart ? r : split(in, text, false, QP_SPLIT_MERGED_WITH_NEXT, false);
}

static int whitespace(struct context *in, const json_t *json)
{
    (void)json;
    return split(in, "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+", true, QP_SPLIT_REMOVED, true);
}

static int whitespace_split(struct context *in, const json_t *json)
{
    (void)json;
    return split(in, "\\s", true, QP_SPLIT_REMOVED, false);
}

static int punctuation(struct context *in, const json_t *json)
{
    enum qp_split how;
    int r = behavior(in, json, QP_SPLIT_ISOLATED, &how);
    return r < 0 ? r : split(in, "[\\p{P}!-/:-@\\[-`{-~]", true, how, false);
}

static const struct kind normalizers[] = {
    {"Sequence", sequence}, {"Prepend", prepend}, {"Replace", replace_kind}, {"NFC", unicode}, {"NFD", unicode},
    {"NFKC", unicode},      {"NFKD", unicode},    {"Lowercase", lowercase},  {"Strip", strip}, {"ByteLevel", bytes},
    {NULL, NULL},
};

static const struct kind pre_tokenizers[] = {
    {"Sequence", sequence},
    {"ByteLevel", byte_level},
    {"Split", split_kind},
    {"Digits", digits},
    {"Metaspace", metaspace},
    {"Whitespace", whitespace},
    {"Punctuation", punctuation},
    {"WhitespaceSplit", whitespace_split},
    {NULL, NULL},
};

int qp_steps_normalizer(const json_t *json, const char *path, struct qp_steps *steps, struct qp_error *err)
{
    struct context in = {path, "normalizer", "normalizers", normalizers, steps, 0, err};
    return !json || json_is_null(json) ? 0 : add_kind(&in, json);
}

int qp_steps_pre_tokenizer(const json_t *json, const char *path, struct qp_steps *steps, struct qp_error *err)
{
    struct context in = {path, "pre_tokenizer", "pretokenizers", pre_tokenizers, steps, 0, err};
    return !json || json_is_null(json) ? 0 : add_kind(&in, json);
}
