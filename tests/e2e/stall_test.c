/* Stages that wait for each other. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(stall, .init = runs_make, .fini = scratch_drop, .timeout = 120);

#define HEAD "quantpipe: 1\nmodel: " TINY "\noutput: out\nscheme: int4\nstages:\n  load: {}\n"
#define HOLDER "{run: " BUILD_DIR "/tests/knot_holder, from: load}\n"
#define JOIN "{run: " BUILD_DIR "/tests/knot_join, from: {a: load, b: holder}}\n"

/* The holder of tests/e2e/knot does not say that it holds units, so that only the run can tell. */
Test(stall, a_run_in_which_nothing_moves_names_who_waits_for_what)
{
    const char *path = scratch_text("p.yaml", HEAD "  holder: " HOLDER "  join: " JOIN);
    struct command c = command_run(100, WORDS(QUANTPIPE, "run", path, "--progress", "none", "--timeout", "4"));
    cr_expect_eq(c.code, 4, "%d\n%s", c.code, c.errors);
    cr_expect(strstr(c.errors, "for 4 seconds nothing has moved and no stage has computed"), "%s", c.errors);
    cr_expect(strstr(c.errors, "stage `load` waits on edge 1.load-join for credit to send unit "), "%s", c.errors);
    cr_expect(strstr(c.errors, "stage `join` waits on edge 2.holder-join for unit 0"), "%s", c.errors);
    cr_expect(strstr(c.errors, "stage `holder` waits on edge 0.load-holder for unit "), "%s", c.errors);
    command_free(&c);
}

/* The holder, which says what it holds. */
static void make_honest(void)
{
    char script[512];
    snprintf(script, sizeof script,
             "#!/bin/sh\nif [ \"$1\" = --describe ]; then %s --describe | sed 's/\"holds\": 0/\"holds\": \"all\"/'\n"
             "else exec %s \"$@\"; fi\n",
             BUILD_DIR "/tests/knot_holder", BUILD_DIR "/tests/knot_holder");
    run_well(WORDS("chmod", "+x", scratch_text("honest", script)));
}

/* It keeps memory of the stage before it, of more blocks than are on their way elsewhere. */
Test(stall, a_holder_that_says_so_gets_all_that_it_holds)
{
    make_honest();
    const char *path = scratch_text("p.yaml", HEAD "  quantize: {from: load}\n"
                                                   "  holder: {run: ./honest, from: quantize}\n"
                                                   "  export: {from: holder}\n");
    run_well(WORDS(QUANTPIPE, "run", path, "--progress", "none"));
}

/* A holder that says so is refused before anything starts. */
Test(stall, a_holder_that_says_so_is_refused)
{
    make_honest();
    const char *path = scratch_text("p.yaml", HEAD "  holder: {run: ./honest, from: load}\n  join: " JOIN);
    static const char *const subcommands[] = {"check", "run"};
    for (int i = 0; i < 2; i++)
        run_to(3,
               "`holder` keeps back all units on the path load -> holder -> join.b, and `join` takes the same units in "
               "order from the path load -> join.a as well",
               WORDS(QUANTPIPE, subcommands[i], path));
}
