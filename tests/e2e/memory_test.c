/* `memory:` of a pipeline: what all processes of a run may hold together. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

#define EXACT FEW, "--set", "stages.calibrate.with.compute=fp32"

TestSuite(memory, .init = runs_make, .fini = scratch_drop, .timeout = 300);

/* The least that the pipeline takes, as the refusal of next to nothing says: "memory=5MB". */
static char *least(const char *option, const char *value)
{
    struct command c = command_run(60, WORDS(QUANTPIPE, "plan", PIPELINE, "--output", scratch("out"), EXACT, option,
                                             value, "--set", "memory=1MB"));
    const char *advice = strstr(c.errors, "write memory: ");
    cr_assert(c.code == 6 && advice, "%d: %s", c.code, c.errors);
    char *setting = qp_format("memory=%.*s", (int)strcspn(advice + 14, " "), advice + 14);
    command_free(&c);
    return setting;
}

Test(memory, too_little_is_refused_with_the_sizes)
{
    static const char *const subcommands[] = {"plan", "run"};
    for (int i = 0; i < 2; i++) {
        struct command c = command_run(
            60, WORDS(QUANTPIPE, subcommands[i], PIPELINE, "--output", scratch("out"), "--set", "memory=1MB"));
        cr_expect_eq(c.code, 6, "%d", c.code);
        cr_expect(strstr(c.errors, "memory=1MB: found ") && strstr(c.errors, "for all processes together"), "%s",
                  c.errors);
        cr_expect(strstr(c.errors, "calibrate ") && strstr(c.errors, "quantize "), "%s", c.errors);
        command_free(&c);
    }
    cr_expect_not(qp_exists(scratch("out")));
    cr_expect_not(qp_exists(scratch("out.run")), "nothing has begun");
    run_to(3, "expected bytes, as in 8GB or 600MB",
           WORDS(QUANTPIPE, "plan", PIPELINE, "--output", scratch("out"), "--set", "memory=much"));
}

static json_t *plan_with(const char *setting)
{
    return answer_of(WORDS(QUANTPIPE, "plan", PIPELINE, "--json", "--output", scratch("out"), EXACT, "--set", setting));
}

Test(memory, fewer_blocks_are_on_the_way_where_there_is_less)
{
    qp_auto_free char *little = least("--set", "strict=false");
    qp_auto_json json_t *tight = plan_with(little), *wide = plan_with("memory=1GB");
    cr_expect_eq(number(tight, "blocks_on_the_way", NULL), 1);
    cr_expect_eq(number(wide, "blocks_on_the_way", NULL), 3);
    cr_expect_lt(number(tight, "memory_estimate_bytes", NULL), number(wide, "memory_estimate_bytes", NULL));
    cr_expect_leq(number(tight, "memory_estimate_bytes", NULL), number(tight, "memory_budget_bytes", NULL));
}

static char *run_with(const char *name, const char *option, const char *value, const char *setting)
{
    const char *output = scratch(name);
    run_well(WORDS(QUANTPIPE, "run", PIPELINE, "--output", output, "--progress", "none", EXACT, option, value, "--set",
                   setting));
    qp_auto_json json_t *report = report_of(output);
    return strdup(text(first_output(report), "digest"));
}

static void expect_same(const char *option, const char *value)
{
    qp_auto_free char *little = least(option, value);
    qp_auto_free char *tight = run_with("tight", option, value, little);
    qp_auto_free char *wide = run_with("wide", option, value, "memory=1GB");
    cr_expect_str_eq(tight, wide);
}

Test(memory, one_block_at_a_time_gives_the_same_bytes)
{
    expect_same("--set", "stages.search.with.method=none");
}

Test(memory, also_where_blocks_come_back_in_steps)
{
    expect_same("--profile", "true_sequential");
}
