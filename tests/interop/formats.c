/* usage: dump_formats CASES FOLDER GGUF...   what tests/interop/formats.py reads with other programs
 *
 * From CASES (compressed_tensors.safetensors and configs.json of tests/unit/golden/formats) packs every linear again
 * into FOLDER as a sharded checkpoint, and writes FOLDER/configs.json with the quantization_config of each. From the
 * n-th GGUF the first rows of every tensor, dequantized, go to FOLDER/gguf-n. FOLDER/presets.json gets the
 * quantization_config of every preset that the layout holds, FOLDER/quantized what those presets make of the matrix
 * `weight` of FOLDER/weight.safetensors, with exact: llm-compressor and scales from the range. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/formats/gguf.h"
#include "libstage/formats/safetensors.h"
#include "libstage/solvers/scales.h"

#define SHARD_BYTES 4096
#define ROWS 16

struct dump {
    const char *folder;
    struct qp_safetensors *cases;
    struct qp_safetensors_writer *writer;
    json_t *configs;
    struct qp_error err;
};

static struct qp_tensor *part(const struct dump *d, const char *name, const char *suffix)
{
    qp_auto_free char *full = qp_format("%s%s", name, suffix);
    return qp_safetensors_find(d->cases, full);
}

/* Completes the open file after `r` was 0, and gives it up otherwise. */
static int close_writer(struct dump *d, int r)
{
    struct qp_safetensors_writer *writer = d->writer;
    d->writer = NULL;
    if (r == 0)
        return qp_safetensors_finish(writer, NULL, &d->err);
    qp_safetensors_abandon(writer);
    return r;
}

/* Packs a quantized matrix and writes its tensors. */
static int put_packed(struct dump *d, const char *name, const struct qp_linear_scheme *scheme,
                      const struct qp_quantized *q)
{
    struct qp_tensor *out[QP_COMPRESSED_MAX];
    size_t count = 0;
    int r = qp_compressed_pack(name, scheme, q, out, &count, &d->err);
    for (size_t i = 0; i < count; i++) {
        if (r == 0)
            r = qp_safetensors_put(d->writer, out[i], &d->err);
        qp_tensor_unref(out[i]);
    }
    return r;
}

/* Packs one linear under its scheme and writes its tensors. */
static int pack(struct dump *d, const char *name, const struct qp_scheme *scheme)
{
    const struct qp_tensor *codes = part(d, name, "/codes"), *zero = part(d, name, "/zero");
    struct qp_quantized q = {.format = scheme->base.weights.format,
                             .rows = codes->shape[0],
                             .cols = codes->shape[1],
                             .group = qp_spec_group(&scheme->base.weights, codes->shape[1]),
                             .codes = codes->data,
                             .scale = part(d, name, "/scale")->data,
                             .zero = zero ? zero->data : NULL};
    if (part(d, name, "/global"))
        q.format.global = *(const float *)part(d, name, "/global")->data;
    return put_packed(d, name, &scheme->base, &q);
}

static int dump_case(struct dump *d, const char *name, const json_t *config)
{
    struct qp_scheme *scheme = NULL;
    json_t *ours = NULL;
    qp_auto_json json_t *ignore = json_pack("[s]", "lm_head");
    int r = qp_compressed_parse(config, name, &scheme, &d->err);
    if (r < 0)
        return r;
    qp_scheme_bind(scheme, part(d, name, ".weight_scale")->dtype);
    r = pack(d, name, scheme);
    if (r == 0)
        r = qp_compressed_config(scheme, ignore, &ours, &d->err);
    if (r == 0)
        json_object_set_new(d->configs, name, ours);
    qp_scheme_free(scheme);
    return r;
}

static int dump_cases(struct dump *d, const char *path)
{
    qp_auto_free char *tensors = qp_join(path, "compressed_tensors.safetensors");
    qp_auto_free char *configs = qp_join(path, "configs.json"), *written = qp_join(d->folder, "configs.json");
    qp_auto_json json_t *cases = NULL;
    const char *name;
    json_t *config;
    if (qp_safetensors_open(tensors, &d->cases, &d->err) < 0 || qp_read_json(configs, 1 << 20, &cases, &d->err) < 0 ||
        qp_safetensors_create(d->folder, SHARD_BYTES, d->cases->count, &d->writer, &d->err) < 0)
        return d->err.code;
    int r = 0;
    json_object_foreach(cases, name, config)
        if (r == 0)
            r = dump_case(d, name, config);
    r = close_writer(d, r);
    return r < 0 ? r : qp_write_json(written, d->configs, &d->err);
}

/* Writes the first rows of a tensor of a GGUF file. */
static int dump_rows(struct dump *d, const struct qp_gguf *file, const struct qp_gguf_tensor *t)
{
    const int64_t cols = t->rank > 0 ? t->shape[t->rank - 1] : 1, all = t->elements / cols;
    const int64_t shape[] = {all < ROWS ? all : ROWS, cols};
    qp_auto_tensor struct qp_tensor *out = NULL;
    if (qp_tensor_new(t->name, QP_F32, 2, shape, &out, &d->err) < 0)
        return d->err.code;
    qp_gguf_rows(file, t, 0, shape[0], out->data);
    return qp_safetensors_put(d->writer, out, &d->err);
}

