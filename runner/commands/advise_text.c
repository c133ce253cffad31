/* The advice as a pipeline, for programs and for people. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/commands/advise.h"
#include "runner/size.h"

/* ---- pipeline ---- */

/* In single quotes, where YAML leaves all but the quote alone. */
static void put_text(FILE *out, const char *text)
{
    putc('\'', out);
    for (; *text; text++)
        fputs(*text == '\'' ? "''" : (const char[2]){*text, '\0'}, out);
    putc('\'', out);
}

static void put_entry(FILE *out, const char *name, const char *text)
{
    fprintf(out, "  %s: {text: ", name);
    put_text(out, text);
    fprintf(out, ", samples: 128, length: 512}\n");
}

static bool needs_ranges(const struct qp_recipe *recipe)
{
    return strcmp(recipe->scheme, "fp8") == 0 || strcmp(recipe->scheme, "nvfp4") == 0;
}

static bool learns(const struct qp_recipe *recipe)
{
    return strcmp(recipe->smooth, "none") != 0 || strcmp(recipe->search, "none") != 0 ||
           strcmp(recipe->quantize, "rtn") != 0 || needs_ranges(recipe);
}

/* Without text there is nothing to learn from; fixed ranges take what random ids give. */
static void put_data(FILE *out, const struct qp_advice *a, const struct qp_recipe *recipe)
{
    if (!a->text && !a->evaluation && !needs_ranges(recipe))
        return;
    fprintf(out, "data:\n");
    if (a->text)
        put_entry(out, "calibration", a->text);
    else if (needs_ranges(recipe))
        fprintf(out, "  calibration: {synthetic: true, samples: 128, length: 512} # name a text of your own here\n");
    if (a->evaluation)
        put_entry(out, "evaluation", a->evaluation);
}

static void put_pipeline(FILE *out, const struct qp_advice *a, const struct qp_recipe *recipe, const char *schemes,
                         const char *output, bool publish)
{
    fprintf(out, "quantpipe: 1\nmodel: ");
    put_text(out, a->model);
    fprintf(out, "\noutput: ");
    put_text(out, output);
    fprintf(out, "\nscheme: %s\n", schemes);
    put_data(out, a, recipe);
    fprintf(out,
            "stages:\n  load: {}\n  calibrate: {from: load}\n  smooth: {from: calibrate, with: {method: %s}}\n"
            "  search: {from: smooth, with: {method: %s}}\n  quantize: {from: search, with: {method: %s}}\n"
            "  validate: {from: quantize}\n",
            a->text ? recipe->smooth : "none", a->text ? recipe->search : "none", a->text ? recipe->quantize : "rtn");
    if (publish)
        fprintf(out, "  export: {from: validate}\n");
}

char *qp_advice_pipeline(const struct qp_advice *advice, const struct qp_recipe *recipe, const char *schemes,
                         const char *output, bool publish)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    if (publish)
        fprintf(out, "# Made by `quantpipe advise`, for %s, %s, priority %s: %s.\n", advice->hardware->name,
                advice->use, advice->priority, recipe->scheme);
    put_pipeline(out, advice, recipe, schemes, output, publish);
    if (publish && !advice->text && learns(recipe))
        fprintf(out, "# With data.calibration.text: smooth %s, search %s, quantize %s lose less than rtn.\n",
                recipe->smooth, recipe->search, recipe->quantize);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* ---- answers ---- */

static const char *support(const struct qp_advice *a, const struct qp_recipe *recipe)
{
    return recipe->native & a->hardware->bit ? "native" : recipe->unpacks & a->hardware->bit ? "unpacked" : "none";
}

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *candidate_json(const struct qp_advice *a, const struct qp_candidate_figures *c)
{
    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:s?}", "scheme", c->recipe->scheme, "support",
                     support(a, c->recipe), "size_bytes", c->scheme ? json_integer((json_int_t)c->bytes) : json_null(),
                     "sqnr_db", number(c->scheme ? qp_figures_sqnr(c) : NAN), "perplexity", number(c->perplexity),
                     "kl_divergence", number(c->kl), "refused", c->refusal);
}

json_t *qp_advice_json(const struct qp_advice *a, const char *pipeline)
{
    const struct qp_recipe *recipe = a->best->recipe;
    json_t *candidates = json_array();
    for (size_t i = 0; i < a->figures.count; i++)
        json_array_append_new(candidates, candidate_json(a, &a->figures.list[i]));
    json_t *method = json_pack("{s:s, s:s, s:s}", "smooth", a->text ? recipe->smooth : "none", "search",
                               a->text ? recipe->search : "none", "quantize", a->text ? recipe->quantize : "rtn");
    json_t *measured = json_pack("{s:{s:o, s:o}, s:o}", "perplexity", "original", number(a->figures.perplexity),
                                 "quantized", number(a->best->perplexity), "kl_divergence", number(a->best->kl));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:O, s:o, s:{s:I, s:I}, s:f, s:s, s:o, s:O, s:o, s:s}", "model",
                     a->model, "hardware", a->hardware->name, "use", a->use, "priority", a->priority, "preset",
                     recipe->scheme, "scheme", a->best->source, "method", method, "size_bytes", "original",
                     (json_int_t)a->figures.original_bytes, "quantized", (json_int_t)a->best->bytes, "sqnr_db",
                     qp_figures_sqnr(a->best), "expected_loss", qp_advice_loss(qp_figures_sqnr(a->best)), "measured",
                     measured, "reasons", a->reasons, "candidates", candidates, "pipeline", pipeline);
}

static void print_candidate(const struct qp_advice *a, const struct qp_candidate_figures *c)
{
    char size[32] = "-", sqnr[32] = "-", perplexity[32] = "", kl[32] = "";
    if (c->scheme) {
        qp_size_text(c->bytes, size, sizeof size);
        snprintf(sqnr, sizeof sqnr, "%.1f dB", qp_figures_sqnr(c));
    }
    if (isfinite(c->perplexity))
        snprintf(perplexity, sizeof perplexity, "%.4f", c->perplexity);
    if (isfinite(c->kl))
        snprintf(kl, sizeof kl, "%.5f", c->kl);
    printf("  %c %-18s %12s %10s %12s %10s  %s\n", c == a->best ? '*' : ' ', c->recipe->scheme, size, sqnr, perplexity,
           kl, c->refusal ? "does not fit the model" : support(a, c->recipe));
}

void qp_advice_print(const struct qp_advice *a)
{
    char size[32];
    size_t i;
    json_t *reason;
    bool measured = isfinite(a->figures.perplexity);
    printf("%s for %s, %s, priority %s: %s\n\n", a->model, a->hardware->name, a->use, a->priority,
           a->best->recipe->scheme);
    json_array_foreach(a->reasons, i, reason)
        printf("- %s\n", json_string_value(reason));
    printf("\n    %-18s %12s %10s %12s %10s  %s\n", "scheme", "size", "weights", measured ? "perplexity" : "",
           measured ? "KL" : "", "hardware");
    printf("    %-18s %12s\n", "original", qp_size_text(a->figures.original_bytes, size, sizeof size));
    for (i = 0; i < a->figures.count; i++)
        print_candidate(a, &a->figures.list[i]);
    printf("\n");
}
