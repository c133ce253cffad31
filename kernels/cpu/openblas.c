/* OpenBLAS, opened at its first use. A routine that cannot be called is a failure (kernels/failure.h); those of LAPACK
 * return -1 then. */
#include <cblas.h>
#include <lapacke.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/library.h"
#include "kernels/failure.h"
#include "kernels/libraries.h"

static char *(*get_corename)(void);
static int (*get_parallel)(void);
static void (*dgemm)(enum CBLAS_ORDER, enum CBLAS_TRANSPOSE, enum CBLAS_TRANSPOSE, blasint, blasint, blasint, double,
                     const double *, blasint, const double *, blasint, double, double *, blasint);
static void (*dpstrf)(char *, lapack_int *, double *, lapack_int *, lapack_int *, lapack_int *, double *, double *,
                      lapack_int *, size_t);
static void (*dsyevr)(char *, char *, char *, lapack_int *, double *, lapack_int *, double *, double *, lapack_int *,
                      lapack_int *, double *, lapack_int *, double *, double *, lapack_int *, lapack_int *, double *,
                      lapack_int *, lapack_int *, lapack_int *, lapack_int *, size_t, size_t, size_t);

static const struct qp_symbol symbols[] = {{"openblas_get_corename", &get_corename},
                                           {"openblas_get_parallel", &get_parallel},
                                           {"cblas_dgemm", &dgemm},
                                           {"dpstrf_", &dpstrf},
                                           {"dsyevr_", &dsyevr},
                                           {NULL, NULL}};

static struct qp_shared openblas = {
    .title = "OpenBLAS", .name = QP_OPENBLAS_NAME, .path = QP_OPENBLAS_PATH, .symbols = symbols};
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char version[64] = "OpenBLAS cannot be used";

/* ---- the core ---- */

const char *qp_blas_core_for(bool avx2, bool avx512, bool amd)
{
    return avx512 ? "SkylakeX" : avx2 ? (amd ? "Zen" : "Haswell") : NULL;
}

/* What a core's code takes of a CPU: 2 AVX-512, 1 AVX2, 0 less. */
static int level_of(const char *core)
{
    static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
    static const char *const middle[] = {"Haswell", "Zen", "Excavator"};
    for (size_t i = 0; i < 3; i++) {
        if (strcasecmp(core, wide[i]) == 0)
            return 2;
        if (strcasecmp(core, middle[i]) == 0)
            return 1;
    }
    return 0;
}

static const char *wanted_core(void)
{
#ifdef __x86_64__
    const char *core =
        qp_blas_core_for(qp_kernels_open("avx2") != NULL, qp_kernels_open("avx512") != NULL, __builtin_cpu_is("amd"));
    return core == NULL && getenv("QUANTPIPE_CPU") != NULL ? "Prescott" : core;
#else
    return NULL;
#endif
}

/* OpenBLAS reads the variable while it is loaded. Afterwards the environment is as it was: the variable would look like
 * the user's own. */
static void open_openblas(void)
{
    const char *core = getenv("OPENBLAS_CORETYPE") == NULL ? wanted_core() : NULL;
    if (core != NULL)
        setenv("OPENBLAS_CORETYPE", core, 1);
    qp_shared_open(&openblas);
    if (core != NULL)
        unsetenv("OPENBLAS_CORETYPE");
    if (openblas.usable)
        snprintf(version, sizeof version, "OpenBLAS %s", get_corename());
}

const char *qp_openblas_problem(void)
{
    pthread_once(&once, open_openblas);
    return openblas.usable ? NULL : openblas.problem;
}

const char *qp_openblas_version(void)
{
    pthread_once(&once, open_openblas);
    return version;
}

static bool ready(void)
{
    if (qp_openblas_problem() == NULL)
        return true;
    qp_failure_set(QP_FAILURE_LIBRARY, "%s", openblas.problem);
    return false;
}

const char *qp_blas_core(void)
{
    return qp_openblas_problem() == NULL ? get_corename() : "none";
}

const char *qp_blas_better_core(void)
{
    const char *wanted = wanted_core();
    if (qp_openblas_problem() != NULL || wanted == NULL || level_of(get_corename()) >= level_of(wanted))
        return NULL;
    return wanted;
}

bool qp_kernels_share_threads(void)
{
    return qp_openblas_problem() == NULL && get_parallel() == OPENBLAS_OPENMP;
}

/* ---- what is called ---- */

void cblas_dgemm(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE ta, enum CBLAS_TRANSPOSE tb, blasint m, blasint n,
                 blasint k, double alpha, const double *a, blasint lda, const double *b, blasint ldb, double beta,
                 double *c, blasint ldc)
{
    if (ready())
        dgemm(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/* LAPACKE's work functions for columns are these calls and nothing more. */
lapack_int LAPACKE_dpstrf_work(int layout, char part, lapack_int n, double *a, lapack_int lda, lapack_int *pivots,
                               lapack_int *rank, double tolerance, double *work)
{
    lapack_int info = -1;
    (void)layout;
    if (ready())
        dpstrf(&part, &n, a, &lda, pivots, rank, &tolerance, work, &info, 1);
    return info;
}

lapack_int LAPACKE_dsyevr_work(int layout, char job, char range, char part, lapack_int n, double *a, lapack_int lda,
                               double low, double high, lapack_int first, lapack_int last, double tolerance,
                               lapack_int *count, double *values, double *vectors, lapack_int ldv, lapack_int *support,
                               double *work, lapack_int lwork, lapack_int *iwork, lapack_int liwork)
{
    lapack_int info = -1;
    (void)layout;
    if (ready())
        dsyevr(&job, &range, &part, &n, a, &lda, &low, &high, &first, &last, &tolerance, count, values, vectors, &ldv,
               support, work, &lwork, iwork, &liwork, &info, 1, 1, 1);
    return info;
}
