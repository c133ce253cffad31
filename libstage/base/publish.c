#include "libstage/base/publish.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/lock.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1 << 0)
#endif

#define TEMPORARY ".quantpipe-"
#define MARK "quantpipe-lock"

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int qp_temporary_new(const char *path, char **out, struct qp_error *err)
{
    qp_auto_free char *folder = qp_folder_of(path);
    char *made = folder ? qp_format("%s/.%s" TEMPORARY "XXXXXX", folder, name_of(path)) : NULL;
    if (!made)
        return qp_fail_memory(err, strlen(path), "a path");
    if (!mkdtemp(made)) {
        int r = qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot make a temporary folder", made);
        free(made);
        return r;
    }
    *out = made;
    return 0;
}

char *qp_temporary_lock(const char *temporary)
{
    return qp_join(temporary, MARK);
}

static bool is_own_folder(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

/* `path` with every character that means something to glob escaped; a new string. */
static char *escape(const char *path)
{
    char *text = malloc(2 * strlen(path) + 1), *at = text;
    for (; text && *path; path++) {
        if (strchr("*?[]\\", *path))
            *at++ = '\\';
        *at++ = *path;
    }
    if (text)
        *at = '\0';
    return text;
}

/* The mark goes last: what cannot be removed yet, because a stage of the dead run is still writing, stays marked. */
static void remove_marked(const char *temporary, const char *mark)
{
    DIR *dir = opendir(temporary);
    const struct dirent *entry;
    bool all = dir != NULL;
    while (all && (entry = readdir(dir))) {
        qp_auto_free char *path = qp_join(temporary, entry->d_name);
        bool stays =
            strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || strcmp(entry->d_name, MARK) == 0;
        all = path && (stays || qp_remove_tree(path, NULL) == 0);
    }
    if (dir)
        closedir(dir);
    if (all && unlink(mark) == 0)
        rmdir(temporary);
}

void qp_temporary_clean(const char *path)
{
    qp_auto_free char *folder = qp_folder_of(path);
    qp_auto_free char *plain = folder ? qp_format("%s/.%s" TEMPORARY, folder, name_of(path)) : NULL;
    qp_auto_free char *escaped = plain ? escape(plain) : NULL;
    qp_auto_free char *pattern = escaped ? qp_format("%s??????", escaped) : NULL;
    glob_t found = {0};
    if (pattern && glob(pattern, GLOB_NOSORT, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++) {
            qp_auto_free char *lock = qp_temporary_lock(found.gl_pathv[i]);
            if (lock && is_own_folder(found.gl_pathv[i]) && qp_lock_is_stale(lock))
                remove_marked(found.gl_pathv[i], lock);
        }
    globfree(&found);
}

/* For kernels and file systems without RENAME_NOREPLACE. rename() puts a folder in the place of an empty folder only;
 * link() puts a file in the place of nothing. */
static int rename_plainly(const char *from, const char *to)
{
    if (qp_exists(to)) {
        errno = EEXIST;
        return -1;
    }
    if (qp_is_folder(from))
        return rename(from, to);
    return link(from, to) < 0 ? -1 : unlink(from);
}

int qp_publish(const char *from, const char *to, bool *published, struct qp_error *err)
{
    qp_auto_free char *folder = qp_folder_of(to);
    if (published)
        *published = false;
    if (!folder)
        return qp_fail_memory(err, strlen(to), "a path");
    int r = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
    if (r < 0 && (errno == ENOSYS || errno == EINVAL || errno == EOPNOTSUPP))
        r = rename_plainly(from, to);
    if (r < 0 && (errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR))
        return qp_fail(err, QP_ERR_INPUT, "%s: was made by somebody else meanwhile; nothing was replaced", to);
    if (r < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot rename to %s", from, to);
    if (published)
        *published = true;
    return qp_sync_folder(folder, err);
}
