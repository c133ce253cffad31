/* The libraries that the CPU functions stand on. They are opened at their first use: linked in, they would cost every
 * process of a run some five milliseconds at its start, and most processes use neither. */
#ifndef QUANTPIPE_KERNELS_LIBRARIES_H
#define QUANTPIPE_KERNELS_LIBRARIES_H

#include <stdbool.h>

enum qp_library { QP_ONEDNN, QP_OPENBLAS, QP_LIBRARIES };

/* The library's name. */
const char *qp_library_name(enum qp_library library);

/* The name of its file, by which it is looked for. */
const char *qp_library_file(enum qp_library library);

/* Opens a library and finds every function that is called. NULL when it can be used; else what is wrong with which
 * file, and what to do. Static; thread-safe. Operations that need a library which cannot be used fail
 * (kernels/failure.h). */
const char *qp_library_problem(enum qp_library library);

/* Version and, of OpenBLAS, the core in use; for a library that cannot be used "cannot be used". Static. */
const char *qp_library_version(enum qp_library library);

/* The core whose code OpenBLAS runs, as OPENBLAS_CORETYPE names it. Static. */
const char *qp_blas_core(void);

/* The core that OpenBLAS should run on a CPU with these instructions; NULL: there is nothing better than its own choice
 * to say. Releases of OpenBLAS do not know later processors by their numbers, and take those for the oldest. */
const char *qp_blas_core_for(bool avx2, bool avx512, bool amd);

/* The core that this CPU could run (QUANTPIPE_CPU counts) while OpenBLAS runs code for less; NULL when it does not. */
const char *qp_blas_better_core(void);

#endif
