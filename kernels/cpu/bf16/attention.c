#include "kernels/cpu/bf16/bf16.h"
#include "kernels/cpu/vector/attention_tile.h"

typedef uint32_t element;
typedef __m512bh operand;
#define load_operand(p) v_pairs(p)
#define repeat_operand(p) v_pair(p)
#define multiply_add(sum, x, y) _mm512_dpbf16_ps(sum, x, y)
#include "kernels/cpu/vector/attention_block.h"

#define PAIR_STEP 1
#define products_begin()
#define products_end()
#include "kernels/cpu/bf16/attention_pairs.h"

void qp_attention_bf16_pairs(const struct qp_attention *a, uint16_t *out)
{
    attend_all(a, out);
}
