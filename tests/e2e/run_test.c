/* Whole runs of the built programs on the embedded model. */
#include <criterion/criterion.h>
#include <glob.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/lock.h"
#include "tests/support/runs.h"

TestSuite(run, .init = runs_make, .fini = scratch_drop);

static bool is_empty(const char *folder)
{
    struct command ls = command_run(10, WORDS("ls", "-A", folder));
    bool empty = ls.code == 0 && !*ls.output;
    command_free(&ls);
    return empty;
}

/* After a run that is over, however it ended: no sockets, no shared memory of it, no half-written output. */
static void expect_nothing_left(const char *output)
{
    struct qp_error err;
    char path[512];
    qp_auto_json json_t *marker = NULL;
    cr_expect(is_empty(runs_sockets()), "sockets are left");
    snprintf(path, sizeof path, "ls -d $(dirname %s)/.*quantpipe-*", output);
    struct command parts = command_run(10, WORDS("sh", "-c", path));
    cr_expect_str_eq(parts.output, "", "a temporary folder or a lock is left");
    command_free(&parts);
    snprintf(path, sizeof path, "%s.run/run.json", output);
    cr_assert_eq(qp_read_json(path, 1 << 20, &marker, &err), 0, "%s", err.message);
    snprintf(path, sizeof path, "ls /dev/shm/qp-%s-*", text(marker, "run"));
    struct command ls = command_run(10, WORDS("sh", "-c", path));
    cr_expect_neq(ls.code, 0, "shared memory is left: %s", ls.output);
    command_free(&ls);
    snprintf(path, sizeof path, "%s.run/scratch", output);
    cr_expect_not(qp_exists(path), "%s", path);
}

static void expect_status(const char *output, const char *status)
{
    qp_auto_json json_t *report = report_of(output);
    cr_expect_str_eq(text(report, "status"), status);
}

static void expect_edges(const json_t *report)
{
    size_t i;
    json_t *edge;
    cr_assert_eq(json_array_size(json_object_get(report, "edges")), 6);
    json_array_foreach(json_object_get(report, "edges"), i, edge) {
        cr_expect_eq(number(edge, "sent", NULL), 10, "model, embedding, 6 layers, head, end");
        cr_expect_eq(number(edge, "received", NULL), 10);
        cr_expect_eq(number(edge, "acknowledged", NULL), 10);
        cr_expect_eq(number(edge, "resent", NULL) + number(edge, "duplicates", NULL), 0);
        cr_expect_gt(number(edge, "bytes_by_reference", NULL), 1e6, "weights travel by reference");
        cr_expect_lt(number(edge, "bytes_inline", NULL), 1e6);
    }
}

static void expect_quality(const json_t *output)
{
    double original = number(output, "perplexity", "original"), quantized = number(output, "perplexity", "quantized");
    cr_expect(original > 1 && original < 10, "%g", original);
    cr_expect(quantized > 0.98 * original && quantized < 1.1 * original, "%g", quantized);
    cr_expect(number(output, "kl_divergence", NULL) > 0 && number(output, "kl_divergence", NULL) < 0.1);
    cr_expect(number(output, "top1_agreement", NULL) > 0.8 && number(output, "top1_agreement", NULL) < 1);
    cr_expect_gt(number(output, "size_bytes", "original"), 2 * number(output, "size_bytes", "quantized"));
    size_t i;
    json_t *linear;
    cr_expect_eq(json_array_size(json_object_get(output, "linears")), 42);
    json_array_foreach(json_object_get(output, "linears"), i, linear)
        cr_expect_gt(number(linear, "sqnr_db", NULL), 5, "%s", text(linear, "name"));
}

/* The perplexity of the folder that was written, by a program that knows nothing of the run. */
static double evaluated(const char *output)
{
    struct command c =
        command_run(300, WORDS(QUANTPIPE, "evaluate", output, "--data", TINY "/test.txt", "--length", "512", "--json"));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    qp_auto_json json_t *answer = json_loads(c.output, 0, NULL);
    command_free(&c);
    return number(answer, "perplexity", NULL);
}

