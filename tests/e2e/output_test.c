/* One run, one output: runs that meet on an output, and what is not theirs. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/lock.h"
#include "libstage/base/random.h"
#include "tests/support/deny.h"
#include "tests/support/runs.h"

TestSuite(output, .init = runs_make, .fini = scratch_drop, .timeout = 300);

/* The shortest run that writes an output. */
#define SHORTEST                                                          \
    "quantpipe: 1\nmodel: " TINY "\noutput: out\nscheme: int4\nstages:\n" \
    "  load: {}\n  quantize: {from: load, with: {method: rtn}}\n"         \
    "  export: {from: quantize}\n"

enum { PAIRS = 20, KILLS = 10, LONGEST_MS = 150 };

static const char *shortest(void)
{
    return scratch_text("p.yaml", SHORTEST);
}

/* ---- runs in the background ---- */

struct background {
    pid_t pid;
    int code; /* after the end: exit code, or 128 + signal */
    char log[512];
};

static struct background begin(const char *pipeline, const char *run_dir, const char *log)
{
    struct background b = {.code = -1};
    snprintf(b.log, sizeof b.log, "%s", scratch(log));
    b.pid = fork();
    cr_assert_geq(b.pid, 0);
    if (b.pid > 0)
        return b;
    int fd = open(b.log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    execl(QUANTPIPE, QUANTPIPE, "run", pipeline, "--progress", "none", "--run-dir", run_dir, (char *)NULL);
    _exit(127);
}

static void end(struct background *b)
{
    int status = 0;
    cr_assert_eq(waitpid(b->pid, &status, 0), b->pid);
    b->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static char *log_of(const struct background *b)
{
    size_t size;
    char *bytes = scratch_read(b->log, &size), *text = strndup(bytes, size);
    free(bytes);
    return text;
}

static void pause_ms(unsigned ms)
{
    usleep(ms * 1000);
}

/* ---- what is there ---- */

/* Files and folders of the user's that look like what quantpipe makes. */
static const char *const foreign[] = {"out.partial/mine",           "out.held/mine",        "out.held.partial/mine",
                                      ".out.quantpipe-abc123/mine", "out.run.old/mine",     ".out.quantpipe-x/mine",
                                      "out.partial/deep/er/mine",   "out-int4.partial/mine"};

static void make_foreign(void)
{
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        struct qp_error err;
        qp_auto_free char *folder = qp_folder_of(scratch(foreign[i]));
        cr_assert_eq(qp_make_folders(folder, &err), 0, "%s", err.message);
        scratch_text(foreign[i], foreign[i]);
    }
}

static void expect_foreign(void)
{
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        size_t size;
        cr_assert(qp_exists(scratch(foreign[i])), "%s is gone", foreign[i]);
        qp_auto_free char *text = scratch_read(scratch(foreign[i]), &size);
        cr_expect(size == strlen(foreign[i]) && memcmp(text, foreign[i], size) == 0, "%s", foreign[i]);
    }
}

/* What runs leave if anything: locks, marked temporary folders, sockets. */
static struct command list_leftovers(void)
{
    return command_run(10,
                       WORDS("sh", "-c", "ls -d \"$0\"/.*quantpipe-lock \"$0\"/.*quantpipe-*/quantpipe-lock \"$1\"/*",
                             scratch(""), runs_sockets()));
}

static bool is_clean(void)
{
    struct command ls = list_leftovers();
    bool clean = !*ls.output;
    command_free(&ls);
    return clean;
}

static void expect_clean(void)
{
    struct command ls = list_leftovers();
    cr_expect_str_eq(ls.output, "");
    command_free(&ls);
}

/* The output is what a run alone made, and the report says so. */
static void expect_whole(const char *run_dir, const char *digest)
{
    struct qp_error err;
    qp_auto_json json_t *report = NULL;
    qp_auto_free char *path = qp_format("%s/report.json", run_dir);
    run_well(WORDS("diff", "-r", scratch("alone"), scratch("out")));
    cr_assert_eq(qp_read_json(path, 1 << 24, &report, &err), 0, "%s", err.message);
    const json_t *made = first_output(report);
    cr_expect_str_eq(text(report, "status"), "done");
    cr_expect_str_eq(text(made, "digest"), digest);
    cr_expect_str_eq(text(made, "path"), scratch("out"));
    cr_expect(json_is_true(json_object_get(made, "published")));
}

