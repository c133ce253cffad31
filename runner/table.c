/* The closing table. */
#include <stdio.h>
#include <string.h>

#include "runner/report.h"
#include "runner/size.h"

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void print_pair(const char *name, const char *before, const char *after, const char *note)
{
    printf("  %-22s %14s %14s  %s\n", name, before, after, note);
}

static void print_perplexity(const json_t *output)
{
    const json_t *perplexity = json_object_get(output, "perplexity");
    double original = number(perplexity, "original"), quantized = number(perplexity, "quantized");
    char before[32], after[32], note[48] = "";
    if (!json_is_number(json_object_get(perplexity, "quantized")))
        return;
    snprintf(before, sizeof before, "%.4f", original);
    snprintf(after, sizeof after, "%.4f", quantized);
    if (original > 0)
        snprintf(note, sizeof note, "%+.2f %%", 100 * (quantized / original - 1));
    print_pair("perplexity", before, after, note);
}

static void print_size(const json_t *output)
{
    const json_t *size = json_object_get(output, "size_bytes");
    double original = number(size, "original"), quantized = number(size, "quantized");
    char before[32], after[32], note[48] = "";
    if (!json_is_number(json_object_get(size, "quantized")))
        return;
    qp_size_text((uint64_t)original, before, sizeof before);
    qp_size_text((uint64_t)quantized, after, sizeof after);
    if (quantized > 0)
        snprintf(note, sizeof note, "%.2f times smaller", original / quantized);
    print_pair("size", before, after, note);
}

static void print_single(const json_t *output, const char *key, const char *name, double factor, const char *format)
{
    char text[32];
    if (!json_is_number(json_object_get(output, key)))
        return;
    snprintf(text, sizeof text, format, factor * number(output, key));
    print_pair(name, "", text, "");
}

static void print_output(const json_t *output)
{
    print_pair("", "original", "quantized", "");
    print_perplexity(output);
    print_size(output);
    print_single(output, "kl_divergence", "KL divergence", 1, "%.5f");
    print_single(output, "top1_agreement", "same first choice", 100, "%.2f %%");
    printf("\n");
}

static void print_stage(const json_t *stage)
{
    char wall[32], busy[32], memory[32], own[32];
    printf("  %-22s %14s %14s %14s %14s\n", json_string_value(json_object_get(stage, "name")),
           qp_seconds_text(number(stage, "wall_seconds"), wall, sizeof wall),
           qp_seconds_text(number(stage, "busy_seconds"), busy, sizeof busy),
           qp_size_text((uint64_t)number(stage, "peak_anonymous_bytes"), own, sizeof own),
           qp_size_text((uint64_t)number(stage, "peak_rss_bytes"), memory, sizeof memory));
}

void qp_print_table(const json_t *report, const char *report_path)
{
    size_t i;
    json_t *item;
    char wall[32];
    printf("\n");
    json_array_foreach(json_object_get(report, "outputs"), i, item)
        print_output(item);
    printf("  %-22s %14s %14s %14s %14s\n", "stage", "wall", "busy", "peak memory", "with files");
    json_array_foreach(json_object_get(report, "stages"), i, item)
        print_stage(item);
    printf("  %-22s %14s\n\n", "the whole run", qp_seconds_text(number(report, "wall_seconds"), wall, sizeof wall));
    bool done = strcmp(json_string_value(json_object_get(report, "status")), "done") == 0;
    json_array_foreach(json_object_get(report, "outputs"), i, item) {
        const char *path = json_string_value(json_object_get(item, "path"));
        if (done && path)
            printf("  output  %s (%s)\n", path, json_string_value(json_object_get(item, "scheme")));
    }
    printf("  report  %s\n", report_path);
}
