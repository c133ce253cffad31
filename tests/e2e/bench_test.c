/* tests/bench/speed/run.sh runs another tool only where it is named. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/runs.h"

#define RUN SOURCE_DIR "/tests/bench/speed/run.sh"

TestSuite(bench, .init = scratch_make, .fini = scratch_drop);

/* What would be run, a line each, with PEERS in the environment. */
static struct command list(const char *peers)
{
    setenv("PEERS", peers, 1);
    return command_run(60, WORDS(RUN, "--list"));
}

static int lines_with(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part))
        count++;
    return count;
}

Test(bench, other_tools_are_left_out)
{
    struct command c = list("");
    cr_expect_eq(c.code, 0, "%s", c.errors);
    cr_expect_gt(lines_with(c.output, "\n"), 5);
    cr_expect_eq(lines_with(c.output, " quantpipe"), lines_with(c.output, "\n"), "%s", c.output);
    command_free(&c);
}

Test(bench, those_that_are_named_run_beside_ours)
{
    struct command c = list("llmcompressor:gptq modelopt:fp8");
    cr_expect_eq(c.code, 0, "%s", c.errors);
    cr_expect(strstr(c.output, "int4-gptq llmcompressor int4-gptq\n"), "%s", c.output);
    cr_expect(strstr(c.output, "fp8 modelopt fp8\n"), "%s", c.output);
    cr_expect_eq(lines_with(c.output, " quantpipe"), 2, "%s", c.output);
    cr_expect_eq(lines_with(c.output, "\n"), 4, "%s", c.output);
    command_free(&c);
}

Test(bench, a_tool_that_is_not_there_is_refused)
{
    setenv("PEERS", "modelopt", 1);
    run_to(2, "PEERS has modelopt, and", WORDS(RUN, "--list"));
    run_to(2, "  modelopt:fp8\n", WORDS(RUN, "--list"));
    setenv("PEERS", "", 1);
    run_to(2, "no such job", WORDS(RUN, "--list", "int4-nothing"));
}
