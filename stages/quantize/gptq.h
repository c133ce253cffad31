/* GPTQ for the linears of one site: the factor of H^-1 is made once and serves each of them. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_GPTQ_H
#define QUANTPIPE_STAGES_QUANTIZE_GPTQ_H

#include <stdbool.h>

#include "kernels/kernels.h"
#include "libstage/base/error.h"
#include "libstage/tensor/quantized.h"

struct qp_gptq;

/* Damps and factors h[in, in] (symmetric; taken over, freed also on failure). Columns whose diagonal is 0 were never
 * seen in calibration: they get 1 there, which rounds them to nearest. `block`: columns between updates of the rest;
 * `by_activation`: columns in the order of falling diagonal. *damping: what to add as a share of the mean diagonal, and
 * on return what was added: it is raised tenfold as often as the factorization needs it, to at most 1.
 * QP_ERR_INPUT when H is not finite, or not even that suffices. */
int qp_gptq_open(const struct qp_kernels *kernels, int64_t in, float *h, int64_t block, bool by_activation,
                 double *damping, struct qp_gptq **out, struct qp_error *err);
void qp_gptq_close(struct qp_gptq *solver); /* NULL is accepted */

/* Codes of w[rows, cols] (overwritten) on the grid, groups, scales and zero points of *q; codes[rows, cols] is
 * q->codes, writable. */
int qp_gptq_solve(const struct qp_gptq *solver, const struct qp_quantized *q, float *w, uint8_t *codes,
                  struct qp_error *err);

#endif
