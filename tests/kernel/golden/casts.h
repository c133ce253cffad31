/* Made by make_casts.py with torch 2.14.0. */
static const struct {
    enum qp_dtype dtype;
    unsigned nan;
    uint64_t encoded, decoded;
} casts[] = {
    {QP_F16, 0x7e00, 0x46013ce3d346cfde, 0x1f87f165810ea7c5},
    {QP_BF16, 0x7fc0, 0x6b59c150437cc165, 0xcf8e09175d8f5ba5},
    {QP_F8_E4M3, 0x7f, 0x4493670737c1ef65, 0xdad1d9c50f749ca5},
    {QP_F8_E5M2, 0x7f, 0xf5bb111c34c08ce5, 0x6c1e56b6fb09c905},
};
