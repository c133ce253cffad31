#include "libstage/solvers/knapsack.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/checked.h"

#define DEFAULT_STATES 65536
#define HALVINGS 200

/* A choice for the first groups. */
struct state {
    int64_t cost;
    double damage, bound; /* bound: what no completion goes below */
    uint32_t parent;      /* its index among the states of the group before */
    uint32_t option;
};

struct layer {
    struct state *states; /* ascending cost, descending damage */
    size_t count;
};

struct solver {
    const struct qp_knapsack *k;
    size_t limit;
    double price;
    int64_t *rest_cost;  /* [groups + 1] cheapest cost of the groups from here on */
    double *rest_priced; /* [groups + 1] sum of their min(damage + price cost) */
    struct layer *layers;
    size_t *chosen;
    double best, dropped; /* damage of the solution at hand; least bound of what was dropped for space */
};

static const struct qp_option_cost *option_of(const struct qp_knapsack *k, size_t group, size_t option)
{
    return &k->choices[group * k->options + option];
}

/* The group's option of least damage + price cost, the cheaper of equals; with an infinite price the cheapest. */
static size_t pick(const struct qp_knapsack *k, size_t group, double price)
{
    size_t best = k->options;
    double least = INFINITY;
    for (size_t o = 0; o < k->options; o++) {
        const struct qp_option_cost *c = option_of(k, group, o), *b = option_of(k, group, best < k->options ? best : o);
        if (c->cost < 0)
            continue;
        double priced = isinf(price) ? (double)c->cost : c->damage + price * (double)c->cost;
        bool tie = priced == least && (isinf(price) ? c->damage < b->damage : c->cost < b->cost);
        if (best == k->options || priced < least || tie) {
            best = o;
            least = priced;
        }
    }
    return best;
}

/* Fills chosen with every group's best option at a price; returns the cost. */
static int64_t pick_all(const struct qp_knapsack *k, double price, size_t *chosen)
{
    int64_t cost = 0;
    for (size_t g = 0; g < k->groups; g++) {
        size_t o = pick(k, g, price);
        cost += option_of(k, g, o)->cost;
        if (chosen)
            chosen[g] = o;
    }
    return cost;
}

int64_t qp_knapsack_smallest(const struct qp_knapsack *problem)
{
    return pick_all(problem, INFINITY, NULL);
}

int64_t qp_knapsack_largest(const struct qp_knapsack *problem)
{
    return pick_all(problem, 0.0, NULL);
}

static int check(const struct qp_knapsack *k, struct qp_error *err)
{
    uint64_t total = 0;
    for (size_t g = 0; g < k->groups; g++) {
        uint64_t largest = 0;
        bool any = false;
        for (size_t o = 0; o < k->options; o++) {
            const struct qp_option_cost *c = option_of(k, g, o);
            if (c->cost < 0)
                continue;
            if (!isfinite(c->damage))
                return qp_fail(err, QP_ERR_INPUT, "group %zu: the damage of option %zu is not finite", g, o);
            any = true;
            largest = (uint64_t)c->cost > largest ? (uint64_t)c->cost : largest;
        }
        if (!any)
            return qp_fail(err, QP_ERR_INPUT, "group %zu: no option is left to choose from", g);
        if (!qp_add_u64(total, largest, &total) || total > INT64_MAX)
            return qp_fail(err, QP_ERR_INPUT, "group %zu: the summed costs pass 2^63", g);
    }
    int64_t smallest = qp_knapsack_smallest(k);
    if (smallest > k->budget)
        return qp_fail(err, QP_ERR_INPUT, "the budget %lld is below the smallest cost %lld", (long long)k->budget,
                       (long long)smallest);
    return 0;
}

/* The lowest price (to float64's precision) whose choice is within the budget: it maximizes the Lagrangian bound. */
static double find_price(const struct qp_knapsack *k)
{
    double low = 0.0, high = 1.0;
    if (pick_all(k, low, NULL) <= k->budget)
        return low;
    while (pick_all(k, high, NULL) > k->budget && high < 1e300)
        high *= 16.0;
    for (int i = 0; i < HALVINGS; i++) {
        double middle = low == 0.0 ? high / 16.0 : low + (high - low) / 2.0;
        if (middle == low || middle == high)
            break;
        if (pick_all(k, middle, NULL) <= k->budget)
            high = middle;
        else
            low = middle;
    }
    return high;
}

/* Spends what is left of the budget: again and again the change that saves the most damage for its cost. */
static void fill_up(const struct qp_knapsack *k, size_t *chosen, int64_t cost)
{
    for (;;) {
        size_t group = k->groups, option = 0;
        double best = 0.0;
        for (size_t g = 0; g < k->groups; g++)
            for (size_t o = 0; o < k->options; o++) {
                const struct qp_option_cost *to = option_of(k, g, o), *from = option_of(k, g, chosen[g]);
                int64_t more = to->cost - from->cost;
                double saved = from->damage - to->damage;
                if (to->cost < 0 || saved <= 0.0 || more > k->budget - cost)
                    continue;
                double rate = more <= 0 ? INFINITY : saved / (double)more;
                if (rate > best) {
                    best = rate;
                    group = g;
                    option = o;
                }
            }
        if (group == k->groups)
            return;
        cost += option_of(k, group, option)->cost - option_of(k, group, chosen[group])->cost;
        chosen[group] = option;
    }
}

static double damage_of(const struct qp_knapsack *k, const size_t *chosen)
{
    double damage = 0.0;
    for (size_t g = 0; g < k->groups; g++)
        damage += option_of(k, g, chosen[g])->damage;
    return damage;
}

