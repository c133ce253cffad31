#include "libstage/base/file_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/file.h"

/* Whole buffers are what is written past the page cache, from addresses and to places that are multiples of ALIGNMENT.
 */
enum { BUFFERS = 3, BUFFER = QP_FILE_WRITER_BYTES / BUFFERS, ALIGNMENT = 4096 };

struct qp_file_writer {
    int fd;
    char *path;
    char *buffers[BUFFERS]; /* made when they are first needed */
    size_t used;            /* of buffer `added` % BUFFERS, which is being filled */
    bool running;           /* the thread */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t added, written; /* whole buffers; `written` is the thread's, all below stand under the lock */
    bool ends;
    int failure; /* errno of the first write that failed */
};

/* Writes past the page cache are refused by some file systems only when they come. */
static void leave_direct(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0)
        fcntl(fd, F_SETFL, flags & ~O_DIRECT);
}

/* 0 or errno. */
static int write_at(int fd, const char *data, size_t bytes, uint64_t at)
{
    bool direct = true;
    while (bytes > 0) {
        ssize_t n = pwrite(fd, data, bytes, (off_t)at);
        if (n < 0 && errno == EINVAL && direct) {
            leave_direct(fd);
            direct = false;
        } else if (n < 0 && errno != EINTR)
            return errno;
        if (n < 0)
            continue;
        if (n % ALIGNMENT != 0)
            leave_direct(fd);
        data += n;
        bytes -= (size_t)n;
        at += (uint64_t)n;
    }
    return 0;
}

/* The thread: buffer after buffer until the end, or the first failure. */
static void *write_buffers(void *context)
{
    struct qp_file_writer *w = context;
    pthread_mutex_lock(&w->lock);
    while (w->failure == 0 && (!w->ends || w->written < w->added)) {
        if (w->written == w->added) {
            pthread_cond_wait(&w->changed, &w->lock);
            continue;
        }
        uint64_t number = w->written;
        pthread_mutex_unlock(&w->lock);
        int failure = write_at(w->fd, w->buffers[number % BUFFERS], BUFFER, number * BUFFER);
        pthread_mutex_lock(&w->lock);
        w->failure = failure;
        w->written++;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Signals are for the threads that were there before. */
static int start_thread(struct qp_file_writer *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&w->thread, NULL, write_buffers, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    w->running = failure == 0;
    return failure;
}

int qp_file_writer_open(const char *path, struct qp_file_writer **out, struct qp_error *err)
{
    struct qp_file_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        return qp_fail_memory(err, sizeof *w, path);
    }
    int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
    w->fd = open(path, flags | O_DIRECT, 0666);
    if (w->fd < 0 && errno == EINVAL)
        w->fd = open(path, flags, 0666);
    if (w->fd < 0) {
        int r = qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot create", path);
        free(w->path);
        free(w);
        return r;
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    *out = w;
    return 0;
}

static int fail_write(const struct qp_file_writer *w, int failure, struct qp_error *err)
{
    errno = failure;
    return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot write", w->path);
}

/* The buffer that is being filled. */
static char *open_buffer(struct qp_file_writer *w)
{
    char **buffer = &w->buffers[w->added % BUFFERS];
    if (!*buffer)
        *buffer = aligned_alloc(ALIGNMENT, BUFFER);
    return *buffer;
}

/* Hands the full buffer over, and waits until the next one is free. */
static int hand_over(struct qp_file_writer *w, struct qp_error *err)
{
    int failure = w->running ? 0 : start_thread(w);
    if (failure != 0)
        return fail_write(w, failure, err);
    pthread_mutex_lock(&w->lock);
    w->added++;
    w->used = 0;
    pthread_cond_broadcast(&w->changed);
    while (w->failure == 0 && w->added - w->written >= BUFFERS)
        pthread_cond_wait(&w->changed, &w->lock);
    failure = w->failure;
    pthread_mutex_unlock(&w->lock);
    return failure == 0 ? 0 : fail_write(w, failure, err);
}

int qp_file_writer_add(struct qp_file_writer *writer, const void *data, size_t bytes, struct qp_error *err)
{
    const char *from = data;
    while (bytes > 0) {
        char *buffer = open_buffer(writer);
        if (!buffer)
            return qp_fail_memory(err, BUFFER, writer->path);
        size_t n = bytes < BUFFER - writer->used ? bytes : BUFFER - writer->used;
        memcpy(buffer + writer->used, from, n);
        writer->used += n;
        from += n;
        bytes -= n;
        int r = writer->used == BUFFER ? hand_over(writer, err) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

/* 0 or errno of what failed. */
static int end_thread(struct qp_file_writer *w)
{
    pthread_mutex_lock(&w->lock);
    w->ends = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (w->running)
        pthread_join(w->thread, NULL);
    w->running = false;
    return w->failure;
}

static int finish(struct qp_file_writer *w, const void *head, size_t bytes, struct qp_error *err)
{
    int failure = end_thread(w);
    leave_direct(w->fd);
    if (failure == 0 && w->used > 0)
        failure = write_at(w->fd, w->buffers[w->added % BUFFERS], w->used, w->added * BUFFER);
    if (failure == 0)
        failure = write_at(w->fd, head, bytes, 0);
    if (failure != 0)
        return fail_write(w, failure, err);
    if (fsync(w->fd) < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot sync", w->path);
    int r = close(w->fd);
    w->fd = -1;
    return r < 0 ? qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot close", w->path) : 0;
}

int qp_file_writer_finish(struct qp_file_writer *writer, const void *head, size_t bytes, struct qp_error *err)
{
    int r = finish(writer, head, bytes, err);
    qp_file_writer_abandon(writer);
    return r;
}

void qp_file_writer_abandon(struct qp_file_writer *writer)
{
    if (!writer)
        return;
    end_thread(writer);
    if (writer->fd >= 0)
        close(writer->fd);
    for (int i = 0; i < BUFFERS; i++)
        free(writer->buffers[i]);
    pthread_cond_destroy(&writer->changed);
    pthread_mutex_destroy(&writer->lock);
    free(writer->path);
    free(writer);
}
