/* Activations of MLPs, with or without a gate (gated linear units: Shazeer 2020). */
#ifndef QUANTPIPE_KERNELS_GATED_H
#define QUANTPIPE_KERNELS_GATED_H

#include <stdint.h>

enum qp_act {
    QP_ACT_SILU,      /* x / (1 + exp(-x)) */
    QP_ACT_GELU,      /* x (1 + erf(x / sqrt(2))) / 2 (Hendrycks and Gimpel 2016) */
    QP_ACT_GELU_TANH, /* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 (the same) */
    QP_ACT_RELU,      /* 0 below 0, else x */
    QP_ACT_RELU2,     /* the square of that (So et al. 2021) */
    QP_ACT_XIELU      /* positive x^2 + linear x above 0, else negative (exp(min(x, eps)) - 1 - x) + linear x (Huang and
                         Schlag 2024) */
};

/* The numbers of XIELU, which are learned; eps is below 0. */
struct qp_xielu {
    float positive, negative, linear, eps;
};

/* y[r, i] = act(gate[r, i]) * up[r, i], or act(gate[r, i]) where up is NULL. Rows of gate and up are `stride` >= n
 * floats apart, so that one matrix [gate | up] can be read in place. RELU and RELU2 are exact: each product is rounded.
 * SILU has the tolerance 1e-6 relative, GELU and GELU_TANH 1e-6 |gate up|, and all three 1e-35 max(1, |up|) where the
 * result is that small. XIELU has 1e-6 |up| times the sum of the sizes of its terms, where none overflows. */
struct qp_gated {
    enum qp_act act;
    int64_t rows, n, stride;
    const float *gate, *up;
    struct qp_xielu xielu; /* of QP_ACT_XIELU */
};

/* y[rows, n], contiguous; it may be gate or up if stride == n, and overlaps neither otherwise. */
typedef void qp_gated_fn(const struct qp_gated *g, float *y);

/* The same, y rounded to BF16 (half to even); it overlaps neither gate nor up. */
typedef void qp_gated_bf16_fn(const struct qp_gated *g, uint16_t *y);

qp_gated_fn qp_gated_ref;
qp_gated_bf16_fn qp_gated_bf16_ref;

#endif
