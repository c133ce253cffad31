/* From losses to formats: the choice within a budget, the scheme that says it, and what is told of it. */
#ifndef QUANTPIPE_STAGES_ALLOCATE_DECIDE_H
#define QUANTPIPE_STAGES_ALLOCATE_DECIDE_H

#include "stages/allocate/table.h"

struct qp_choice {
    size_t *candidate;    /* of each group of the table */
    double bits;          /* stored for each weight of the groups */
    uint64_t bytes;       /* of the tensor files of the output, at most */
    double damage, bound; /* predicted; no choice within the budget has less than `bound` */
    bool unused;          /* the budget is more than the least damaging choice takes */
};

/* The choice of least damage within the table's budget. QP_ERR_INPUT for a budget below the smallest choice, with that
 * one's size, and for one that leaves nothing to quantize. */
int qp_decide(const struct qp_table *table, enum qp_sensitivity by, struct qp_choice *out, struct qp_error *err);
void qp_choice_free(struct qp_choice *choice);

/* The scheme with rules that the choice comes to: `source`, the budget's mapping, with its name, ignore and kv_cache;
 * the most common format as the base, a rule for each linear of another. A new reference, NULL without memory. */
json_t *qp_chosen_scheme(const struct qp_table *table, const struct qp_choice *choice, const json_t *source);

/* What the report tells: the choice, each linear's format, and the damage predicted for other budgets. A new reference;
 * NULL with `err` described. */
json_t *qp_choice_report(const struct qp_table *table, const struct qp_choice *choice, enum qp_sensitivity by,
                         struct qp_error *err);

#endif