Test(run, the_default_pipeline, .timeout = 300)
{
    const char *output = scratch("out");
    struct command c = command_run(300, WORDS(QUANTPIPE, "run", PIPELINE, "--output", output));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    cr_expect(strstr(c.output, "perplexity") && strstr(c.output, "calibrate") && strstr(c.output, output), "%s",
              c.output);
    command_free(&c);
    qp_auto_json json_t *report = report_of(output);
    const json_t *made = first_output(report);
    cr_expect_str_eq(text(report, "status"), "done");
    cr_expect_eq(json_array_size(json_object_get(report, "stages")), 7);
    cr_expect_eq(json_array_size(json_object_get(report, "warnings")), 0);
    cr_expect_str_eq(text(made, "path"), output);
    expect_quality(made);
    expect_edges(report);
    expect_nothing_left(output);
    double perplexity = evaluated(output), said = number(made, "perplexity", "quantized");
    cr_expect(fabs(perplexity / said - 1) < 1e-4, "evaluate says %g, validate said %g", perplexity, said);
}

/* What the factors that were written add is what validate measured, inputs quantized or not. */
Test(run, low_rank_corrections, .timeout = 300)
{
    static const char *const schemes[] = {"int3", "nvfp4"};
    for (int i = 0; i < 2; i++) {
        double said[2];
        for (int with = 0; with < 2; with++) {
            char name[32];
            snprintf(name, sizeof name, "%s-%d", schemes[i], with);
            const char *output = scratch(name);
            run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--scheme", schemes[i], "--set",
                           "data.calibration.samples=8", "--set", "stages.search.with.method=none", "--set",
                           with ? "stages.quantize.with.low_rank=16" : "stages.quantize.with.low_rank=0"));
            qp_auto_json json_t *report = report_of(output);
            const json_t *made = first_output(report);
            cr_expect_eq(json_object_get(made, "low_rank") != NULL, with);
            said[with] = number(made, "kl_divergence", NULL);
            double perplexity = evaluated(output), reported = number(made, "perplexity", "quantized");
            cr_expect(fabs(perplexity / reported - 1) < 1e-4, "%s: evaluate says %g, validate said %g", output,
                      perplexity, reported);
        }
        cr_expect_lt(said[1], said[0], "%s: KL %g, %g without", schemes[i], said[1], said[0]);
    }
}

/* The resolved pipeline is itself a pipeline, and the same bytes come of it. */
Test(run, again_from_the_resolved_pipeline, .timeout = 300)
{
    const char *first = scratch("first"), *second = scratch("second");
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", first, "--set", "data.calibration.samples=8", "--set",
                   "data.evaluation.samples=4"));
    char resolved[512];
    snprintf(resolved, sizeof resolved, "%s.run/pipeline.json", first);
    run_well(WORDS(QUANTPIPE, "run", resolved, "--output", second));
    qp_auto_json json_t *a = report_of(first), *b = report_of(second);
    cr_expect_str_eq(text(first_output(a), "digest"), text(first_output(b), "digest"));
    run_well(WORDS("diff", "-r", first, second));
}

Test(run, every_preset, .timeout = 300)
{
    static const char *const schemes[] = {"int8", "int4-asym", "fp8-dynamic"};
    for (size_t i = 0; i < 3; i++) {
        const char *output = scratch(schemes[i]);
        run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--scheme", schemes[i], "--set",
                       "data.calibration.samples=8", "--set", "data.evaluation.samples=4"));
        qp_auto_json json_t *report = report_of(output);
        const json_t *made = first_output(report);
        double original = number(made, "perplexity", "original"), quantized = number(made, "perplexity", "quantized");
        cr_expect_str_eq(text(made, "scheme"), schemes[i]);
        cr_expect(quantized > 0.9 * original && quantized < 1.2 * original, "%s: %g", schemes[i], quantized);
    }
}

