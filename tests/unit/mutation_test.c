/* Valid files with seeded mutations: no parser may crash, read out of bounds or leak (run it under ASan), and what is
 * still accepted must be safe to use. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/random.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/formats/gguf.h"
#include "libstage/formats/safetensors.h"
#include "tests/support/scratch.h"

#define GOLDEN SOURCE_DIR "/tests/unit/golden/formats/"
#define ROUNDS 4000

TestSuite(mutation, .init = scratch_make, .fini = scratch_drop);

static uint64_t state;

static uint64_t next(uint64_t below)
{
    return qp_random(&state) % below;
}

/* Writes a number that parsers stumble on over `width` bytes. */
static void plant(unsigned char *at, size_t width)
{
    static const uint64_t nasty[] = {0,          1,          0x7f,       0x80,       0xff,      0x7fffffff,
                                     0x80000000, 0xffffffff, 1ull << 32, 1ull << 61, INT64_MAX, UINT64_MAX};
    uint64_t value = nasty[next(sizeof nasty / sizeof *nasty)];
    for (size_t i = 0; i < width; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

/* Mutates the first `reach` bytes of `bytes` a few times; returns the new size. */
static size_t mutate(unsigned char *bytes, size_t size, size_t reach)
{
    for (uint64_t n = 1 + next(4); n > 0; n--) {
        size_t at = next(reach - 8);
        switch (next(6)) {
        case 0:
            bytes[at] ^= (unsigned char)(1 << next(8));
            break;
        case 1:
            bytes[at] = (unsigned char)next(256);
            break;
        case 2:
            plant(bytes + at, (size_t)1 << next(4));
            break;
        case 3:
            memmove(bytes + at, bytes + next(reach - 8), 8);
            break;
        case 4:
            bytes[at] = (unsigned char)"0123456789-[]{},:\"\\ue."[next(22)];
            break;
        default:
            if (next(8) == 0)
                size = 8 + next(size - 8);
        }
        if (size < reach)
            break;
    }
    return size;
}

typedef bool open_fn(const char *path);

/* Opens the file whole, then with ROUNDS mutations of its first `reach` bytes; some must be refused. */
static void attack(const char *golden, size_t reach, open_fn *open_it, uint64_t seed)
{
    size_t size;
    int refused = 0;
    qp_auto_free unsigned char *original = scratch_read(golden, &size), *copy = malloc(size);
    cr_assert(open_it(golden), "%s", golden);
    for (int i = 0; i < ROUNDS; i++) {
        state = seed + (uint64_t)i;
        memcpy(copy, original, size);
        refused += !open_it(scratch_write("mutant", copy, mutate(copy, size, reach < size ? reach : size)));
    }
    cr_assert_gt(refused, ROUNDS / 10);
}

static bool open_gguf(const char *path)
{
    struct qp_gguf *file = NULL;
    struct qp_error err = {0};
    if (qp_gguf_open(path, &file, &err) < 0) {
        cr_assert(err.code == QP_ERR_INPUT && err.message[0], "%d %s", err.code, err.message);
        return false;
    }
    for (size_t i = 0; i < file->count; i++) {
        const struct qp_gguf_tensor *t = &file->tensors[i];
        qp_auto_free float *out = malloc((size_t)t->elements * sizeof *out);
        int64_t cols = t->rank > 0 ? t->shape[t->rank - 1] : 1;
        qp_gguf_rows(file, t, 0, t->elements / cols, out);
    }
    qp_gguf_close(file);
    return true;
}

Test(mutation, gguf)
{
    attack(GOLDEN "blocks.gguf", 1500, open_gguf, 1);
}

/* Reads every byte of every tensor. */
static bool open_safetensors(const char *path)
{
    struct qp_safetensors *set = NULL;
    struct qp_error err = {0};
    if (qp_safetensors_open(path, &set, &err) < 0) {
        cr_assert(err.code == QP_ERR_INPUT && err.message[0], "%d %s", err.code, err.message);
        return false;
    }
    unsigned sum = 0;
    for (size_t i = 0; i < set->count; i++)
        for (size_t k = 0; k < set->tensors[i]->bytes; k++)
            sum += ((const unsigned char *)set->tensors[i]->data)[k];
    qp_safetensors_close(set);
    return sum != 1;
}

Test(mutation, safetensors)
{
    attack(GOLDEN "blocks.safetensors", 900, open_safetensors, 2);
}

static bool open_config(const char *path)
{
    struct qp_scheme *scheme = NULL;
    struct qp_error err = {0};
    size_t size;
    json_error_t at;
    qp_auto_free char *text = scratch_read(path, &size);
    qp_auto_json json_t *configs = json_loadb(text, size, 0, &at);
    int read = 0;
    const char *name;
    json_t *config;
    json_object_foreach(configs, name, config) {
        if (qp_compressed_parse(config, path, &scheme, &err) == 0) {
            cr_assert_not_null(scheme->source);
            qp_scheme_for(scheme, "model.layers.0.mlp.up_proj");
            qp_scheme_free(scheme);
            read++;
        } else {
            cr_assert(err.code == QP_ERR_INPUT && err.message[0], "%d %s", err.code, err.message);
        }
    }
    return read > 0 && read == (int)json_object_size(configs);
}

Test(mutation, compressed_tensors_config)
{
    attack(GOLDEN "configs.json", 4000, open_config, 3);
}
