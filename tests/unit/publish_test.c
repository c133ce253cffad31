/* Locks of runs, and folders that appear whole, or not at all, and never in the place of something else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/lock.h"
#include "libstage/base/publish.h"
#include "tests/support/deny.h"
#include "tests/support/scratch.h"

TestSuite(lock, .init = scratch_make, .fini = scratch_drop, .timeout = 30);
TestSuite(publish, .init = scratch_make, .fini = scratch_drop, .timeout = 30);

#define RUN "0123456789abcdef"

/* ---- locks ---- */

static void expect_refused(const char *path, const char *message)
{
    struct qp_lock lock;
    struct qp_error err;
    cr_expect_eq(qp_lock_take(path, "another", &lock, &err), QP_ERR_INPUT, "%s", path);
    cr_expect(strstr(err.message, message), "%s", err.message);
    cr_expect_null(lock.path);
}

static void take(const char *path, struct qp_lock *lock)
{
    struct qp_error err;
    cr_assert_eq(qp_lock_take(path, RUN, lock, &err), 0, "%s", err.message);
}

Test(lock, one_run_holds_it_and_the_other_is_told_who)
{
    char holder[128];
    struct qp_lock lock, next;
    qp_auto_free char *path = qp_lock_path(scratch("out"));
    cr_expect_str_eq(path, scratch(".out.quantpipe-lock"));
    take(path, &lock);
    snprintf(holder, sizeof holder, "(run " RUN ", process %ld on ", (long)getpid());
    expect_refused(path, holder);
    cr_expect_not(qp_lock_is_stale(path));
    qp_lock_release(&lock);
    cr_expect_not(qp_exists(path));
    take(path, &next);
    qp_lock_release(&next);
    qp_lock_release(&next); /* not held any more */
}

/* Takes the lock in a process that is then killed. */
static void take_and_die(const char *path)
{
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        struct qp_lock lock;
        struct qp_error err;
        if (qp_lock_take(path, "dead", &lock, &err) < 0)
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status));
}

static void expect_taken_over(void)
{
    struct qp_lock lock;
    qp_auto_free char *path = qp_lock_path(scratch("out"));
    take_and_die(path);
    cr_expect(qp_exists(path));
    cr_expect(qp_lock_is_stale(path));
    take(path, &lock);
    qp_lock_release(&lock);
    cr_expect_not(qp_exists(path));
}

Test(lock, a_dead_runs_is_taken_over)
{
    expect_taken_over();
}

Test(lock, without_locks_the_process_tells)
{
    struct qp_lock lock;
    qp_auto_free char *path = qp_lock_path(scratch("live"));
    deny_call(SYS_flock, ENOLCK);
    take(path, &lock);
    cr_expect(lock.unsupported);
    expect_refused(path, "a run is going on there (run " RUN);
    cr_expect_not(qp_lock_is_stale(path));
    qp_lock_release(&lock);
    expect_taken_over();
}

Test(lock, what_is_no_lock_stays)
{
    struct qp_error err;
    qp_auto_free char *folder = strdup(scratch("folder")), *pipe = strdup(scratch("pipe"));
    qp_auto_free char *link = strdup(scratch("link"));
    cr_assert_eq(qp_make_folders(folder, &err), 0);
    cr_assert_eq(mkfifo(pipe, 0600), 0);
    cr_assert_eq(symlink("nowhere", link), 0);
    expect_refused(folder, "is no file of quantpipe");
    expect_refused(pipe, "is no file of quantpipe");
    expect_refused(link, "is no file of quantpipe");
    cr_expect_not(qp_exists(scratch("nowhere")));
    expect_refused(scratch_text("notes", "mine\n"), "is no file of quantpipe");
    expect_refused(scratch_text("json", "{\"quantpipe\": 1}"), "is no file of quantpipe");
    cr_expect_not(qp_lock_is_stale(scratch("notes")));
    cr_expect_not(qp_lock_is_stale(scratch("absent")));
    expect_refused(scratch("no/folder"), "cannot make the lock: No such file or directory");
    size_t size;
    qp_auto_free char *notes = scratch_read(scratch("notes"), &size);
    cr_expect(size == 5 && memcmp(notes, "mine\n", 5) == 0);
}