static void sum_rests(struct solver *s)
{
    const struct qp_knapsack *k = s->k;
    s->rest_cost[k->groups] = 0;
    s->rest_priced[k->groups] = 0.0;
    for (size_t g = k->groups; g-- > 0;) {
        const struct qp_option_cost *c = option_of(k, g, pick(k, g, s->price));
        s->rest_cost[g] = s->rest_cost[g + 1] + option_of(k, g, pick(k, g, INFINITY))->cost;
        s->rest_priced[g] = s->rest_priced[g + 1] + c->damage + s->price * (double)c->cost;
    }
}

static int by_cost(const void *a, const void *b)
{
    const struct state *x = a, *y = b;
    if (x->cost != y->cost)
        return x->cost < y->cost ? -1 : 1;
    if (x->damage != y->damage)
        return x->damage < y->damage ? -1 : 1;
    return x->parent != y->parent ? (x->parent < y->parent ? -1 : 1)
                                  : (x->option > y->option) - (x->option < y->option);
}

static int by_bound(const void *a, const void *b)
{
    const struct state *x = a, *y = b;
    return x->bound != y->bound ? (x->bound < y->bound ? -1 : 1) : by_cost(a, b);
}

/* All states of group g that can still beat the solution at hand, in any order. */
static size_t extend(const struct solver *s, size_t g, const struct layer *from, struct state *to)
{
    const struct qp_knapsack *k = s->k;
    size_t count = 0;
    for (size_t i = 0; i < from->count; i++)
        for (size_t o = 0; o < k->options; o++) {
            const struct qp_option_cost *c = option_of(k, g, o);
            if (c->cost < 0)
                continue;
            struct state n = {from->states[i].cost + c->cost, from->states[i].damage + c->damage, 0.0, (uint32_t)i,
                              (uint32_t)o};
            n.bound = n.damage + s->rest_priced[g + 1] - s->price * (double)(k->budget - n.cost);
            if (n.cost + s->rest_cost[g + 1] <= k->budget && n.bound < s->best)
                to[count++] = n;
        }
    return count;
}

/* Keeps what no cheaper state equals; sorts by cost. */
static size_t drop_dominated(struct state *states, size_t count)
{
    size_t kept = 0;
    qsort(states, count, sizeof *states, by_cost);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || states[i].damage < states[kept - 1].damage)
            states[kept++] = states[i];
    return kept;
}

/* Keeps the states of least bound when there are too many. */
static size_t make_space(struct solver *s, struct state *states, size_t count)
{
    if (count <= s->limit)
        return count;
    qsort(states, count, sizeof *states, by_bound);
    s->dropped = fmin(s->dropped, states[s->limit].bound);
    qsort(states, s->limit, sizeof *states, by_cost);
    return s->limit;
}

static int run_layer(struct solver *s, size_t g, const struct layer *from, struct qp_error *err)
{
    size_t most = from->count * s->k->options;
    struct state *states = malloc((most ? most : 1) * sizeof *states);
    if (!states)
        return qp_fail_memory(err, most * sizeof *states, "choices of formats");
    size_t count = make_space(s, states, drop_dominated(states, extend(s, g, from, states)));
    struct state *fitting = realloc(states, (count ? count : 1) * sizeof *states);
    s->layers[g] = (struct layer){fitting ? fitting : states, count};
    return 0;
}

/* The last layer's state of least damage becomes the solution, if it is better than the one at hand. */
static void trace_back(struct solver *s)
{
    const struct layer *last = &s->layers[s->k->groups - 1];
    size_t at = last->count - 1; /* the dearest does the least damage */
    if (last->count == 0 || last->states[at].damage >= s->best)
        return;
    for (size_t g = s->k->groups; g-- > 0;) {
        const struct state *state = &s->layers[g].states[at];
        s->chosen[g] = state->option;
        at = state->parent;
    }
    s->best = damage_of(s->k, s->chosen);
}

static int run_layers(struct solver *s, struct qp_error *err)
{
    struct state root = {0};
    struct layer from = {&root, 1};
    for (size_t g = 0; g < s->k->groups; g++) {
        int r = run_layer(s, g, &from, err);
        if (r < 0)
            return r;
        from = s->layers[g];
    }
    trace_back(s);
    return 0;
}

static int solve(struct solver *s, struct qp_error *err)
{
    const struct qp_knapsack *k = s->k;
    s->price = find_price(k);
    fill_up(k, s->chosen, pick_all(k, s->price, s->chosen));
    s->best = damage_of(k, s->chosen);
    s->dropped = INFINITY;
    s->rest_cost = malloc((k->groups + 1) * sizeof *s->rest_cost);
    s->rest_priced = malloc((k->groups + 1) * sizeof *s->rest_priced);
    s->layers = calloc(k->groups, sizeof *s->layers);
    if (!s->rest_cost || !s->rest_priced || !s->layers)
        return qp_fail_memory(err, k->groups * sizeof *s->layers, "choices of formats");
    sum_rests(s);
    return run_layers(s, err);
}

int qp_knapsack_solve(const struct qp_knapsack *problem, size_t *chosen, struct qp_knapsack_solution *out,
                      struct qp_error *err)
{
    struct solver s = {.k = problem, .limit = problem->states ? problem->states : DEFAULT_STATES, .chosen = chosen};
    *out = (struct qp_knapsack_solution){0};
    int r = check(problem, err);
    if (r == 0 && problem->groups > 0)
        r = solve(&s, err);
    for (size_t g = 0; s.layers && g < problem->groups; g++)
        free(s.layers[g].states);
    free(s.layers);
    free(s.rest_cost);
    free(s.rest_priced);
    if (r < 0)
        return r;
    for (size_t g = 0; g < problem->groups; g++)
        out->cost += option_of(problem, g, chosen[g])->cost;
    out->damage = s.best;
    out->bound = fmin(s.best, s.dropped);
    return 0;
}
