/* usage: dump_formats CASES FOLDER GGUF...   what tests/interop/formats.py reads with other programs
 *
 * From CASES (compressed_tensors.safetensors and configs.json of tests/unit/golden/formats) packs every linear again
 * into FOLDER as a sharded checkpoint, and writes FOLDER/configs.json with the quantization_config of each. From the
 * n-th GGUF the first rows of every tensor, dequantized, go to FOLDER/gguf-n. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/formats/gguf.h"
#include "libstage/formats/safetensors.h"

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

/* Packs one linear under its scheme and writes its tensors. */
static int pack(struct dump *d, const char *name, const struct qp_scheme *scheme)
{
    const struct qp_tensor *codes = part(d, name, "/codes"), *zero = part(d, name, "/zero");
    struct qp_quantized q = {.grid = scheme->base.weights.grid,
                             .rows = codes->shape[0],
                             .cols = codes->shape[1],
                             .group = qp_spec_group(&scheme->base.weights, codes->shape[1]),
                             .codes = codes->data,
                             .scale = part(d, name, "/scale")->data,
                             .zero = zero ? zero->data : NULL};
    struct qp_tensor *out[QP_COMPRESSED_MAX];
    size_t count = 0;
    int r = qp_compressed_pack(name, &scheme->base, &q, out, &count, &d->err);
    for (size_t i = 0; i < count; i++) {
        if (r == 0)
            r = qp_safetensors_put(d->writer, out[i], &d->err);
        qp_tensor_unref(out[i]);
    }
    return r;
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
    json_object_foreach(cases, name, config)
        if (dump_case(d, name, config) < 0)
            return d->err.code;
    struct qp_safetensors_writer *writer = d->writer;
    d->writer = NULL;
    if (qp_safetensors_finish(writer, NULL, &d->err) < 0)
        return d->err.code;
    return qp_write_json(written, d->configs, &d->err);
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
    struct qp_safetensors_writer *writer = d->writer;
    d->writer = NULL;
    if (r == 0)
        r = qp_safetensors_finish(writer, NULL, &d->err);
    else
        qp_safetensors_abandon(writer);
    qp_gguf_close(file);
    return r;
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
    if (r < 0)
        fprintf(stderr, "dump_formats: %s\n", d.err.message);
    qp_safetensors_abandon(d.writer);
    qp_safetensors_close(d.cases);
    json_decref(d.configs);
    return -r;
}
