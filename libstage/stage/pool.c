#include "libstage/stage/pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/wire/unit_header.h"

#define KEPT_ANYWAY ((size_t)32 << 20) /* bytes of free segments that are worth no thought */

/* The owner of a segment's storage. */
struct segment {
    struct segment *next; /* among the free */
    struct qp_pool *pool;
    struct qp_storage *storage;
    void (*destroy)(struct qp_storage *);
};

struct qp_pool {
    pthread_mutex_t lock;
    char *run;
    size_t keep;
    long made;
    struct segment *free;
    size_t free_bytes;
    atomic_size_t in_use, size, given;
    atomic_bool on;
    struct qp_allocator allocator;
};

static void destroy(struct segment *segment)
{
    struct qp_storage *storage = segment->storage;
    atomic_fetch_sub(&segment->pool->size, storage->size);
    segment->destroy(storage);
    free(segment);
}

/* As much as is in use is worth keeping: the next blocks take what the last ones leave. What is larger than blocks that
 * follow, as an embedding is, would lie there until the end. */
static bool is_worth_keeping(const struct qp_pool *pool, size_t size)
{
    size_t used = atomic_load(&pool->in_use), most = used > KEPT_ANYWAY ? used : KEPT_ANYWAY;
    most = most < pool->keep ? most : pool->keep;
    return atomic_load(&pool->on) && size <= most && pool->free_bytes <= most - size;
}

/* The last reference is gone: the segment goes back, or away when enough are kept. */
static void release(struct qp_storage *storage)
{
    struct segment *segment = storage->owner;
    struct qp_pool *pool = segment->pool;
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_sub(&pool->in_use, storage->size);
    if (is_worth_keeping(pool, storage->size)) {
        segment->next = pool->free;
        pool->free = segment;
        pool->free_bytes += storage->size;
    } else {
        destroy(segment);
    }
    pthread_mutex_unlock(&pool->lock);
}

static struct segment *take_free(struct qp_pool *pool, size_t size)
{
    struct segment **link = &pool->free;
    while (*link && (*link)->storage->size != size)
        link = &(*link)->next;
    struct segment *segment = *link;
    if (!segment)
        return NULL;
    *link = segment->next;
    pool->free_bytes -= size;
    atomic_store(&segment->storage->references, 1);
    return segment;
}

static char *segment_name(const struct qp_pool *pool, long number)
{
    return qp_format("/qp-%s-%ld-%ld", pool->run, (long)getpid(), number);
}

void qp_pool_unlink(struct qp_pool *pool)
{
    for (long i = 0; i < pool->made; i++) {
        qp_auto_free char *name = segment_name(pool, i);
        if (name)
            shm_unlink(name);
    }
}

static int make(struct qp_pool *pool, size_t size, struct segment **out, struct qp_error *err)
{
    qp_auto_free char *name = segment_name(pool, pool->made++);
    struct segment *segment = calloc(1, sizeof *segment);
    int r = name && segment ? qp_storage_create_shm(name, size, &segment->storage, err)
                            : qp_fail_memory(err, sizeof *segment, "a segment");
    if (r < 0) {
        free(segment);
        return r;
    }
    segment->pool = pool;
    segment->destroy = segment->storage->release;
    segment->storage->release = release;
    segment->storage->owner = segment;
    atomic_fetch_add(&pool->size, size);
    *out = segment;
    return 0;
}

static int take(struct qp_pool *pool, size_t bytes, struct qp_storage **out, struct qp_error *err)
{
    size_t size = qp_segment_size(bytes);
    pthread_mutex_lock(&pool->lock);
    struct segment *segment = take_free(pool, size);
    int r = segment ? 0 : make(pool, size, &segment, err);
    if (r == 0) {
        atomic_fetch_add(&pool->in_use, size);
        *out = segment->storage;
    }
    pthread_mutex_unlock(&pool->lock);
    return r;
}

static int allocate(void *context, const char *name, enum qp_dtype dtype, int rank, const int64_t *shape,
                    struct qp_tensor **out, struct qp_error *err)
{
    struct qp_pool *pool = context;
    int64_t elements;
    size_t bytes;
    int r = qp_tensor_size(dtype, rank, shape, &elements, &bytes, err);
    if (r < 0)
        return qp_wrap(err, "%s", name);
    atomic_fetch_add(&pool->given, bytes);
    struct qp_storage *storage;
    if (bytes <= QP_ALWAYS_INLINE || bytes > SIZE_MAX / 2 || !atomic_load(&pool->on) ||
        take(pool, bytes, &storage, err) < 0)
        return qp_tensor_new(name, dtype, rank, shape, out, err);
    r = qp_tensor_view(name, dtype, rank, shape, (struct qp_place){storage, 0}, out, err);
    qp_storage_unref(storage);
    return r;
}

static void destroy_free(struct qp_pool *pool)
{
    while (pool->free) {
        struct segment *segment = pool->free;
        pool->free = segment->next;
        destroy(segment);
    }
    pool->free_bytes = 0;
}

static void trim(void *context)
{
    struct qp_pool *pool = context;
    pthread_mutex_lock(&pool->lock);
    destroy_free(pool);
    pthread_mutex_unlock(&pool->lock);
}

int qp_pool_new(const char *run, size_t keep, struct qp_pool **out, struct qp_error *err)
{
    struct qp_pool *pool = calloc(1, sizeof *pool);
    if (!pool || !(pool->run = qp_format("%s", run))) {
        free(pool);
        return qp_fail_memory(err, sizeof *pool, "shared memory");
    }
    pthread_mutex_init(&pool->lock, NULL);
    pool->keep = keep;
    atomic_init(&pool->in_use, 0);
    atomic_init(&pool->size, 0);
    atomic_init(&pool->given, 0);
    atomic_init(&pool->on, true);
    pool->allocator = (struct qp_allocator){allocate, pool, trim};
    *out = pool;
    return 0;
}

void qp_pool_free(struct qp_pool *pool)
{
    if (!pool)
        return;
    destroy_free(pool);
    pthread_mutex_destroy(&pool->lock);
    free(pool->run);
    free(pool);
}

const struct qp_allocator *qp_pool_allocator(struct qp_pool *pool)
{
    return &pool->allocator;
}

void qp_pool_switch(struct qp_pool *pool, bool on)
{
    atomic_store(&pool->on, on);
}

size_t qp_pool_in_use(const struct qp_pool *pool)
{
    return atomic_load(&pool->in_use);
}

size_t qp_pool_size(const struct qp_pool *pool)
{
    return atomic_load(&pool->size);
}

size_t qp_pool_given(const struct qp_pool *pool)
{
    return atomic_load(&pool->given);
}
