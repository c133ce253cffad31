/* What the parser and the encoder of a BPE model share. */
#ifndef QUANTPIPE_TOKENIZER_TOKENIZER_BPE_INTERNAL_H
#define QUANTPIPE_TOKENIZER_TOKENIZER_BPE_INTERNAL_H

#include "libstage/tokenizer/tokenizer_bpe.h"

/* A slot of the hash table from pairs of ids to merges. */
struct qp_merge {
    int32_t left, right; /* left is QP_NO_ID in a free slot */
    uint32_t rank;       /* the lowest merges first */
};

struct qp_bpe {
    struct qp_strings vocabulary;
    struct qp_ids ids;
    struct qp_merge *merges;
    size_t mask;        /* slots are mask + 1, a power of two */
    int32_t *made;      /* rank -> id of what the pair becomes */
    int32_t bytes[256]; /* tokens <0x00> to <0xFF>; QP_NO_ID where missing */
    bool byte_fallback, fuse_unknown, ignore_merges;
    char *unknown; /* the unknown token, or NULL */
    int32_t unknown_id;
};

/* The slot of a pair, or the free one where it belongs. */
static inline struct qp_merge *qp_merge_slot(const struct qp_bpe *bpe, int32_t left, int32_t right)
{
    /* The finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
    uint64_t hash = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ hash >> 27) * 0x94d049bb133111ebu;
    hash ^= hash >> 31;
    for (size_t i = hash & bpe->mask;; i = (i + 1) & bpe->mask) {
        struct qp_merge *slot = &bpe->merges[i];
        if (slot->left == QP_NO_ID || (slot->left == left && slot->right == right))
            return slot;
    }
}

#endif
