/* Source trees of one file, for the scripts that look at this one. */
#ifndef QUANTPIPE_TESTS_SUPPORT_TREE_H
#define QUANTPIPE_TESTS_SUPPORT_TREE_H

#include "tests/support/command.h"

/* Runs `script ROOT` on a tree in the scratch folder that has the folders of this one and `file` with `text`. */
struct command tree_check(const char *script, const char *file, const char *text);

#endif
