/* Every operation with each of its workspaces missing in turn: a failure that is kept, never a signal; and the same
 * results as ever afterwards. */
#include "tests/kernel/harness.h"

#include "kernels/failure.h"
#include "kernels/libraries.h"
#include "kernels/scratch.h"

enum { M = 70, N = 48, K = 64, RANK = 4, TOKENS = 40, HEADS = 4, DIM = 16, STEPS = 12 };

static const struct qp_number_format format = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16};

/* Operands of every operation below; results go to out, what is changed in place is copied from its source first. */
struct operands {
    const struct qp_kernels *k;
    float *x, *w, *h, *scale;
    int8_t *codes;
    uint16_t *halves;
    float out[M * N + N * N];
    uint8_t bytes[M * K];
};

static void attention_of(const struct operands *o, struct qp_attention *a)
{
    *a = (struct qp_attention){.sequences = 1,
                               .length = TOKENS,
                               .heads = HEADS,
                               .kv_heads = HEADS,
                               .dim = DIM,
                               .scale = 0.25f,
                               .q = o->x,
                               .k = o->w,
                               .v = o->w,
                               .q_stride = K,
                               .k_stride = K,
                               .v_stride = K,
                               .out = (float *)o->out,
                               .out_stride = K};
}

static void attention(struct operands *o)
{
    struct qp_attention a;
    attention_of(o, &a);
    o->k->attention(&a);
}

static void attention_bf16(struct operands *o)
{
    struct qp_attention a;
    attention_of(o, &a);
    o->k->attention_bf16(&a, (uint16_t *)o->out);
}

static void linear_bf16(struct operands *o)
{
    o->k->linear_bf16(M, N, K, o->halves, o->halves + M * K, false, o->out);
}

static void hessian_bf16(struct operands *o)
{
    memset(o->out, 0, sizeof o->out);
    o->k->hessian_bf16(M, N, o->halves, o->out);
}

static void linear_int8(struct operands *o)
{
    o->k->linear_int8(&(struct qp_linear_int8){.m = M,
                                               .n = N,
                                               .k = K,
                                               .x = o->codes,
                                               .w = o->codes + M * K,
                                               .x_scale = o->scale,
                                               .w_scale = o->scale,
                                               .x_zero = o->codes,
                                               .w_zero = o->codes,
                                               .y = o->out});
}

static void factor(struct operands *o)
{
    memcpy(o->out, o->h, N * N * sizeof *o->out);
    o->k->factor(N, o->out);
}

static void split_right(struct operands *o)
{
    memcpy(o->out, o->h, N * N * sizeof *o->out);
    o->k->split_right(N, N, o->out);
}

static void low_rank(struct operands *o)
{
    o->k->low_rank(M, N, RANK, o->w, o->h, o->out, o->out + M * RANK);
    o->k->low_rank(N / 2, N, RANK, o->w, o->h, o->out + M * N, o->out + M * N + M * RANK);
}

static void gptq_block(struct operands *o)
{
    static const int32_t group_of[N];
    float error[M * N];
    memset(o->out, 0, M * N * sizeof *o->out);
    o->k->gptq_block(&(struct qp_gptq_block){.format = &format,
                                             .rows = M,
                                             .count = N,
                                             .groups = 1,
                                             .w = o->w,
                                             .w_stride = N,
                                             .s = o->out,
                                             .s_stride = N,
                                             .r = o->h,
                                             .r_stride = N,
                                             .scale = o->scale,
                                             .group_of = group_of,
                                             .codes = o->bytes,
                                             .codes_stride = N,
                                             .error = error,
                                             .error_stride = N});
}

static void rtn(struct operands *o)
{
    o->k->rtn(&(struct qp_rtn){.format = &format,
                               .rows = M,
                               .cols = N,
                               .group = 16,
                               .dtype = QP_F32,
                               .w = o->w,
                               .packed = true,
                               .scale = o->out,
                               .codes = o->bytes});
}

