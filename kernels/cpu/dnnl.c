#include "kernels/cpu/dnnl.h"

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/library.h"
#include "kernels/failure.h"
#include "kernels/libraries.h"

/* Every function that is called: name, parameters, arguments. */
#define SAME_FUNCTIONS(X)                                                                                             \
    X(dnnl_sgemm,                                                                                                     \
      (char ta, char tb, dnnl_dim_t m, dnnl_dim_t n, dnnl_dim_t k, float alpha, const float *a, dnnl_dim_t lda,       \
       const float *b, dnnl_dim_t ldb, float beta, float *c, dnnl_dim_t ldc),                                         \
      (ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc))                                                         \
    X(dnnl_gemm_s8s8s32,                                                                                              \
      (char ta, char tb, char offset, dnnl_dim_t m, dnnl_dim_t n, dnnl_dim_t k, float alpha, const int8_t *a,         \
       dnnl_dim_t lda, int8_t ao, const int8_t *b, dnnl_dim_t ldb, int8_t bo, float beta, int32_t *c, dnnl_dim_t ldc, \
       const int32_t *co),                                                                                            \
      (ta, tb, offset, m, n, k, alpha, a, lda, ao, b, ldb, bo, beta, c, ldc, co))                                     \
    X(dnnl_engine_create, (dnnl_engine_t * engine, dnnl_engine_kind_t kind, size_t index), (engine, kind, index))     \
    X(dnnl_primitive_attr_create, (dnnl_primitive_attr_t * attr), (attr))                                             \
    X(dnnl_primitive_attr_set_post_ops, (dnnl_primitive_attr_t attr, const_dnnl_post_ops_t post), (attr, post))       \
    X(dnnl_primitive_attr_destroy, (dnnl_primitive_attr_t attr), (attr))                                              \
    X(dnnl_post_ops_create, (dnnl_post_ops_t * post), (post))                                                         \
    X(dnnl_post_ops_destroy, (dnnl_post_ops_t post), (post))                                                          \
    X(dnnl_primitive_desc_destroy, (dnnl_primitive_desc_t plan), (plan))                                              \
    X(dnnl_primitive_create, (dnnl_primitive_t * primitive, const_dnnl_primitive_desc_t plan), (primitive, plan))     \
    X(dnnl_primitive_execute,                                                                                         \
      (const_dnnl_primitive_t primitive, dnnl_stream_t stream, int count, const dnnl_exec_arg_t *arguments),          \
      (primitive, stream, count, arguments))                                                                          \
    X(dnnl_primitive_destroy, (dnnl_primitive_t primitive), (primitive))                                              \
    X(dnnl_memory_destroy, (dnnl_memory_t memory), (memory))                                                          \
    X(dnnl_stream_create, (dnnl_stream_t * stream, dnnl_engine_t engine, unsigned flags), (stream, engine, flags))    \
    X(dnnl_stream_wait, (dnnl_stream_t stream), (stream))                                                             \
    X(dnnl_stream_destroy, (dnnl_stream_t stream), (stream))

#if DNNL_VERSION_MAJOR >= 3
#define OTHER_FUNCTIONS(X)                                                                                           \
    X(dnnl_memory_desc_create_with_strides,                                                                          \
      (dnnl_memory_desc_t * desc, int rank, const dnnl_dims_t shape, dnnl_data_type_t type,                          \
       const dnnl_dims_t strides),                                                                                   \
      (desc, rank, shape, type, strides))                                                                            \
    X(dnnl_memory_desc_destroy, (dnnl_memory_desc_t desc), (desc))                                                   \
    X(dnnl_memory_create, (dnnl_memory_t * memory, const_dnnl_memory_desc_t desc, dnnl_engine_t engine, void *data), \
      (memory, desc, engine, data))                                                                                  \
    X(dnnl_post_ops_append_sum, (dnnl_post_ops_t post, float scale, int32_t zero_point, dnnl_data_type_t type),      \
      (post, scale, zero_point, type))                                                                               \
    X(dnnl_matmul_primitive_desc_create,                                                                             \
      (dnnl_primitive_desc_t * plan, dnnl_engine_t engine, const_dnnl_memory_desc_t x, const_dnnl_memory_desc_t w,   \
       const_dnnl_memory_desc_t bias, const_dnnl_memory_desc_t y, const_dnnl_primitive_attr_t attr),                 \
      (plan, engine, x, w, bias, y, attr))
