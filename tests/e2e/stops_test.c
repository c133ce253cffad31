/* A stage whose runner is killed ends in the middle of a computation that would last for minutes. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(stops, .init = runs_make, .fini = scratch_drop, .timeout = 300);

#define LONG_WORK "{method: gptq, low_rank: 64, low_rank_rounds: 100, coordinate_descent: 1000}"

static pid_t start_run(void)
{
    qp_auto_close int out = open(scratch("events"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const char *const argv[] = {QUANTPIPE,
                                "run",
                                PIPELINE,
                                "--model",
                                scratch("m"),
                                "--output",
                                scratch("out"),
                                "--progress",
                                "json",
                                "--set",
                                "data={calibration: {synthetic: true, samples: 4, length: 64}}",
                                "--set",
                                "stages.search.with.method=none",
                                "--set",
                                "stages.quantize.with=" LONG_WORK,
                                NULL};
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid > 0)
        return pid;
    setpgid(0, 0);
    dup2(out, 1);
    execv(argv[0], (char *const *)argv);
    _exit(127);
}

/* Whether a stage has told that it is done with `least` blocks or more, of 11. */
static bool has_done(const char *stage, int least)
{
    size_t size;
    bool found = false;
    qp_auto_free char *events = scratch_read(scratch("events"), &size);
    for (int blocks = least; blocks <= 11; blocks++) {
        char pattern[128];
        snprintf(pattern, sizeof pattern, "\"stage\":\"%s\",\"done\":%d,", stage, blocks);
        found = found || memmem(events, size, pattern, strlen(pattern)) != NULL;
    }
    return found;
}

/* Shared memory of the run whose folder is out.run. */
static size_t count_segments(void)
{
    struct qp_error err;
    char pattern[512];
    glob_t found = {0};
    qp_auto_json json_t *marker = NULL;
    cr_assert_eq(qp_read_json(scratch("out.run/run.json"), 1 << 20, &marker, &err), 0, "%s", err.message);
    snprintf(pattern, sizeof pattern, "/dev/shm/qp-%s-*", text(marker, "run"));
    size_t count = glob(pattern, GLOB_NOSORT, NULL, &found) == 0 ? found.gl_pathc : 0;
    globfree(&found);
    return count;
}

Test(stops, a_killed_runner_takes_along_stages_that_compute)
{
    run_well(WORDS(BUILD_DIR "/tests/bench_synthetic", scratch("m"), "0.1B"));
    run_well(WORDS("cp", TINY "/tokenizer.json", scratch("m")));
    pid_t run = start_run();
    bool begun = false;
    for (int tick = 0; tick < 2400 && !begun; tick++) {
        begun = has_done("calibrate", 3) && has_done("quantize", 1);
        usleep(50000);
    }
    cr_expect(begun, "the run did not come to its second layer");
    cr_expect_gt(runs_processes(), 5);
    cr_expect_gt(count_segments(), 0);
    cr_assert_eq(kill(run, SIGKILL), 0);
    waitpid(run, NULL, 0);
    for (int tick = 0; tick < 400 && runs_processes() > 0; tick++)
        usleep(50000);
    cr_expect_eq(runs_processes(), 0, "stages live on without their runner");
    cr_expect_eq(count_segments(), 0, "shared memory is left");
    cr_expect_not(qp_exists(scratch("out")));
}
