/* The knapsack solver against brute force, on problems with ties, planted answers and too little space. */
#include <math.h>
#include <stdlib.h>
#include <criterion/criterion.h>

#include "libstage/solvers/knapsack.h"

enum { MAX_GROUPS = 7, MAX_OPTIONS = 4, INSTANCES = 1000 };

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Small integers make ties and equal sums common; one option in eight is missing, never the first. */
static struct qp_knapsack random_problem(uint64_t *seed, struct qp_option_cost *choices, size_t groups, size_t options)
{
    for (size_t i = 0; i < groups * options; i++) {
        bool missing = i % options && next(seed) % 8 == 0;
        choices[i] = (struct qp_option_cost){missing ? -1 : (int64_t)(next(seed) % 40), (double)(next(seed) % 50) / 7};
    }
    struct qp_knapsack k = {.groups = groups, .options = options, .choices = choices};
    int64_t least = qp_knapsack_smallest(&k), most = qp_knapsack_largest(&k);
    k.budget = least + (int64_t)(next(seed) % (uint64_t)(llabs(most - least) + 2));
    return k;
}

static double brute_force(const struct qp_knapsack *k, size_t group, int64_t cost, double damage)
{
    if (cost > k->budget)
        return INFINITY;
    if (group == k->groups)
        return damage;
    double best = INFINITY;
    for (size_t o = 0; o < k->options; o++) {
        const struct qp_option_cost *c = &k->choices[group * k->options + o];
        if (c->cost >= 0)
            best = fmin(best, brute_force(k, group + 1, cost + c->cost, damage + c->damage));
    }
    return best;
}

/* What a solution says of itself has to be true of its choice. */
static void check_solution(const struct qp_knapsack *k, const size_t *chosen, const struct qp_knapsack_solution *s)
{
    int64_t cost = 0;
    double damage = 0.0;
    for (size_t g = 0; g < k->groups; g++) {
        cr_assert_lt(chosen[g], k->options);
        const struct qp_option_cost *c = &k->choices[g * k->options + chosen[g]];
        cr_assert_geq(c->cost, 0, "group %zu: an option that is not there was chosen", g);
        cost += c->cost;
        damage += c->damage;
    }
    cr_expect_eq(cost, s->cost);
    cr_expect_leq(cost, k->budget);
    cr_expect_float_eq(damage, s->damage, 1e-9);
    cr_expect_leq(s->bound, s->damage);
}

Test(knapsack, equals_brute_force_on_1000_problems)
{
    uint64_t seed = 7;
    for (int i = 0; i < INSTANCES; i++) {
        struct qp_option_cost choices[MAX_GROUPS * MAX_OPTIONS];
        struct qp_knapsack k =
            random_problem(&seed, choices, 1 + next(&seed) % MAX_GROUPS, 1 + next(&seed) % MAX_OPTIONS);
        struct qp_knapsack_solution s;
        size_t chosen[MAX_GROUPS];
        struct qp_error err;
        cr_assert_eq(qp_knapsack_solve(&k, chosen, &s, &err), 0, "problem %d: %s", i, err.message);
        check_solution(&k, chosen, &s);
        cr_expect_float_eq(s.damage, brute_force(&k, 0, 0, 0.0), 1e-9, "problem %d", i);
        cr_expect_eq(s.damage, s.bound, "problem %d: not proven", i);
    }
}

Test(knapsack, with_too_little_space_the_bound_stays_true)
{
    uint64_t seed = 11;
    int gaps = 0;
    for (int i = 0; i < INSTANCES; i++) {
        struct qp_option_cost choices[MAX_GROUPS * MAX_OPTIONS];
        struct qp_knapsack k = random_problem(&seed, choices, MAX_GROUPS, MAX_OPTIONS);
        struct qp_knapsack_solution s;
        size_t chosen[MAX_GROUPS];
        k.states = 1;
        cr_assert_eq(qp_knapsack_solve(&k, chosen, &s, NULL), 0);
        check_solution(&k, chosen, &s);
        double best = brute_force(&k, 0, 0, 0.0);
        cr_expect_geq(s.damage, best - 1e-9);
        cr_expect_leq(s.bound, best + 1e-9, "problem %d: the bound %g is above the best, %g", i, s.bound, best);
        gaps += s.bound < s.damage;
    }
    cr_expect_gt(gaps, 0, "no problem was hard enough to leave a gap");
}

