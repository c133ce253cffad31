/* The multiple-choice knapsack problem: one option of each group, least damage within a budget. */
#ifndef QUANTPIPE_SOLVERS_KNAPSACK_H
#define QUANTPIPE_SOLVERS_KNAPSACK_H

#include <stddef.h>
#include <stdint.h>

#include "libstage/base/error.h"

struct qp_option_cost {
    int64_t cost;  /* at least 0; negative: the group has no such option */
    double damage; /* finite */
};

struct qp_knapsack {
    size_t groups, options;               /* options: columns of the table */
    const struct qp_option_cost *choices; /* [groups, options] */
    int64_t budget;                       /* of the summed costs */
    size_t states; /* partial solutions kept at a time; 0: 65536. Too few can leave a gap, never a wrong bound */
};

struct qp_knapsack_solution {
    int64_t cost;
    double damage;
    double bound; /* no choice within the budget does less damage; equal to damage: proven best */
};

/* Cost of the cheapest choice, and of the least damaging one (the cheaper of equals). */
int64_t qp_knapsack_smallest(const struct qp_knapsack *problem);
int64_t qp_knapsack_largest(const struct qp_knapsack *problem);

/* Fills chosen[groups] with the option of each group. QP_ERR_INPUT when the budget is below the smallest cost, a group
 * has no option or a damage is not finite.
 *
 * Dynamic programming over the undominated partial solutions, cut by Lagrangian bounds: for any price p >= 0,
 * sum of min(damage + p cost) - p budget is a lower bound (Fisher 1981); at the best price it is that of the linear
 * relaxation, and the choice it implies, filled up, is the first solution at hand (Dyer, Riha and Walker 1995: a hybrid
 * dynamic programming / branch-and-bound algorithm for the multiple-choice knapsack problem). Bounds are computed in
 * float64: solutions that differ by less than its rounding count as equal. */
int qp_knapsack_solve(const struct qp_knapsack *problem, size_t *chosen, struct qp_knapsack_solution *out,
                      struct qp_error *err);

#endif
