#include "libstage/tensor/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/checked.h"

int qp_tensor_size(enum qp_dtype dtype, int rank, const int64_t *shape, int64_t *elements, size_t *bytes,
                   struct qp_error *err)
{
    int bits = qp_dtype_bits(dtype);
    if (bits == 0)
        return qp_fail(err, QP_ERR_INPUT, "unknown element type %d", (int)dtype);
    if (rank < 0 || rank > QP_MAX_RANK)
        return qp_fail(err, QP_ERR_INPUT, "rank %d; 0 to %d are possible", rank, QP_MAX_RANK);
    int64_t product, total;
    if (!qp_elements(shape, rank, &product) || __builtin_mul_overflow(product, (int64_t)bits, &total) ||
        total > INT64_MAX - 7) {
        char text[256];
        return qp_fail(err, QP_ERR_INPUT, "shape %s is negative or too large",
                       qp_shape_text(rank, shape, text, sizeof text));
    }
    *elements = product;
    *bytes = (size_t)((total + 7) / 8);
    return 0;
}

int qp_tensor_view(const char *name, enum qp_dtype dtype, int rank, const int64_t *shape, struct qp_place place,
                   struct qp_tensor **out, struct qp_error *err)
{
    struct qp_storage *storage = place.storage;
    uint64_t offset = place.offset;
    int64_t elements;
    size_t bytes;
    int r = qp_tensor_size(dtype, rank, shape, &elements, &bytes, err);
    if (r < 0)
        return qp_wrap(err, "%s", name);
    if (offset > storage->size || bytes > storage->size - offset)
        return qp_fail(err, QP_ERR_INPUT, "%s: %zu bytes at offset %llu lie outside %s (%zu bytes)", name, bytes,
                       (unsigned long long)offset, storage->path ? storage->path : "its storage", storage->size);
    struct qp_tensor *t = calloc(1, sizeof *t);
    if (!t || !(t->name = strdup(name))) {
        free(t);
        return qp_fail_memory(err, sizeof *t, name);
    }
    atomic_init(&t->references, 1);
    t->dtype = dtype;
    t->rank = rank;
    if (rank > 0)
        memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
    t->elements = elements;
    t->bytes = bytes;
    t->storage = qp_storage_ref(storage);
    t->offset = offset;
    t->data = storage->base ? (char *)storage->base + offset : NULL;
    *out = t;
    return 0;
}

int qp_tensor_new(const char *name, enum qp_dtype dtype, int rank, const int64_t *shape, struct qp_tensor **out,
                  struct qp_error *err)
{
    int64_t elements;
    size_t bytes;
    struct qp_storage *storage;
    if (qp_tensor_size(dtype, rank, shape, &elements, &bytes, err) < 0)
        return qp_wrap(err, "%s", name);
    if (qp_storage_new(bytes, &storage, err) < 0)
        return qp_wrap(err, "%s", name);
    int r = qp_tensor_view(name, dtype, rank, shape, (struct qp_place){storage, 0}, out, err);
    qp_storage_unref(storage);
    return r;
}

int qp_allocate(const struct qp_allocator *allocator, const char *name, enum qp_dtype dtype, int rank,
                const int64_t *shape, struct qp_tensor **out, struct qp_error *err)
{
    if (!allocator)
        return qp_tensor_new(name, dtype, rank, shape, out, err);
    return allocator->allocate(allocator->context, name, dtype, rank, shape, out, err);
}

struct qp_tensor *qp_tensor_ref(struct qp_tensor *tensor)
{
    atomic_fetch_add(&tensor->references, 1);
    return tensor;
}

void qp_tensor_unref(struct qp_tensor *tensor)
{
    if (!tensor || atomic_fetch_sub(&tensor->references, 1) != 1)
        return;
    qp_storage_unref(tensor->storage);
    free(tensor->name);
    free(tensor);
}

const char *qp_shape_text(int rank, const int64_t *shape, char *text, size_t size)
{
    size_t at = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (at < size)
        snprintf(text + at, size - at, "]");
    return text;
}
