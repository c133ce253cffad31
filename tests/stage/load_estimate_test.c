/* What load says that it holds, against numbers worked out by hand. */
#include <criterion/criterion.h>

#include "tests/support/estimates.h"

static struct qp_estimate of_model(const char *path, int64_t vocab)
{
    json_t *question = estimate_question(NULL, NULL, NULL, 0), *model = json_object_get(question, "model");
    json_object_set_new(model, "path", json_string(path));
    json_object_set_new(json_object_get(model, "config"), "vocab_size", json_integer(vocab));
    return estimate_of(question);
}

Test(load_estimate, files_are_mapped)
{
    struct qp_estimate e = of_model("tiny", 128);
    cr_assert(e.memory_known);
    cr_expect_eq(e.emitted_bytes + e.block_bytes + e.fixed_bytes, 0);
}

/* Layers of 30,720 weights and two norms, in float32. */
Test(load_estimate, gguf_is_dequantized)
{
    struct qp_estimate e = of_model("tiny.gguf", 128);
    cr_expect_eq(e.emitted_bytes, 4.0 * (30720 + 2 * 64));
    cr_expect_eq(e.block_bytes, 0, "the embedding is smaller");
}

/* A segment for 25,600,000 bytes grows in steps of 2 MiB; the norm goes with the head. */
Test(load_estimate, an_embedding_of_gguf_may_be_larger_than_a_layer)
{
    struct qp_estimate e = of_model("tiny.gguf", 100000);
    double layer = 4.0 * (30720 + 2 * 64);
    cr_expect_eq(e.emitted_bytes, layer);
    cr_expect_eq(e.block_bytes, 13 * 2097152.0 + 4 * 64 - layer);
}
