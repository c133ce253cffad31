#include "stages/allocate/decide.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/safetensors.h"
#include "libstage/solvers/knapsack.h"
#include "libstage/network/parts.h"
#include "libstage/tensor/operations.h"

#define SHARD_BYTES 5000000000u /* of export's files, if nothing else is said there */
#define CURVE_STEP 0.25
#define CURVE_MOST 60

/* A problem over a table: costs in bytes. */
struct problem {
    struct qp_knapsack knapsack;
    struct qp_option_cost *choices;
    uint64_t fixed; /* bytes of the checkpoint that no choice changes */
    int64_t weights;
};

static bool in_group(const struct qp_table *t, const struct qp_part *part)
{
    if (part->kind != QP_PART_LINEAR || part->bias)
        return false;
    int site = qp_layer_type(&t->arch, part->layer)->linears[part->index].site;
    const struct qp_group *g = qp_table_find(t, part->layer, site);
    for (int m = 0; g && m < g->count; m++)
        if (g->members[m] == part->index)
            return true;
    return false;
}

/* Embedding, norms, biases, the head and linears left alone, and the headers of the files. */
static uint64_t fixed_bytes(const struct qp_table *t)
{
    uint64_t files = 1 + t->budget->bytes / SHARD_BYTES;
    uint64_t bytes = files * qp_safetensors_header_bytes(qp_quantized_parts_most(&t->arch));
    int64_t blocks = qp_arch_blocks(&t->arch);
    for (int64_t b = 0; b < blocks; b++) {
        struct qp_part part;
        QP_EACH_PART(part, &t->arch, b)
        {
            int64_t shape[2] = {1, 1};
            bool again = t->arch.tied && b == blocks - 1 && part.kind == QP_PART_EMBEDDING;
            if (again || in_group(t, &part))
                continue;
            int rank = qp_part_shape(&t->arch, &part, shape);
            uint64_t elements = (uint64_t)shape[0] * (uint64_t)(rank == 2 ? shape[1] : 1);
            bytes += elements * (uint64_t)qp_dtype_bits(t->arch.dtype) / 8;
        }
    }
    return bytes;
}

static int open_problem(const struct qp_table *t, enum qp_sensitivity by, struct problem *p, struct qp_error *err)
{
    size_t options = t->budget->count;
    *p = (struct problem){.fixed = fixed_bytes(t)};
    p->choices = calloc(t->count * options, sizeof *p->choices);
    if (!p->choices)
        return qp_fail_memory(err, t->count * options * sizeof *p->choices, "choices of formats");
    for (size_t g = 0; g < t->count; g++) {
        p->weights += t->groups[g].weights;
        for (size_t c = 0; c < options; c++)
            p->choices[g * options + c] = (struct qp_option_cost){
                t->groups[g].fits[c] ? (int64_t)t->groups[g].bytes[c] : -1, qp_damage(&t->groups[g], c, by)};
    }
    p->knapsack = (struct qp_knapsack){.groups = t->count, .options = options, .choices = p->choices};
    return 0;
}

/* The budget in bytes of the groups' tensors. */
static int64_t budget_bytes(const struct qp_table *t, const struct problem *p)
{
    if (t->budget->bits > 0)
        return (int64_t)(t->budget->bits * (double)p->weights / 8.0);
    return t->budget->bytes > p->fixed ? (int64_t)(t->budget->bytes - p->fixed) : 0;
}

static double bits_of(const struct problem *p, int64_t cost)
{
    return 8.0 * (double)cost / (double)p->weights;
}

static int too_small(const struct qp_table *t, const struct problem *p, struct qp_error *err)
{
    int64_t smallest = qp_knapsack_smallest(&p->knapsack);
    if (t->budget->bits > 0)
        return qp_fail(err, QP_ERR_INPUT,
                       "scheme.budget: %s is below the smallest that choose_from can do with this model: %.3f bits "
                       "(scales included); raise the budget to that, or add a format of fewer bits",
                       t->budget->text, ceil(1000.0 * bits_of(p, smallest)) / 1000.0);
    return qp_fail(
        err, QP_ERR_INPUT,
        "scheme.budget: %s is below the smallest checkpoint that choose_from can do with this model: %.3f MB "
        "(embedding and norms alone take %.3f MB); raise the budget to that, or add a format of fewer bits",
        t->budget->text, ceil((double)(p->fixed + (uint64_t)smallest) / 1e3) / 1e3, (double)p->fixed / 1e6);
}

