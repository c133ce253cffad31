#include "stages/search/joint.h"

#include <math.h>
#include <string.h>

#define SMALLEST 1e-6f /* of a mean, before its logarithm */
#define RANGE 11.5f    /* of log s around its middle: AWQ's 1e-4 and its reciprocal, rounded up */
#define FIRST_STEP 0.2f
#define LAST_STEP 0.05f
#define FARTHEST 2.0f
enum { AXES = 3 };

struct point {
    float at[AXES];
};

static const struct point starts[] = {
    {{0.5f, 0.0f, 0.0f}}, {{0.0f, 0.5f, 0.0f}}, {{0.0f, 0.0f, 1.0f}}, {{0.0f, 0.0f, 0.5f}}};

static int judge(const struct profile *p, struct trial *t, const struct point *c, double *loss, struct qp_error *err)
{
    float low = INFINITY, high = -INFINITY;
    for (int64_t j = 0; j < t->in; j++) {
        float l =
            c->at[0] * logf(fmaxf(p->x[j], SMALLEST)) - c->at[1] * logf(fmaxf(p->w[j], SMALLEST)) + c->at[2] * p->u[j];
        t->s[j] = l;
        low = fminf(low, l);
        high = fmaxf(high, l);
    }
    for (int64_t j = 0; j < t->in; j++)
        t->s[j] = expf(fminf(fmaxf(t->s[j] - (low + high) / 2.0f, -RANGE), RANGE));
    return trial_judge(t, loss, err);
}

/* The best point so far, its loss, and whether it has moved. */
struct descent {
    struct point best;
    double loss;
    bool moved;
};

/* Moves along one axis while that helps. */
static int descend_axis(const struct profile *p, struct trial *t, int axis, float step, struct descent *d,
                        struct qp_error *err)
{
    for (int sign = 1; sign >= -1; sign -= 2) {
        for (;;) {
            struct point next = d->best;
            double here;
            next.at[axis] += (float)sign * step;
            if (fabsf(next.at[axis]) > FARTHEST)
                break;
            int r = judge(p, t, &next, &here, err);
            if (r < 0)
                return r;
            if (!(here < d->loss))
                break;
            d->best = next;
            d->loss = here;
            d->moved = true;
        }
    }
    return 0;
}

int search_joint(const struct profile *p, struct trial *t, struct qp_error *err)
{
    struct descent d = {.loss = t->best_loss};
    double here;
    int r = 0;
    for (size_t i = 0; i < sizeof starts / sizeof *starts && r == 0; i++) {
        r = judge(p, t, &starts[i], &here, err);
        if (r == 0 && here < d.loss) {
            d.best = starts[i];
            d.loss = here;
        }
    }
    for (float step = FIRST_STEP; r == 0 && step >= LAST_STEP;) {
        d.moved = false;
        for (int axis = 0; axis < AXES && r == 0; axis++)
            r = descend_axis(p, t, axis, step, &d, err);
        if (!d.moved)
            step /= 2.0f;
    }
    return r;
}
