#include "libstage/tokenizer/tokenizer_steps.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* One match of a split, or what lies between two. */
struct cut {
    size_t start, end;
    bool match;
};

struct cuts {
    struct cut *list;
    size_t count, capacity;
    bool failed;
};

static void add_cut(struct cuts *cuts, size_t start, size_t end, bool match)
{
    if (cuts->failed)
        return;
    if (cuts->count == cuts->capacity) {
        size_t capacity = cuts->capacity ? cuts->capacity * 2 : 64;
        struct cut *list = realloc(cuts->list, capacity * sizeof *list);
        cuts->failed = !list;
        if (!list)
            return;
        cuts->list = list;
        cuts->capacity = capacity;
    }
    cuts->list[cuts->count++] = (struct cut){start, end, match};
}

static int find_cuts(const struct qp_step *step, struct qp_matcher *matcher, const char *text, size_t size,
                     struct cuts *cuts, struct qp_error *err)
{
    cuts->count = 0;
    size_t at = 0, start = 0, end = 0;
    int r;
    qp_matcher_start(matcher, text, size);
    while ((r = qp_matcher_next(matcher, &start, &end, err)) > 0) {
        if (at != start)
            add_cut(cuts, at, start, step->invert);
        add_cut(cuts, start, end, !step->invert);
        at = end;
    }
    if (at != size)
        add_cut(cuts, at, size, step->invert);
    return r < 0 ? r : cuts->failed ? qp_fail_memory(err, size, "the pieces of a text") : 0;
}

/* Whether a cut joins the one before it (`next` is false) or after it. A match joins a neighbour that is none, except
 * that runs of matches stay apart: only the one that touches the neighbour joins. */
static bool joins(enum qp_split split, const struct cut *cut, const struct cut *neighbour, bool next)
{
    switch (split) {
    case QP_SPLIT_CONTIGUOUS:
        return !next && cut->match == neighbour->match;
    case QP_SPLIT_MERGED_WITH_PREVIOUS:
        return !next && cut->match && !neighbour->match;
    case QP_SPLIT_MERGED_WITH_NEXT:
        return next && cut->match && !neighbour->match;
    default:
        return false;
    }
}

/* Adds the pieces that the cuts of one piece make. */
static void cut_piece(enum qp_split split, const struct cuts *cuts, struct qp_piece piece, struct qp_text *out)
{
    for (size_t i = 0; i < cuts->count; i++) {
        const struct cut *cut = &cuts->list[i];
        size_t start = cut->start;
        while (i + 1 < cuts->count && (joins(split, &cuts->list[i], &cuts->list[i + 1], true) ||
                                       joins(split, &cuts->list[i + 1], &cuts->list[i], false)))
            i++;
        if (split != QP_SPLIT_REMOVED || !cut->match)
            qp_text_cut(out, (struct qp_piece){piece.start + start, piece.start + cuts->list[i].end, QP_NO_ID,
                                               piece.first && start == 0});
    }
}

/* The bytes stay, the pieces change. */
static int split(const struct qp_step *step, struct qp_matcher *matcher, struct qp_text *text, struct qp_error *err)
{
    struct qp_text out = {0};
    struct cuts cuts = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < text->count; i++) {
        struct qp_piece piece = text->pieces[i];
        if (piece.id != QP_NO_ID) {
            qp_text_cut(&out, piece);
            continue;
        }
        r = find_cuts(step, matcher, text->bytes + piece.start, piece.end - piece.start, &cuts, err);
        if (r == 0)
            cut_piece(step->split, &cuts, piece, &out);
    }
    free(cuts.list);
    if (r == 0 && out.failed)
        r = qp_fail_memory(err, text->size, "the pieces of a text");
    if (r < 0) {
        qp_text_clear(&out);
        return r;
    }
    free(text->pieces);
    text->pieces = out.pieces;
    text->count = out.count;
    text->piece_capacity = out.piece_capacity;
    return 0;
}

static void prepend(const struct qp_step *step, const char *text, size_t size, bool first, struct qp_text *out)
{
    bool there = size >= step->content_size && memcmp(text, step->content, step->content_size) == 0;
    if (step->prepend == QP_PREPEND_ALWAYS || (!there && (first || step->prepend == QP_PREPEND_MISSING)))
        qp_text_add(out, step->content, step->content_size);
    qp_text_add(out, text, size);
}

static int replace(const struct qp_step *step, struct qp_matcher *matcher, const char *text, size_t size,
                   struct qp_text *out, struct qp_error *err)
{
    size_t at = 0, start = 0, end = 0;
    int r;
    qp_matcher_start(matcher, text, size);
    while ((r = qp_matcher_next(matcher, &start, &end, err)) > 0) {
        qp_text_add(out, text + at, start - at);
        qp_text_add(out, step->content, step->content_size);
        at = end;
    }
    qp_text_add(out, text + at, size - at);
    return r;
}

