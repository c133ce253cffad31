/* oneDNN and OpenBLAS are opened at their first use: linked in, they would cost every process of a run some five
 * milliseconds at its start, and most processes use neither. A function that is missing below is a link error. */
#include <cblas.h>
#include <dlfcn.h>
#include <lapacke.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

/* By the name that programs are linked with, or from where it was found when this was compiled. */
static void *open_library(const char *name, const char *path)
{
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library != NULL)
        return library;
    fprintf(stderr, "quantpipe: %s: install what scripts/deps names\n", dlerror());
    abort();
}

static void *dnnl, *openblas;

/* oneDNN reads its limit from the environment when it is first called; one that the user set stays. */
static void limit_dnnl(void)
{
    static const char *const limits[] = {"SSE41", "AVX2", "AVX512_CORE_VNNI", "AVX512_CORE_BF16"};
    const char *name = getenv("QUANTPIPE_CPU");
    enum qp_cpu_level level;
    if (name != NULL && qp_cpu_level_parse(name, &level))
        setenv("DNNL_MAX_CPU_ISA", limits[level], 0);
}

static void open_dnnl(void)
{
    limit_dnnl();
    dnnl = open_library(QP_DNNL_NAME, QP_DNNL_PATH);
}

static void open_openblas(void)
{
    openblas = open_library(QP_OPENBLAS_NAME, QP_OPENBLAS_PATH);
}

static pthread_once_t dnnl_once = PTHREAD_ONCE_INIT, openblas_once = PTHREAD_ONCE_INIT;

static void *find(void *library, const char *name)
{
    void *symbol = dlsym(library, name);
    if (symbol != NULL)
        return symbol;
    fprintf(stderr, "quantpipe: %s\n", dlerror());
    abort();
}

