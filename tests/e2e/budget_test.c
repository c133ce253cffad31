/* Budgets in whole runs on the embedded model. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

#define FORMAT(bits) "{weights: {format: int" #bits ", group: 32}}"
#define ANY "choose_from: [" FORMAT(3) ", " FORMAT(4) ", " FORMAT(5) ", " FORMAT(6) ", " FORMAT(8) "]"

TestSuite(budget, .init = scratch_make, .fini = scratch_drop, .timeout = 300);

/* A pipeline file for a scheme; with `stage`, a line that puts another stage after calibrate. */
static const char *pipeline(const char *scheme, const char *stage, const char *name)
{
    char yaml[4096];
    snprintf(yaml, sizeof yaml,
             "quantpipe: 1\nmodel: " TINY "\noutput: out\nscheme: %s\n"
             "data:\n  calibration: {text: " TINY "/train.txt, samples: 8, length: 128}\n"
             "  evaluation: {text: " TINY "/test.txt, samples: 1, length: 512}\n"
             "stages:\n  load: {}\n  calibrate: {from: load}\n%s"
             "  quantize: {from: %s, with: {method: rtn, scales: weighted}}\n"
             "  validate: {from: quantize}\n  export: {from: validate}\n",
             scheme, stage, *stage ? "allocate" : "calibrate");
    return scratch_text(name, yaml);
}

/* The only output of a run's report. A new reference. */
static json_t *run(const char *file, const char *output, const char *setting)
{
    run_well(WORDS(QUANTPIPE, "run", file, "--output", scratch(output), "--set", setting));
    qp_auto_json json_t *report = report_of(scratch(output));
    return json_incref(json_array_get(json_object_get(report, "outputs"), 0));
}

#define ALLOCATE "  allocate: {from: calibrate}\n"
#define NOTHING "strict=false"

/* The choice is the best of all that fit, by its own measure; formats used alone are among these. */
static void expect_best(const json_t *allocation, double bits)
{
    size_t i, fitting = 0;
    json_t *alone;
    cr_expect_leq(number(allocation, "bits", NULL), bits);
    cr_expect_eq(number(allocation, "gap", NULL), 0.0);
    json_array_foreach(json_object_get(allocation, "uniform"), i, alone) {
        if (number(alone, "bits", NULL) > bits)
            continue;
        fitting++;
        cr_expect_leq(number(allocation, "predicted_loss", NULL), number(alone, "predicted_loss", NULL) * (1 + 1e-9),
                      "%s", text(alone, "format"));
    }
    cr_expect_gt(fitting, 0);
}

Test(budget, the_choice_is_the_best_that_fits)
{
    const char *file = pipeline("{budget: 4.6bits, " ANY "}", ALLOCATE, "budget.yaml");
    qp_auto_json json_t *chosen = run(file, "chosen", NOTHING);
    const json_t *allocation = json_object_get(chosen, "allocation");
    struct stat written;
    runs_expect_network(chosen);
    expect_best(allocation, 4.6); /* INT4 in groups of 32 takes 4.5, and a little for shapes */
    cr_assert_eq(stat(scratch("chosen/model.safetensors"), &written), 0);
    double told = number(allocation, "bytes", NULL);
    cr_expect(written.st_size <= told && written.st_size > 0.9 * told, "%.0f bytes were told, %lld are written", told,
              (long long)written.st_size);
}

Test(budget, the_size_of_the_checkpoint_holds)
{
    struct stat written;
    const char *file = pipeline("{budget: 1000kB, " ANY "}", ALLOCATE, "budget.yaml");
    qp_auto_json json_t *chosen = run(file, "chosen", NOTHING);
    (void)chosen;
    cr_assert_eq(stat(scratch("chosen/model.safetensors"), &written), 0);
    cr_expect(written.st_size <= 1000000 && written.st_size > 900000, "%lld bytes", (long long)written.st_size);
}

static void expect_no_work(const json_t *operations)
{
    const char *kind;
    json_t *count;
    cr_expect_gt(json_object_size(operations), 0);
    json_object_foreach((json_t *)operations, kind, count)
        cr_expect_eq(json_number_value(count), 0, "calibrate had work to do: %s", kind);
}

/* A further budget is decided from the losses of the first run, and nothing is calibrated. */
Test(budget, another_budget_needs_no_calibration)
{
    const char *file = pipeline("{budget: 4.6bits, " ANY "}", ALLOCATE, "budget.yaml");
    qp_auto_json json_t *first = run(file, "first", NOTHING);
    const char *again = pipeline("{budget: 5.6bits, " ANY "}",
                                 "  allocate: {from: calibrate, with: {losses: first.losses.json}}\n", "again.yaml");
    qp_auto_free char *losses = qp_format("stages.allocate.with.losses=%s.losses.json", scratch("first"));
    run_to(3, "/nowhere.txt", /* the file of a data entry is looked for even when nobody reads it */
           WORDS(QUANTPIPE, "run", again, "--output", scratch("again"), "--set", losses, "--set",
                 "stages.quantize.with.scales=mse", "--set", "data.calibration={text: /nowhere.txt}"));
    run_well(WORDS(QUANTPIPE, "run", again, "--output", scratch("again"), "--set", losses, "--set",
                   "stages.quantize.with.scales=mse"));
    qp_auto_json json_t *report = report_of(scratch("again"));
    const json_t *later = json_object_get(first_output(report), "allocation");
    expect_best(later, 5.6);
    cr_expect_leq(number(later, "predicted_loss", NULL),
                  number(json_object_get(first, "allocation"), "predicted_loss", NULL) * (1 + 1e-9),
                  "what fitted fits still");
    expect_no_work(json_object_get(json_object_get(stage_of(report, "calibrate"), "work"), "operations"));
}

Test(budget, a_budget_that_nobody_resolves_is_refused)
{
    const char *file = pipeline("{budget: 4.6bits, " ANY "}", "", "alone.yaml");
    run_to(3, "allocate: {from: calibrate}", WORDS(QUANTPIPE, "check", file));
    run_to(3, "alone.yaml:4", WORDS(QUANTPIPE, "check", file));
    file = pipeline("{budget: 4.6bits, " ANY "}", ALLOCATE, "cycle.yaml");
    run_to(3, "waits for the last block",
           WORDS(QUANTPIPE, "check", file, "--output", scratch("cycle"), "--set",
                 "stages.calibrate.from={in: load, feedback: {from: quantize, delay: 1}}"));
    file = pipeline("{budget: 3bits, " ANY "}", ALLOCATE, "small.yaml");
    struct command c = command_run(60, WORDS(QUANTPIPE, "run", file, "--output", scratch("small")));
    cr_expect_eq(c.code, 3);
    cr_expect(strstr(c.errors, "3.5") && strstr(c.errors, "scheme.budget"), "%s", c.errors);
    command_free(&c);
}