#else
#define OTHER_FUNCTIONS(X)                                                                                            \
    X(dnnl_memory_desc_init_by_strides,                                                                               \
      (dnnl_memory_desc_t * desc, int rank, const dnnl_dims_t shape, dnnl_data_type_t type,                           \
       const dnnl_dims_t strides),                                                                                    \
      (desc, rank, shape, type, strides))                                                                             \
    X(dnnl_memory_create, (dnnl_memory_t * memory, const dnnl_memory_desc_t *desc, dnnl_engine_t engine, void *data), \
      (memory, desc, engine, data))                                                                                   \
    X(dnnl_post_ops_append_sum, (dnnl_post_ops_t post, float scale), (post, scale))                                   \
    X(dnnl_matmul_desc_init,                                                                                          \
      (dnnl_matmul_desc_t * desc, const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *w,                           \
       const dnnl_memory_desc_t *bias, const dnnl_memory_desc_t *y),                                                  \
      (desc, x, w, bias, y))                                                                                          \
    X(dnnl_primitive_desc_create,                                                                                     \
      (dnnl_primitive_desc_t * plan, const_dnnl_op_desc_t op, const_dnnl_primitive_attr_t attr, dnnl_engine_t engine, \
       const_dnnl_primitive_desc_t hint),                                                                             \
      (plan, op, attr, engine, hint))
#endif

#define POINTER(name, parameters, arguments) static dnnl_status_t(*found_##name) parameters;
SAME_FUNCTIONS(POINTER)
OTHER_FUNCTIONS(POINTER)
static const dnnl_version_t *(*found_version)(void);

#define SYMBOL(name, parameters, arguments) {#name, &found_##name},
static const struct qp_symbol symbols[] = {{"dnnl_version", &found_version},
                                           SAME_FUNCTIONS(SYMBOL) OTHER_FUNCTIONS(SYMBOL){NULL, NULL}};

static struct qp_shared dnnl = {.title = "oneDNN", .name = QP_DNNL_NAME, .path = QP_DNNL_PATH, .symbols = symbols};
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char version[64] = "oneDNN cannot be used";

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
    qp_shared_open(&dnnl);
    if (!dnnl.usable)
        return;
    const dnnl_version_t *v = found_version();
    if (v->major != DNNL_VERSION_MAJOR) {
        char why[96];
        snprintf(why, sizeof why, "its version is %d, and quantpipe was built for version %d", v->major,
                 DNNL_VERSION_MAJOR);
        qp_shared_refuse(&dnnl, why);
        return;
    }
    snprintf(version, sizeof version, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}

const char *qp_dnnl_problem(void)
{
    pthread_once(&once, open_dnnl);
    return dnnl.usable ? NULL : dnnl.problem;
}

const char *qp_dnnl_version(void)
{
    pthread_once(&once, open_dnnl);
    return version;
}

static bool ready(void)
{
    if (qp_dnnl_problem() == NULL)
        return true;
    qp_failure_set(QP_FAILURE_LIBRARY, "%s", dnnl.problem);
    return false;
}

static dnnl_status_t checked(dnnl_status_t status, const char *function)
{
    if (status == dnnl_out_of_memory)
        qp_failure_set(QP_FAILURE_MEMORY, "out of memory: %s of oneDNN finds none for its workspace", function);
    else if (status != dnnl_success)
        qp_failure_set(QP_FAILURE_LIBRARY,
                       "%s of oneDNN fails with status %d: try compute: fp32, and another release of oneDNN", function,
                       (int)status);
    return status;
}

