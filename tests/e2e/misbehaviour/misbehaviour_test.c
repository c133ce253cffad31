/* Stages that break a rule, one test each: the run ends by itself, says which stage broke what on which edge, and
 * publishes nothing. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(misbehaviour, .init = runs_make, .fini = scratch_drop, .timeout = 120);

#define HEAD "quantpipe: 1\nmodel: " TINY "\noutput: out\nstrict: %s\nscheme: int4\nstages:\n  load: {}\n"
#define PEER BUILD_DIR "/tests/misbehaving_peer"
#define STAGE BUILD_DIR "/tests/misbehaving_stage"

/* A run with the stage of peer.c between load and quantize. */
static struct command run_peer(const char *does, const char *timeout)
{
    qp_auto_free char *yaml =
        qp_format(HEAD "  peer: {run: [" PEER ", \"%s\"], from: load}\n"
                       "  quantize: {from: peer, with: {method: rtn}}\n  export: {from: quantize}\n",
                  "false", does);
    const char *path = scratch_text("p.yaml", yaml);
    return command_run(100, WORDS(QUANTPIPE, "run", path, "--progress", "plain", "--timeout", timeout));
}

static void expect_words(const struct command *c, const char *const *words)
{
    for (; *words; words++)
        cr_expect(strstr(c->errors, *words), "expected '%s' in\n%s", *words, c->errors);
}

/* The run ends with code 4 and these words, which report.json has as well, and leaves no output. */
static void expect_end(const char *does, const char *timeout, const char *const *words)
{
    struct command c = run_peer(does, timeout);
    cr_expect_eq(c.code, 4, "%d\n%s", c.code, c.errors);
    expect_words(&c, words);
    cr_expect_not(qp_exists(scratch("out")));
    qp_auto_json json_t *report = report_of(scratch("out"));
    const char *message = text(json_object_get(report, "error"), "message");
    cr_expect(strstr(c.errors, message), "%s\n%s", message, c.errors);
    cr_expect_eq(runs_processes(), 0, "stages are left");
    command_free(&c);
}

/* Without a limit where the cause is certain; with a short one where the run has to find that nothing moves. */
#define AT_ONCE(name, does, ...)                   \
    Test(misbehaviour, name)                       \
    {                                              \
        expect_end(does, "0", WORDS(__VA_ARGS__)); \
    }
#define IN_TIME(name, does, ...)                   \
    Test(misbehaviour, name)                       \
    {                                              \
        expect_end(does, "6", WORDS(__VA_ARGS__)); \
    }

/* ---- units ---- */

Test(misbehaviour, none)
{
    struct command c = run_peer("nothing", "0");
    cr_expect_eq(c.code, 0, "%s", c.errors);
    command_free(&c);
}

AT_ONCE(a_swallowed_block, "swallow",
        "stage `quantize`: edge 1.peer-quantize: unit 4: unit 4 came after unit 2: unit 3 is missing")
AT_ONCE(a_swallowed_last_block, "swallow the last",
        "stage `quantize`: edge 1.peer-quantize: unit 8: the end came after "
        "block 7 of 8: 1 missing")
AT_ONCE(a_block_twice, "double", "stage `quantize`: edge 1.peer-quantize: unit 4: block 3 came twice")
AT_ONCE(
    done_without_an_end, "no end",
    "stage `peer` is done without an end unit: on edge 1.peer-quantize stage `quantize` has taken the 9 units that it "
    "sent and waits for unit 9")
AT_ONCE(done_before_its_units_are_acknowledged, "done at once",
        "stage `peer` is done, but of 1 units that it sent on edge 1.peer-quantize, 0 are acknowledged")
AT_ONCE(done_without_counts, "no edges", "stage `peer`: its done does not count received units of edge 0.load-peer")
AT_ONCE(done_with_wrong_counts, "wrong counts",
        "edge 0.load-peer: stage `load` counts 10 units sent, stage `peer` 1 received")

/* ---- schemes ---- */

AT_ONCE(another_scheme, "replace the scheme",
        "stage `quantize`: port in: the model unit has scheme `int8`, but this stage works for `int4`")

/* Each scheme has a peer of its own, which leaves the first scheme in the model unit. */
Test(misbehaviour, replaces_scheme_ignored)
{
    const char *path = scratch_text(
        "p.yaml", "quantpipe: 1\nmodel: " TINY "\noutput: out\nscheme: [int4, int8]\nstages:\n  load: {}\n"
                  "  peer: {run: [" PEER ", nothing], from: load}\n  quantize: {from: peer, with: {method: rtn}}\n"
                  "  export: {from: quantize}\n");
    run_to(4,
           "stage `quantize@int8`: port in: the model unit has scheme `int4`, but this stage works for `int8`: a stage "
           "before it changed the scheme, or did not put context.scheme in its place",
           WORDS(QUANTPIPE, "run", path, "--progress", "none", "--timeout", "0"));
    cr_expect_not(qp_exists(scratch("out-int4")));
    cr_expect_not(qp_exists(scratch("out-int8")));
}

