#include "kernels/libraries.h"

#include "kernels/cpu/cpu.h"

const char *qp_library_name(enum qp_library library)
{
    return library == QP_ONEDNN ? "oneDNN" : "OpenBLAS";
}

const char *qp_library_file(enum qp_library library)
{
    return library == QP_ONEDNN ? QP_DNNL_NAME : QP_OPENBLAS_NAME;
}

const char *qp_library_problem(enum qp_library library)
{
    return library == QP_ONEDNN ? qp_dnnl_problem() : qp_openblas_problem();
}

const char *qp_library_version(enum qp_library library)
{
    return library == QP_ONEDNN ? qp_dnnl_version() : qp_openblas_version();
}
