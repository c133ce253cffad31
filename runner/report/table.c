/* The closing table. */
#include <stdio.h>
#include <string.h>

#include "runner/report/roofline.h"
#include "runner/report/report.h"
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

/* What a budget came to: bits a weight, and how many linears have which format. */
static void print_allocation(const json_t *allocation)
{
    char bits[32], note[256] = "";
    const char *format;
    json_t *count;
    if (!allocation)
        return;
    snprintf(bits, sizeof bits, "%.3f", number(allocation, "bits"));
    json_object_foreach(json_object_get(allocation, "formats"), format, count)
        if (json_integer_value(count) > 0)
            snprintf(note + strlen(note), sizeof note - strlen(note), "%s%d %.60s", *note ? ", " : "",
                     (int)json_integer_value(count), format);
    print_pair("bits a weight", "", bits, note);
}

static void print_output(const json_t *output)
{
    print_pair("", "original", "quantized", "");
    print_perplexity(output);
    print_size(output);
    print_single(output, "kl_divergence", "KL divergence", 1, "%.5f");
    print_single(output, "top1_agreement", "same first choice", 100, "%.2f %%");
    print_allocation(json_object_get(output, "allocation"));
    printf("\n");
}

/* ---- several schemes ---- */

static void print_row(const char *const cells[8])
{
    printf("  %-16s %12s %9s %12s %10s %14s %13s  %s\n", cells[0], cells[1], cells[2], cells[3], cells[4], cells[5],
           cells[6], cells[7]);
}

/* A number of the output, "-" where nothing was measured. */
static const char *cell(const json_t *output, const char *key, const char *inner, double factor, const char *format,
                        char text[32])
{
    const json_t *value = json_object_get(output, key);
    value = inner ? json_object_get(value, inner) : value;
    if (json_is_number(value))
        snprintf(text, 32, format, factor * json_number_value(value));
    else
        strcpy(text, "-");
    return text;
}

/* quantized / original of a pair, plus `offset`, in percent. */
static const char *share(const json_t *output, const char *key, double offset, const char *format, char text[32])
{
    const json_t *pair = json_object_get(output, key);
    double original = number(pair, "original"), quantized = number(pair, "quantized");
    strcpy(text, "-");
    if (original > 0 && quantized > 0)
        snprintf(text, 32, format, 100 * (quantized / original + offset));
    return text;
}

static const char *size_cell(const json_t *output, const char *inner, char text[32])
{
    const json_t *size = json_object_get(json_object_get(output, "size_bytes"), inner);
    if (!json_is_number(size))
        return strcpy(text, "-");
    return qp_size_text((uint64_t)json_number_value(size), text, 32);
}

static void print_scheme(const json_t *output)
{
    char text[6][32];
    const char *gate = json_string_value(json_object_get(output, "gate"));
    const char *const cells[8] = {json_string_value(json_object_get(output, "scheme")),
                                  size_cell(output, "quantized", text[0]),
                                  share(output, "size_bytes", 0, "%.1f %%", text[1]),
                                  cell(output, "perplexity", "quantized", 1, "%.4f", text[2]),
                                  share(output, "perplexity", -1, "%+.2f %%", text[3]),
                                  cell(output, "kl_divergence", NULL, 1, "%.5f", text[4]),
                                  cell(output, "top1_agreement", NULL, 100, "%.2f %%", text[5]),
                                  gate ? "not published" : ""};
    print_row(cells);
}

/* The first output that has the original's figures has them for all. */
static void print_original(const json_t *outputs)
{
    char text[2][32] = {"-", "-"};
    size_t i;
    json_t *output;
    json_array_foreach(outputs, i, output) {
        if (strcmp(text[0], "-") == 0)
            size_cell(output, "original", text[0]);
        if (strcmp(text[1], "-") == 0)
            cell(output, "perplexity", "original", 1, "%.4f", text[1]);
    }
    print_row((const char *const[8]){"original", text[0], "", text[1], "", "", "", ""});
}

static void print_comparison(const json_t *outputs)
{
    size_t i;
    json_t *output;
    print_row(
        (const char *const[8]){"scheme", "size", "of it", "perplexity", "change", "KL divergence", "same choice", ""});
    print_original(outputs);
    json_array_foreach(outputs, i, output)
        print_scheme(output);
    printf("\n");
}

/* ---- the whole ---- */

/* "41.2 s  76 %": the least time, and what share of the time it is. */
static const char *roofline_text(const json_t *object, char text[64])
{
    char least[32];
    const json_t *share_of_roofline = json_object_get(object, "share_of_roofline");
    *text = '\0';
    if (!json_is_number(json_object_get(object, "roofline_seconds")))
        return text;
    qp_seconds_text(number(object, "roofline_seconds"), least, sizeof least);
    if (json_is_number(share_of_roofline))
        snprintf(text, 64, "%s %5.1f %%", least, 100 * json_number_value(share_of_roofline));
    else
        snprintf(text, 64, "%s", least);
    return text;
}

static void print_stage(const json_t *stage)
{
    char wall[32], busy[32], memory[32], own[32], least[64];
    printf("  %-22s %14s %14s %14s %14s %18s\n", json_string_value(json_object_get(stage, "name")),
           qp_seconds_text(number(stage, "wall_seconds"), wall, sizeof wall),
           qp_seconds_text(number(stage, "busy_seconds"), busy, sizeof busy),
           qp_size_text((uint64_t)number(stage, "peak_anonymous_bytes"), own, sizeof own),
           qp_size_text((uint64_t)number(stage, "peak_rss_bytes"), memory, sizeof memory), roofline_text(stage, least));
}

static void print_stages(const json_t *report)
{
    char wall[32], least[64];
    size_t i;
    json_t *item;
    bool measured = json_is_number(json_object_get(report, "roofline_seconds"));
    printf("  %-22s %14s %14s %14s %14s %18s\n", "stage", "wall", "busy", "peak memory", "with files",
           measured ? "roofline, share" : "");
    json_array_foreach(json_object_get(report, "stages"), i, item)
        print_stage(item);
    printf("  %-22s %14s %14s %14s %14s %18s\n", "the whole run",
           qp_seconds_text(number(report, "wall_seconds"), wall, sizeof wall), "", "", "",
           roofline_text(report, least));
    printf("%s\n", measured ? "" : "  " QP_NO_PEAKS "\n");
}

void qp_print_table(const json_t *report, const char *report_path)
{
    size_t i;
    json_t *item;
    const json_t *outputs = json_object_get(report, "outputs");
    printf("\n");
    if (json_array_size(outputs) > 1)
        print_comparison(outputs);
    else if (json_array_size(outputs) == 1)
        print_output(json_array_get(outputs, 0));
    print_stages(report);
    json_array_foreach(outputs, i, item) {
        const char *path = json_string_value(json_object_get(item, "path"));
        if (path)
            printf("  output  %s (%s)\n", path, json_string_value(json_object_get(item, "scheme")));
    }
    printf("  report  %s\n", report_path);
}