/* ---- codes ---- */

#define AFTER_QUANTIZE "  quantize: {from: load, with: {method: rtn}}\n  misuse: {run: " STAGE ", from: quantize, "
#define EXPORT "  export: {from: misuse}\n"

/* A run with the stage of stage.c in it, whose parameters end `stages`. */
static struct command run_stage(const char *strict, const char *stages, const char *does, const char *rest)
{
    qp_auto_free char *yaml = qp_format(HEAD "%swith: {does: \"%s\"}}\n%s", strict, stages, does, rest);
    const char *path = scratch_text("p.yaml", yaml);
    return command_run(100, WORDS(QUANTPIPE, "run", path, "--progress", "plain"));
}

static void expect_failure(const char *stages, const char *does, const char *rest, const char *words)
{
    struct command c = run_stage("false", stages, does, rest);
    cr_expect_eq(c.code, 4, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, words), "expected '%s' in\n%s", words, c.errors);
    cr_expect_not(qp_exists(scratch("out")));
    command_free(&c);
}

/* A warning, with which the output is published, and a strict run is not. */
static void expect_warning(const char *stages, const char *does, const char *rest, const char *code, const char *words)
{
    struct command c = run_stage("false", stages, does, rest);
    cr_expect_eq(c.code, 0, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, words), "expected '%s' in\n%s", words, c.errors);
    cr_expect(qp_exists(scratch("out")));
    command_free(&c);
    run_well(WORDS("rm", "-r", scratch("out")));
    c = run_stage("true", stages, does, rest);
    cr_expect_eq(c.code, 5, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, code), "expected '%s' in\n%s", code, c.errors);
    cr_expect_not(qp_exists(scratch("out")));
    command_free(&c);
}

Test(misbehaviour, a_code_above_the_range)
{
    expect_failure(
        AFTER_QUANTIZE, "code 100", EXPORT,
        "stage `export`: block unit 3: model.layers.1.self_attn.v_proj: code [0, 7] is 100; INT4 has -8 to 7");
}

Test(misbehaviour, a_code_below_the_range)
{
    expect_failure(
        AFTER_QUANTIZE, "code -9", EXPORT,
        "stage `export`: block unit 3: model.layers.1.self_attn.v_proj: code [0, 7] is -9; INT4 has -8 to 7");
}

Test(misbehaviour, no_codes)
{
    expect_warning(
        AFTER_QUANTIZE, "no codes", EXPORT, "linear-unquantized",
        "export: warning: model.layers.1.self_attn.q_proj, self_attn.k_proj, self_attn.v_proj, "
        "self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj: the scheme quantizes these, but no codes "
        "came");
}

Test(misbehaviour, no_codes_of_one_linear)
{
    expect_warning(AFTER_QUANTIZE, "no codes of one", EXPORT, "linear-unquantized",
                   "export: warning: model.layers.1.self_attn.k_proj: the scheme quantizes it, but no codes came");
}

Test(misbehaviour, folds_ignored)
{
    expect_warning("  calibrate: {from: load}\n  search: {from: calibrate, with: {method: awq}}\n  misuse: {run: " STAGE
                   ", from: search, ",
                   "ignore folds",
                   "  validate: {from: misuse}\n  export: {from: validate}\n"
                   "data: {calibration: {text: " TINY "/train.txt, samples: 4, length: 64}}\n",
                   "folds-ignored", "its codes are of the weights without the folds of smooth and search");
}

Test(misbehaviour, blocks_that_change_after_they_were_measured)
{
    expect_failure("  quantize: {from: load, with: {method: rtn}}\n  validate: {from: quantize}\n  misuse: {run: " STAGE
                   ", from: validate, ",
                   "another code", EXPORT,
                   "what stage `export` has written is not what stage `validate` has measured (digests ");
}

/* The same stage before what measures. */
Test(misbehaviour, blocks_that_change_before_they_are_measured)
{
    struct command c =
        run_stage("true", AFTER_QUANTIZE, "another code", "  validate: {from: misuse}\n  export: {from: validate}\n");
    cr_expect_eq(c.code, 0, "%d\n%s", c.code, c.errors);
    command_free(&c);
}

/* ---- a run that is interrupted ---- */

