/* Whole runs of the built programs on the embedded model, and what their reports say. */
#ifndef QUANTPIPE_TESTS_RUNS_H
#define QUANTPIPE_TESTS_RUNS_H

#include <jansson.h>
#include <stdbool.h>

#include "tests/support/command.h"
#include "tests/support/scratch.h"

#define QUANTPIPE BUILD_DIR "/bin/quantpipe"
#define PIPELINE SOURCE_DIR "/pipeline.yaml"
#define TINY SOURCE_DIR "/examples/tiny"

/* Options of a run on little text: 1024 tokens to calibrate on, a window of 512 to evaluate. What a run does depends on
 * neither, only how long it takes. */
#define FEW \
    "--set", "data.calibration.samples=8", "--set", "data.calibration.length=128", "--set", "data.evaluation.samples=1"
#define QUICK "--progress", "none", FEW

/* An executable stage that dies, or waits to be stopped, at a unit (tests/e2e/stages/brake.c). */
#define BRAKE BUILD_DIR "/tests/stages/brake"

/* Fixture for .init: scratch_make, and sockets go to a folder of the test's own, so that what is left is seen.
 */
void runs_make(void);

/* That folder. */
const char *runs_sockets(void);

/* runs_make, for runs with stages that use examples/python. */
void runs_make_python(void);

/* A Python interpreter with what stages in Python use (scripts/python); the test fails when there is none. */
const char *runs_python(void);

/* How many processes have that folder on their command lines. */
int runs_processes(void);

/* Makes the folder "model" of the scratch folder, the embedded model with its first `layers` layers alone: as good as
 * the whole one where a test asks how layers are treated and not what the network says. Returns its path. */
const char *runs_model_of(int layers);

/* Runs a program that has to end with exit code 0. */
void run_well(const char *const *argv);

/* Runs a program that should end with exit code `code`, and say `message` on stderr. */
void run_to(int code, const char *message, const char *const *argv);

/* Runs a program that has to end with exit code 0, and returns the JSON that it prints, a new reference. */
json_t *answer_of(const char *const *argv);

/* OUTPUT.run/report.json, a new reference. */
json_t *report_of(const char *output);

/* The first of a report's outputs (borrowed). */
const json_t *first_output(const json_t *report);

/* The stage of this name in a report or a plan (borrowed); NULL when there is none. */
const json_t *stage_of(const json_t *report, const char *name);

/* That an output (of a report) still is a language model: perplexities and divergence are finite, and the quantized
 * network's is below twice the original's. Formats of four bits and more cost 2 % on the embedded model; one that is
 * broken costs all, up to the perplexity of a uniform guess, 1024. */
void runs_expect_network(const json_t *output);

/* The perplexity of a checkpoint on the first `samples` windows of the embedded model's text, by a program that knows
 * nothing of the run that made it. */
double runs_perplexity(const char *checkpoint, const char *samples);

/* Whether a tensor has the same bytes in two checkpoints; it must be in both. */
bool runs_same_tensor(const char *one, const char *other, const char *name);

/* The number at a key, or at `inner` in the object there; the test fails when there is none. */
double number(const json_t *object, const char *key, const char *inner);

/* The string at a key; the test fails when there is none. */
const char *text(const json_t *object, const char *key);

#endif