Test(run, rounding_to_nearest_needs_no_data, .timeout = 300)
{
    const char *output = scratch("out");
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--set", "data=", "--set",
                   "stages.search.with.method=none", "--set", "stages.quantize.with.method=rtn"));
    qp_auto_json json_t *report = report_of(output);
    const json_t *made = first_output(report);
    cr_expect(json_is_null(json_object_get(json_object_get(made, "perplexity"), "quantized")), "nothing was measured");
    cr_expect(json_is_string(json_object_get(made, "digest")));
    cr_expect_lt(number(json_array_get(json_object_get(report, "stages"), 1), "busy_seconds", NULL), 0.5,
                 "calibrate runs no forward");
}

Test(run, events_for_programs, .timeout = 300)
{
    struct command c =
        command_run(300, WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--progress", "json", "--set",
                               "data.calibration.samples=8", "--set", "data.evaluation.samples=4"));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    cr_expect_str_eq(c.errors, "");
    double time = 0, fraction = 0;
    char last[16] = "";
    for (char *line = strtok(c.output, "\n"); line; line = strtok(NULL, "\n")) {
        qp_auto_json json_t *event = json_loads(line, 0, NULL);
        cr_assert_not_null(event, "%s", line);
        snprintf(last, sizeof last, "%s", text(event, "event"));
        cr_expect_geq(number(event, "time", NULL), time);
        time = number(event, "time", NULL);
        if (strcmp(last, "progress") == 0) {
            cr_expect_geq(number(event, "fraction", NULL), fraction);
            fraction = number(event, "fraction", NULL);
        }
    }
    cr_expect_str_eq(last, "end");
    cr_expect_eq(fraction, 1);
    command_free(&c);
}

Test(run, a_gate_that_fails, .timeout = 300)
{
    const char *output = scratch("out");
    run_to(5, "stage `validate`: ",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--set", "data.calibration.samples=8", "--set",
                 "data.evaluation.samples=8", "--set", "scheme={weights: {format: int2, group: 128}}", "--set",
                 "stages.validate.with.max_perplexity_increase=1%"));
    cr_expect_not(qp_exists(output));
    expect_status(output, "gate");
    expect_nothing_left(output);
}

/* ---- runs that are cut short ---- */

/* A script that describes itself as the built-in stage `calibrate`, and otherwise does `body`. */
static const char *impostor(const char *body)
{
    char script[1024];
    snprintf(script, sizeof script,
             "#!/bin/sh\n[ \"$1\" = --describe ] && exec %s/libexec/quantpipe/calibrate --describe\n%s\n", BUILD_DIR,
             body);
    const char *path = scratch_text("impostor", script);
    cr_assert_eq(chmod(path, 0700), 0);
    return path;
}

static void run_with_impostor(const char *body, int code, const char *message)
{
    const char *output = scratch("out");
    char set[512];
    snprintf(set, sizeof set, "stages.calibrate={run: %s, from: load}", impostor(body));
    run_to(code, message, WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--set", set));
    cr_expect_not(qp_exists(output));
    expect_status(output, "failed");
    expect_nothing_left(output);
}

Test(run, a_stage_that_dies_is_named, .timeout = 60)
{
    run_with_impostor("echo last words >&2; kill -9 $$", 4, "stage `calibrate` ended with signal 9 (Killed)");
    run_with_impostor("echo last words >&2; exit 3", 4, "and ends with:\nlast words");
}

Test(run, a_stage_that_never_says_hello_is_named, .timeout = 90)
{
    run_with_impostor("exec sleep 1000", 4, "no hello within 20 seconds from: calibrate;");
}

static void interrupt(int signal, const char *message)
{
    const char *output = scratch("out");
    char when[512];
    snprintf(when, sizeof when, "%s/quantpipe-*/validate.0.out", runs_sockets());
    struct command c = command_interrupt(60, signal, when,
                                         WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--progress", "none",
                                               "--set", "data.calibration.samples=100000"));
    cr_expect_eq(c.code, 130, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, message), "%s", c.errors);
    command_free(&c);
    cr_expect_not(qp_exists(output));
    expect_status(output, "cancelled");
    expect_nothing_left(output);
}