static char *run_alone(const char *pipeline)
{
    run_well(WORDS(QUANTPIPE, "run", pipeline, "--output", scratch("alone")));
    qp_auto_json json_t *report = report_of(scratch("alone"));
    return strdup(text(first_output(report), "digest"));
}

/* ---- the tests ---- */

/* Who loses says why: the other one's process, or that the output is there. */
static void expect_loser(const struct background *loser, const struct background *winner)
{
    char process[64];
    qp_auto_free char *log = log_of(loser);
    snprintf(process, sizeof process, ", process %d on ", (int)winner->pid);
    cr_expect_eq(winner->code, 0, "%d", winner->code);
    cr_expect_eq(loser->code, 3, "%d\n%s", loser->code, log);
    cr_expect((strstr(log, "a run is going on there") && (strstr(log, process) || strstr(log, "has just begun"))) ||
                  strstr(log, "out exists; remove it"),
              "%s", log);
}

static void run_pair(const char *pipeline, const char *digest, unsigned delay, bool same_folder)
{
    struct qp_error err;
    qp_auto_free char *first_dir = strdup(scratch("out.run"));
    qp_auto_free char *second_dir = strdup(scratch(same_folder ? "out.run" : "other.run"));
    struct background first = begin(pipeline, first_dir, "first.log");
    pause_ms(delay);
    struct background second = begin(pipeline, second_dir, "second.log");
    end(&first);
    end(&second);
    bool won = first.code == 0;
    expect_loser(won ? &second : &first, won ? &first : &second);
    expect_whole(won ? first_dir : second_dir, digest);
    expect_foreign();
    expect_clean();
    cr_assert_eq(qp_remove_tree(scratch("out"), &err), 0, "%s", err.message);
}

Test(output, of_two_runs_one_makes_it)
{
    uint64_t random = 17;
    const char *pipeline = shortest();
    qp_auto_free char *path = strdup(pipeline), *digest = run_alone(path);
    make_foreign();
    for (int i = 0; i < PAIRS; i++) {
        unsigned delay = (unsigned)(qp_random(&random) % LONGEST_MS);
        fprintf(stderr, "pair %d of seed 17: the second run starts after %u ms\n", i, delay);
        run_pair(path, digest, delay, i % 2 == 0);
    }
}

/* A run that was killed is in nobody's way, and the next one takes away what it left. */
Test(output, killed_runs_leave_nothing_for_good)
{
    struct qp_error err;
    uint64_t random = 23;
    qp_auto_free char *path = strdup(shortest()), *digest = run_alone(path), *folder = strdup(scratch("out.run"));
    make_foreign();
    for (int i = 0; i < KILLS; i++) {
        unsigned delay = (unsigned)(qp_random(&random) % LONGEST_MS);
        fprintf(stderr, "kill %d of seed 23: after %u ms\n", i, delay);
        struct background killed = begin(path, folder, "killed.log"), next = {.code = 3};
        pause_ms(delay);
        kill(killed.pid, SIGKILL);
        end(&killed);
        if (qp_exists(scratch("out")))
            run_well(WORDS("diff", "-r", scratch("alone"), scratch("out"))); /* whole, or not at all */
        cr_assert_eq(qp_remove_tree(scratch("out"), &err), 0);
        for (int tries = 0; next.code == 3 && tries < 1000; tries++) {
            next = begin(path, folder, "next.log"); /* 3: a stage that was just being started may still hold the lock */
            end(&next);
        }
        qp_auto_free char *log = log_of(&next);
        cr_assert_eq(next.code, 0, "%s", log);
        expect_whole(folder, digest);
        expect_foreign();
        cr_assert_eq(qp_remove_tree(scratch("out"), &err), 0);
    }
    for (int tries = 0; !is_clean() && tries < 100; tries++) { /* a stage of the killed run may have been writing */
        run_well(WORDS(QUANTPIPE, "run", path));
        cr_assert_eq(qp_remove_tree(scratch("out"), &err), 0);
    }
    expect_clean();
}

/* It may have been killed between any two of its writes. */
Test(output, a_run_folder_that_was_just_begun_is_used_again)
{
    struct qp_error err;
    qp_auto_free char *path = strdup(shortest());
    cr_assert_eq(qp_make_folders(scratch("out.run"), &err), 0);
    scratch_text("out.run/run.json.tmp123", "{");
    run_well(WORDS(QUANTPIPE, "run", path));
    cr_expect_not(qp_exists(scratch("out.run/run.json.tmp123")));
}