Test(misbehaviour, what_a_stage_wrote_by_itself_is_told)
{
    qp_auto_free char *yaml = qp_format(HEAD "  peer: {run: [" PEER
                                             ", write elsewhere], from: load}\n  quantize: {from: peer, with: {method: "
                                             "rtn}}\n  export: {from: quantize}\n",
                                        "false");
    const char *path = scratch_text("p.yaml", yaml);
    struct command c = command_interrupt(100, SIGINT, scratch("elsewhere"),
                                         WORDS(QUANTPIPE, "run", path, "--progress", "none", "--timeout", "0"));
    cr_expect_eq(c.code, 130, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, "stopped by SIGINT (Ctrl-C); nothing half-written is left; stage `peer` reports that it "
                               "has written elsewhere by itself"),
              "%s", c.errors);
    command_free(&c);
}

/* ---- nothing moves ---- */

IN_TIME(no_acknowledgements, "never acknowledge", "run: warning: for ", "for 6 seconds nothing has moved",
        "stage `load` waits on edge 0.load-peer for acknowledgement of unit 0 from stage `peer`",
        "stage `peer` tells neither that it computes (`busy`) nor what it waits for (`waits`)")
IN_TIME(no_credit, "never grant", "for 6 seconds nothing has moved",
        "stage `load` waits on edge 0.load-peer for credit to send unit 0 from stage `peer`")
IN_TIME(never_ready, "never ready", "for 6 seconds nothing has moved", "stage `peer` has not sent ready",
        "stage `quantize` waits on edge 1.peer-quantize for unit 0 from stage `peer`")
IN_TIME(endless_without_busy, "keep all", "for 6 seconds nothing has moved",
        "stage `peer` tells neither that it computes (`busy`) nor what it waits for (`waits`)")
IN_TIME(silence, "silence", "stage `peer` (process ", "has been silent for 6 seconds")

/* A stage that says that it computes may take as long as it likes. */
Test(misbehaviour, endless_with_busy)
{
    qp_auto_free char *yaml = qp_format(
        HEAD "  peer: {run: [" PEER ", busy], from: load}\n  quantize: {from: peer}\n  export: {from: quantize}\n",
        "false");
    const char *path = scratch_text("p.yaml", yaml);
    struct command c = command_run(14, WORDS(QUANTPIPE, "run", path, "--progress", "none", "--timeout", "5"));
    cr_expect_eq(c.code, -1, "%d\n%s", c.code, c.errors);
    command_free(&c);
}

/* ---- messages ---- */

AT_ONCE(hello_of_an_edge_with_an_unknown_key, "edge hello key",
        "stage `load`: edge 0.load-peer: a message of its consumer was refused: hello: the key colour is not known")
AT_ONCE(hello_of_another_run, "edge run", "stage `load`: edge 0.load-peer: ", "hello of a consumer peer of another run")
AT_ONCE(hello_of_another_edge, "edge edge",
        "stage `load`: edge 0.load-peer: ", "hello of a consumer peer of an edge 9.a-b that does not leave here")
AT_ONCE(hello_of_another_version, "edge version",
        "stage `load`: edge 0.load-peer: ", "hello of a consumer peer of protocol version 2; this is version 1")
AT_ONCE(hello_with_an_unknown_key, "control hello key",
        "stage `peer`: the stage sent a message that was refused: hello: the key colour is not known")
AT_ONCE(hello_of_another_protocol, "control version",
        "stage `peer`: the stage speaks protocol version 2 and the runner version 1")
AT_ONCE(an_unknown_key, "control key",
        "stage `peer`: the stage sent a message that was refused: progress: the key percent is not known")
AT_ONCE(an_unknown_kind, "control kind",
        "stage `peer`: the stage sent a message that was refused: a message of unknown kind weather")
AT_ONCE(control_characters_in_a_failure, "escape and fail", "stage `peer`: \\x1b]0;title\\x07seen")

Test(misbehaviour, control_characters_in_a_warning)
{
    struct command c = run_peer("escape", "0");
    cr_expect_eq(c.code, 0, "%s", c.errors);
    cr_expect(strstr(c.errors, "peer: warning: here: \\x1b[2J\\x07seen\\x0d\nhere"), "%s", c.errors);
    command_free(&c);
}

/* ---- ends of processes ---- */

AT_ONCE(crash, "crash", "stage `peer` ended with signal 11 (Segmentation fault) before it was done; its log is ")
AT_ONCE(kill_9, "kill", "stage `peer` ended with signal 9 (Killed) before it was done")
AT_ONCE(exit_0_too_early, "exit", "stage `peer` ended with exit code 0 before it was done")
