#include "stages/allocate/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/compressed_size.h"
#include "libstage/formats/compressed_tensors.h"

#define VERSION 1
#define FILE_LIMIT ((size_t)256 << 20)

static bool is_ignored(const struct qp_scheme *scheme, const char *module)
{
    /* a scheme whose base is enabled says of a module just whether it is ignored */
    struct qp_scheme all = *scheme;
    all.base.weights.enabled = true;
    return !qp_scheme_for(&all, module);
}

/* Whether a candidate can be applied to a linear, and stored. */
static int check_fit(const struct qp_table *t, size_t candidate, int64_t layer, int linear, struct qp_error *err)
{
    char module[256];
    const struct qp_linear *d = &qp_layer_type(&t->arch, layer)->linears[linear];
    const struct qp_linear_scheme *scheme = &t->budget->candidates[candidate].scheme;
    int64_t rows = d->out, cols = d->in;
    qp_module_name(&t->arch, layer, linear, module, sizeof module);
    int r = scheme->weights.enabled ? qp_scheme_check(scheme, module, rows, cols, err) : 0;
    return r < 0 || !scheme->weights.enabled ? r : qp_compressed_check(scheme, module, rows, cols, err);
}

/* Adds what one linear stores to its group. */
static void count_linear(const struct qp_table *t, struct qp_group *g, int linear)
{
    const struct qp_linear *d = &qp_layer_type(&t->arch, g->layer)->linears[linear];
    int64_t rows = d->out, cols = d->in;
    g->members[g->count++] = linear;
    g->weights += rows * cols;
    for (size_t c = 0; c < t->budget->count; c++) {
        g->fits[c] = g->fits[c] && check_fit(t, c, g->layer, linear, NULL) == 0;
        if (!g->fits[c])
            continue;
        g->bytes[c] += qp_compressed_stored(&t->budget->candidates[c].scheme, t->arch.dtype, rows, cols).bytes;
    }
}

/* Sets the probe; false when no candidate fits. */
static bool find_probe(const struct qp_table *t, struct qp_group *g)
{
    g->probe = t->budget->count;
    for (size_t c = 0; c < t->budget->count; c++)
        if (g->fits[c] && (g->probe == t->budget->count || g->bytes[c] < g->bytes[g->probe]))
            g->probe = c;
    return g->probe < t->budget->count;
}

static int add_group(const struct qp_scheme *scheme, struct qp_table *t, int64_t layer, int site, struct qp_error *err)
{
    struct qp_group *g = &t->groups[t->count];
    *g = (struct qp_group){.layer = layer, .site = site, .divergence = NAN};
    for (size_t c = 0; c < t->budget->count; c++)
        g->fits[c] = true;
    const struct qp_layer_type *type = qp_layer_type(&t->arch, layer);
    for (int l = 0; l < type->linear_count; l++) {
        char module[256];
        qp_module_name(&t->arch, layer, l, module, sizeof module);
        if (type->linears[l].site == site && !is_ignored(scheme, module))
            count_linear(t, g, l);
    }
    if (g->weights == 0)
        return 0;
    t->count++;
    char name[256];
    return find_probe(t, g) ? 0
                            : qp_fail(err, QP_ERR_INPUT,
                                      "scheme.choose_from: none of the formats fits %s (groups have to divide its "
                                      "columns); add one that does, as bf16",
                                      qp_group_name(t, g, name, sizeof name));
}

/* A candidate that nothing can have is a mistake: says why the first linear cannot. */
static int check_candidates(const struct qp_table *t, struct qp_error *err)
{
    for (size_t c = 0; c < t->budget->count; c++) {
        bool used = false;
        for (size_t g = 0; g < t->count; g++)
            used = used || t->groups[g].fits[c];
        for (int m = 0; m < t->groups[0].count && !used; m++)
            if (check_fit(t, c, t->groups[0].layer, t->groups[0].members[m], err) < 0)
                return qp_wrap(err, "scheme.choose_from[%zu]: '%s' fits no linear", c, t->budget->candidates[c].name);
    }
    return 0;
}

