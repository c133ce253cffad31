/* scripts/parameters: no function of this tree has more than 7 parameters, and one that has is found. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/support/command.h"
#include "tests/support/scratch.h"
#include "tests/support/tree.h"

#define SCRIPT SOURCE_DIR "/scripts/parameters"

TestSuite(parameters, .init = scratch_make, .fini = scratch_drop);

Test(parameters, this_tree_keeps_to_seven)
{
    struct command c = command_run(60, WORDS(SCRIPT));
    cr_expect_eq(c.code, 0, "%s%s", c.output, c.errors);
    command_free(&c);
}

Test(parameters, eight_are_found)
{
    static const char *const wrong[] = {
        "void f(int a, int b, int c, int d, int e, int f, int g, int h);\n",
        "static const char *f(int a, int b, int c, int d,\n                     int e, int f, int g, int h)\n{\n}\n",
        "typedef int f(int a, int b, int c, int d, int e, int f, void (*g)(int, int), int h);\n",
        "void NAME(qp_f)(int a, int b, int c, int d, int e, int f, int g, int h)\n{\n}\n",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct command c = tree_check(SCRIPT, "stages/a.c", wrong[i]);
        cr_expect(c.code == 1 && strstr(c.output, "stages/a.c:1: "), "%s: %d\n%s%s", wrong[i], c.code, c.output,
                  c.errors);
        command_free(&c);
    }
}

Test(parameters, what_is_no_parameter_is_not_counted)
{
    static const char *const right[] = {
        "void f(int a, int b, int c, int d, int e, int f, int g);\n",
        "void f(int a, void (*g)(int, int, int, int), int c, int d, int e, int f, int h);\n",
        "void f(int a /* b, c, d, e */, int f, int g, int h);\n/* int g(int a, int b, int c, int d, int e, int f, int "
        "h,\n"
        "int i); */\n",
        "int f(void)\n{\n    return g(1, 2, 3, 4, 5, 6, 7, 8, \"a, (b\");\n}\n",
        "#define F(a, b, c, d, e, f, g, h) \\\n    x(a, b, c, d, e, f, g, h)\nint y(void);\n",
    };
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        struct command c = tree_check(SCRIPT, "runner/a.c", right[i]);
        cr_expect_eq(c.code, 0, "%s: %s%s", right[i], c.output, c.errors);
        command_free(&c);
    }
}
