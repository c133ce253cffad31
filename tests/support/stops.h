/* Stages that are asked to end in the middle of their work. */
#ifndef QUANTPIPE_TESTS_STOPS_H
#define QUANTPIPE_TESTS_STOPS_H

#include "tests/support/tiny.h"

/* Runs a stage on the tiny model again and again, each time in a process of its own that is asked to end at a later one
 * of the stage's operations: it must return QP_ERR_INTERRUPTED, after at most `further` others, which are those of one
 * part of its work. params and context are JSON text or NULL; the rest as in tiny_units. */
void stops_everywhere(const struct qp_stage_desc *desc, int further, const char *params, const char *context,
                      const char *const *wants, const char *scheme, bool hessians);

#endif
