#include "tests/kernel/harness.h"

/* Words that compressed-tensors 0.20 writes (test data of its pack_to_int32). */
static const struct {
    int bits, cols, words;
    int8_t codes[32];
    uint32_t want[3];
} golden[] = {
    {4, 16, 2, {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}, {0x76543210, 0xfedcba98}},
    {4, 8, 1, {0}, {0x88888888}},
    {8, 2, 1, {1, 2}, {0x00008281}},
    {3,
     32,
     3,
     {-4, -3, -2, -1, 0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3},
     {0x88fac688, 0xc688fac6, 0xfac688fa}},
    {4, 3, 1, {-8, 7, -1}, {0x000007f0}},
};

static void expect_golden(const struct qp_kernels *k, const char *name)
{
    for (int i = 0; i < COUNT(golden); i++) {
        int32_t words[3] = {-1, -1, -1};
        int8_t codes[32];
        cr_assert_eq(qp_packed_words(golden[i].bits, golden[i].cols), golden[i].words);
        k->pack(golden[i].bits, 1, golden[i].cols, golden[i].codes, words);
        for (int w = 0; w < golden[i].words; w++)
            cr_assert_eq((uint32_t)words[w], golden[i].want[w], "%s: case %d word %d is %08x", name, i, w,
                         (unsigned)words[w]);
        k->unpack(golden[i].bits, 1, golden[i].cols, words, codes);
        EXPECT_SAME_BYTES(codes, golden[i].codes, golden[i].cols, "%s: case %d", name, i);
    }
}

Test(pack, golden_words)
{
    expect_golden(reference(), "reference");
    EACH_RUN(run)
    expect_golden(run.k, run.name);
}

static void compare(int bits, int64_t rows, int64_t cols)
{
    uint64_t seed = (uint64_t)(bits * 1000 + cols);
    int64_t count = rows * cols, words = rows * qp_packed_words(bits, cols);
    int8_t *codes = fresh(count, 1), *back = fresh(count, 1);
    int32_t *want = fresh(words, 4);

    for (int64_t i = 0; i < count; i++)
        codes[i] = (int8_t)((int)(next_random(&seed) % (1u << bits)) - (1 << (bits - 1)));
    reference()->pack(bits, rows, cols, codes, want);
    reference()->unpack(bits, rows, cols, want, back);
    EXPECT_SAME_BYTES(back, codes, count, "reference back, %d bits", bits);
    EACH_RUN(run)
    {
        int32_t *got = fresh(words, 4);
        memset(got, 0xa5, (size_t)words * 4);
        run.k->pack(bits, rows, cols, codes, got);
        EXPECT_SAME_BYTES(got, want, words, "%s: %d bits, %lld columns", run.name, bits, (long long)cols);
        memset(back, 0, (size_t)count);
        run.k->unpack(bits, rows, cols, got, back);
        EXPECT_SAME_BYTES(back, codes, count, "%s: back, %d bits, %lld columns", run.name, bits, (long long)cols);
        free(got);
    }
    free(codes);
    free(back);
    free(want);
}

Test(pack, every_width_and_ragged_rows_go_there_and_back)
{
    static const int64_t cols[] = {0, 1, 2, 7, 8, 9, 31, 32, 33, 64, 100, 575, 576};

    for (int bits = 1; bits <= 8; bits++)
        for (int c = 0; c < COUNT(cols); c++)
            compare(bits, 1 + c % 4 * 30, cols[c]);
}
