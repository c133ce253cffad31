#include "libstage/base/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"

#define LOCK_BYTES 1024 /* longer files are no locks */
#define TRIES 100       /* each means that another run ended between two system calls */

/* What stands in a lock file, and whether its process holds it. */
enum state { STATE_FREE, STATE_HELD, STATE_GONE, STATE_FOREIGN };

struct holder {
    char run[32], host[HOST_NAME_MAX + 1];
    long pid; /* 0: not known */
};

char *qp_lock_path(const char *path)
{
    qp_auto_free char *folder = qp_folder_of(path);
    const char *slash = strrchr(path, '/');
    return folder ? qp_format("%s/.%s.quantpipe-lock", folder, slash ? slash + 1 : path) : NULL;
}

static void host_name(char name[HOST_NAME_MAX + 1])
{
    if (gethostname(name, HOST_NAME_MAX) < 0)
        snprintf(name, HOST_NAME_MAX, "?");
    name[HOST_NAME_MAX] = '\0';
}

/* Whether the file is quantpipe's: empty while its maker has not come to write it. */
static bool read_holder(int fd, struct holder *holder)
{
    char text[LOCK_BYTES + 1];
    ssize_t size = pread(fd, text, sizeof text, 0);
    *holder = (struct holder){0};
    if (size <= 0)
        return size == 0;
    qp_auto_json json_t *json = size <= LOCK_BYTES ? json_loadb(text, (size_t)size, 0, NULL) : NULL;
    const char *run = json_string_value(json_object_get(json, "run"));
    const char *host = json_string_value(json_object_get(json, "host"));
    if (!json_object_get(json, "quantpipe") || !run || !host)
        return false;
    snprintf(holder->run, sizeof holder->run, "%s", run);
    snprintf(holder->host, sizeof holder->host, "%s", host);
    holder->pid = (long)json_integer_value(json_object_get(json, "pid"));
    return true;
}

static int write_holder(const struct qp_lock *lock, const char *run, struct qp_error *err)
{
    char host[HOST_NAME_MAX + 1];
    host_name(host);
    qp_auto_free char *text =
        qp_format("{\"quantpipe\": 1, \"run\": \"%s\", \"pid\": %ld, \"host\": \"%s\"}\n", run, (long)getpid(), host);
    if (!text)
        return qp_fail_memory(err, 0, lock->path);
    if (ftruncate(lock->fd, 0) < 0 || lseek(lock->fd, 0, SEEK_SET) < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot write the lock", lock->path);
    return qp_write_all(lock->fd, text, strlen(text), lock->path, err);
}

/* Where there are no locks, a process of this host tells by being there; one of another host may live. */
static bool may_live(const struct holder *holder)
{
    char host[HOST_NAME_MAX + 1];
    host_name(host);
    bool here = strcmp(holder->host, host) == 0;
    return holder->pid <= 0 || !here || kill((pid_t)holder->pid, 0) == 0 || errno == EPERM;
}

static bool lacks_locks(int cause)
{
    return cause == ENOLCK || cause == ENOSYS || cause == EINVAL || cause == EOPNOTSUPP;
}

static bool is_same_file(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && lstat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static bool is_plain_own_file(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid();
}

/* Locks an open file. `made`: this process has just made it. */
static enum state examine(int fd, const char *path, bool made, bool *unsupported, struct holder *holder)
{
    int r;
    *holder = (struct holder){0};
    *unsupported = false;
    if (!is_plain_own_file(fd))
        return STATE_FOREIGN;
    while ((r = flock(fd, LOCK_EX | LOCK_NB)) < 0 && errno == EINTR)
        ;
    *unsupported = r < 0 && lacks_locks(errno);
    if (!read_holder(fd, holder))
        return STATE_FOREIGN;
    if (r < 0 && !*unsupported)
        return STATE_HELD;
    if (!is_same_file(fd, path))
        return STATE_GONE;
    return *unsupported && !made && may_live(holder) ? STATE_HELD : STATE_FREE;
}

static int refuse(enum state state, const char *path, const struct holder *holder, struct qp_error *err)
{
    if (state == STATE_FOREIGN)
        return qp_fail(
            err, QP_ERR_INPUT,
            "%s: stands where a run keeps its lock, and is no file of quantpipe and this user; move it away, "
            "or choose another --output or --run-dir",
            path);
    if (holder->pid == 0)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: a run is going on there, which has just begun; wait for it or stop it, or choose another "
                       "--output or --run-dir; remove the file if no run is going on",
                       path);
    return qp_fail(err, QP_ERR_INPUT,
                   "%s: a run is going on there (run %s, process %ld on %s); wait for it or stop it, or choose another "
                   "--output or --run-dir",
                   path, holder->run, holder->pid, holder->host);
}

/* Opens the file, makes it where it is missing. -1 with errno; EAGAIN: it was removed between the two calls. */
static int open_lock(const char *path, bool *made)
{
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    int fd = open(path, flags | O_CREAT | O_EXCL, 0600);
    *made = fd >= 0;
    if (fd >= 0 || errno != EEXIST)
        return fd;
    fd = open(path, flags);
    if (fd < 0 && errno == ENOENT)
        errno = EAGAIN;
    return fd;
}

int qp_lock_take(const char *path, const char *run, struct qp_lock *out, struct qp_error *err)
{
    struct holder holder = {0};
    enum state state = STATE_GONE;
    *out = (struct qp_lock){.fd = -1};
    for (int i = 0; state == STATE_GONE && i < TRIES; i++) {
        bool made;
        int fd = open_lock(path, &made);
        if (fd < 0 && errno == EAGAIN && i + 1 < TRIES)
            continue;
        if (fd < 0 && (errno == ELOOP || errno == EISDIR || errno == ENXIO))
            return refuse(STATE_FOREIGN, path, &holder, err);
        if (fd < 0)
            return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot make the lock", path);
        state = examine(fd, path, made, &out->unsupported, &holder);
        if (state == STATE_FREE)
            out->fd = fd;
        else
            close(fd);
    }
    if (state != STATE_FREE)
        return refuse(state, path, &holder, err);
    out->path = strdup(path);
    int r = out->path ? write_holder(out, run, err) : qp_fail_memory(err, strlen(path), path);
    if (r < 0) {
        unlink(path);
        close(out->fd);
        free(out->path);
        *out = (struct qp_lock){.fd = -1};
    }
    return r;
}

void qp_lock_release(struct qp_lock *lock)
{
    if (lock->path) {
        if (is_same_file(lock->fd, lock->path))
            unlink(lock->path);
        close(lock->fd);
    }
    free(lock->path);
    *lock = (struct qp_lock){.fd = -1};
}

bool qp_lock_is_stale(const char *path)
{
    struct holder holder;
    bool unsupported;
    qp_auto_close int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    return fd >= 0 && examine(fd, path, false, &unsupported, &holder) == STATE_FREE;
}