static int solve(const struct qp_table *t, struct problem *p, struct qp_choice *out, struct qp_error *err)
{
    struct qp_knapsack_solution s;
    p->knapsack.budget = budget_bytes(t, p);
    if (qp_knapsack_smallest(&p->knapsack) > p->knapsack.budget)
        return too_small(t, p, err);
    int r = qp_knapsack_solve(&p->knapsack, out->candidate, &s, err);
    if (r < 0)
        return r;
    bool any = false;
    for (size_t g = 0; g < t->count; g++)
        any = any || t->budget->candidates[out->candidate[g]].scheme.weights.enabled;
    if (!any)
        return qp_fail(err, QP_ERR_INPUT,
                       "scheme.budget: %s lets every linear stay as it is, and nothing would be quantized; lower the "
                       "budget, or take the formats that quantize nothing out of choose_from",
                       t->budget->text);
    out->bits = bits_of(p, s.cost);
    out->bytes = p->fixed + (uint64_t)s.cost;
    out->damage = s.damage;
    out->bound = s.bound;
    out->unused = p->knapsack.budget > qp_knapsack_largest(&p->knapsack);
    return 0;
}

int qp_decide(const struct qp_table *table, enum qp_sensitivity by, struct qp_choice *out, struct qp_error *err)
{
    struct problem p;
    *out = (struct qp_choice){0};
    int r = open_problem(table, by, &p, err);
    if (r < 0)
        return r;
    out->candidate = calloc(table->count, sizeof *out->candidate);
    r = out->candidate ? solve(table, &p, out, err) : qp_fail_memory(err, table->count, "choices of formats");
    free(p.choices);
    return r;
}

void qp_choice_free(struct qp_choice *choice)
{
    free(choice->candidate);
    *choice = (struct qp_choice){0};
}

/* ---- the scheme ---- */

/* The format of most linears; one that quantizes, if there is any. */
static size_t most_common(const struct qp_table *t, const struct qp_choice *choice)
{
    int counts[QP_MAX_CANDIDATES] = {0};
    size_t best = choice->candidate[0];
    for (size_t g = 0; g < t->count; g++)
        counts[choice->candidate[g]] += t->groups[g].count;
    for (size_t c = 0; c < t->budget->count; c++) {
        bool better = t->budget->candidates[c].scheme.weights.enabled,
             have = t->budget->candidates[best].scheme.weights.enabled;
        if (counts[c] > 0 && (better == have ? counts[c] > counts[best] : better))
            best = c;
    }
    return best;
}

/* Both sides, so that nothing of the base shows through; a linear that is left as it is has one. */
static bool set_linear(json_t *object, const struct qp_candidate *c)
{
    json_t *activations = json_object_get(c->linear, "activations");
    if (json_object_update(object, c->linear) < 0)
        return false;
    if (activations || !c->scheme.weights.enabled)
        return true;
    return json_object_set_new(object, "activations", json_pack("{s:s}", "format", "bf16")) == 0;
}

static bool add_rules(const struct qp_table *t, const struct qp_choice *choice, size_t base, json_t *rules)
{
    for (size_t g = 0; g < t->count; g++)
        for (int m = 0; m < t->groups[g].count && choice->candidate[g] != base; m++) {
            char module[256];
            qp_module_name(&t->arch, t->groups[g].layer, t->groups[g].members[m], module, sizeof module);
            json_t *rule = json_pack("{s:s}", "match", module);
            bool ok = rule && set_linear(rule, &t->budget->candidates[choice->candidate[g]]);
            if (json_array_append_new(rules, rule) < 0 || !ok)
                return false;
        }
    return true;
}

json_t *qp_chosen_scheme(const struct qp_table *table, const struct qp_choice *choice, const json_t *source)
{
    qp_auto_json json_t *scheme = json_copy((json_t *)source);
    qp_auto_json json_t *rules = json_array();
    size_t base = most_common(table, choice);
    if (!scheme || !rules || !set_linear(scheme, &table->budget->candidates[base]) ||
        !add_rules(table, choice, base, rules))
        return NULL;
    json_object_del(scheme, "budget");
    json_object_del(scheme, "choose_from");
    if (json_array_size(rules) > 0 && json_object_set(scheme, "rules", rules) < 0)
        return NULL;
    return json_incref(scheme);
}

