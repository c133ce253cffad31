#include <float.h>

#include "tests/kernel/golden/network.h"
#include "tests/kernel/harness.h"

static const char *const names[] = {"silu", "gelu", "gelu_tanh", "relu", "relu2", "xielu"};
static const struct qp_xielu learned = {0.75f, 1.25f, 0.5f, -0.0625f};

/* What its terms are at most in sum, with the numbers above. */
static double xielu_terms(double gate)
{
    return 2 * fabs(gate) + gate * gate + 0.0625;
}

/* What the contract allows a number. */
static double bound_of(enum qp_act act, double gate, double up, double want)
{
    switch (act) {
    case QP_ACT_SILU:
        return 1e-6 * fabs(want) + 1e-35 * fmax(1, fabs(up));
    case QP_ACT_GELU:
    case QP_ACT_GELU_TANH:
        return 1e-6 * fabs(gate * up) + 1e-35 * fmax(1, fabs(up));
    case QP_ACT_XIELU:
        return 1e-6 * fabs(up) * xielu_terms(gate) + 1e-35 * fmax(1, fabs(up));
    default:
        return 0;
    }
}

static void compare(enum qp_act act, int64_t count, const float *gate, const float *up, bool in_place)
{
    struct qp_gated g = {act, 1, count, count, gate, up, learned};
    float *want = fresh(count, 4);

    reference()->gated(&g, want);
    EACH_RUN(run)
    {
        float *x = copy_of(gate, count, 4), *got = in_place ? x : fresh(count, 4);
        g.gate = x;
        run.k->gated(&g, got);
        for (int64_t i = 0; i < count; i++) {
            double by = up ? (double)up[i] : 1;
            if (act == QP_ACT_XIELU && isfinite(gate[i]) && xielu_terms((double)gate[i]) > FLT_MAX)
                continue;
            EXPECT_NEAR(got + i, want + i, 1, bound_of(act, (double)gate[i], by, (double)want[i]),
                        "%s, %s: gate %a up %a", run.name, names[act], (double)gate[i], by);
        }
        if (!in_place)
            free(got);
        free(x);
    }
    free(want);
}

Test(gated, agrees_with_the_reference)
{
    static const int64_t counts[] = {0, 1, 7, 15, 16, 17, 1000, 40000};

    for (int c = 0; c < COUNT(counts) * COUNT(names); c++) {
        enum qp_act act = (enum qp_act)(c % COUNT(names));
        int64_t count = counts[c / COUNT(names)];
        float *gate = random_floats(count, 8, 1), *up = random_floats(count, 1, 2);
        compare(act, count, gate, up, c % 2 == 0);
        compare(act, count, gate, NULL, c % 2 == 1);
        sprinkle(count, gate, 0, 3);
        compare(act, count, gate, up, false);
        free(gate);
        free(up);
    }
}

Test(gated, over_the_whole_range_of_exp)
{
    float *gate = fresh(200001, 4), *up = fresh(200001, 4);

    for (int i = 0; i <= 200000; i++) {
        gate[i] = (float)(i - 100000) / 900;
        up[i] = 1;
    }
    for (int act = 0; act < COUNT(names); act++)
        compare((enum qp_act)act, 200001, gate, up, false);
    free(gate);
    free(up);
}

/* Rows of one matrix [gate | up], and of one with a gap, give the bits of contiguous ones. */
Test(gated, reads_rows_in_place)
{
    static const int64_t columns[] = {1, 5, 16, 40, 5000};

    for (int c = 0; c < COUNT(columns); c++) {
        int64_t rows = 7, n = columns[c], stride = 2 * n + c % 2;
        float *both = random_floats(rows * stride, 3, 1), *gate = fresh(rows * n, 4), *up = fresh(rows * n, 4);
        float *want = fresh(rows * n, 4), *got = fresh(rows * n, 4);
        struct qp_gated g = {QP_ACT_GELU, rows, n, n, gate, up, learned},
                        wide = {QP_ACT_GELU, rows, n, stride, both, both + n, learned};

        for (int64_t i = 0; i < rows * n; i++) {
            gate[i] = both[i / n * stride + i % n];
            up[i] = both[i / n * stride + n + i % n];
        }
        reference()->gated(&g, want);
        reference()->gated(&wide, got);
        EXPECT_SAME_FLOATS(got, want, rows * n, "the reference, %lld columns", (long long)n);
        EACH_RUN(run)
        {
            run.k->gated(&g, want);
            run.k->gated(&wide, got);
            EXPECT_SAME_FLOATS(got, want, rows * n, "%s, %lld columns", run.name, (long long)n);
        }
        free(both), free(gate), free(up), free(want), free(got);
    }
}

Test(gated, by_python)
{
    static const float *const golden[] = {act_silu, act_gelu, act_gelu_tanh, act_relu, act_relu2, act_xielu};
    enum { N = COUNT(act_gate) };
    float y[N];

    for (int act = 0; act < COUNT(golden); act++)
        for (int gated = 0; gated < 2; gated++) {
            struct qp_gated g = {(enum qp_act)act, 1, N, N, act_gate, gated ? act_up : NULL, learned};
            reference()->gated(&g, y);
            for (int i = 0; i < N; i++)
                EXPECT_NEAR(y + i, (double[]){(double)golden[act][i] * (gated ? (double)act_up[i] : 1)}, 1,
                            2e-7 * fabs((double)y[i]) + 1e-15, "the reference, %s of %g", names[act],
                            (double)act_gate[i]);
        }
}
