/* Sizes as people write and read them. */
#ifndef QUANTPIPE_RUNNER_SIZE_H
#define QUANTPIPE_RUNNER_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "libstage/base/json.h"

/* A positive whole number of bytes, or text as "2GiB", "1.5 GB", "800M" (K, M, G, T alone are powers of 1024). */
bool qp_size_read(const json_t *value, uint64_t *bytes);

/* "1.4 GiB" into text; returns it. */
const char *qp_size_text(uint64_t bytes, char *text, size_t size);

/* "3.2 s", "4 min 05 s" into text; returns it. */
const char *qp_seconds_text(double seconds, char *text, size_t size);

#endif