/* Finds a function once; others may find it at the same time, and find the same. */
#define FIND(library, type, name, parameters)          \
    typedef type function parameters;                  \
    static _Atomic(function *) found;                  \
    function *call = atomic_load(&found);              \
    if (call == NULL) {                                \
        pthread_once(&library##_once, open_##library); \
        void *symbol = find(library, #name);           \
        memcpy(&call, &symbol, sizeof call);           \
        atomic_store(&found, call);                    \
    }

#define FORWARD(library, type, name, parameters, arguments) \
    type name parameters                                    \
    {                                                       \
        FIND(library, type, name, parameters)               \
        return call arguments;                              \
    }

#define DNNL(name, parameters, arguments) FORWARD(dnnl, dnnl_status_t, name, parameters, arguments)

FORWARD(dnnl, const dnnl_version_t *, dnnl_version, (void), ())
DNNL(dnnl_sgemm,
     (char ta, char tb, dnnl_dim_t m, dnnl_dim_t n, dnnl_dim_t k, float alpha, const float *a, dnnl_dim_t lda,
      const float *b, dnnl_dim_t ldb, float beta, float *c, dnnl_dim_t ldc),
     (ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc))
DNNL(dnnl_gemm_s8s8s32,
     (char ta, char tb, char offset, dnnl_dim_t m, dnnl_dim_t n, dnnl_dim_t k, float alpha, const int8_t *a,
      dnnl_dim_t lda, int8_t ao, const int8_t *b, dnnl_dim_t ldb, int8_t bo, float beta, int32_t *c, dnnl_dim_t ldc,
      const int32_t *co),
     (ta, tb, offset, m, n, k, alpha, a, lda, ao, b, ldb, bo, beta, c, ldc, co))
DNNL(dnnl_engine_create, (dnnl_engine_t * engine, dnnl_engine_kind_t kind, size_t index), (engine, kind, index))
DNNL(dnnl_memory_desc_init_by_strides,
     (dnnl_memory_desc_t * desc, int rank, const dnnl_dims_t shape, dnnl_data_type_t type, const dnnl_dims_t strides),
     (desc, rank, shape, type, strides))
DNNL(dnnl_matmul_desc_init,
     (dnnl_matmul_desc_t * desc, const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *w,
      const dnnl_memory_desc_t *bias, const dnnl_memory_desc_t *y),
     (desc, x, w, bias, y))
DNNL(dnnl_primitive_attr_create, (dnnl_primitive_attr_t * attr), (attr))
DNNL(dnnl_primitive_attr_set_post_ops, (dnnl_primitive_attr_t attr, const_dnnl_post_ops_t post), (attr, post))
DNNL(dnnl_primitive_attr_destroy, (dnnl_primitive_attr_t attr), (attr))
DNNL(dnnl_post_ops_create, (dnnl_post_ops_t * post), (post))
DNNL(dnnl_post_ops_append_sum, (dnnl_post_ops_t post, float scale), (post, scale))
DNNL(dnnl_post_ops_destroy, (dnnl_post_ops_t post), (post))
DNNL(dnnl_primitive_desc_create,
     (dnnl_primitive_desc_t * plan, const_dnnl_op_desc_t op, const_dnnl_primitive_attr_t attr, dnnl_engine_t engine,
      const_dnnl_primitive_desc_t hint),
     (plan, op, attr, engine, hint))
DNNL(dnnl_primitive_desc_destroy, (dnnl_primitive_desc_t plan), (plan))
DNNL(dnnl_primitive_create, (dnnl_primitive_t * primitive, const_dnnl_primitive_desc_t plan), (primitive, plan))
DNNL(dnnl_primitive_execute,
     (const_dnnl_primitive_t primitive, dnnl_stream_t stream, int count, const dnnl_exec_arg_t *arguments),
     (primitive, stream, count, arguments))
DNNL(dnnl_primitive_destroy, (dnnl_primitive_t primitive), (primitive))
DNNL(dnnl_memory_create, (dnnl_memory_t * memory, const dnnl_memory_desc_t *desc, dnnl_engine_t engine, void *data),
     (memory, desc, engine, data))
DNNL(dnnl_memory_destroy, (dnnl_memory_t memory), (memory))
DNNL(dnnl_stream_create, (dnnl_stream_t * stream, dnnl_engine_t engine, unsigned flags), (stream, engine, flags))
DNNL(dnnl_stream_wait, (dnnl_stream_t stream), (stream))
DNNL(dnnl_stream_destroy, (dnnl_stream_t stream), (stream))

FORWARD(openblas, char *, openblas_get_corename, (void), ())
FORWARD(openblas, int, openblas_get_parallel, (void), ())

void cblas_dgemm(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE ta, enum CBLAS_TRANSPOSE tb, blasint m, blasint n,
                 blasint k, double alpha, const double *a, blasint lda, const double *b, blasint ldb, double beta,
                 double *c, blasint ldc)
{
    FIND(openblas, void, cblas_dgemm,
         (enum CBLAS_ORDER, enum CBLAS_TRANSPOSE, enum CBLAS_TRANSPOSE, blasint, blasint, blasint, double,
          const double *, blasint, const double *, blasint, double, double *, blasint))
    call(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/* LAPACKE's work functions for columns are these calls and nothing more. */
lapack_int LAPACKE_spotrf_work(int layout, char part, lapack_int n, float *a, lapack_int lda)
{
    lapack_int info = 0;
    (void)layout;
    FIND(openblas, void, spotrf_, (char *, lapack_int *, float *, lapack_int *, lapack_int *, size_t))
    call(&part, &n, a, &lda, &info, 1);
    return info;
}

lapack_int LAPACKE_strtri_work(int layout, char part, char diagonal, lapack_int n, float *a, lapack_int lda)
{
    lapack_int info = 0;
    (void)layout;
    FIND(openblas, void, strtri_, (char *, char *, lapack_int *, float *, lapack_int *, lapack_int *, size_t, size_t))
    call(&part, &diagonal, &n, a, &lda, &info, 1, 1);
    return info;
}

lapack_int LAPACKE_dpstrf_work(int layout, char part, lapack_int n, double *a, lapack_int lda, lapack_int *pivots,
                               lapack_int *rank, double tolerance, double *work)
{
    lapack_int info = 0;
    (void)layout;
    FIND(openblas, void, dpstrf_,
         (char *, lapack_int *, double *, lapack_int *, lapack_int *, lapack_int *, double *, double *, lapack_int *,
          size_t))
    call(&part, &n, a, &lda, pivots, rank, &tolerance, work, &info, 1);
    return info;
}

lapack_int LAPACKE_dsyevr_work(int layout, char job, char range, char part, lapack_int n, double *a, lapack_int lda,
                               double low, double high, lapack_int first, lapack_int last, double tolerance,
                               lapack_int *count, double *values, double *vectors, lapack_int ldv, lapack_int *support,
                               double *work, lapack_int lwork, lapack_int *iwork, lapack_int liwork)
{
    lapack_int info = 0;
    (void)layout;
    FIND(openblas, void, dsyevr_,
         (char *, char *, char *, lapack_int *, double *, lapack_int *, double *, double *, lapack_int *, lapack_int *,
          double *, lapack_int *, double *, double *, lapack_int *, lapack_int *, double *, lapack_int *, lapack_int *,
          lapack_int *, lapack_int *, size_t, size_t, size_t))
    call(&job, &range, &part, &n, a, &lda, &low, &high, &first, &last, &tolerance, count, values, vectors, &ldv,
         support, work, &lwork, iwork, &liwork, &info, 1, 1, 1);
    return info;
}
