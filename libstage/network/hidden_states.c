/* Hidden states of all windows, in a file that the kernel may page out. */
#include "libstage/network/evaluate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libstage/base/checked.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"

/* A file of `bytes` bytes that nobody else sees; its space is taken now, so that a full disk is an error here and not
 * a SIGBUS later. */
static int open_unlinked(const char *folder, size_t bytes, int *out, struct qp_error *err)
{
    qp_auto_free char *path = qp_join(folder, "states-XXXXXX");
    if (!path)
        return qp_fail_memory(err, 0, folder);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot create a scratch file", folder);
    unlink(path);
    int cause = posix_fallocate(fd, 0, (off_t)bytes);
    if (cause != 0) {
        close(fd);
        errno = cause;
        return qp_fail_errno(err, QP_ERR_SPACE, "%s: cannot keep %zu bytes of hidden states", folder, bytes);
    }
    *out = fd;
    return 0;
}

int qp_hidden_open(const struct qp_windows *windows, int64_t hidden, const char *scratch, struct qp_hidden_states *out,
                   struct qp_error *err)
{
    return qp_hidden_open_as(windows, hidden, QP_F32, scratch, out, err);
}

int qp_hidden_open_as(const struct qp_windows *windows, int64_t hidden, enum qp_dtype dtype, const char *scratch,
                      struct qp_hidden_states *out, struct qp_error *err)
{
    qp_auto_close int fd = -1;
    uint64_t size = (uint64_t)qp_dtype_bits(dtype) / 8;
    uint64_t bytes;
    if (!qp_mul_u64((uint64_t)windows->count, (uint64_t)windows->length, &bytes) ||
        !qp_mul_u64(bytes, (uint64_t)hidden * size, &bytes) || bytes == 0 || bytes > INT64_MAX)
        return qp_fail(err, QP_ERR_INPUT, "found %lld windows of %lld tokens, expected at least one, and fewer",
                       (long long)windows->count, (long long)windows->length);
    int r = scratch ? open_unlinked(scratch, bytes, &fd, err) : 0;
    if (r < 0)
        return r;
    int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void *x = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (x == MAP_FAILED)
        return qp_fail_memory(err, bytes, "hidden states");
    *out = (struct qp_hidden_states){windows, hidden, dtype == QP_F32 ? x : NULL, dtype, x, bytes};
    return 0;
}

void qp_hidden_close(struct qp_hidden_states *states)
{
    if (states->data)
        munmap(states->data, states->bytes);
    *states = (struct qp_hidden_states){0};
}

static char *rows_of(const struct qp_hidden_states *states, int64_t first)
{
    return (char *)states->data + first * states->hidden * qp_dtype_bits(states->dtype) / 8;
}

void qp_hidden_read(const struct qp_hidden_states *states, const struct qp_kernels *kernels, int64_t first,
                    int64_t count, float *x)
{
    kernels->to_f32(states->dtype, count * states->hidden, rows_of(states, first), x);
}

void qp_hidden_write(struct qp_hidden_states *states, const struct qp_kernels *kernels, int64_t first, int64_t count,
                     const float *x)
{
    kernels->from_f32(states->dtype, count * states->hidden, x, rows_of(states, first));
}