/* A script that describes itself as `quantize`, does `body` with $OUT as the output, and then is `quantize`. */
static char *with_impostor(const char *body)
{
    qp_auto_free char *script = qp_format("#!/bin/sh\n[ \"$1\" = --describe ] || { OUT=%s; %s; }\n"
                                          "exec " BUILD_DIR "/libexec/quantpipe/quantize \"$@\"\n",
                                          scratch("out"), body);
    const char *path = scratch_text("impostor", script);
    cr_assert_eq(chmod(path, 0700), 0);
    return qp_format("stages.quantize={run: %s, from: load, with: {method: rtn}}", path);
}

Test(output, what_somebody_makes_meanwhile_stays)
{
    qp_auto_free char *set = with_impostor("mkdir $OUT; echo mine > $OUT/mine"), *path = strdup(shortest());
    run_to(3, "was made by somebody else meanwhile; nothing was replaced", WORDS(QUANTPIPE, "run", path, "--set", set));
    run_well(WORDS("sh", "-c", "test \"$(ls -A $0)\" = mine", scratch("out")));
    qp_auto_json json_t *report = report_of(scratch("out"));
    cr_expect_str_eq(text(report, "status"), "failed");
    cr_expect(json_is_null(json_object_get(first_output(report), "path")));
    cr_expect(json_is_false(json_object_get(first_output(report), "published")));
    expect_clean();
}

/* A failure after the output stands is told together with that. */
Test(output, a_late_failure_says_that_the_output_stands)
{
    qp_auto_free char *set = with_impostor("mkdir $OUT.run/report.json"), *path = strdup(shortest());
    struct command c = command_run(60, WORDS(QUANTPIPE, "run", path, "--set", set, "--progress", "json"));
    qp_auto_free char *stands = qp_format("; the output is complete and published: %s", scratch("out"));
    cr_expect_eq(c.code, 4, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, "report.json") && strstr(c.errors, stands), "%s", c.errors);
    cr_expect(qp_exists(scratch("out/model.safetensors")));
    const char *last = strstr(c.output, "{\"status\":");
    qp_auto_json json_t *event = last ? json_loads(last, 0, NULL) : NULL;
    cr_expect_str_eq(text(event, "event"), "end");
    cr_expect_str_eq(json_string_value(json_array_get(json_object_get(event, "published"), 0)), scratch("out"));
    command_free(&c);
    expect_clean();
}

/* Old kernels and some network file systems: the run goes on, and says what it cannot promise. */
Test(output, without_locks_and_without_renameat2)
{
    qp_auto_free char *path = strdup(shortest()), *digest = run_alone(path), *lock = qp_lock_path(scratch("out"));
    make_foreign();
    deny_call(SYS_flock, ENOLCK);
    deny_call(SYS_renameat2, EINVAL);
    struct command c = command_run(60, WORDS(QUANTPIPE, "run", path, "--progress", "plain", "--strict"));
    cr_expect_eq(c.code, 0, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, "quantpipe: note: the file system of the output has no locks"), "%s", c.errors);
    command_free(&c);
    expect_whole(scratch("out.run"), digest);
    expect_foreign();
    expect_clean();
    struct qp_error err;
    struct qp_lock held;
    cr_assert_eq(qp_remove_tree(scratch("out"), &err), 0);
    cr_assert_eq(qp_lock_take(lock, "0123456789abcdef", &held, &err), 0, "%s", err.message);
    run_to(3, "a run is going on there (run 0123456789abcdef, process", WORDS(QUANTPIPE, "run", path));
    qp_lock_release(&held);
}

/* A run folder may be written with a slash at the end. */
Test(output, a_slash_at_the_end_changes_nothing)
{
    qp_auto_free char *path = strdup(shortest()), *slash = qp_format("%s/", scratch("folder"));
    run_well(WORDS(QUANTPIPE, "run", path, "--run-dir", slash));
    cr_expect(qp_exists(scratch("out/config.json")));
    run_well(WORDS("sh", "-c",
                   "cd $0 && test \"$(ls -A | sort | tr '\\n' ' ')\" = "
                   "\"logs pipeline.json report.json run.json timeline.json \"",
                   slash));
    expect_clean();
}
