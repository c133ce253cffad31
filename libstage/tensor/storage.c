#include "libstage/tensor/tensor.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/mapped.h"

static void release_heap(struct qp_storage *s)
{
    free(s->base);
    free(s);
}

static void release_mapping(struct qp_storage *s)
{
    if (s->base && s->where == QP_WHERE_FILE)
        qp_mapped_remove(s->base);
    if (s->base)
        munmap(s->base, s->size);
    free(s->path);
    free(s);
}

static void release_created_shm(struct qp_storage *s)
{
    shm_unlink(s->path);
    release_mapping(s);
}

static int new_storage(enum qp_where where, const char *path, void (*release)(struct qp_storage *),
                       struct qp_storage **out, struct qp_error *err)
{
    struct qp_storage *s = calloc(1, sizeof *s);
    if (s && path && !(s->path = strdup(path))) {
        free(s);
        s = NULL;
    }
    if (!s)
        return qp_fail_memory(err, sizeof *s, path ? path : "a tensor");
    atomic_init(&s->references, 1);
    s->where = where;
    s->release = release;
    *out = s;
    return 0;
}

int qp_storage_new(size_t size, struct qp_storage **out, struct qp_error *err)
{
    struct qp_storage *s = NULL;
    int r = new_storage(QP_WHERE_INLINE, NULL, release_heap, &s, err);
    if (r < 0)
        return r;
    s->size = size;
    size_t rounded = size > SIZE_MAX - 63 ? 0 : (size + 63) / 64 * 64;
    if (size > 0 && (rounded == 0 || !(s->base = aligned_alloc(64, rounded)))) {
        free(s);
        return qp_fail_memory(err, size, "a tensor");
    }
    *out = s;
    return 0;
}

/* Maps all of an open file or shm object into a new storage. */
static int map_fd(int fd, int protection, int flags, struct qp_storage *s, struct qp_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot stat", s->path);
    s->size = (size_t)st.st_size;
    if (s->size == 0)
        return 0;
    void *base = mmap(NULL, s->size, protection, flags, fd, 0);
    if (base == MAP_FAILED)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot map %zu bytes", s->path, s->size);
    s->base = base;
    if (s->where == QP_WHERE_FILE)
        qp_mapped_add(base, &st, s->path);
    return 0;
}

static int open_mapping(enum qp_where where, int fd, int protection, const char *path, struct qp_storage **out,
                        struct qp_error *err)
{
    if (fd < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot open", path);
    struct qp_storage *s = NULL;
    int r = new_storage(where, path, release_mapping, &s, err);
    if (r < 0)
        return r;
    r = map_fd(fd, protection, MAP_SHARED, s, err);
    if (r < 0) {
        release_mapping(s);
        return r;
    }
    *out = s;
    return 0;
}

int qp_storage_map(const char *path, struct qp_storage **out, struct qp_error *err)
{
    qp_auto_close int fd = qp_open_file(path, err);
    return fd < 0 ? fd : open_mapping(QP_WHERE_FILE, fd, PROT_READ, path, out, err);
}

int qp_storage_open_shm(const char *name, struct qp_storage **out, struct qp_error *err)
{
    qp_auto_close int fd = shm_open(name, O_RDONLY, 0);
    return open_mapping(QP_WHERE_SHM, fd, PROT_READ, name, out, err);
}

size_t qp_segment_size(size_t bytes)
{
    size_t step = (size_t)64 << 10;
    while (step < bytes / 16)
        step *= 2;
    return (bytes + step - 1) / step * step;
}

int qp_storage_create_shm(const char *name, size_t size, struct qp_storage **out, struct qp_error *err)
{
    qp_auto_close int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot create shared memory", name);
    /* posix_fallocate and not ftruncate: a full /dev/shm is an error here, not a SIGBUS at the first write. */
    int cause = size > 0 ? posix_fallocate(fd, 0, (off_t)size) : 0;
    if (cause != 0) {
        shm_unlink(name);
        return qp_fail(err, QP_ERR_SPACE, "%s: no space for %zu bytes of shared memory: %s; enlarge /dev/shm", name,
                       size, strerror(cause));
    }
    int r = open_mapping(QP_WHERE_SHM, fd, PROT_READ | PROT_WRITE, name, out, err);
    if (r < 0) {
        shm_unlink(name);
        return r;
    }
    (*out)->release = release_created_shm;
    return 0;
}

struct qp_storage *qp_storage_ref(struct qp_storage *storage)
{
    atomic_fetch_add(&storage->references, 1);
    return storage;
}

void qp_storage_unref(struct qp_storage *storage)
{
    if (storage && atomic_fetch_sub(&storage->references, 1) == 1)
        storage->release(storage);
}
