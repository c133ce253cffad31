#include "libstage/tensor/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct entry {
    char *name;
    XXH128_canonical_t digest;
};

struct qp_digest {
    struct entry *entries;
    size_t count, capacity;
};

struct qp_digest *qp_digest_new(void)
{
    return calloc(1, sizeof(struct qp_digest));
}

void qp_digest_free(struct qp_digest *digest)
{
    if (!digest)
        return;
    for (size_t i = 0; i < digest->count; i++)
        free(digest->entries[i].name);
    free(digest->entries);
    free(digest);
}

static int grow(struct qp_digest *digest, struct qp_error *err)
{
    size_t capacity = digest->capacity ? 2 * digest->capacity : 64;
    struct entry *entries = realloc(digest->entries, capacity * sizeof *entries);
    if (!entries)
        return qp_fail_memory(err, capacity * sizeof *entries, "digests");
    digest->entries = entries;
    digest->capacity = capacity;
    return 0;
}

static int add_bytes(struct qp_digest *digest, const char *name, const char *head, const void *data, size_t bytes,
                     struct qp_error *err)
{
    if (digest->count == digest->capacity && grow(digest, err) < 0)
        return err->code;
    XXH3_state_t *state = XXH3_createState();
    char *copy = strdup(name);
    if (!state || !copy) {
        XXH3_freeState(state);
        free(copy);
        return qp_fail_memory(err, 0, "a digest");
    }
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, head, strlen(head));
    XXH3_128bits_update(state, data, bytes);
    struct entry *entry = &digest->entries[digest->count++];
    entry->name = copy;
    XXH128_canonicalFromHash(&entry->digest, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    return 0;
}

int qp_digest_add_text(struct qp_digest *digest, const char *name, const char *text, struct qp_error *err)
{
    return add_bytes(digest, name, "text\n", text, strlen(text), err);
}

int qp_digest_add(struct qp_digest *digest, const struct qp_tensor *tensor, struct qp_error *err)
{
    char head[512], shape[256];
    int n = snprintf(head, sizeof head, "%s\n%s\n%s\n", tensor->name, qp_dtype_name(tensor->dtype),
                     qp_shape_text(tensor->rank, tensor->shape, shape, sizeof shape));
    if (n < 0 || (size_t)n >= sizeof head)
        return qp_fail(err, QP_ERR_INPUT, "%s: the name is too long", tensor->name);
    return add_bytes(digest, tensor->name, head, tensor->data, tensor->bytes, err);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

void qp_digest_text(struct qp_digest *digest, char text[QP_DIGEST_TEXT])
{
    XXH3_state_t *state = XXH3_createState();
    text[0] = '\0';
    if (!state)
        return;
    qsort(digest->entries, digest->count, sizeof *digest->entries, by_name);
    XXH3_128bits_reset(state);
    for (size_t i = 0; i < digest->count; i++)
        XXH3_128bits_update(state, &digest->entries[i].digest, sizeof digest->entries[i].digest);
    XXH128_canonical_t all;
    XXH128_canonicalFromHash(&all, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    for (size_t i = 0; i < sizeof all.digest; i++)
        snprintf(text + 2 * i, 3, "%02x", all.digest[i]);
}