static int add_groups(const struct qp_scheme *scheme, struct qp_table *t, struct qp_error *err)
{
    int r = 0;
    for (int64_t layer = 0; layer < t->arch.layers && r == 0; layer++)
        for (int site = 0; site < qp_layer_type(&t->arch, layer)->site_count && r == 0; site++)
            r = add_group(scheme, t, layer, site, err);
    if (r == 0 && t->count == 0)
        r = qp_fail(err, QP_ERR_INPUT, "scheme.ignore: matches every linear, so there is nothing to choose for");
    return r < 0 ? r : check_candidates(t, err);
}

int qp_table_open(const struct qp_model *model, struct qp_table *out, struct qp_error *err)
{
    struct qp_table t = {.arch = model->arch, .budget = model->scheme->budget};
    size_t most = 1;
    for (int64_t layer = 0; layer < t.arch.layers; layer++)
        most += (size_t)qp_layer_type(&t.arch, layer)->site_count;
    t.groups = calloc(most, sizeof *t.groups);
    if (!t.groups)
        return qp_fail_memory(err, most * sizeof *t.groups, "the losses of formats");
    int r = add_groups(model->scheme, &t, err);
    if (r < 0) {
        free(t.groups);
        return r;
    }
    *out = t;
    return 0;
}

void qp_table_close(struct qp_table *table)
{
    free(table->groups);
    *table = (struct qp_table){0};
}

struct qp_group *qp_table_find(const struct qp_table *table, int64_t layer, int site)
{
    for (size_t g = 0; g < table->count; g++)
        if (table->groups[g].layer == layer && table->groups[g].site == site)
            return &table->groups[g];
    return NULL;
}

const char *qp_group_name(const struct qp_table *table, const struct qp_group *group, char *text, size_t size)
{
    const struct qp_site *site = &qp_layer_type(&table->arch, group->layer)->sites[group->site];
    return qp_layer_name(&table->arch, group->layer, site->name, text, size);
}

double qp_damage(const struct qp_group *group, size_t candidate, enum qp_sensitivity by)
{
    double loss = group->weight_loss[candidate] + group->input_loss[candidate];
    double unit = by == QP_SENSITIVITY_NONE ? 1.0 : group->energy, worth = 1.0;
    if (by == QP_SENSITIVITY_MEASURED) {
        unit = group->weight_loss[group->probe];
        worth = fmax(group->divergence, 0.0); /* rounding can make a divergence of 0 negative */
    }
    return unit > 0.0 ? loss * worth / unit : 0.0; /* without outputs, or without error, nothing is damaged */
}

/* ---- as a file ---- */

static json_t *group_json(const struct qp_table *t, const struct qp_group *g)
{
    char name[256];
    json_t *bytes = json_array(), *weights = json_array(), *inputs = json_array();
    for (size_t c = 0; c < t->budget->count; c++) {
        json_array_append_new(bytes, json_integer((json_int_t)g->bytes[c]));
        json_array_append_new(weights, json_real(g->weight_loss[c]));
        json_array_append_new(inputs, json_real(g->input_loss[c]));
    }
    return json_pack("{s:s, s:I, s:s, s:o, s:o, s:o, s:f, s:o}", "name", qp_group_name(t, g, name, sizeof name),
                     "weights", (json_int_t)g->weights, "probe", t->budget->candidates[g->probe].name, "bytes", bytes,
                     "weight_loss", weights, "input_loss", inputs, "energy", g->energy, "divergence",
                     isnan(g->divergence) ? json_null() : json_real(g->divergence));
}

json_t *qp_table_json(const struct qp_table *table)
{
    json_t *candidates = json_array(), *groups = json_array();
    for (size_t c = 0; c < table->budget->count; c++)
        json_array_append_new(candidates, json_pack("{s:s, s:O}", "name", table->budget->candidates[c].name, "linear",
                                                    table->budget->candidates[c].linear));
    for (size_t g = 0; g < table->count; g++)
        json_array_append_new(groups, group_json(table, &table->groups[g]));
    return json_pack("{s:i, s:o, s:o}", "quantpipe_losses", VERSION, "candidates", candidates, "groups", groups);
}

/* Where each candidate of ours stands in the file's list. */
static int match_candidates(const struct qp_budget *budget, const json_t *list, size_t *column, struct qp_error *err)
{
    for (size_t c = 0; c < budget->count; c++) {
        size_t i = 0;
        while (i < json_array_size(list) &&
               !json_equal(json_object_get(json_array_get(list, i), "linear"), budget->candidates[c].linear))
            i++;
        if (i == json_array_size(list))
            return qp_fail(err, QP_ERR_INPUT, "was measured without the format '%s'; measure again",
                           budget->candidates[c].name);
        column[c] = i;
    }
    return 0;
}

