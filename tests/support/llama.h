/* The lists of a Llama layer's type by name: what tests of one say instead of numbers. */
#ifndef QUANTPIPE_TESTS_LLAMA_H
#define QUANTPIPE_TESTS_LLAMA_H

enum { QP_Q, QP_K, QP_V, QP_O, QP_GATE, QP_UP, QP_DOWN, QP_LINEARS };
enum { QP_SITE_ATTN_IN, QP_SITE_ATTN_OUT, QP_SITE_MLP_IN, QP_SITE_MLP_OUT, QP_SITES };
enum { QP_NORM_ATTN, QP_NORM_MLP, QP_NORMS };

#endif