static void scale_search_of(struct operands *o, int64_t group)
{
    o->k->scale_search(&(struct qp_scale_search){.format = &format,
                                                 .rows = M,
                                                 .cols = N,
                                                 .group = group,
                                                 .w = o->w,
                                                 .norm = 2,
                                                 .first = 1,
                                                 .last = 0.5f,
                                                 .steps = STEPS,
                                                 .scale = o->out});
}

static void scale_search(struct operands *o)
{
    scale_search_of(o, 16);
}

static void scale_search_all(struct operands *o)
{
    scale_search_of(o, 0);
}

static void descent(struct operands *o)
{
    memset(o->bytes, 0, sizeof o->bytes);
    memcpy(o->out, o->w, M * N * sizeof *o->out);
    o->k->descent(&(struct qp_descent){.format = &format,
                                       .rows = M,
                                       .cols = N,
                                       .group = N,
                                       .h = o->h,
                                       .scale = o->scale,
                                       .codes = o->bytes,
                                       .gradient = o->out,
                                       .sweeps = 3});
}

static const struct {
    const char *name;
    void (*run)(struct operands *);
} operations[] = {{"attention", attention},       {"attention_bf16", attention_bf16},
                  {"linear_bf16", linear_bf16},   {"hessian_bf16", hessian_bf16},
                  {"linear_int8", linear_int8},   {"factor", factor},
                  {"split_right", split_right},   {"low_rank", low_rank},
                  {"gptq_block", gptq_block},     {"rtn", rtn},
                  {"scale_search", scale_search}, {"scale_search of a matrix", scale_search_all},
                  {"coordinate_descent", descent}};

static void fill(struct operands *o)
{
    uint64_t state = 9;
    *o = (struct operands){.x = random_floats(M * K, 1, 1),
                           .w = random_floats(M * K, 0.5f, 2),
                           .h = fresh(K * K, sizeof(float)),
                           .scale = fresh(M * K, sizeof(float)),
                           .codes = fresh(2 * M * K, 1),
                           .halves = fresh(2 * M * K, sizeof(uint16_t))};
    reference()->hessian(M, N, o->x, o->h);
    reference()->mirror(N, o->h);
    for (int i = 0; i < N; i++)
        o->h[i * (N + 1)] += 10;
    for (int i = 0; i < M * K; i++)
        o->scale[i] = 0.125f;
    for (int i = 0; i < 2 * M * K; i++)
        o->codes[i] = (int8_t)(next_random(&state) & 0x3f);
    reference()->from_f32(QP_BF16, M * K, o->x, o->halves);
    reference()->from_f32(QP_BF16, M * K, o->w, o->halves + M * K);
}

static void drop(struct operands *o)
{
    free(o->x);
    free(o->w);
    free(o->h);
    free(o->scale);
    free(o->codes);
    free(o->halves);
}

/* Fails one allocation after the other until the operation needs no more; returns how many there were. */
static int fail_each(struct operands *o, int op, const char *backend)
{
    char message[512] = "";
    int n = 0;
    for (;; n++) {
        memset(o->bytes, 0, sizeof o->bytes); /* outputs have to be safe to read, so they are defined here */
        qp_scratch_fail_after(n);
        operations[op].run(o);
        qp_scratch_fail_after(-1);
        enum qp_failure kind = qp_failure_take(message, sizeof message);
        if (kind == QP_FAILURE_NONE)
            break;
        cr_assert_eq(kind, QP_FAILURE_MEMORY, "%s, %s: %s", backend, operations[op].name, message);
        cr_assert_not_null(strstr(message, "out of memory"), "%s", message);
        cr_assert_lt(n, 100);
    }
    return n;
}

static int fail_all(const struct qp_kernels *k, const char *name)
{
    static struct operands o;
    static float want[M * N + N * N];
    int failures = 0;
    fill(&o);
    o.k = k;
    for (int op = 0; op < COUNT(operations); op++) {
        memset(o.out, 0, sizeof o.out);
        operations[op].run(&o);
        memcpy(want, o.out, sizeof want);
        cr_assert_not(qp_failure_is_set());
        int n = fail_each(&o, op, name);
        EXPECT_SAME_FLOATS(o.out, want, M * N + N * N, "%s: %s after %d failures", name, operations[op].name, n);
        failures += n;
    }
    drop(&o);
    return failures;
}