static int unicode(int options, const char *text, size_t size, struct qp_text *out, struct qp_error *err)
{
    utf8proc_uint8_t *result = NULL;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &result, (utf8proc_option_t)options);
    if (n < 0)
        return qp_fail(err, n == UTF8PROC_ERROR_NOMEM ? QP_ERR_SPACE : QP_ERR_INPUT,
                       "a text of %zu bytes cannot be normalized: %s", size, utf8proc_errmsg(n));
    qp_text_add(out, (const char *)result, (size_t)n);
    free(result);
    return 0;
}

/* Each character's lower case. One character has two: U+0130 (Unicode's SpecialCasing.txt). */
static void lowercase(const char *text, size_t size, struct qp_text *out)
{
    for (size_t at = 0; at < size;) {
        utf8proc_int32_t c = 0;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(size - at), &c);
        if (n <= 0)
            return; /* never: the text is valid UTF-8 */
        utf8proc_uint8_t lower[4];
        utf8proc_ssize_t m = utf8proc_encode_char(c == 0x130 ? 'i' : utf8proc_tolower(c), lower);
        qp_text_add(out, (const char *)lower, (size_t)m);
        if (c == 0x130)
            qp_text_add(out, "\xcc\x87", 2);
        at += (size_t)n;
    }
}

/* The alphabet of byte-level BPE, GPT-2's bytes_to_unicode(): the printable characters of Latin-1 stand for themselves
 * and the other 68 bytes for the characters from U+0100, in order. */
static void bytes(const char *text, size_t size, struct qp_text *out)
{
    for (size_t i = 0; i < size; i++) {
        unsigned b = (unsigned char)text[i];
        unsigned c = b < 0x21 ? 0x100 + b : b < 0x7f ? b : b < 0xa1 ? 0x121 + b - 0x7f : b == 0xad ? 0x143 : b;
        char utf8[2] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 0x3f))};
        if (c < 0x80)
            utf8[0] = (char)c;
        qp_text_add(out, utf8, c < 0x80 ? 1 : 2);
    }
}

static int rewrite_piece(const struct qp_step *step, struct qp_matcher *matcher, const char *text, size_t size,
                         bool first, struct qp_text *out, struct qp_error *err)
{
    switch (step->kind) {
    case QP_STEP_PREPEND:
        prepend(step, text, size, first, out);
        return 0;
    case QP_STEP_REPLACE:
        return replace(step, matcher, text, size, out, err);
    case QP_STEP_UNICODE:
        return unicode(step->unicode, text, size, out, err);
    case QP_STEP_LOWERCASE:
        lowercase(text, size, out);
        return 0;
    default:
        bytes(text, size, out);
        return 0;
    }
}

/* Both the bytes and the pieces change. */
static int rewrite(const struct qp_step *step, struct qp_matcher *matcher, struct qp_text *text, struct qp_error *err)
{
    struct qp_text out = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < text->count; i++) {
        struct qp_piece piece = text->pieces[i];
        size_t start = out.size;
        if (piece.id == QP_NO_ID)
            r = rewrite_piece(step, matcher, text->bytes + piece.start, piece.end - piece.start, piece.first, &out,
                              err);
        qp_text_cut(&out, (struct qp_piece){start, out.size, piece.id, piece.first});
    }
    if (r == 0 && out.failed)
        r = qp_fail_memory(err, text->size, "a normalized text");
    if (r < 0) {
        qp_text_clear(&out);
        return r;
    }
    qp_text_clear(text);
    *text = out;
    return 0;
}

int qp_steps_apply(const struct qp_steps *steps, struct qp_text *text, struct qp_error *err)
{
    for (size_t i = 0; i < steps->count; i++) {
        const struct qp_step *step = &steps->list[i];
        struct qp_matcher *matcher = NULL;
        int r = step->pattern ? qp_matcher_new(step->pattern, &matcher, err) : 0;
        if (r == 0)
            r = step->kind == QP_STEP_SPLIT ? split(step, matcher, text, err) : rewrite(step, matcher, text, err);
        qp_matcher_free(matcher);
        if (r < 0)
            return r;
    }
    return 0;
}

void qp_steps_clear(struct qp_steps *steps)
{
    for (size_t i = 0; i < steps->count; i++) {
        qp_pattern_free(steps->list[i].pattern);
        free(steps->list[i].content);
    }
    free(steps->list);
    *steps = (struct qp_steps){0};
}
