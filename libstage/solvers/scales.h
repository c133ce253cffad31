/* Scales of weights: what a scheme's granularity means for a matrix, and the ways to choose its scales. */
#ifndef QUANTPIPE_SOLVERS_SCALES_H
#define QUANTPIPE_SOLVERS_SCALES_H

#include "kernels/kernels.h"
#include "libstage/base/error.h"
#include "libstage/tensor/scheme/scheme.h"

/* How the scale of a group is chosen among those of its shrunken range (kernels/scale_search.h). */
enum qp_scale_method {
    QP_SCALES_MINMAX,   /* the range itself; with four_over_six 1.5 times it where that has the lower sum d^2 */
    QP_SCALES_MSE,      /* least sum |d|^norm */
    QP_SCALES_WEIGHTED, /* least sum diag(H)_j d_j^2 */
    QP_SCALES_HESSIAN,  /* least dᵀ H_g d, H_g the group's diagonal block of H */
};

struct qp_scale_choice {
    enum qp_scale_method method;
    const float *h;        /* [cols, cols] Hessian; of WEIGHTED and HESSIAN */
    float shrink;          /* smallest share of the range that is tried: 0.4, say */
    int steps;             /* candidates: 40, say */
    double norm;           /* of MSE; 0 for 3; GPTQ's reference and llm-compressor have 2.4, modelopt has 2 */
    const float *diagonal; /* [cols], that of h, when it is at hand; WEIGHTED then needs no h */
};

/* A matrix w[rows, cols] that `spec` is to be given scales for; `format` is the spec's, with its global scale set. */
struct qp_unscaled {
    const struct qp_quant_spec *spec;
    const struct qp_number_format *format;
    int64_t rows, cols;
    const float *w;
};

/* Chooses the scales (and zero points) of a matrix.
 * scale and zero hold qp_scale_count(rows, cols, qp_spec_group(spec, cols)); zero is not looked at when symmetric.
 * Two-dimensional blocks and whole tensors are searched as one group each, with HESSIAN as with WEIGHTED. */
int qp_choose_scales(const struct qp_kernels *kernels, const struct qp_unscaled *m,
                     const struct qp_scale_choice *choice, float *scale, int8_t *zero, struct qp_error *err);

/* NVFP4's global scale 448 * 6 / absmax (methods of compressed-tensors and modelopt, where it is the reciprocal), with
 * four_over_six 256 * 6 / absmax, so that 1.5 times the largest group's scale is an E4M3 number too (384; arXiv
 * 2512.02010); 1 when absmax is 0 or not finite. Linears that engines fuse (q, k, v; gate, up) share the one of their
 * largest, with four_over_six when one of them has it. */
float qp_global_scale(float absmax, bool four_over_six);

/* The nearest scale that the number format's scales can hold (F32, F16, BF16, E4M3 below format->global). */
float qp_held_scale(const struct qp_number_format *format, float scale);

#endif
