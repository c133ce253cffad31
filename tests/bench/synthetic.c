/* Writes a Llama checkpoint of random weights, to time what depends on sizes alone: BF16, N(0, 0.02), norms of 1.
 * Usage: bench_synthetic FOLDER [SIZE [LAYERS]]; sizes are in the table below, about that many parameters, 1B by
 * default, with fewer layers if so many are asked for.
 * The same bytes everywhere and at every time. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/codec.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/safetensors.h"
#include "libstage/network/parts.h"

static const struct size {
    const char *name;
    int layers, hidden, intermediate, heads, kv_heads, vocabulary;
} sizes[] = {
    {"0.1B", 9, 768, 2048, 12, 4, 49152},
    {"0.3B", 16, 1024, 2816, 16, 4, 49152},
    {"1B", 22, 2048, 5632, 32, 4, 49152}, /* TinyLlama's shape: 2.3 GB */
    {"3B", 26, 3072, 8192, 24, 8, 49152},
    {"8B", 32, 4096, 14336, 32, 8, 128256},  /* Llama 3's: 2.1 GB, and 0.44 a layer */
    {"70B", 80, 8192, 28672, 64, 8, 128256}, /* 4.2 GB, and 1.7 a layer */
};
enum { QUANTILES = 1 << 16 };

static uint16_t quantiles[QUANTILES]; /* of N(0, 0.02): a uniform 16-bit number picks a normal one */

static void fill_quantiles(void)
{
    for (int i = 0; i < QUANTILES; i++) {
        double below = (i + 0.5) / QUANTILES, low = -8, high = 8;
        while (high - low > 1e-9) {
            double middle = (low + high) / 2;
            if (0.5 * erfc(-middle * M_SQRT1_2) < below)
                low = middle;
            else
                high = middle;
        }
        quantiles[i] = qp_f32_to_bf16((float)(0.02 * low));
    }
}

/* splitmix64 (Steele, Lea and Flood 2014), four numbers of 16 bits a step. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void fill(struct qp_tensor *t, uint64_t seed)
{
    enum { PIECE = 1 << 16 };
    uint16_t *v = t->data;
#pragma omp parallel for
    for (int64_t first = 0; first < t->elements; first += PIECE) {
        uint64_t state = seed << 40 ^ (uint64_t)first, bits = 0;
        for (int64_t i = first; i < first + PIECE && i < t->elements; i++, bits >>= 16) {
            if (i % 4 == 0)
                bits = next(&state);
            v[i] = t->rank == 1 ? qp_f32_to_bf16(1) : quantiles[bits & 0xffff];
        }
    }
}

static json_t *config_of(const struct size *s)
{
    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:f, s:i, s:b, s:s, s:i, s:i}",
                     "architectures", "LlamaForCausalLM", "model_type", "llama", "num_hidden_layers", s->layers,
                     "hidden_size", s->hidden, "intermediate_size", s->intermediate, "num_attention_heads", s->heads,
                     "num_key_value_heads", s->kv_heads, "vocab_size", s->vocabulary, "hidden_act", "silu",
                     "rms_norm_eps", 1e-5, "rope_theta", 10000.0, "max_position_embeddings", 2048,
                     "tie_word_embeddings", 0, "torch_dtype", "bfloat16", "bos_token_id", 1, "eos_token_id", 2);
}

static int put_block(struct qp_safetensors_writer *writer, const struct qp_arch *arch, int64_t block, uint64_t *seed,
                     struct qp_error *err)
{
    struct qp_part part;
    int r = 0;
    QP_EACH_PART(part, arch, block)
    {
        char name[256];
        int64_t shape[2];
        qp_auto_tensor struct qp_tensor *t = NULL;
        int rank = qp_part_shape(arch, &part, shape);
        if (r == 0)
            r = qp_tensor_new(qp_part_name(arch, &part, name, sizeof name), QP_BF16, rank, shape, &t, err);
        if (r == 0) {
            fill(t, ++*seed);
            r = qp_safetensors_put(writer, t, err);
        }
    }
    return r;
}

static int write_model(const char *folder, const struct size *size, struct qp_error *err)
{
    struct qp_arch arch;
    struct qp_safetensors_writer *writer;
    uint64_t seed = 0, bytes;
    qp_auto_json json_t *config = config_of(size);
    qp_auto_free char *path = qp_join(folder, "config.json");
    if (!config || !path)
        return qp_fail_memory(err, 0, "config.json");
    int r = qp_make_folders(folder, err);
    if (r == 0)
        r = qp_write_json(path, config, err);
    if (r == 0)
        r = qp_arch_parse(config, path, &arch, err);
    if (r == 0)
        r = qp_safetensors_create(folder, UINT64_MAX, 16 * (size_t)size->layers, &writer, err);
    if (r < 0)
        return r;
    for (int64_t b = 0; r == 0 && b < qp_arch_blocks(&arch); b++)
        r = put_block(writer, &arch, b, &seed, err);
    if (r < 0) {
        qp_safetensors_abandon(writer);
        return r;
    }
    r = qp_safetensors_finish(writer, &bytes, err);
    if (r == 0)
        printf("%s: %.2f B parameters, %.3f GB\n", folder, (double)qp_arch_parameters(&arch) * 1e-9,
               (double)bytes * 1e-9);
    return r;
}

int main(int argc, char **argv)
{
    const char *name = argc > 2 ? argv[2] : "1B";
    int layers = argc > 3 ? atoi(argv[3]) : INT_MAX;
    struct qp_error err;
    for (size_t i = 0; argc > 1 && layers > 0 && i < sizeof sizes / sizeof *sizes; i++)
        if (strcmp(sizes[i].name, name) == 0) {
            struct size size = sizes[i];
            size.layers = layers < size.layers ? layers : size.layers;
            fill_quantiles();
            if (write_model(argv[1], &size, &err) == 0)
                return 0;
            fprintf(stderr, "bench_synthetic: %s\n", err.message);
            return -err.code;
        }
    fputs("usage: bench_synthetic FOLDER [0.1B | 0.3B | 1B | 3B | 8B | 70B [LAYERS]]\n", stderr);
    return 2;
}
