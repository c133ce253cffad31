/* Whole runs of the built programs on the embedded model, and what their reports say. */
#ifndef QUANTPIPE_TESTS_RUNS_H
#define QUANTPIPE_TESTS_RUNS_H

#include <jansson.h>

#include "tests/support/command.h"
#include "tests/support/scratch.h"

#define QUANTPIPE BUILD_DIR "/bin/quantpipe"
#define PIPELINE SOURCE_DIR "/pipeline.yaml"
#define TINY SOURCE_DIR "/examples/tiny"

/* Fixture for .init: scratch_make, and sockets go to a folder of the test's own, so that what is left behind is seen.
 */
void runs_make(void);

/* That folder. */
const char *runs_sockets(void);

/* Runs a program that has to end with exit code 0. */
void run_well(const char *const *argv);

/* Runs a program that should end with exit code `code`, and say `message` on stderr. */
void run_to(int code, const char *message, const char *const *argv);

/* OUTPUT.run/report.json, a new reference. */
json_t *report_of(const char *output);

/* The first of a report's outputs (borrowed). */
const json_t *first_output(const json_t *report);

/* The number at a key, or at `inner` in the object there; the test fails when there is none. */
double number(const json_t *object, const char *key, const char *inner);

/* The string at a key; the test fails when there is none. */
const char *text(const json_t *object, const char *key);

#endif