#define FORWARD(name, parameters, arguments)                                          \
    dnnl_status_t name parameters                                                     \
    {                                                                                 \
        return ready() ? checked(found_##name arguments, #name) : dnnl_runtime_error; \
    }
SAME_FUNCTIONS(FORWARD)
OTHER_FUNCTIONS(FORWARD)

/* ---- a product of BF16 ---- */

static pthread_once_t engine_once = PTHREAD_ONCE_INIT;
static dnnl_engine_t engine;

static void open_engine(void)
{
    dnnl_engine_create(&engine, dnnl_cpu, 0);
}

/* The operands: x, w transposed, y. */
enum { X, W, Y, OPERANDS };

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t matrix_desc; /* a handle */

static const_dnnl_memory_desc_t reference(const matrix_desc *desc)
{
    return *desc;
}

static bool describe_matrix(matrix_desc *desc, const dnnl_dims_t shape, dnnl_data_type_t type,
                            const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(desc, 2, shape, type, strides) == dnnl_success;
}

static void forget_matrix(matrix_desc desc)
{
    if (desc != NULL)
        dnnl_memory_desc_destroy(desc);
}

static bool append_sum(dnnl_post_ops_t post)
{
    return dnnl_post_ops_append_sum(post, 1.0f, 0, dnnl_data_type_undef) == dnnl_success;
}

static bool plan_product(const matrix_desc desc[OPERANDS], dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *plan)
{
    return dnnl_matmul_primitive_desc_create(plan, engine, desc[X], desc[W], NULL, desc[Y], attr) == dnnl_success;
}
#else
typedef dnnl_memory_desc_t matrix_desc; /* a structure */

static const dnnl_memory_desc_t *reference(const matrix_desc *desc)
{
    return desc;
}

static bool describe_matrix(matrix_desc *desc, const dnnl_dims_t shape, dnnl_data_type_t type,
                            const dnnl_dims_t strides)
{
    return dnnl_memory_desc_init_by_strides(desc, 2, shape, type, strides) == dnnl_success;
}

static void forget_matrix(matrix_desc desc)
{
    (void)desc;
}

static bool append_sum(dnnl_post_ops_t post)
{
    return dnnl_post_ops_append_sum(post, 1.0f) == dnnl_success;
}

static bool plan_product(const matrix_desc desc[OPERANDS], dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *plan)
{
    dnnl_matmul_desc_t product;
    return dnnl_matmul_desc_init(&product, &desc[X], &desc[W], NULL, &desc[Y]) == dnnl_success &&
           dnnl_primitive_desc_create(plan, &product, attr, engine, NULL) == dnnl_success;
}
#endif

/* oneDNN keeps its code for the next product of this shape. */
static bool new_primitive(const matrix_desc desc[OPERANDS], bool add, dnnl_primitive_t *primitive)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t post = NULL;
    dnnl_primitive_desc_t plan = NULL;
    bool good = dnnl_primitive_attr_create(&attr) == dnnl_success && dnnl_post_ops_create(&post) == dnnl_success &&
                (!add || append_sum(post)) && dnnl_primitive_attr_set_post_ops(attr, post) == dnnl_success &&
                plan_product(desc, attr, &plan) && dnnl_primitive_create(primitive, plan) == dnnl_success;
    if (plan != NULL)
        dnnl_primitive_desc_destroy(plan);
    if (post != NULL)
        dnnl_post_ops_destroy(post);
    if (attr != NULL)
        dnnl_primitive_attr_destroy(attr);
    return good;
}

static void execute(dnnl_primitive_t primitive, const matrix_desc desc[OPERANDS], void *const data[OPERANDS])
{
    static const int names[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
    dnnl_exec_arg_t args[OPERANDS] = {{0}};
    dnnl_stream_t stream = NULL;
    bool good = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) == dnnl_success;

    for (int i = 0; i < OPERANDS && good; i++) {
        args[i].arg = names[i];
        good = dnnl_memory_create(&args[i].memory, reference(&desc[i]), engine, data[i]) == dnnl_success;
    }
    if (good && dnnl_primitive_execute(primitive, stream, OPERANDS, args) == dnnl_success)
        dnnl_stream_wait(stream);
    if (stream != NULL)
        dnnl_stream_destroy(stream);
    for (int i = 0; i < OPERANDS; i++)
        if (args[i].memory != NULL)
            dnnl_memory_destroy(args[i].memory);
}

void qp_dnnl_multiply(const struct qp_dnnl_product *p, const uint16_t *x, const uint16_t *w, float *y)
{
    matrix_desc desc[OPERANDS] = {0};
    dnnl_primitive_t primitive = NULL;

    pthread_once(&engine_once, open_engine);
    if (engine != NULL &&
        describe_matrix(&desc[X], (dnnl_dims_t){p->m, p->k}, dnnl_bf16, (dnnl_dims_t){p->x_stride, 1}) &&
        describe_matrix(&desc[W], (dnnl_dims_t){p->k, p->n}, dnnl_bf16, (dnnl_dims_t){1, p->w_stride}) &&
        describe_matrix(&desc[Y], (dnnl_dims_t){p->m, p->n}, dnnl_f32, (dnnl_dims_t){p->y_stride, 1}) &&
        new_primitive(desc, p->add, &primitive))
        execute(primitive, desc, (void *[]){(void *)x, (void *)w, y});
    if (primitive != NULL)
        dnnl_primitive_destroy(primitive);
    for (int i = 0; i < OPERANDS; i++)
        forget_matrix(desc[i]);
}
