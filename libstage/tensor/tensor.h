/* Tensors: a name, an element type, a shape and a view of reference-counted storage.
 *
 * A tensor is immutable once it has been given to anybody else (put in a unit, emitted): who wants other values makes
 * another tensor. Elements are row-major and contiguous. Tensors and storages are reference-counted with atomic
 * counters and may be released by any thread. */
#ifndef QUANTPIPE_TENSOR_TENSOR_H
#define QUANTPIPE_TENSOR_TENSOR_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "libstage/base/error.h"

#define QP_MAX_RANK 8

/* How another process on this host can reach the bytes. */
enum qp_where {
    QP_WHERE_INLINE, /* it cannot: they must be sent */
    QP_WHERE_SHM,    /* POSIX shared memory object `path` */
    QP_WHERE_FILE,   /* file `path` */
};

struct qp_storage {
    atomic_int references;
    enum qp_where where;
    char *path; /* of the shm object or file; NULL for inline */
    void *base; /* mapped address of byte 0; writable unless where is file */
    size_t size;
    void (*release)(struct qp_storage *); /* called once, at the last unref; frees base and path, then the storage */
    void *owner;                          /* for the owner's release function */
};

struct qp_tensor {
    atomic_int references;
    char *name;
    enum qp_dtype dtype;
    int rank; /* 0 to QP_MAX_RANK */
    int64_t shape[QP_MAX_RANK];
    int64_t elements; /* product of the shape */
    size_t bytes;
    struct qp_storage *storage;
    uint64_t offset; /* of element 0 in the storage */
    void *data;      /* storage->base + offset */
};

/* Heap storage of `size` bytes, 64-byte aligned, contents undefined. QP_ERR_SPACE without memory. */
int qp_storage_new(size_t size, struct qp_storage **out, struct qp_error *err);

/* The whole of a file, mapped read-only. QP_ERR_INPUT when it cannot be. An empty file gives size 0. */
int qp_storage_map(const char *path, struct qp_storage **out, struct qp_error *err);

#define QP_ALWAYS_INLINE (32 << 10) /* tensors of so few bytes are not worth a reference */

/* Bytes of the segment that a tensor of so many gets: rounded up by at most an eighth, so that segments of blocks that
 * differ a little can be swapped. */
size_t qp_segment_size(size_t bytes);

/* Creates (mode 0600, exclusive) or opens (whole, read-only) a shared memory object. The creator's last unref unlinks
 * it, an opener's only unmaps it. `name` starts with a slash. */
int qp_storage_create_shm(const char *name, size_t size, struct qp_storage **out, struct qp_error *err);
int qp_storage_open_shm(const char *name, struct qp_storage **out, struct qp_error *err);

struct qp_storage *qp_storage_ref(struct qp_storage *storage);
void qp_storage_unref(struct qp_storage *storage); /* NULL is accepted */

/* Bytes that a tensor takes (a last odd nibble rounds up to a byte). QP_ERR_INPUT for a bad dtype, rank, dimension or
 * a product that overflows. */
int qp_tensor_size(enum qp_dtype dtype, int rank, const int64_t *shape, int64_t *elements, size_t *bytes,
                   struct qp_error *err);

/* A tensor on new heap storage; contents undefined. */
int qp_tensor_new(const char *name, enum qp_dtype dtype, int rank, const int64_t *shape, struct qp_tensor **out,
                  struct qp_error *err);

/* From byte `offset` of `storage` on. */
struct qp_place {
    struct qp_storage *storage;
    uint64_t offset;
};

/* A view of a place; takes a reference of the storage. QP_ERR_INPUT when it does not fit. */
int qp_tensor_view(const char *name, enum qp_dtype dtype, int rank, const int64_t *shape, struct qp_place place,
                   struct qp_tensor **out, struct qp_error *err);

struct qp_tensor *qp_tensor_ref(struct qp_tensor *tensor);
void qp_tensor_unref(struct qp_tensor *tensor); /* NULL is accepted */

/* "[2, 3]" into `text`; returns it. */
const char *qp_shape_text(int rank, const int64_t *shape, char *text, size_t size);

/* Who gives tensors their memory: the heap by default, a stage's shared memory in a stage. */
struct qp_allocator {
    int (*allocate)(void *context, const char *name, enum qp_dtype dtype, int rank, const int64_t *shape,
                    struct qp_tensor **out, struct qp_error *err);
    void *context;
    void (*trim)(void *context); /* gives back what is kept for later tensors; NULL: nothing is */
};

/* Allocates through `allocator`, or on the heap when it is NULL. */
int qp_allocate(const struct qp_allocator *allocator, const char *name, enum qp_dtype dtype, int rank,
                const int64_t *shape, struct qp_tensor **out, struct qp_error *err);

static inline void qp_cleanup_tensor(struct qp_tensor **tensor)
{
    qp_tensor_unref(*tensor);
}
#define qp_auto_tensor __attribute__((cleanup(qp_cleanup_tensor)))

#endif