/* ---- publishing ---- */

static char *make_source(void)
{
    struct qp_error err;
    char *from = strdup(scratch("from"));
    cr_assert_eq(qp_make_folders(from, &err), 0);
    scratch_text("from/a", "a");
    return from;
}

static void expect_kept(const char *from, const char *to)
{
    struct qp_error err;
    bool published = true;
    cr_expect_eq(qp_publish(from, to, &published, &err), QP_ERR_INPUT, "%s", to);
    cr_expect(strstr(err.message, "nothing was replaced"), "%s", err.message);
    cr_expect_not(published);
    cr_expect(qp_exists(scratch("from/a")));
}

static void replaces_nothing(void)
{
    struct qp_error err;
    qp_auto_free char *from = make_source(), *to = strdup(scratch("to")), *inside = strdup(scratch("to/mine"));
    cr_assert_eq(qp_make_folders(to, &err), 0);
    expect_kept(from, to);
    scratch_text("to/mine", "mine");
    expect_kept(from, to);
    cr_expect(qp_exists(inside));
    expect_kept(from, inside);
    cr_assert_eq(symlink("nowhere", scratch("link")), 0);
    expect_kept(from, scratch("link"));
    expect_kept(inside, scratch_text("other", "other"));
    bool published = false;
    cr_expect_eq(qp_publish(from, scratch("new"), &published, &err), 0, "%s", err.message);
    cr_expect(published && qp_exists(scratch("new/a")) && !qp_exists(from));
    cr_expect_eq(qp_publish(inside, scratch("file"), NULL, &err), 0, "%s", err.message);
    cr_expect(qp_exists(scratch("file")) && !qp_exists(inside));
}

Test(publish, replaces_nothing)
{
    replaces_nothing();
}

Test(publish, replaces_nothing_on_old_kernels)
{
    deny_call(SYS_renameat2, ENOSYS);
    replaces_nothing();
}

Test(publish, replaces_nothing_on_file_systems_that_cannot_promise_it)
{
    deny_call(SYS_renameat2, EINVAL);
    replaces_nothing();
}

/* ---- temporary folders ---- */

/* A temporary folder of `path` with a file in it; `dead`: with the mark of a run that was killed. */
static char *make_temporary(const char *path, bool dead)
{
    struct qp_error err;
    char *folder = NULL;
    cr_assert_eq(qp_temporary_new(path, &folder, &err), 0, "%s", err.message);
    qp_auto_free char *lock = qp_temporary_lock(folder), *file = qp_join(folder, "file");
    if (dead)
        take_and_die(lock);
    cr_assert_eq(qp_write_file(file, "x", 1, &err), 0, "%s", err.message);
    return folder;
}

Test(publish, temporary_folders_are_private_and_two_differ)
{
    struct stat st;
    qp_auto_free char *path = strdup(scratch("out"));
    qp_auto_free char *a = make_temporary(path, false), *b = make_temporary(path, false);
    cr_expect_str_neq(a, b);
    cr_assert_eq(stat(a, &st), 0);
    cr_expect_eq(st.st_mode & 07777, 0700);
}

Test(publish, only_what_dead_runs_left_is_cleaned)
{
    struct qp_lock lock;
    qp_auto_free char *path = strdup(scratch("o*t[1]")), *other = strdup(scratch("out[1]"));
    qp_auto_free char *dead = make_temporary(path, true), *live = make_temporary(path, false);
    qp_auto_free char *unmarked = make_temporary(path, false), *others = make_temporary(other, true);
    qp_auto_free char *mark = qp_temporary_lock(live);
    take(mark, &lock);
    qp_temporary_clean(path);
    cr_expect_not(qp_exists(dead));
    cr_expect(qp_exists(live));
    cr_expect(qp_exists(unmarked));
    cr_expect(qp_exists(others));
    qp_lock_release(&lock);
}
