/* Whole runs of the built programs on the embedded model. */
#include <criterion/criterion.h>
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

/* Where nothing hangs on the search. */
#define SIMPLE FEW, "--set", "stages.search.with.method=none"

TestSuite(run, .init = runs_make, .fini = scratch_drop, .timeout = 300);

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
    double agreement = number(output, "top1_agreement", NULL);
    runs_expect_network(output);
    cr_expect(agreement > 0.5 && agreement <= 1, "%g", agreement);
    cr_expect_gt(number(output, "size_bytes", "original"), 2 * number(output, "size_bytes", "quantized"));
    size_t i;
    json_t *linear;
    cr_expect_eq(json_array_size(json_object_get(output, "linears")), 42);
    json_array_foreach(json_object_get(output, "linears"), i, linear)
        cr_expect_gt(number(linear, "sqnr_db", NULL), 0, "%s: its error is larger than it is", text(linear, "name"));
}

/* The resolved pipeline is itself a pipeline, and the same bytes come of it. */
static void expect_again(const char *first, const json_t *made)
{
    const char *second = scratch("second");
    qp_auto_free char *resolved = qp_format("%s.run/pipeline.json", first);
    run_well(WORDS(QUANTPIPE, "run", resolved, "--output", second));
    qp_auto_json json_t *report = report_of(second);
    cr_expect_str_eq(text(made, "digest"), text(first_output(report), "digest"));
    run_well(WORDS("diff", "-r", first, second));
}

Test(run, the_default_pipeline)
{
    const char *output = scratch("out");
    struct command c = command_run(300, WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, FEW));
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
    double perplexity = runs_perplexity(output, "1"), said = number(made, "perplexity", "quantized");
    cr_expect_float_eq(perplexity / said, 1, 1e-3, "evaluate says %g, validate said %g", perplexity, said);
    expect_again(output, made);
}

/* What the factors that were written add is what validate measured. Roundings of quantized inputs (nvfp4) hang on last
 * places, so sums in another order are another draw of the same noise. */
Test(run, low_rank_corrections)
{
    static const char *const schemes[] = {"int3", "nvfp4"};
    static const double tolerances[] = {1e-3, 2e-2};
    for (int i = 0; i < 2; i++) {
        const char *output = scratch(schemes[i]);
        run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--scheme", schemes[i], FEW, "--set",
                       "stages.search.with.method=none", "--set", "stages.quantize.with.low_rank=16"));
        qp_auto_json json_t *report = report_of(output);
        const json_t *made = first_output(report);
        cr_expect(json_object_get(made, "low_rank"));
        double perplexity = runs_perplexity(output, "1"), said = number(made, "perplexity", "quantized");
        cr_expect_float_eq(perplexity / said, 1, tolerances[i], "%s: evaluate says %g, validate said %g", schemes[i],
                           perplexity, said);
    }
}

static const json_t *operations_of(const json_t *report, const char *name)
{
    const json_t *work = json_object_get(stage_of(report, name), "work");
    cr_assert_not_null(work, "%s", name);
    return json_object_get(work, "operations");
}

Test(run, rounding_to_nearest_needs_no_data)
{
    const char *output = scratch("out"), *kind;
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--set", "data=", "--set",
                   "stages.search.with.method=none", "--set", "stages.quantize.with.method=rtn"));
    qp_auto_json json_t *report = report_of(output);
    const json_t *made = first_output(report);
    cr_expect(json_is_null(json_object_get(json_object_get(made, "perplexity"), "quantized")), "nothing was measured");
    cr_expect(json_is_string(json_object_get(made, "digest")));
    json_t *count;
    json_object_foreach((json_t *)operations_of(report, "calibrate"), kind, count)
        cr_expect_eq(json_number_value(count), 0, "calibrate runs no forward: %s", kind);
}

/* examples/tiny/make.py computes both in torch: its closing lines. */
Test(run, rounding_to_nearest_costs_what_another_program_says)
{
    const char *output = scratch("out");
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--set", "data.calibration=", "--set",
                   "stages.search.with.method=none", "--set", "stages.quantize.with.method=rtn", "--set",
                   "stages.validate.with.compute=fp32"));
    qp_auto_json json_t *report = report_of(output);
    cr_expect_float_eq(number(first_output(report), "perplexity", "original"), 2.2594, 1e-3);
    cr_expect_float_eq(number(first_output(report), "perplexity", "quantized"), 2.4260, 1e-3);
}

Test(run, events_for_programs)
{
    struct command c =
        command_run(300, WORDS(QUANTPIPE, "run", PIPELINE, "--output", scratch("out"), "--progress", "json", SIMPLE));
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

Test(run, a_gate_that_fails)
{
    const char *output = scratch("out");
    run_to(5, "stage `validate`: ",
           WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, SIMPLE, "--set",
                 "scheme={weights: {format: int2, group: 128}}", "--set",
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

Test(run, a_stage_that_dies_is_named)
{
    run_with_impostor("echo last words >&2; kill -9 $$", 4, "stage `calibrate` ended with signal 9 (Killed)");
    run_with_impostor("echo last words >&2; exit 3", 4, "and ends with:\nlast words");
}

/* Starts a run that ends in no other way, and sends it the signal when blocks are on their way. */
static struct command run_until_signal(int signal, const char *output)
{
    const char *flag = scratch("flag");
    qp_auto_free char *brake =
        qp_format("stages.brake={run: " BRAKE ", from: load, with: {then: wait, flag: %s}}", flag);
    return command_interrupt(300, signal, flag,
                             WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--progress", "none", SIMPLE,
                                   "--set", brake, "--set", "stages.calibrate.from=brake"));
}

static void interrupt(int signal, const char *message)
{
    const char *output = scratch("out");
    struct command c = run_until_signal(signal, output);
    cr_expect_eq(c.code, 130, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, message), "%s", c.errors);
    command_free(&c);
    cr_expect_not(qp_exists(output));
    expect_status(output, "cancelled");
    expect_nothing_left(output);
    cr_assert_eq(unlink(scratch("flag")), 0);
}

Test(run, interrupts_leave_nothing_half_written)
{
    interrupt(SIGINT, "stopped by SIGINT (Ctrl-C)");
    interrupt(SIGTERM, "stopped by SIGTERM");
}

/* That runs_processes sees a process whose command line names the folder. */
static void prove_processes_are_seen(void)
{
    int status;
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "kill -STOP $$", runs_sockets(), (char *)NULL);
        _exit(127);
    }
    cr_assert_eq(waitpid(child, &status, WUNTRACED), child);
    cr_assert(WIFSTOPPED(status));
    cr_assert_gt(runs_processes(), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    cr_assert_eq(runs_processes(), 0);
}

Test(run, a_killed_runner_takes_its_stages_along)
{
    prove_processes_are_seen();
    const char *output = scratch("out");
    struct command c = run_until_signal(SIGKILL, output);
    cr_expect_eq(c.code, 128 + SIGKILL);
    command_free(&c);
    while (runs_processes() > 0) /* for as long as the test may take */
        usleep(10000);
    cr_expect_not(qp_exists(output));
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, SIMPLE));
    expect_nothing_left(output); /* of the killed run neither */
}

/* ---- run folders ---- */

Test(run, folders_of_runs_are_replaced_and_others_kept)
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
