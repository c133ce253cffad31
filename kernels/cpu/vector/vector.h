#ifndef QUANTPIPE_KERNELS_VECTOR_H
#define QUANTPIPE_KERNELS_VECTOR_H

#include "kernels/cpu/cpu.h"

/* QP_NAME(qp_rope) is qp_rope_avx2 or qp_rope_avx512, after the instruction set that the file is compiled for. */
#define QP_JOIN_(name, isa) name##_##isa
#define QP_JOIN(name, isa) QP_JOIN_(name, isa)
#define QP_NAME(name) QP_JOIN(name, QP_ISA)

#endif
