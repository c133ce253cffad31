/* Nothing waits for ever: files that are none, signals in every state of a run, stages that say nothing. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(waits, .init = runs_make, .fini = scratch_drop, .timeout = 300);

#define HEAD "quantpipe: 1\nmodel: m\noutput: out\nscheme: int4\n"
#define STAGES \
    "stages:\n  load: {}\n  calibrate: {from: load}\n  quantize: {from: calibrate}\n  export: {from: quantize}\n"
#define MANY "--set", "data.calibration.samples=100000"

/* ---- what is no file ---- */

static void copy_model(void)
{
    struct qp_error err;
    qp_remove_tree(scratch("m"), &err);
    run_well(WORDS("cp", "-r", TINY, scratch("m")));
}

/* A FIFO that nobody writes to, in the place of a file of the scratch folder. */
static void put_fifo(const char *name)
{
    unlink(scratch(name));
    cr_assert_eq(mkfifo(scratch(name), 0600), 0, "%s", name);
}

static void refuse_run(const char *data, const char *message)
{
    char yaml[2048];
    struct qp_error err;
    snprintf(yaml, sizeof yaml, HEAD "data: {calibration: {text: %s, samples: 4, length: 64}}\n" STAGES, data);
    run_to(3, message, WORDS(QUANTPIPE, "run", scratch_text("p.yaml", yaml), "--progress", "none"));
    cr_expect_not(qp_exists(scratch("out")));
    qp_remove_tree(scratch("out.run"), &err);
}

Test(waits, a_fifo_in_place_of_a_file_of_the_model)
{
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json",
                                        "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[64], message[128];
        copy_model();
        snprintf(name, sizeof name, "m/%s", files[i]);
        snprintf(message, sizeof message, "%s: expected a regular file, found a FIFO", files[i]);
        put_fifo(name);
        refuse_run(TINY "/train.txt", message);
    }
    copy_model();
    cr_assert_eq(unlink(scratch("m/model.safetensors")), 0);
    put_fifo("m/model.safetensors.index.json");
    refuse_run(TINY "/train.txt", "index.json: expected a regular file, found a FIFO");
    put_fifo("model.gguf");
    run_to(3, "model.gguf: expected a regular file, found a FIFO", WORDS(QUANTPIPE, "inspect", scratch("model.gguf")));
}

Test(waits, a_fifo_in_place_of_a_text_or_a_pipeline)
{
    static const char *const texts[] = {"t.txt", "t.jsonl", "t.npy"};
    copy_model();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put_fifo(texts[i]);
        refuse_run(texts[i], "expected a regular file, found");
        run_to(3, "expected a regular file, found", WORDS(QUANTPIPE, "evaluate", TINY, "--data", scratch(texts[i])));
    }
    put_fifo("p.yaml");
    run_to(3, "p.yaml: expected a regular file, found a FIFO", WORDS(QUANTPIPE, "check", scratch("p.yaml")));
    cr_assert_eq(unlink(scratch("p.yaml")), 0);
    cr_assert_eq(symlink("/dev/zero", scratch("zero.txt")), 0);
    refuse_run("zero.txt", "zero.txt: expected a regular file, found a character device");
}

/* ---- processes and signals without the kernel's newer calls ---- */

/* From here on, for this process and all below it: no pidfd, and no descriptor for signals. */
static void forbid_descriptors(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), /* the number of the call */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_signalfd4, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EMFILE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0, "%s", strerror(errno));
    cr_assert_eq(syscall(SYS_pidfd_open, getpid(), 0), -1);
}

/* A script that describes itself as the built-in stage `calibrate`, and otherwise does `body`; as a value of --set. */
static const char *impostor(const char *body)
{
    static char set[512];
    char script[2048];
    snprintf(script, sizeof script,
             "#!/bin/sh\n[ \"$1\" = --describe ] && exec %s/libexec/quantpipe/calibrate --describe\n%s\n", BUILD_DIR,
             body);
    const char *path = scratch_text("impostor", script);
    cr_assert_eq(chmod(path, 0700), 0);
    snprintf(set, sizeof set, "stages.calibrate={run: %s, from: load}", path);
    return set;
}

