/* The factor of H that GPTQ works with. */
#ifndef QUANTPIPE_KERNELS_CHOLESKY_H
#define QUANTPIPE_KERNELS_CHOLESKY_H

#include <stdint.h>

/* In place h[n, n] (symmetric, both triangles) -> R upper triangular with R Rᵀ = h, zeros below the diagonal. R⁻¹ is
 * the factor of the inverse that GPTQ is written with (Frantar et al. 2023, section 3.3 step 3), so that nothing has to
 * be inverted (kernels/gptq.h). Returns 0, or the order (1 to n) of the first trailing minor (last rows and columns)
 * that is not positive definite, which a NaN makes it too; h is then undefined; -1 when the operation failed
 * (kernels/failure.h). The reference works in float64; tolerance 1e-3 relative to the largest |R| for condition numbers
 * up to 1e4. */
typedef int64_t qp_cholesky_fn(int64_t n, float *h);

/* Columns that a fast version copies at a time; on AMX their parts take three times as much again. */
enum { QP_FACTOR_COLUMNS = 256 };

qp_cholesky_fn qp_factor_ref;

#endif
