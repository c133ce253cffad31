#include "libstage/tokenizer/tokenizer_text.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"

void qp_text_add(struct qp_text *text, const char *bytes, size_t size)
{
    if (text->failed || size == 0)
        return;
    char *wider = qp_grown(text->bytes, text->size, size, 1, &text->capacity);
    text->failed = !wider;
    if (!wider)
        return;
    text->bytes = wider;
    memcpy(wider + text->size, bytes, size);
    text->size += size;
}

/* How many bytes after a lead byte, and what the first of them may be (Unicode 14, table 3-7). */
static int followers(unsigned char lead, unsigned char *low, unsigned char *high)
{
    *low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    *high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return lead < 0x80                   ? 0
           : lead >= 0xc2 && lead < 0xe0 ? 1
           : lead >= 0xe0 && lead < 0xf0 ? 2
           : lead >= 0xf0 && lead < 0xf5 ? 3
                                         : -1;
}

/* Bytes of the character at `text`, or of the ill-formed part there, *good then false. */
static size_t character(const unsigned char *text, size_t size, bool *good)
{
    unsigned char low, high;
    int more = followers(text[0], &low, &high);
    size_t n = 1;
    while (more > 0 && n < size && text[n] >= low && text[n] <= high) {
        n++;
        more--;
        low = 0x80;
        high = 0xbf;
    }
    *good = more == 0;
    return n;
}

void qp_text_add_any(struct qp_text *text, const char *bytes, size_t size)
{
    size_t kept = 0;
    for (size_t at = 0; at < size;) {
        bool good;
        size_t n = character((const unsigned char *)bytes + at, size - at, &good);
        if (!good) {
            qp_text_add(text, bytes + kept, at - kept);
            qp_text_add(text, "\xef\xbf\xbd", 3);
            kept = at + n;
        }
        at += n;
    }
    qp_text_add(text, bytes + kept, size - kept);
}

void qp_text_cut(struct qp_text *text, struct qp_piece piece)
{
    if (text->failed || (piece.id == QP_NO_ID && piece.start == piece.end))
        return;
    struct qp_piece *wider = qp_grown(text->pieces, text->count, 1, sizeof *wider, &text->piece_capacity);
    text->failed = !wider;
    if (!wider)
        return;
    text->pieces = wider;
    wider[text->count++] = piece;
}

void qp_text_clear(struct qp_text *text)
{
    free(text->bytes);
    free(text->pieces);
    *text = (struct qp_text){0};
}

void qp_ids_add_all(struct qp_ids *ids, const int32_t *more, size_t count)
{
    if (ids->failed || count == 0)
        return;
    int32_t *wider = qp_grown(ids->at, ids->count, count, sizeof *wider, &ids->capacity);
    ids->failed = !wider;
    if (!wider)
        return;
    ids->at = wider;
    memcpy(wider + ids->count, more, count * sizeof *wider);
    ids->count += count;
}

void qp_ids_add(struct qp_ids *ids, int32_t id)
{
    qp_ids_add_all(ids, &id, 1);
}
