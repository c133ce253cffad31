/* What a stage will do and hold, before it runs: what a stage's `estimate` callback is told and tells, and the formulas
 * of parts that several stages have in common. They count what kernels/work.h counts, so that a plan and the report of
 * its run can be compared. */
#ifndef QUANTPIPE_NETWORK_ESTIMATE_H
#define QUANTPIPE_NETWORK_ESTIMATE_H

#include "kernels/kernels.h"
#include "kernels/work.h"
#include "libstage/base/json.h"
#include "libstage/network/arch.h"
#include "libstage/tensor/scheme/scheme.h"

/* What is known of the stage's input; its parameters are in its state. All is borrowed. */
struct qp_task {
    const char *path; /* of the model */
    const struct qp_arch *arch;
    const struct qp_scheme *scheme;   /* bound to arch->dtype */
    const json_t *wants;              /* array of names: what stages downstream ask it to collect */
    const json_t *upstream;           /* array of names: what stages upstream add to blocks */
    int64_t windows, length;          /* of the text that it reads; 0: none */
    bool feedback;                    /* its blocks come back to it, quantized */
    const struct qp_kernels *kernels; /* what it will compute with */
};

enum { QP_PROVIDES_MAX = 4 };

/* Bytes of memory count what the process has of its own and the shared memory that it makes, not pages of mapped files,
 * and not what any process of this program has before its first unit. */
struct qp_estimate {
    bool work_known; /* else it depends on what is not known before the run */
    struct qp_work work;
    bool memory_known;
    double fixed_bytes;                    /* held from the first unit to the last */
    double block_bytes;                    /* held on top while a block is in process: the most of any block */
    double emitted_bytes;                  /* shared memory of the tensors that it adds to a block, held until that is
                                              acknowledged: the most of any block */
    const char *provides[QP_PROVIDES_MAX]; /* what it adds to blocks besides what it is asked to collect; constant */
};

/* Whether a name is in task->wants, in task->upstream. */
bool qp_task_wants(const struct qp_task *task, const char *what);
bool qp_task_has(const struct qp_task *task, const char *what);

/* Tokens of the text. */
int64_t qp_task_tokens(const struct qp_task *task);

/* Bytes of `weights` numbers as the checkpoint stores them. */
double qp_task_stored(const struct qp_task *task, double weights);

/* What a tensor of so many bytes takes while it is on its way to other stages. */
double qp_sent_bytes(double bytes);

/* How a linear will be quantized; NULL: its weights stay. Of a budget the first format there is to choose. */
const struct qp_linear_scheme *qp_task_scheme(const struct qp_task *task, int64_t layer, int linear);
const struct qp_quant_spec *qp_task_spec(const struct qp_task *task, int64_t layer, int linear);
bool qp_task_quantizes_site(const struct qp_task *task, int64_t layer, int site);

/* Bytes of a site's float32 Hessian, of which blocks bring the upper triangle; 0 where they do not. */
double qp_task_hessian_bytes(const struct qp_task *task, int64_t layer, int site);

/* A forward of `tokens` tokens through the linears of one layer: 2 tokens out in for each. */
double qp_layer_gemm_operations(const struct qp_layer_type *type, int64_t tokens);

/* The task's text through the first `layers` layers, with attention; linears that read the first `quantized` sites are
 * quantized, where that is one of codes with products of codes. */
void qp_estimate_forward(const struct qp_task *task, int64_t layers, int quantized, bool bf16, struct qp_work *add);

/* Loading these layers: of linears that read the first `quantized` sites the weights that are left as they were. */
void qp_estimate_loads(const struct qp_task *task, int64_t layers, int quantized, struct qp_work *add);

/* What BLAS and oneDNN hold to multiply, about. */
#define QP_PRODUCTS_BYTES (8 << 20)

/* Tokens that go through a layer at a time: whole windows. */
int64_t qp_task_part(const struct qp_task *task);

/* Bytes of a loaded layer; what loading it takes on top, and after that the executor's buffers for a part of the text:
 * the most of each over all layers, with none or all of their linears quantized. */
struct qp_forward_bytes {
    double layer, loading, workspace;
};
int qp_estimate_forward_bytes(const struct qp_task *task, bool quantized, bool bf16, struct qp_forward_bytes *out,
                              struct qp_error *err);

/* Rows of the embedding, one a token, `times` times. */
void qp_estimate_embedding(const struct qp_task *task, double times, struct qp_work *add);

/* A search for the scales of a linear [rows, cols] (libstage/solvers/scales.h): `steps` shares of the range down to
 * `shrink`; scales that are coarse themselves are swept from twice the range down, 8 E4M3 numbers or one E8M0 an
 * octave. block: errors of a group in the metric of its block of the Hessian. */
struct qp_scale_sweep {
    double shrink;
    int64_t steps;
    bool block;
};
void qp_estimate_scales(const struct qp_quant_spec *spec, int64_t rows, int64_t cols,
                        const struct qp_scale_sweep *sweep, struct qp_work *add);

/* GPTQ of one linear [rows, cols] in blocks: what its columns pass on inside a block (a solve) and what each block then
 * passes on to all columns after it (a product, as `kernels` compute it). With `rest` also what coordinate descent is
 * given (libstage/solvers/gptq.h), as far as it does not depend on the weights. */
void qp_gptq_work(const struct qp_kernels *kernels, int64_t rows, int64_t cols, int64_t block, bool rest,
                  struct qp_work *add);

/* The sketch of a site's factor that `rest` needs, where there is one. */
double qp_gptq_sketch_operations(int64_t cols);

#endif
