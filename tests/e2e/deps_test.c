/* Who installs packages: `make deps`, and `make demo` and `make test` through it; `make build` names what is missing.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/support/runs.h"

TestSuite(deps, .init = scratch_make, .fini = scratch_drop);

/* Whether `make TARGET` would run scripts/deps so that it installs. */
static bool installs(const char *target)
{
    struct command c = command_run(60, WORDS("make", "--no-print-directory", "-n", "-C", SOURCE_DIR, target));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    bool found = false;
    for (char *line = strtok(c.output, "\n"); line; line = strtok(NULL, "\n"))
        found |= strstr(line, "scripts/deps") && !strstr(line, "scripts/deps --check");
    command_free(&c);
    return found;
}

Test(deps, only_targets_that_say_so_install)
{
    cr_expect(installs("deps"));
    cr_expect(installs("demo"));
    cr_expect(installs("test"));
    cr_expect_not(installs("build"));
    cr_expect_not(installs("install"));
    cr_expect_not(installs("bench"));
}

Test(deps, a_check_passes_where_this_was_built)
{
    run_well(WORDS(SOURCE_DIR "/scripts/deps", "--check"));
}

/* With pkg-config blind, all that it would have found is named, and nothing else. */
Test(deps, a_check_names_what_is_missing)
{
    setenv("PKG_CONFIG_LIBDIR", scratch(""), 1);
    unsetenv("PKG_CONFIG_PATH");
    run_to(1, "missing libzmq3-dev libmsgpack-dev libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev",
           WORDS(SOURCE_DIR "/scripts/deps", "--check"));
    setenv("CC", "no-such-compiler", 1);
    run_to(1, "missing build-essential libzmq3-dev", WORDS(SOURCE_DIR "/scripts/deps", "--check"));
    run_to(1, "`make deps` installs them", WORDS(SOURCE_DIR "/scripts/deps", "--check"));
}

/* An old CMake is as good as none. */
Test(deps, a_check_reads_versions)
{
    char path[512];
    chmod(scratch_text("cmake", "#!/bin/sh\necho cmake version 3.22.1\n"), 0700);
    snprintf(path, sizeof path, "%s:%s", scratch(""), getenv("PATH"));
    setenv("PATH", path, 1);
    run_to(1, "missing cmake\n", WORDS(SOURCE_DIR "/scripts/deps", "--check"));
}

/* Configuring again, as each `make` does, gives every file the flags that it had: nothing is compiled twice. */
Test(deps, configuring_again_changes_no_flags, .timeout = 300)
{
    setenv("B", scratch("b"), 1);
    run_well(WORDS("sh", "-ec",
                   "flags() { cmake -S " SOURCE_DIR " -B \"$B\" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null; "
                   "grep -E '^ *(FLAGS|INCLUDES|DEFINES) =' \"$B/build.ninja\" >\"$B.$1\"; }; "
                   "flags 1; flags 2; [ $(wc -l <\"$B.1\") -gt 100 ]; cmp \"$B.1\" \"$B.2\""));
}