/* The real stage, whose process is known: its number is in the file "pid". */
static const char *known_stage(void)
{
    char body[1024];
    snprintf(body, sizeof body, "echo $$ >%s.tmp; mv %s.tmp %s; exec %s/libexec/quantpipe/calibrate \"$@\"",
             scratch("pid"), scratch("pid"), scratch("pid"), BUILD_DIR);
    return impostor(body);
}

static void expect_status(const char *status)
{
    qp_auto_json json_t *report = report_of(scratch("out"));
    cr_expect_str_eq(text(report, "status"), status);
}

static void interrupt_when(const char *when, const char *set, const char *samples)
{
    struct command c = command_interrupt(120, SIGINT, when,
                                         WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--progress",
                                               "none", "--set", samples, "--set", set));
    cr_expect_eq(c.code, 130, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, "stopped by SIGINT"), "%s", c.errors);
    command_free(&c);
    cr_expect_not(qp_exists(scratch("out")));
    expect_status("cancelled");
}

Test(waits, without_descriptors_for_processes_and_signals)
{
    struct qp_error err;
    char when[512];
    forbid_descriptors();
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), FEW));
    cr_assert_eq(qp_remove_tree(scratch("out"), &err), 0);
    run_to(4, "stage `calibrate` ended with signal 9 (Killed)",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--set", impostor("kill -9 $$")));
    snprintf(when, sizeof when, "%s/quantpipe-*/validate.0.out", runs_sockets());
    interrupt_when(when, "strict=false", "data.calibration.samples=100000");
}

Test(waits, an_interrupt_while_stages_start)
{
    char body[512];
    snprintf(body, sizeof body, "trap '' TERM INT; : >%s; while :; do sleep 1; done", scratch("started"));
    interrupt_when(scratch("started"), impostor(body), "data.calibration.samples=8");
}

/* ---- readers that read nothing ---- */

static bool ignores_children; /* what start_run starts does */

/* Starts quantpipe with stdout and stderr on these descriptors; a process group of its own. */
static pid_t start_run(int out, int errors, const char *const *argv)
{
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid > 0)
        return pid;
    setpgid(0, 0);
    dup2(out, 1);
    dup2(errors, 2);
    if (ignores_children)
        signal(SIGCHLD, SIG_IGN);
    execv(argv[0], (char *const *)argv);
    _exit(127);
}

/* The end of a run, to which `signal` (0: none) is sent again and again once `when` exists; -1 when it does not end. */
static int end_of_run(pid_t pid, int signal, const char *when)
{
    int status = 0;
    for (int tick = 0; tick < 1200; tick++) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (signal && qp_exists(when))
            kill(pid, signal);
        usleep(100000);
    }
    kill(-pid, SIGKILL);
    waitpid(pid, &status, 0);
    return -1;
}