static int find_column(const json_t *list, const char *name, size_t *out, struct qp_error *err)
{
    for (*out = 0; *out < json_array_size(list); (*out)++) {
        const char *found = json_string_value(json_object_get(json_array_get(list, *out), "name"));
        if (found && name && strcmp(found, name) == 0)
            return 0;
    }
    return qp_fail(err, QP_ERR_INPUT, "its `probe` is none of its `candidates`");
}

/* A number at least 0 of an array. */
static int read_number(const json_t *array, size_t index, double *out, struct qp_error *err)
{
    const json_t *value = json_array_get(array, index);
    *out = json_number_value(value);
    return json_is_number(value) && *out >= 0.0 && isfinite(*out)
               ? 0
               : qp_fail(err, QP_ERR_INPUT, "found no finite number at least 0 for each candidate");
}

/* What the losses of one group were; the divergence is put on the scale of our own probe. */
static int read_group(const struct qp_table *t, const json_t *file, const json_t *found, const size_t *column,
                      struct qp_group *g, struct qp_error *err)
{
    size_t probe;
    const json_t *weights = json_object_get(found, "weight_loss"), *inputs = json_object_get(found, "input_loss");
    const json_t *divergence = json_object_get(found, "divergence");
    if (json_integer_value(json_object_get(found, "weights")) != g->weights)
        return qp_fail(err, QP_ERR_INPUT, "has %lld weights, and %lld in this model and scheme",
                       (long long)json_integer_value(json_object_get(found, "weights")), (long long)g->weights);
    double probed = 0.0;
    int r = find_column(json_object_get(file, "candidates"), json_string_value(json_object_get(found, "probe")), &probe,
                        err);
    for (size_t c = 0; c < t->budget->count && r == 0; c++) {
        r = read_number(weights, column[c], &g->weight_loss[c], err);
        if (r == 0)
            r = read_number(inputs, column[c], &g->input_loss[c], err);
    }
    if (r == 0)
        r = read_number(weights, probe, &probed, err);
    g->energy = json_number_value(json_object_get(found, "energy"));
    g->divergence = NAN;
    if (json_is_number(divergence))
        g->divergence = probed > 0.0 ? json_number_value(divergence) * g->weight_loss[g->probe] / probed : 0.0;
    return r;
}

static int read_groups(struct qp_table *t, const json_t *file, struct qp_error *err)
{
    const json_t *candidates = json_object_get(file, "candidates"), *groups = json_object_get(file, "groups");
    size_t column[QP_MAX_CANDIDATES];
    if (json_integer_value(json_object_get(file, "quantpipe_losses")) != VERSION || !json_is_array(groups))
        return qp_fail(err, QP_ERR_INPUT, "is no file of losses that stage allocate wrote (quantpipe_losses: %d)",
                       VERSION);
    int r = match_candidates(t->budget, candidates, column, err);
    if (r == 0 && json_array_size(groups) != t->count)
        r = qp_fail(err, QP_ERR_INPUT, "has %zu groups of linears, and %zu in this model and scheme",
                    json_array_size(groups), t->count);
    for (size_t g = 0; g < t->count && r == 0; g++) {
        char name[256];
        const json_t *found = json_array_get(groups, g);
        const char *its = json_string_value(json_object_get(found, "name"));
        qp_group_name(t, &t->groups[g], name, sizeof name);
        if (!its || strcmp(its, name) != 0)
            return qp_fail(err, QP_ERR_INPUT, "groups[%zu]: found %.200s, expected %s", g, its ? its : "no name", name);
        r = read_group(t, file, found, column, &t->groups[g], err);
        if (r < 0)
            return qp_wrap(err, "%s", name);
    }
    return r;
}

int qp_table_read(struct qp_table *table, const char *path, struct qp_error *err)
{
    struct qp_error local;
    err = err ? err : &local;
    qp_auto_json json_t *file = NULL;
    int r = qp_read_json(path, FILE_LIMIT, &file, err);
    if (r < 0)
        return r;
    r = read_groups(table, file, err);
    return r < 0 ? qp_wrap(err, "%s", path) : 0;
}
