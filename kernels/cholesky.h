/* The factor that GPTQ needs of the inverse of H. */
#ifndef QUANTPIPE_KERNELS_CHOLESKY_H
#define QUANTPIPE_KERNELS_CHOLESKY_H

#include <stdint.h>

/* In place h[n, n] (symmetric, both triangles) -> U upper triangular with UᵀU = h⁻¹, zeros below the diagonal: the
 * Cholesky factor of the inverse, transposed (GPTQ, Frantar et al. 2023, section 3.3 step 3). Returns 0, or the order
 * (1 to n) of the first trailing minor (last rows and columns) that is not positive definite, which a NaN makes it too;
 * h is then undefined; -1 when the operation failed (kernels/failure.h). The reference works in float64;
 * tolerance 1e-3 relative to the largest |U| for condition numbers up to 1e4. */
typedef int64_t qp_cholesky_fn(int64_t n, float *h);

qp_cholesky_fn qp_inverse_factor_ref;

#endif