/* A pipe that takes nothing more, and that nobody reads. */
static void fill_pipe(int ends[2])
{
    char byte[512] = "";
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    cr_assert_eq(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
    while (write(ends[1], byte, sizeof byte) > 0)
        ;
    while (write(ends[1], byte, 1) > 0)
        ;
    cr_assert_eq(errno, EAGAIN);
    cr_assert_eq(fcntl(ends[1], F_SETFL, 0), 0);
}

/* The kernel reaps the children of a process that ignores SIGCHLD, which a program inherits. */
Test(waits, started_by_a_process_that_ignores_its_children)
{
    qp_auto_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    ignores_children = true;
    pid_t pid =
        start_run(null, null, WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--progress", "none", FEW));
    cr_expect_eq(end_of_run(pid, 0, NULL), 0);
    expect_status("done");
}

Test(waits, an_interrupt_while_nobody_reads_the_events)
{
    int ends[2];
    fill_pipe(ends);
    qp_auto_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t pid = start_run(ends[1], null,
                          WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--progress", "json", MANY));
    cr_expect_eq(end_of_run(pid, SIGINT, scratch("out.run/run.json")), 130);
    cr_expect_not(qp_exists(scratch("out")));
    expect_status("cancelled");
}

Test(waits, an_interrupt_while_nobody_reads_the_table)
{
    int ends[2];
    fill_pipe(ends);
    qp_auto_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t pid = start_run(ends[1], null,
                          WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--progress", "none", FEW));
    cr_expect_eq(end_of_run(pid, SIGINT, scratch("out.run/report.json")), 128 + SIGINT);
    cr_expect(qp_exists(scratch("out")), "the run was over");
    expect_status("done");
}

/* ---- stages that say nothing ---- */

Test(waits, a_stage_that_does_not_start)
{
    run_to(4, "no hello within 2 seconds from: ",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--timeout", "2", "--set",
                 impostor("exec sleep 1000")));
    run_to(4, "--describe: did not answer in time",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--timeout", "1", "--set",
                 "stages.calibrate={run: [/bin/sh, -c, sleep 1000, sh], from: load}"));
    run_to(2, "--timeout is `soon`; expected a whole number",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--timeout", "soon"));
}

/* Starts a long run whose calibrate is known, and returns when that is ready; *stage is its process. */
static pid_t start_until_ready(const char *timeout, pid_t *stage)
{
    qp_auto_close int out = open(scratch("events"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    qp_auto_close int errors = open(scratch("errors"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    pid_t pid = start_run(out, errors,
                          WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--progress", "json",
                                "--timeout", timeout, "--set", known_stage(), MANY));
    bool ready = false;
    for (int tick = 0; tick < 1200 && !ready; tick++) {
        size_t size;
        qp_auto_free char *events = scratch_read(scratch("events"), &size);
        qp_auto_free char *text = strndup(events, size);
        ready = strstr(text, "\"stage\":\"calibrate\",\"state\":\"ready\"") != NULL;
        usleep(50000);
    }
    size_t size;
    qp_auto_free char *number = scratch_read(scratch("pid"), &size);
    *stage = (pid_t)strtol(number, NULL, 10);
    cr_assert(ready && *stage > 1);
    return pid;
}

static void expect_error(const char *message)
{
    size_t size;
    qp_auto_free char *errors = scratch_read(scratch("errors"), &size);
    cr_expect(memmem(errors, size, message, strlen(message)), "%.*s", (int)size, errors);
}

Test(waits, a_stage_that_falls_silent)
{
    pid_t stage, run = start_until_ready("4", &stage);
    cr_assert_eq(kill(stage, SIGSTOP), 0);
    cr_expect_eq(end_of_run(run, 0, NULL), 4);
    expect_error("has been silent for 4 seconds");
    expect_error("--timeout");
}

/* The threads of a process, at most `most`. */
static size_t threads_of(pid_t process, pid_t *threads, size_t most)
{
    char pattern[64];
    glob_t found = {0};
    snprintf(pattern, sizeof pattern, "/proc/%d/task/*", (int)process);
    cr_assert_eq(glob(pattern, 0, NULL, &found), 0);
    size_t count = found.gl_pathc < most ? found.gl_pathc : most;
    for (size_t i = 0; i < count; i++)
        threads[i] = (pid_t)strtol(strrchr(found.gl_pathv[i], '/') + 1, NULL, 10);
    globfree(&found);
    return count;
}

/* Stops all threads, the one that sends heartbeats too; false when processes cannot be traced here. */
static bool stop_as_debugger(const pid_t *threads, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ptrace(PTRACE_SEIZE, threads[i], NULL, NULL) != 0)
            return false;
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(ptrace(PTRACE_INTERRUPT, threads[i], NULL, NULL), 0);
        cr_assert_eq(waitpid(threads[i], NULL, __WALL), threads[i]);
    }
    return true;
}

Test(waits, a_debugger_may_stop_a_stage_as_long_as_it_likes)
{
    pid_t stage, run = start_until_ready("3", &stage), threads[64];
    size_t count = threads_of(stage, threads, 64);
    cr_assert_gt(count, 1, "no thread of its own sends heartbeats");
    if (!stop_as_debugger(threads, count)) {
        kill(run, SIGTERM);
        end_of_run(run, SIGTERM, scratch("events"));
        cr_skip_test("processes cannot be traced here: %s", strerror(errno));
    }
    sleep(7); /* longer than the limit, whatever the load */
    cr_expect_eq(waitpid(run, NULL, WNOHANG), 0, "the run has been given up");
    for (size_t i = 0; i < count; i++)
        cr_expect_eq(ptrace(PTRACE_DETACH, threads[i], NULL, NULL), 0);
    cr_expect_eq(end_of_run(run, SIGINT, scratch("events")), 130);
    expect_status("cancelled");
}