static int dump_gguf(struct dump *d, int number, const char *path)
{
    qp_auto_free char *folder = qp_format("%s/gguf-%d", d->folder, number);
    struct qp_gguf *file = NULL;
    int r = qp_make_folders(folder, &d->err);
    if (r == 0)
        r = qp_gguf_open(path, &file, &d->err);
    if (r == 0)
        r = qp_safetensors_create(folder, UINT64_MAX, file->count, &d->writer, &d->err);
    for (size_t i = 0; r == 0 && i < file->count; i++)
        r = dump_rows(d, file, &file->tensors[i]);
    r = close_writer(d, r);
    qp_gguf_close(file);
    return r;
}

/* ---- presets ---- */

static json_t *exact_mapping(const char *preset, const char *ending, struct qp_error *err)
{
    qp_auto_free char *name = qp_format("%s%s", preset, ending);
    json_t *mapping = qp_preset_mapping(name, err);
    json_object_set_new(mapping, "exact", json_string("llm-compressor"));
    return mapping;
}

/* Rounds `w` to the scheme's number format by the ranges of its groups and writes it as MODULE. */
static int quantize(struct dump *d, const char *module, const struct qp_linear_scheme *scheme,
                    const struct qp_tensor *w)
{
    const struct qp_kernels *k = qp_kernels_open("cpu");
    const struct qp_quant_spec *spec = &scheme->weights;
    const int64_t rows = w->shape[0], cols = w->shape[1], group = qp_spec_group(spec, cols);
    const int64_t count = qp_scale_count(rows, cols, group);
    qp_auto_free float *scale = malloc((size_t)count * sizeof *scale);
    qp_auto_free int8_t *zero = malloc((size_t)count);
    qp_auto_free uint8_t *codes = malloc((size_t)(rows * cols));
    const struct qp_scale_choice choice = {.method = QP_SCALES_MINMAX, .shrink = 1, .steps = 1};
    struct qp_number_format format = spec->format;
    float absmax = 0;
    for (int64_t i = 0; i < w->elements; i++)
        absmax = fmaxf(absmax, fabsf(((const float *)w->data)[i]));
    format.global = format.scale_dtype == QP_F8_E4M3 ? qp_global_scale(absmax, false) : 0;
    if (qp_choose_scales(k, &(struct qp_unscaled){spec, &format, rows, cols, w->data}, &choice, scale, zero, &d->err) <
        0)
        return d->err.code;
    k->quantize(&(struct qp_grouped){&format, rows, cols, group, scale, format.symmetric ? NULL : zero}, w->data,
                codes);
    struct qp_quantized q = {format, rows, cols, group, codes, scale, format.symmetric ? NULL : zero, NULL, NULL};
    return put_packed(d, module, scheme, &q);
}

static int dump_preset(struct dump *d, const char *preset, const char *ending, const struct qp_tensor *w)
{
    qp_auto_json json_t *ignore = json_pack("[s]", "lm_head"), *mapping = exact_mapping(preset, ending, &d->err);
    struct qp_scheme *scheme = NULL;
    json_t *config = NULL;
    int r = mapping ? qp_scheme_parse(mapping, &scheme, &d->err) : d->err.code;
    if (r < 0)
        return r;
    qp_scheme_bind(scheme, QP_F32);
    if (qp_compressed_config(scheme, ignore, &config, &d->err) == 0) { /* else the layout has no place for it */
        json_object_set_new(d->configs, scheme->name, config);
        const struct qp_quant_spec *weights = &scheme->base.weights;
        if (weights->enabled && !weights->four_over_six && !*ending) /* the library has no four over six */
            r = quantize(d, scheme->name, &scheme->base, w);
    }
    qp_scheme_free(scheme);
    return r;
}

static int dump_presets(struct dump *d)
{
    qp_auto_free char *from = qp_join(d->folder, "weight.safetensors"), *to = qp_join(d->folder, "quantized");
    qp_auto_free char *written = qp_join(d->folder, "presets.json");
    struct qp_safetensors *file = NULL;
    json_object_clear(d->configs);
    int r = qp_safetensors_open(from, &file, &d->err);
    if (r == 0)
        r = qp_make_folders(to, &d->err);
    if (r == 0)
        r = qp_safetensors_create(to, UINT64_MAX, 1000, &d->writer, &d->err);
    for (const struct qp_preset *p = qp_presets(); r == 0 && p->name; p++) {
        static const char *const endings[] = {"", "-kv-fp8", "-kv-int8"};
        for (size_t i = 0; r == 0 && i < 3; i++)
            r = dump_preset(d, p->name, endings[i], qp_safetensors_find(file, "weight"));
    }
    r = close_writer(d, r);
    qp_safetensors_close(file);
    return r < 0 ? r : qp_write_json(written, d->configs, &d->err);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: dump_formats CASES FOLDER GGUF...\n");
        return 2;
    }
    struct dump d = {.folder = argv[2], .configs = json_object()};
    int r = qp_make_folders(d.folder, &d.err);
    if (r == 0)
        r = dump_cases(&d, argv[1]);
    for (int i = 3; r == 0 && i < argc; i++)
        r = dump_gguf(&d, i - 2, argv[i]);
    if (r == 0)
        r = dump_presets(&d);
    if (r < 0)
        fprintf(stderr, "dump_formats: %s\n", d.err.message);
    qp_safetensors_close(d.cases);
    json_decref(d.configs);
    return -r;
}
