#include "tests/kernel/golden/network.h"
#include "tests/kernel/harness.h"

static struct qp_attention inputs(int64_t sequences, int64_t length, int heads, int kv_heads, int dim, int64_t gap)
{
    int64_t tokens = sequences * length;
    struct qp_attention a = {
        .sequences = sequences, .length = length, .heads = heads, .kv_heads = kv_heads, .dim = dim};

    a.scale = 1 / sqrtf((float)dim);
    a.q_stride = heads * dim + gap;
    a.k_stride = kv_heads * dim + 2 * gap;
    a.v_stride = kv_heads * dim + 3 * gap;
    a.out_stride = heads * dim + gap;
    a.q = random_floats(tokens * a.q_stride, 2, 1);
    a.k = random_floats(tokens * a.k_stride, 2, 2);
    a.v = random_floats(tokens * a.v_stride, 1, 3);
    a.out = fresh(tokens * a.out_stride, sizeof(float));
    return a;
}

static void release(struct qp_attention *a)
{
    free((float *)a->q);
    free((float *)a->k);
    free((float *)a->v);
    free(a->out);
}

/* The largest norm of a run of `dim` numbers. */
static double largest_norm(int64_t tokens, int64_t stride, int heads, int dim, const float *x)
{
    double largest = 0;

    for (int64_t t = 0; t < tokens; t++)
        for (int h = 0; h < heads; h++) {
            double sum = 0;
            for (int d = 0; d < dim; d++)
                sum += pow(x[t * stride + h * dim + d], 2);
            largest = fmax(largest, sqrt(sum));
        }
    return largest;
}

static double tolerance(const struct qp_attention *a)
{
    int64_t tokens = a->sequences * a->length;
    double q = largest_norm(tokens, a->q_stride, a->heads, a->dim, a->q);
    double k = largest_norm(tokens, a->k_stride, a->kv_heads, a->dim, a->k);

    return (a->cap > 0 ? 4e-7 : 2e-7) * (10 + a->scale * q * k) *
           largest_norm(tokens, a->v_stride, a->kv_heads * a->dim, 1, a->v);
}

static void compare(struct qp_attention a)
{
    int64_t count = a.sequences * a.length * a.out_stride;
    float *want = a.out;
    double bound = tolerance(&a);

    reference()->attention(&a);
    EACH_RUN(run)
    {
        a.out = fresh(count, sizeof(float));
        run.k->attention(&a);
        EXPECT_NEAR(a.out, want, count, bound, "%s: %lld x %lld tokens, %d of %d heads of %d, window %lld, cap %g",
                    run.name, (long long)a.sequences, (long long)a.length, a.kv_heads, a.heads, a.dim,
                    (long long)a.window, (double)a.cap);
        free(a.out);
    }
    a.out = want;
}

Test(attention, agrees_with_the_reference_on_ragged_shapes)
{
    static const int lengths[] = {1, 2, 15, 47, 48, 49, 63, 64, 65, 97, 130, 257};
    static const struct {
        int heads, kv_heads, dim;
    } shapes[] = {{1, 1, 64}, {9, 3, 64}, {8, 4, 8}, {4, 1, 128}, {2, 2, 80}, {3, 3, 1}, {2, 1, 100}};

    for (int l = 0; l < COUNT(lengths); l++)
        for (int s = 0; s < COUNT(shapes); s++) {
            struct qp_attention a =
                inputs(1 + l % 3, lengths[l], shapes[s].heads, shapes[s].kv_heads, shapes[s].dim, l % 2 * 5);
            compare(a);
            release(&a);
        }
}

/* Windows within a tile, as wide as one, across several, and wider than the sequence. */
Test(attention, agrees_with_the_reference_on_windows_and_caps)
{
    static const int lengths[] = {1, 48, 65, 130, 257}, windows[] = {0, 1, 2, 17, 48, 63, 64, 65, 100, 256, 300};
    static const float caps[] = {0, 0.5f, 30};

    for (int l = 0; l < COUNT(lengths); l++)
        for (int w = 0; w < COUNT(windows); w++)
            for (int c = 0; c < COUNT(caps); c++) {
                struct qp_attention a = inputs(1 + w % 2, lengths[l], 4, 2, 20, l % 2 * 5);
                a.window = windows[w];
                a.cap = caps[c];
                compare(a);
                release(&a);
            }
}

