/* The forward of each family against transformers' logits in float64 (golden/families.py). */
#include <criterion/criterion.h>
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/file.h"
#include "libstage/network/families/family.h"
#include "tests/support/golden.h"

enum { LENGTH = 12, VOCAB = 64, LOGITS = LENGTH * VOCAB };

static void read_logits(const char *family, float *out)
{
    char path[512];
    snprintf(path, sizeof path, SOURCE_DIR "/tests/unit/golden/families/%s/logits.bin", family);
    FILE *file = fopen(path, "rb");
    cr_assert(file, "%s is missing: run golden/families.py", path);
    cr_assert_eq(fread(out, sizeof *out, LOGITS, file), LOGITS, "%s", path);
    fclose(file);
}

/* Within 1e-4 of the largest logit. A case is a family, or FAMILY.WHAT. */
static void same_logits(const char *name, const char *family, const char *backend)
{
    static float expected[LOGITS], found[LOGITS];
    char path[512];
    int32_t ids[LENGTH];
    struct qp_windows windows = {ids, 1, LENGTH};
    struct qp_checkpoint *checkpoint;
    struct qp_error err;
    float largest = 0;
    for (int i = 0; i < LENGTH; i++)
        ids[i] = (7 * i * i + 3 * i + 1) % VOCAB;
    read_logits(name, expected);
    for (int i = 0; i < LOGITS; i++)
        largest = fmaxf(largest, fabsf(expected[i]));
    snprintf(path, sizeof path, SOURCE_DIR "/tests/unit/golden/families/%s", name);
    cr_assert_eq(qp_checkpoint_open(path, &checkpoint, &err), 0, "%s", err.message);
    cr_assert_str_eq(checkpoint->arch.model_type, family, "%s", name);
    cr_assert_eq(network_logits(checkpoint, &windows, qp_kernels_open(backend), found, &err), 0, "%s", err.message);
    double worst = largest_difference(LOGITS, found, expected) / (double)largest;
    cr_expect_leq(worst, 1e-4, "%s on %s: %g of the largest logit", name, backend, worst);
    qp_checkpoint_close(checkpoint);
}

Test(families, logits_are_those_of_transformers)
{
    static const char *const more[][2] = {{"ministral3.tempered", "ministral3"},
                                          {"apertus.theta", "apertus"},
                                          {"opt.post", "opt"},
                                          {"gpt2", "opt"},
                                          {"gpt2.bare", "opt"},
                                          {"gemma3", "gemma3"},
                                          {"mistral3", "mistral3"}};
    for (const struct qp_family *const *f = qp_families(); *f; f++) {
        same_logits((*f)->name, (*f)->name, "ref");
        same_logits((*f)->name, (*f)->name, "cpu");
    }
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        same_logits(more[i][0], more[i][1], "ref");
        same_logits(more[i][0], more[i][1], "cpu");
    }
}

/* A checkpoint that says neither how wide heads nor how wide windows are (golden/families.json). */
static void same_defaults(const char *family, const json_t *expected)
{
    char path[512];
    json_t *config;
    struct qp_arch arch;
    struct qp_error err;
    const json_t *windows = json_object_get(expected, "windows");
    snprintf(path, sizeof path, SOURCE_DIR "/tests/unit/golden/families/%s/config.json", family);
    cr_assert_eq(qp_read_json(path, 1 << 16, &config, &err), 0, "%s", err.message);
    json_object_del(config, "head_dim");
    json_object_del(config, "sliding_window");
    json_object_set_new(config, "max_position_embeddings", json_integer(100000));
    cr_assert_eq(qp_arch_parse(config, family, &arch, &err), 0, "%s", err.message);
    cr_expect_eq(arch.head_dim, json_integer_value(json_object_get(expected, "head_dim")), "%s: heads of %d", family,
                 arch.head_dim);
    cr_assert_eq((int64_t)json_array_size(windows), arch.layers);
    for (int64_t i = 0; i < arch.layers; i++) {
        int64_t window = qp_layer_type(&arch, i)->attention.window;
        cr_expect_eq(window, json_integer_value(json_array_get(windows, (size_t)i)), "%s: layer %d has a window of %d",
                     family, (int)i, (int)window);
    }
    json_decref(config);
}

/* A checkpoint that leaves its sizes to transformers' class (golden/families.json). */
static void same_sizes(const char *family, const json_t *expected)
{
    char path[512];
    const char *key;
    json_t *config, *value;
    struct qp_arch arch;
    struct qp_error err;
    snprintf(path, sizeof path, SOURCE_DIR "/tests/unit/golden/families/%s/config.json", family);
    cr_assert_eq(qp_read_json(path, 1 << 16, &config, &err), 0, "%s", err.message);
    json_object_foreach((json_t *)expected, key, value)
        json_object_del(config, key);
    cr_assert_eq(qp_arch_parse(config, family, &arch, &err), 0, "%s", err.message);
    cr_expect_eq(arch.heads, json_integer_value(json_object_get(expected, "num_attention_heads")), "%s", family);
    cr_expect_eq(arch.kv_heads, json_integer_value(json_object_get(expected, "num_key_value_heads")), "%s", family);
    cr_expect_eq(arch.vocab, json_integer_value(json_object_get(expected, "vocab_size")), "%s", family);
    cr_expect_eq(arch.max_length, json_integer_value(json_object_get(expected, "max_position_embeddings")), "%s",
                 family);
    json_decref(config);
}

Test(families, widths_by_default_are_those_of_transformers)
{
    json_t *all;
    struct qp_error err;
    cr_assert_eq(qp_read_json(SOURCE_DIR "/tests/unit/golden/families.json", 1 << 16, &all, &err), 0, "%s",
                 err.message);
    for (const struct qp_family *const *f = qp_families(); *f; f++) {
        const json_t *expected = json_object_get(all, (*f)->name);
        same_defaults((*f)->name, expected);
        if (json_object_get(expected, "sizes"))
            same_sizes((*f)->name, json_object_get(expected, "sizes"));
    }
    json_decref(all);
}

static bool is_ignored(const struct qp_wrapper *wrapper, const char *module)
{
    for (size_t i = 0; i < sizeof wrapper->ignore / sizeof *wrapper->ignore; i++) {
        regex_t regex;
        cr_assert(wrapper->ignore[i], "%s has too few expressions", wrapper->name);
        cr_assert_eq(strncmp(wrapper->ignore[i], "re:", 3), 0);
        cr_assert_eq(regcomp(&regex, wrapper->ignore[i] + 3, REG_EXTENDED | REG_NOSUB), 0);
        bool matches = regexec(&regex, module, 0, NULL, 0) == 0;
        regfree(&regex);
        if (matches)
            return true;
    }
    return false;
}

/* Of a multimodal model's tensors each is either the text part's or one that engines are told to leave alone. */
Test(families, engines_leave_alone_what_is_not_text)
{
    for (const struct qp_wrapper *const *w = qp_wrappers(); *w; w++) {
        struct qp_checkpoint *checkpoint;
        struct qp_error err;
        char path[512];
        snprintf(path, sizeof path, SOURCE_DIR "/tests/unit/golden/families/%s", (*w)->name);
        cr_assert_eq(qp_checkpoint_open(path, &checkpoint, &err), 0, "%s", err.message);
        for (size_t i = 0; i < checkpoint->safetensors->count; i++) {
            const char *name = checkpoint->safetensors->tensors[i]->name;
            bool text = strncmp(name, "language_model.", strlen("language_model.")) == 0;
            cr_expect_neq(is_ignored(*w, name), text, "%s: %s", (*w)->name, name);
        }
        qp_checkpoint_close(checkpoint);
    }
}
