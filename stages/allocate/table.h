/* What every candidate format costs and loses, group by group: all that a decision needs. A group is the linears that
 * read one site of a layer: engines fuse them (q, k, v; gate, up), so they get one format together. */
#ifndef QUANTPIPE_STAGES_ALLOCATE_TABLE_H
#define QUANTPIPE_STAGES_ALLOCATE_TABLE_H

#include "libstage/network/model_unit.h"
#include "libstage/tensor/scheme/budget.h"

struct qp_group {
    int64_t layer;
    int site;
    int members[QP_SITE_LINEARS_MAX]; /* the site's linears that are not ignored */
    int count;
    int64_t weights;                   /* how many its members have */
    bool fits[QP_MAX_CANDIDATES];      /* whether each candidate can be had by all members */
    size_t probe;                      /* the candidate of fewest bytes, whose divergence was measured */
    uint64_t bytes[QP_MAX_CANDIDATES]; /* stored by each candidate */
    double
        weight_loss[QP_MAX_CANDIDATES]; /* sum over members of tr(D H Dᵀ), D what quantization changes in the weights */
    double
        input_loss[QP_MAX_CANDIDATES]; /* what quantizing the input changes in the outputs, scaled to the same tokens */
    double energy;                     /* sum over members of tr(W H Wᵀ) */
    double probe_loss;                 /* weight_loss of the probe, were it rounded to nearest */
    double divergence;                 /* of the network's final distribution, when the probe alone is in this group:
                                          measured rounded to nearest, scaled to weight_loss; NAN: not measured */
};

struct qp_table {
    struct qp_arch arch;
    const struct qp_budget *budget; /* borrowed: the candidates */
    struct qp_group *groups;
    size_t count;
};

/* The groups of a model whose linears are not ignored, with what every candidate stores; losses are 0, divergences NAN.
 * QP_ERR_INPUT when nothing is left, when a candidate fits no group or no candidate fits a group. */
int qp_table_open(const struct qp_model *model, struct qp_table *out, struct qp_error *err);
void qp_table_close(struct qp_table *table); /* a zeroed one is accepted */

/* The group of a site, NULL when it is ignored whole. */
struct qp_group *qp_table_find(const struct qp_table *table, int64_t layer, int site);

/* "model.layers.3.attn_in" into text; returns it. */
const char *qp_group_name(const struct qp_table *table, const struct qp_group *group, char *text, size_t size);

/* How a group's loss becomes damage to the network. */
enum qp_sensitivity {
    QP_SENSITIVITY_MEASURED, /* loss times divergence / loss of the probe: nats of KL, as the probe caused them */
    QP_SENSITIVITY_RELATIVE, /* loss / energy: the share of the outputs that is wrong */
    QP_SENSITIVITY_NONE,     /* loss */
};
double qp_damage(const struct qp_group *group, size_t candidate, enum qp_sensitivity by);

/* The table as JSON (a new reference), and back: into a table that was opened for the same model. QP_ERR_INPUT when a
 * group or a candidate is missing or measured by another form of the model; `path` is for messages. Candidates are
 * recognized by their formats, whatever their names; the file may have more of them. */
json_t *qp_table_json(const struct qp_table *table);
int qp_table_read(struct qp_table *table, const char *path, struct qp_error *err);

#endif