Test(attention, by_python)
{
    struct qp_attention a = {.sequences = 1,
                             .length = ATTENTION_LENGTH,
                             .heads = ATTENTION_HEADS,
                             .kv_heads = ATTENTION_KV_HEADS,
                             .dim = ATTENTION_DIM,
                             .scale = attention_scale,
                             .q = attention_q,
                             .k = attention_k,
                             .v = attention_v,
                             .q_stride = ATTENTION_HEADS * ATTENTION_DIM,
                             .k_stride = ATTENTION_KV_HEADS * ATTENTION_DIM,
                             .v_stride = ATTENTION_KV_HEADS * ATTENTION_DIM,
                             .out_stride = ATTENTION_HEADS * ATTENTION_DIM};
    static const float *const want[2][2] = {{attention_neither, attention_cap_alone},
                                            {attention_window_alone, attention_both}};
    float out[COUNT(attention_q)];

    a.out = out;
    for (int w = 0; w < 2; w++)
        for (int c = 0; c < 2; c++) {
            a.window = w ? ATTENTION_WINDOW : 0;
            a.cap = c ? attention_cap : 0;
            reference()->attention(&a);
            EXPECT_NEAR(out, want[w][c], COUNT(out), 1e-6, "the reference, window %d, cap %d", w, c);
            EACH_RUN(run)
            {
                run.k->attention(&a);
                EXPECT_NEAR(out, want[w][c], COUNT(out), tolerance(&a), "%s, window %d, cap %d", run.name, w, c);
            }
        }
}

Test(attention, survives_scores_that_overflow_exp)
{
    struct qp_attention a = inputs(2, 100, 4, 2, 16, 0);

    a.scale = 50;
    compare(a);
    release(&a);
}

Test(attention, of_one_key_is_its_value)
{
    struct qp_attention a = inputs(7, 1, 4, 2, 8, 0);

    EACH_RUN(run)
    {
        run.k->attention(&a);
        for (int64_t t = 0; t < 7; t++)
            for (int i = 0; i < 32; i++)
                cr_assert_float_eq(a.out[t * 32 + i], a.v[t * 16 + i / 16 * 8 + i % 8], 1e-6);
    }
    release(&a);
}

Test(attention, does_not_see_what_is_before_the_window)
{
    enum { TOKENS = 300, WINDOW = 70, CHANGED = 150, UNSEEN = CHANGED + WINDOW };
    struct qp_attention a = inputs(1, TOKENS, 2, 1, 32, 0);
    float *before = fresh(TOKENS * 64, sizeof *before);

    a.window = WINDOW;
    EACH_RUN(run)
    {
        run.k->attention(&a);
        memcpy(before, a.out, TOKENS * 64 * sizeof *before);
        float *k = (float *)a.k, *v = (float *)a.v;
        for (int i = CHANGED * 32; i < (CHANGED + 1) * 32; i++) {
            k[i] += 3;
            v[i] -= 5;
        }
        run.k->attention(&a);
        EXPECT_SAME_FLOATS(a.out + UNSEEN * 64, before + UNSEEN * 64, (TOKENS - UNSEEN) * 64, "%s", run.name);
        cr_assert_neq(a.out[(UNSEEN - 1) * 64], before[(UNSEEN - 1) * 64]);
    }
    free(before);
    release(&a);
}

Test(attention, does_not_see_the_future)
{
    struct qp_attention a = inputs(1, 150, 2, 1, 32, 0);
    float *before = fresh(150 * 64, sizeof *before);

    EACH_RUN(run)
    {
        run.k->attention(&a);
        memcpy(before, a.out, 150 * 64 * sizeof *before);
        float *k = (float *)a.k, *v = (float *)a.v;
        for (int i = 100 * 32; i < 150 * 32; i++) {
            k[i] += 3;
            v[i] -= 5;
        }
        run.k->attention(&a);
        EXPECT_SAME_FLOATS(a.out, before, 100 * 64, "%s", run.name);
        cr_assert_neq(a.out[100 * 64], before[100 * 64]);
    }
    free(before);
    release(&a);
}

/* More keys and values than are packed at once (PACKED_BYTES of kernels/cpu/vector/attention_tile.h: 512 sequences, 64
 * heads), in sequences and in heads: the bits are those of parts by themselves. */
static void compare_with_parts(struct qp_attention a)
{
    int share = a.heads / a.kv_heads;
    float *want = fresh(a.sequences * a.length * a.out_stride, sizeof *want);

    EACH_RUN(run)
    {
        run.k->attention(&a);
        for (int64_t s = 0; s < a.sequences; s++)
            for (int head = 0; head < a.kv_heads; head++) {
                struct qp_attention one = a;
                one.sequences = one.kv_heads = 1;
                one.heads = share;
                one.q += s * a.length * a.q_stride + head * share * a.dim;
                one.k += s * a.length * a.k_stride + head * a.dim;
                one.v += s * a.length * a.v_stride + head * a.dim;
                one.out = want + s * a.length * a.out_stride + head * share * a.dim;
                run.k->attention(&one);
            }
        EXPECT_SAME_FLOATS(a.out, want, a.sequences * a.length * a.out_stride, "%s", run.name);
    }
    free(want);
    release(&a);
}

Test(attention, takes_many_sequences_in_parts, .timeout = 120)
{
    compare_with_parts(inputs(520, 64, 8, 4, 32, 0));
}

Test(attention, takes_many_heads_in_parts, .timeout = 120)
{
    compare_with_parts(inputs(2, 64, 66, 66, 1024, 0));
}
