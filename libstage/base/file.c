#include "libstage/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"

char *qp_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int n = vasprintf(&text, format, args);
    va_end(args);
    return n < 0 ? NULL : text;
}

char *qp_join(const char *folder, const char *path)
{
    return !folder || path[0] == '/' ? strdup(path) : qp_format("%s/%s", folder, path);
}

char *qp_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

bool qp_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

bool qp_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int read_all(int fd, char *text, size_t size, const char *path, struct qp_error *err)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = read(fd, text + at, size - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot read", path);
        if (n == 0)
            return qp_fail(err, QP_ERR_INPUT, "%s: ends at byte %zu of %zu while being read", path, at, size);
        at += (size_t)n;
    }
    return 0;
}

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode)    ? "a folder"
           : S_ISFIFO(mode) ? "a FIFO"
           : S_ISCHR(mode)  ? "a character device"
           : S_ISBLK(mode)  ? "a block device"
           : S_ISSOCK(mode) ? "a socket"
                            : "something else";
}

int qp_open_file(const char *path, struct qp_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    if (fd < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot open", path);
    int r = fstat(fd, &st) < 0 ? qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot stat", path) : 0;
    if (r == 0 && !S_ISREG(st.st_mode))
        r = qp_fail(err, QP_ERR_INPUT, "%s: expected a regular file, found %s; name a file", path, kind_of(st.st_mode));
    if (r < 0)
        close(fd);
    return r < 0 ? r : fd;
}

int qp_read_file(const char *path, size_t limit, char **text, size_t *size, struct qp_error *err)
{
    qp_auto_close int fd = qp_open_file(path, err);
    if (fd < 0)
        return fd;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot stat", path);
    if ((unsigned long long)st.st_size > limit)
        return qp_fail(err, QP_ERR_INPUT, "%s: %lld bytes; at most %zu are accepted here", path, (long long)st.st_size,
                       limit);
    qp_auto_free char *buffer = malloc((size_t)st.st_size + 1);
    if (!buffer)
        return qp_fail_memory(err, (unsigned long long)st.st_size + 1, path);
    int r = read_all(fd, buffer, (size_t)st.st_size, path, err);
    if (r < 0)
        return r;
    buffer[st.st_size] = '\0';
    *text = buffer;
    *size = (size_t)st.st_size;
    buffer = NULL;
    return 0;
}

int qp_read_json(const char *path, size_t limit, json_t **out, struct qp_error *err)
{
    qp_auto_free char *text = NULL;
    size_t size = 0;
    int r = qp_read_file(path, limit, &text, &size, err);
    if (r < 0)
        return r;
    json_error_t at;
    json_t *value = json_loadb(text, size, JSON_REJECT_DUPLICATES, &at);
    if (!value)
        return qp_fail(err, QP_ERR_INPUT, "%s:%d:%d: not valid JSON: %s", path, at.line, at.column, at.text);
    *out = value;
    return 0;
}

int qp_write_all(int fd, const void *data, size_t bytes, const char *path, struct qp_error *err)
{
    const char *p = data;
    while (bytes > 0) {
        ssize_t n = write(fd, p, bytes < (1u << 30) ? bytes : (1u << 30));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot write", path);
        p += n;
        bytes -= (size_t)n;
    }
    return 0;
}

int qp_sync_folder(const char *path, struct qp_error *err)
{
    qp_auto_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot sync the folder", path);
    return 0;
}

/* Writes, syncs and closes; a failed fsync or close means that the data is lost, so neither is tried again. */
static int write_and_close(int fd, const void *data, size_t size, const char *path, struct qp_error *err)
{
    int r = qp_write_all(fd, data, size, path, err);
    if (r == 0 && fsync(fd) < 0)
        r = qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot sync", path);
    if (close(fd) < 0 && r == 0)
        r = qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot close", path);
    return r;
}

int qp_write_file(const char *path, const void *data, size_t size, struct qp_error *err)
{
    qp_auto_free char *temporary = qp_format("%s.tmp%ld", path, (long)getpid());
    qp_auto_free char *folder = qp_folder_of(path);
    if (!temporary || !folder)
        return qp_fail_memory(err, 0, path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot create", temporary);
    int r = write_and_close(fd, data, size, temporary, err);
    if (r == 0 && rename(temporary, path) < 0)
        r = qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot rename to %s", temporary, path);
    if (r < 0) {
        unlink(temporary);
        return r;
    }
    return qp_sync_folder(folder, err);
}

int qp_write_json(const char *path, const json_t *value, struct qp_error *err)
{
    if (qp_json_check(0, err) < 0)
        return QP_ERR_SPACE;
    qp_auto_free char *text = json_dumps(value, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    qp_auto_free char *line = text ? qp_format("%s\n", text) : NULL;
    if (!line)
        return qp_fail_memory(err, 0, path);
    return qp_write_file(path, line, strlen(line), err);
}

int qp_copy_file(const char *from, const char *to, struct qp_error *err)
{
    qp_auto_free char *text = NULL;
    size_t size = 0;
    int r = qp_read_file(from, (size_t)1 << 30, &text, &size, err);
    return r < 0 ? r : qp_write_file(to, text, size, err);
}

int qp_make_folders(const char *path, struct qp_error *err)
{
    qp_auto_free char *copy = strdup(path);
    if (!copy)
        return qp_fail_memory(err, strlen(path), path);
    for (char *p = copy + 1;; p++) {
        if (*p && *p != '/')
            continue;
        char end = *p;
        *p = '\0';
        if (mkdir(copy, 0777) < 0 && errno != EEXIST)
            return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot make the folder", copy);
        *p = end;
        if (!end)
            break;
    }
    return qp_is_folder(path) ? 0 : qp_fail(err, QP_ERR_INPUT, "%s: exists and is not a folder", path);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

int qp_remove_tree(const char *path, struct qp_error *err)
{
    if (!qp_exists(path))
        return 0;
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot remove", path);
    return 0;
}
