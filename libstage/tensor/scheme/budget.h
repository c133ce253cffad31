/* Schemes that give a budget in place of formats, {budget: 4.5bits, choose_from: [int4, int8, bf16]}: stage allocate
 * chooses each linear's format from the candidates, and every stage after it sees an ordinary scheme with rules. */
#ifndef QUANTPIPE_TENSOR_SCHEME_BUDGET_H
#define QUANTPIPE_TENSOR_SCHEME_BUDGET_H

#include "libstage/tensor/scheme/scheme.h"

#define QP_MAX_CANDIDATES 16

struct qp_candidate {
    char *name;     /* a preset's, the one given, or made of its formats ("int4-g64"); no two are the same */
    json_t *linear; /* {weights, activations}, as a rule has them */
    struct qp_linear_scheme scheme; /* weights not enabled: linears stay as they are */
};

struct qp_budget {
    char *text;     /* as written: "4.5bits" */
    double bits;    /* stored bits for each weight of the linears that are not ignored; 0: `bytes` counts */
    uint64_t bytes; /* of all tensor files of the output, embedding and norms included */
    struct qp_candidate *candidates;
    size_t count; /* 2 to QP_MAX_CANDIDATES */
};

/* Whether a scheme, as written, is a budget. */
bool qp_is_budget(const json_t *scheme);

/* Reads the keys of a budget's mapping: budget (a number with the unit bits, or B, kB, MB, GB, TB, KiB ... TiB) and
 * choose_from (presets, mappings with weights and activations, or bf16). qp_scheme_parse calls it, and keeps the rest
 * of the mapping (name, ignore, kv_cache). */
int qp_budget_parse(const json_t *mapping, struct qp_budget **out, struct qp_error *err);
void qp_budget_free(struct qp_budget *budget); /* NULL is accepted */

#endif
