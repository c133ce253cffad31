/* `quantpipe check --stage`: good stages pass, and each that breaks a rule is told which. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/runs.h"

TestSuite(conformance, .init = runs_make_python, .fini = scratch_drop);

static struct command check(const char *stage, const char *timeout)
{
    return command_run(500, WORDS(QUANTPIPE, "check", "--stage", stage, "--model", TINY, "--text", TINY "/test.txt",
                                  "--timeout", timeout));
}

static void expect_good(const char *stage)
{
    struct command c = check(stage, "120");
    cr_expect_eq(c.code, 0, "%s: %s%s", stage, c.output, c.errors);
    cr_expect(strstr(c.output, "good: a stop (stop)"), "%s: %s", stage, c.output);
    command_free(&c);
}

Test(conformance, built_in_stages_keep_the_protocol, .timeout = 600)
{
    static const char *const names[] = {"load",     "rotate",   "calibrate", "smooth",  "search",
                                        "quantize", "validate", "export",    "allocate"};
    char path[600];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, BUILD_DIR "/libexec/quantpipe/%s", names[i]);
        expect_good(path);
    }
}

Test(conformance, examples_keep_the_protocol, .timeout = 600)
{
    static const char *const names[] = {"rtn", "hqq", "synthetic", "histograms"};
    char command[1200];
    expect_good(BUILD_DIR "/examples/outliers");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(command, sizeof command, "%s " SOURCE_DIR "/examples/python/%s.py", runs_python(), names[i]);
        expect_good(command);
    }
}

/* A stage with this breach is told the rule. Those whose breach is that nothing comes are waited for. */
static void expect_breach(const char *breach, const char *rule)
{
    char command[1200], message[120];
    snprintf(command, sizeof command, "%s " SOURCE_DIR "/tests/e2e/conformance/broken.py %s", runs_python(), breach);
    snprintf(message, sizeof message, "PROTOCOL.md): %s", rule);
    struct command c = check(command, "12");
    cr_expect_eq(c.code, 4, "%s: %d: %s%s", breach, c.code, c.output, c.errors);
    cr_expect(strstr(c.errors, message), "%s: %s%s", breach, c.output, c.errors);
    command_free(&c);
}

#define BREACH(breach, rule)                             \
    Test(conformance, breach##_is_named, .timeout = 200) \
    {                                                    \
        expect_breach(#breach, rule);                    \
    }

BREACH(describe, "describe: ")
BREACH(hello, "hello: ")
BREACH(ready, "ready: ")
BREACH(edge_messages, "edge-messages: ")
BREACH(credit, "credit: ")
BREACH(ack, "ack: ")
BREACH(ack_early, "ack: ")
BREACH(forget, "ack: ")
BREACH(swallow, "units: ")
BREACH(heartbeat, "heartbeat: ")
BREACH(done, "done: ")
BREACH(record, "done: ")
BREACH(bye, "bye: it exited with 7")
BREACH(replay, "replay: ")
BREACH(strangers, "strangers: ")
BREACH(garbage, "garbage: ")
BREACH(lost_unit, "lost-unit: ")
BREACH(unknown_key, "unknown-key: ")
BREACH(stop, "stop: ")
