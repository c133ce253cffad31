/* scripts/words: this tree has none of the private words, and one in any place is found. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/support/command.h"
#include "tests/support/scratch.h"
#include "tests/support/tree.h"

#define SCRIPT SOURCE_DIR "/scripts/words"

TestSuite(words, .init = scratch_make, .fini = scratch_drop);

Test(words, this_tree_has_none)
{
    struct command c = command_run(60, WORDS(SCRIPT));
    cr_expect_eq(c.code, 0, "%s%s", c.output, c.errors);
    command_free(&c);
}

Test(words, each_is_found)
{
    static const struct {
        const char *file, *text, *write;
    } wrong[] = {
        {"kernels/a.h", "void qp_second_moment(int n);\n", "Hessian"},
        {"kernels/a.c", "int x; /* the moments of a site */\n", "Hessian"},
        {"stages/a.c", "static int polish(void);\n", "coordinate descent"},
        {"stages/a.c", "float *drift;\n", "asymmetric calibration"},
        {"libstage/tensor/a.h", "struct qp_grid;\n", "number format"},
        {"runner/a.h", "double qp_floor_seconds(void);\n", "roofline"},
        {"libstage/base/a.c", "fail(\"no room on the disk\");\n", "disk space"},
        {"docs/a.md", "the stages behind calibrate\n", "after"},
        {"docs/a.md", "stages that go round in a circle\n", "cycle"},
        {"libstage/wire/a.c", "struct parcel *p;\n", "queued unit"},
        {"runner/a.c", "int qp_verb_run(void);\n", "subcommand"},
        {"libstage/stage/a.c", "int r = qp_in_turn(in);\n", "step"},
        {"libstage/stage/a.c", "static void hear_hello(void);\n", "handle"},
        {"libstage/wire/a.c", "return say(in, \"ack\");\n", "send"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct command c = tree_check(SCRIPT, wrong[i].file, wrong[i].text);
        cr_expect(c.code == 1 && strstr(c.output, wrong[i].file) && strstr(c.output, wrong[i].write), "%s: %d\n%s%s",
                  wrong[i].text, c.code, c.output, c.errors);
        command_free(&c);
        scratch_text(wrong[i].file, "");
    }
}

Test(words, ordinary_uses_are_left_alone)
{
    struct command c = tree_check(SCRIPT, "kernels/a.c",
                                  "double a = floor(x); /* scale_rule: floor; headroom; heartbeat; at the moment */\n"
                                  "int return_units, circumference; /* a grid of tiles */\n");
    cr_expect(c.code == 0 && !*c.output, "%d\n%s%s", c.code, c.output, c.errors);
    command_free(&c);
}