/* As large as a model of 80 layers: four groups a layer, damages that fall with the bits. */
Test(knapsack, a_large_model_is_solved_to_the_end)
{
    enum { GROUPS = 320, OPTIONS = 5 };
    static const int64_t sizes[4] = {84 << 20, 64 << 20, 448 << 20, 224 << 20};
    static const double bits[OPTIONS] = {3.25, 4.25, 5.25, 8.0, 16.0};
    static struct qp_option_cost choices[GROUPS * OPTIONS];
    uint64_t seed = 3;
    int64_t weights = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        double weight = exp((double)(next(&seed) % 1000) / 150.0);
        for (size_t o = 0; o < OPTIONS; o++)
            choices[g * OPTIONS + o] =
                (struct qp_option_cost){(int64_t)((double)sizes[g % 4] * bits[o] / 8.0), weight * exp2(-2.0 * bits[o])};
        weights += sizes[g % 4];
    }
    size_t chosen[GROUPS];
    struct qp_knapsack k = {.groups = GROUPS, .options = OPTIONS, .choices = choices};
    for (double budget = 3.5; budget < 9.0; budget += 0.5) {
        struct qp_knapsack_solution s;
        k.budget = (int64_t)((double)weights * budget / 8.0);
        cr_assert_eq(qp_knapsack_solve(&k, chosen, &s, NULL), 0);
        check_solution(&k, chosen, &s);
        cr_expect_leq((s.damage - s.bound) / s.damage, 1e-9, "%g bits: gap %g", budget,
                      (s.damage - s.bound) / s.damage);
    }
}

Test(knapsack, the_ends_of_the_budget)
{
    const struct qp_option_cost choices[] = {{4, 9.0}, {8, 1.0}, {4, 5.0}, {8, 5.0}};
    struct qp_knapsack k = {.groups = 2, .options = 2, .choices = choices, .budget = 8};
    struct qp_knapsack_solution s;
    struct qp_error err;
    size_t chosen[2];
    cr_expect_eq(qp_knapsack_smallest(&k), 8);
    cr_expect_eq(qp_knapsack_largest(&k), 12, "of equal damages the cheaper counts");
    cr_assert_eq(qp_knapsack_solve(&k, chosen, &s, &err), 0);
    cr_expect_eq(s.cost, 8);
    k.budget = 1000;
    cr_assert_eq(qp_knapsack_solve(&k, chosen, &s, &err), 0);
    cr_expect_eq(s.cost, 12);
    cr_expect_eq(s.damage, 6.0);
    k.budget = 7;
    cr_expect_eq(qp_knapsack_solve(&k, chosen, &s, &err), QP_ERR_INPUT);
}

Test(knapsack, what_cannot_be_solved_is_refused)
{
    struct qp_option_cost choices[] = {{1, 1.0}, {-1, 0.0}};
    struct qp_knapsack k = {.groups = 2, .options = 1, .choices = choices, .budget = 10};
    struct qp_knapsack_solution s;
    size_t chosen[2];
    cr_expect_eq(qp_knapsack_solve(&k, chosen, &s, NULL), QP_ERR_INPUT, "a group without options");
    choices[1] = (struct qp_option_cost){1, NAN};
    cr_expect_eq(qp_knapsack_solve(&k, chosen, &s, NULL), QP_ERR_INPUT, "no number");
    choices[0].cost = choices[1].cost = INT64_MAX;
    choices[1].damage = 0.0;
    k.budget = INT64_MAX;
    cr_expect_eq(qp_knapsack_solve(&k, chosen, &s, NULL), QP_ERR_INPUT, "an overflow");
}
