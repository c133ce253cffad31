#include "tests/kernel/grids.h"
#include "tests/kernel/harness.h"

static const struct {
    int64_t rows, cols, group;
} shapes[] = {{0, 8, 8},    {1, 1, 1},     {1, 1, 0},      {3, 0, 1},    {3, 7, 7},   {2, 5, 9},
              {4, 128, 16}, {3, 200, 128}, {2, 1000, 400}, {9, 100, 30}, {17, 83, 0}, {40, 96, 32}};

/* Measures: the bits say which parts a search has. */
enum { WEIGHTED = 1, POWERED = 2, QUADRATIC = 4, SWEPT = 8, MODES = 16 };

struct sample {
    struct qp_scale_search s;
    float *w, *importance, *moment;
};

/* H = XᵀX of a few random rows, so that it is symmetric and positive semidefinite. */
static float *random_moment(int64_t cols, uint64_t seed)
{
    float *x = random_floats(cols * 8, 1, seed), *h = fresh(cols * cols, sizeof *h);

    for (int64_t i = 0; i < cols; i++)
        for (int64_t j = 0; j < cols; j++)
            for (int64_t k = 0; k < 8; k++)
                h[i * cols + j] += x[k * cols + i] * x[k * cols + j];
    free(x);
    return h;
}

static struct sample make(const struct qp_grid *grid, int64_t rows, int64_t cols, int64_t group, int mode,
                          uint64_t seed)
{
    struct sample t = {.w = random_floats(rows * cols, 0.05f, seed)};

    t.importance = random_floats(cols, 1, seed + 1);
    for (int64_t j = 0; j < cols; j++)
        t.importance[j] = j % 13 == 5 ? 0 : fabsf(t.importance[j]);
    t.moment = random_moment(cols, seed + 2);
    t.s = (struct qp_scale_search){.grid = grid,
                                   .rows = rows,
                                   .cols = cols,
                                   .group = group,
                                   .w = t.w,
                                   .importance = mode & WEIGHTED ? t.importance : NULL,
                                   .moment = mode & QUADRATIC ? t.moment : NULL,
                                   .norm = mode & POWERED ? 2.4 : 2,
                                   .first = 1.1f,
                                   .last = 0.4f,
                                   .steps = 12,
                                   .sweep = mode & SWEPT};
    return t;
}

static void release(struct sample *t)
{
    free(t->w);
    free(t->importance);
    free(t->moment);
}

struct chosen {
    float *scale;
    int8_t *zero;
};

static struct chosen search(const struct qp_kernels *k, struct qp_scale_search s)
{
    int64_t scales = qp_scale_count(s.rows, s.cols, s.group);
    struct chosen c = {fresh(scales, sizeof(float)), s.grid->symmetric ? NULL : fresh(scales, 1)};

    s.scale = c.scale;
    s.zero = c.zero;
    k->scale_search(&s);
    return c;
}

static void drop(struct chosen *c)
{
    free(c->scale);
    free(c->zero);
}

static void compare(const struct qp_scale_search *s, const char *label)
{
    int64_t scales = qp_scale_count(s->rows, s->cols, s->group);
    struct chosen want = search(reference(), *s);

    EACH_RUN(run)
    {
        struct chosen got = search(run.k, *s);
        EXPECT_SAME_FLOATS(got.scale, want.scale, scales, "%s, %s: scale", run.name, label);
        if (want.zero != NULL)
            EXPECT_SAME_BYTES(got.zero, want.zero, scales, "%s, %s: zero", run.name, label);
        drop(&got);
    }
    drop(&want);
}

static void compare_all(int mode)
{
    char label[128];

    for (int g = 0; g < COUNT(grids); g++)
        for (int i = 0; i < COUNT(shapes); i++) {
            if (mode & QUADRATIC && shapes[i].group == 0)
                continue; /* not in the contract */
            struct sample t = make(&grids[g], shapes[i].rows, shapes[i].cols, shapes[i].group, mode, (uint64_t)i + 1);
            snprintf(label, sizeof label, "grid %d, shape %d, mode %d", g, i, mode);
            compare(&t.s, label);
            if (i % 2 == 1) { /* rows with NaN, infinities and extremes, and rows of zeros */
                sprinkle(shapes[i].rows * shapes[i].cols, t.w, g, 7);
                if (shapes[i].rows > 2)
                    memset(t.w, 0, (size_t)shapes[i].cols * sizeof *t.w);
                strcat(label, ", edges");
                compare(&t.s, label);
            }
            release(&t);
        }
}

Test(scale_search, squares_are_exact_on_every_backend)
{
    compare_all(0);
    compare_all(WEIGHTED);
}

Test(scale_search, powers_are_exact_on_every_backend)
{
    compare_all(POWERED);
    compare_all(POWERED | WEIGHTED);
}

Test(scale_search, quadratic_forms_are_exact_on_every_backend)
{
    compare_all(QUADRATIC);
}

Test(scale_search, sweeps_are_exact_on_every_backend)
{
    compare_all(SWEPT);
    compare_all(SWEPT | QUADRATIC);
}