/* ---- the report ---- */

static json_t *linears_json(const struct qp_table *t, const struct qp_choice *choice)
{
    json_t *linears = json_array();
    for (size_t i = 0; i < t->count; i++) {
        const struct qp_group *g = &t->groups[i];
        size_t c = choice->candidate[i];
        for (int m = 0; m < g->count; m++) {
            char module[256];
            qp_module_name(&t->arch, g->layer, g->members[m], module, sizeof module);
            json_array_append_new(linears,
                                  json_pack("{s:s, s:s, s:f}", "name", module, "format", t->budget->candidates[c].name,
                                            "bits", 8.0 * (double)g->bytes[c] / (double)g->weights));
        }
    }
    return linears;
}

/* Linears of each format. */
static json_t *formats_json(const struct qp_table *t, const struct qp_choice *choice)
{
    json_t *formats = json_object();
    for (size_t c = 0; c < t->budget->count; c++) {
        int count = 0;
        for (size_t g = 0; g < t->count; g++)
            count += choice->candidate[g] == c ? t->groups[g].count : 0;
        json_object_set_new(formats, t->budget->candidates[c].name, json_integer(count));
    }
    return formats;
}

/* What each format alone would cost and lose, where it fits everywhere. */
static json_t *uniform_json(const struct qp_table *t, const struct problem *p)
{
    json_t *list = json_array();
    for (size_t c = 0; c < t->budget->count; c++) {
        bool fits = true;
        double damage = 0.0;
        int64_t cost = 0;
        for (size_t g = 0; g < t->count; g++) {
            const struct qp_option_cost *o = &p->choices[g * t->budget->count + c];
            fits = fits && o->cost >= 0;
            cost += o->cost;
            damage += o->damage;
        }
        if (fits)
            json_array_append_new(list, json_pack("{s:s, s:f, s:f}", "format", t->budget->candidates[c].name, "bits",
                                                  bits_of(p, cost), "predicted_loss", damage));
    }
    return list;
}

/* The least predicted damage at each quarter of a bit. */
static int curve(const struct qp_table *t, struct problem *p, json_t *list, struct qp_error *err)
{
    int64_t smallest = qp_knapsack_smallest(&p->knapsack);
    double first = ceil(bits_of(p, smallest) / CURVE_STEP) * CURVE_STEP;
    double last = bits_of(p, qp_knapsack_largest(&p->knapsack)) + CURVE_STEP;
    qp_auto_free size_t *chosen = calloc(t->count, sizeof *chosen);
    int r = chosen ? 0 : qp_fail_memory(err, t->count * sizeof *chosen, "choices of formats");
    for (int i = 0; r == 0 && i < CURVE_MOST && first + i * CURVE_STEP < last; i++) {
        struct qp_knapsack_solution s;
        double bits = first + i * CURVE_STEP;
        int64_t budget = (int64_t)(bits * (double)p->weights / 8.0);
        p->knapsack.budget = budget > smallest ? budget : smallest;
        r = qp_operations_go_on(err);
        if (r == 0)
            r = qp_knapsack_solve(&p->knapsack, chosen, &s, err);
        if (r == 0)
            json_array_append_new(list, json_pack("{s:f, s:f}", "bits", bits, "predicted_loss", s.damage));
    }
    return r;
}

json_t *qp_choice_report(const struct qp_table *table, const struct qp_choice *choice, enum qp_sensitivity by,
                         struct qp_error *err)
{
    static const char *const names[] = {"measured", "relative", "none"};
    struct problem p;
    if (open_problem(table, by, &p, err) < 0)
        return NULL;
    qp_auto_json json_t *points = json_array();
    json_t *report = NULL;
    if (points && curve(table, &p, points, err) == 0) {
        report =
            json_pack("{s:s, s:f, s:I, s:s, s:f, s:f, s:o, s:o, s:O, s:o}", "budget", table->budget->text, "bits",
                      choice->bits, "bytes", (json_int_t)choice->bytes, "sensitivity", names[by], "predicted_loss",
                      choice->damage, "gap", choice->damage - choice->bound, "formats", formats_json(table, choice),
                      "uniform", uniform_json(table, &p), "curve", points, "linears", linears_json(table, choice));
        if (!report)
            qp_fail_memory(err, 0, "a report");
    }
    free(p.choices);
    return report;
}