Test(failure, of_memory_is_kept_and_passes)
{
    cr_assert_gt(fail_all(reference(), "ref"), 5);
    EACH_RUN(run)
    cr_assert_gt(fail_all(run.k, run.name), 5, "%s", run.name);
}

Test(failure, the_first_one_stays)
{
    char message[64];
    cr_assert_eq(qp_failure_take(message, sizeof message), QP_FAILURE_NONE);
    qp_failure_set(QP_FAILURE_LIBRARY, "first of %d", 2);
    qp_failure_set(QP_FAILURE_MEMORY, "second");
    cr_assert(qp_failure_is_set());
    cr_assert_eq(qp_failure_take(message, sizeof message), QP_FAILURE_LIBRARY);
    cr_assert_str_eq(message, "first of 2");
    cr_assert_not(qp_failure_is_set());
}

/* ---- libraries ---- */

Test(failure, libraries_can_be_used_here)
{
    for (int i = 0; i < QP_LIBRARIES; i++)
        cr_expect_null(qp_library_problem((enum qp_library)i), "%s", qp_library_problem((enum qp_library)i));
}

static void use_no_core(void)
{
    unsetenv("OPENBLAS_CORETYPE");
}

Test(failure, openblas_runs_code_for_this_processor, .init = use_no_core)
{
    cr_expect_str_eq(qp_blas_core_for(true, true, false), "SkylakeX");
    cr_expect_str_eq(qp_blas_core_for(true, true, true), "SkylakeX");
    cr_expect_str_eq(qp_blas_core_for(true, false, false), "Haswell");
    cr_expect_str_eq(qp_blas_core_for(true, false, true), "Zen");
    cr_expect_null(qp_blas_core_for(false, false, false));
    cr_expect_null(qp_blas_better_core(), "it runs %s, and could run %s", qp_blas_core(), qp_blas_better_core());
    cr_expect_null(getenv("OPENBLAS_CORETYPE"), "the environment is as it was");
}

static void use_prescott(void)
{
    setenv("OPENBLAS_CORETYPE", "Prescott", 1);
}

Test(failure, the_users_core_stays, .init = use_prescott)
{
    bool wide = qp_kernels_open("avx2") != NULL;
    cr_expect_str_eq(getenv("OPENBLAS_CORETYPE"), "Prescott");
    cr_expect_eq(qp_blas_better_core() != NULL, wide, "it runs %s", qp_blas_core());
}

Test(scratch, keeps_what_is_returned_until_it_is_emptied)
{
    enum { MANY = 12 };
    void *block[MANY];
    char *first = qp_scratch_borrow(1000, 4);
    cr_assert(first != NULL && (uintptr_t)first % 64 == 0);
    memset(first, 1, 4000);
    qp_scratch_return(first);
    char *smaller = qp_scratch_borrow(900, 4), *other = qp_scratch_borrow(900, 4);
    cr_expect_eq(smaller, first, "a kept workspace that is large enough is taken");
    cr_assert(other != NULL && other != first);
    qp_scratch_return(smaller);
    qp_scratch_return(other);
    qp_scratch_return(NULL);
    for (int i = 0; i < MANY; i++) { /* more than are kept */
        block[i] = qp_scratch_borrow((size_t)(i + 1), 1 << 12);
        cr_assert(block[i] != NULL);
        memset(block[i], i, (size_t)(i + 1) << 12);
    }
    for (int i = 0; i < MANY; i++) {
        cr_expect_eq(((char *)block[i])[(((i + 1) << 12) - 1)], i, "no two share memory");
        qp_scratch_return(block[i]);
    }
    cr_expect(qp_scratch_borrow(SIZE_MAX, 2) == NULL);
    char message[200];
    cr_expect_eq(qp_failure_take(message, sizeof message), QP_FAILURE_MEMORY);
    qp_scratch_empty();
    qp_scratch_empty();
}