Test(run, interrupts_leave_nothing_half_written, .timeout = 120)
{
    interrupt(SIGINT, "stopped by SIGINT (Ctrl-C)");
    interrupt(SIGTERM, "stopped by SIGTERM");
}

/* Whether any process has the test's socket folder on its command line. */
static bool is_running(void)
{
    glob_t found = {0};
    bool running = false;
    cr_assert_eq(glob("/proc/[0-9]*/cmdline", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char line[4096];
        FILE *file = fopen(found.gl_pathv[i], "r");
        size_t size = file ? fread(line, 1, sizeof line, file) : 0;
        if (file)
            fclose(file);
        running |= memmem(line, size, runs_sockets(), strlen(runs_sockets())) != NULL;
    }
    globfree(&found);
    return running;
}

/* That is_running sees a process whose command line names the folder. */
static void prove_is_running(void)
{
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "kill -STOP $$", runs_sockets(), (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 200 && !is_running(); i++)
        usleep(10000);
    cr_assert(is_running());
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    cr_assert_not(is_running());
}

Test(run, a_killed_runner_takes_its_stages_along, .timeout = 120)
{
    prove_is_running();
    const char *output = scratch("out");
    char when[512];
    snprintf(when, sizeof when, "%s/quantpipe-*/validate.0.out", runs_sockets());
    struct command c = command_interrupt(60, SIGKILL, when,
                                         WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--progress", "none",
                                               "--set", "data.calibration.samples=100000"));
    cr_expect_eq(c.code, 128 + SIGKILL);
    command_free(&c);
    for (int i = 0; i < 200 && is_running(); i++)
        usleep(50000);
    cr_expect_not(is_running());
    cr_expect_not(qp_exists(output));
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--set", "data.calibration.samples=4", "--set",
                   "data.evaluation.samples=4"));
    expect_nothing_left(output); /* of the killed run neither */
}

/* ---- run folders ---- */

Test(run, folders_of_runs_are_replaced_and_others_kept, .timeout = 300)
{
    const char *output = scratch("out"), *folder = scratch("out.run");
    struct qp_error err;
    const char *const argv[] = {QUANTPIPE,
                                "run",
                                PIPELINE,
                                "--output",
                                output,
                                "--set",
                                "data=",
                                "--set",
                                "stages.search.with.method=none",
                                "--set",
                                "stages.quantize.with.method=rtn",
                                NULL};
    cr_assert_eq(qp_make_folders(folder, &err), 0);
    run_well(argv); /* an empty folder is taken */
    cr_assert_eq(qp_remove_tree(output, &err), 0);
    scratch_text("out.run/note", "x");
    scratch_text("out.run/logs/old.0.log", "x");
    run_well(argv); /* a finished run's is used again: what that run made goes, what the user put there stays */
    cr_expect_not(qp_exists(scratch("out.run/logs/old.0.log")));
    cr_expect(qp_exists(scratch("out.run/note")));
    cr_assert_eq(qp_remove_tree(output, &err), 0);
    struct qp_lock lock;
    cr_assert_eq(qp_lock_take(scratch(".out.run.quantpipe-lock"), "0123456789abcdef", &lock, &err), 0);
    run_to(3, "a run is going on there", argv); /* a living run's is left alone */
    qp_lock_release(&lock);
    cr_assert_eq(qp_remove_tree(folder, &err), 0);
    cr_assert_eq(qp_make_folders(folder, &err), 0);
    scratch_text("out.run/mine", "x");
    run_to(3, "exists and is not the folder of a run", argv);
    cr_expect(qp_exists(scratch("out.run/mine")));
}
