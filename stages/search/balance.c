#include "stages/search/balance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/failure.h"
#include "libstage/base/memory.h"

enum { STEPS = 40, NORM = 8 };
#define LARGEST_MOVE 0.5f /* of a logarithm in one step */

/* The loss, half its gradient and a bound of its curvature at one point. */
struct descent {
    const struct trial *t;
    float *s; /* [in] each from here on */
    double *noise, *slope, *curvature;
};

static double eighth_power(double x)
{
    double square = x * x, fourth = square * square;
    return fourth * fourth;
}

/* One row's part of a group: adds each column's share of the squared range to range[], and returns that square. */
static double add_range(const float *w, const float *s, int64_t count, double *range)
{
    float largest = 0.0f;
    for (int64_t j = 0; j < count; j++)
        largest = fmaxf(largest, fabsf(w[j] * s[j]));
    if (!(largest > 0.0f) || !isfinite(largest))
        return 0.0;
    double sum = 0.0;
    for (int64_t j = 0; j < count; j++)
        sum += eighth_power(w[j] * s[j] / largest);
    double square = (double)largest * largest * pow(sum, 2.0 / NORM);
    for (int64_t j = 0; j < count; j++)
        range[j] += eighth_power(w[j] * s[j] / largest) / sum * square;
    return square;
}

/* Adds one group of one member to slope and curvature; returns its loss. `range`: scratch [count]. */
static double add_group(const struct descent *d, const struct member *m, int64_t first, int64_t count, double *range)
{
    double noise = 0.0, ranges = 0.0;
    memset(range, 0, (size_t)count * sizeof *range);
    for (int64_t j = first; j < first + count; j++)
        noise += d->noise[j] / ((double)d->s[j] * d->s[j]);
    for (int64_t r = 0; r < m->rows; r++)
        ranges += add_range(m->w + r * d->t->in + first, d->s + first, count, range);
    for (int64_t j = first; j < first + count; j++) {
        double down = d->noise[j] / ((double)d->s[j] * d->s[j]) * ranges, up = noise * range[j - first];
        d->slope[j] += up - down;
        d->curvature[j] += 2.0 * down + NORM * up;
    }
    return noise * ranges;
}

static double evaluate(const struct descent *d, double *range, double *losses)
{
    double loss = 0.0;
    memset(d->slope, 0, (size_t)(2 * d->t->in) * sizeof *d->slope); /* and the curvature, which follows it */
    for (int i = 0; i < d->t->count; i++) {
        const struct member *m = &d->t->members[i];
        int64_t group = m->group > 0 ? m->group : d->t->in, groups = qp_groups(d->t->in, group);
#pragma omp parallel for schedule(static)
        for (int64_t g = 0; g < groups; g++) {
            int64_t first = g * group, count = d->t->in - first < group ? d->t->in - first : group;
            losses[g] = add_group(d, m, first, count, range + first);
        }
        for (int64_t g = 0; g < groups; g++)
            loss += losses[g];
    }
    return loss;
}

/* One step of log s. */
static void step(const struct descent *d, const struct qp_site *site)
{
    for (int64_t j = 0; j < d->t->in; j++) {
        double length = d->curvature[j] > 0.0 ? d->slope[j] / d->curvature[j] : 0.0;
        if (isfinite(length))
            d->s[j] *= expf(-fminf(fmaxf((float)length, -LARGEST_MOVE), LARGEST_MOVE));
    }
    qp_share_heads(site, d->s);
}

static void descend(const struct descent *d, const struct qp_site *site, double *range, double *losses, float *u)
{
    double best = INFINITY;
    for (int64_t j = 0; j < d->t->in; j++)
        d->s[j] = 1.0f;
    for (int i = 0; i < STEPS && !qp_failure_is_set(); i++) {
        double loss = evaluate(d, range, losses);
        for (int64_t j = 0; loss < best && j < d->t->in; j++)
            u[j] = logf(d->s[j]);
        best = fmin(best, loss);
        step(d, site);
    }
}

int balance_scales(const struct trial *t, const struct qp_site *site, float *u, struct qp_error *err)
{
    double *memory = qp_new_array(5 * t->in, sizeof *memory, "the state of a descent", err);
    float *s = qp_new_floats(t->in, "scales", err);
    if (memory && s) {
        struct descent d = {t, s, memory, memory + t->in, memory + 2 * t->in};
        for (int64_t j = 0; j < t->in; j++) {
            d.noise[j] = t->h[j * t->in + j];
            u[j] = 0.0f;
        }
        descend(&d, site, memory + 3 * t->in, memory + 4 * t->in, u);
    }
    bool done = memory && s;
    free(memory);
    free(s);
    return done ? 0 : QP_ERR_SPACE;
}
