/* Whether a stage that scales channels leaves the network's function as it was. */
#ifndef QUANTPIPE_TESTS_FUNCTION_H
#define QUANTPIPE_TESTS_FUNCTION_H

#include "libstage/include/stage.h"

/* Runs the tiny model, every 16th channel of its statistics loud, quantized by `scheme`, through a stage and fails the
 * test unless each layer still computes what it did: hidden states after it differ by less than 1e-5 of what the layer
 * adds to them at most. Returns how many of its FUNCTION_SITES sites got scales. */
enum { FUNCTION_SITES = 8 };
int function_is_kept(const struct qp_stage_desc *desc, const char *scheme, const char *params);

#endif
