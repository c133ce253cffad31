#include "kernels/rtn.h"

#include <stdlib.h>

#include "kernels/convert.h"
#include "kernels/pack.h"
#include "kernels/quantize.h"
#include "kernels/scratch.h"

void qp_rtn_ref(const struct qp_rtn *job)
{
    const struct qp_number_format *format = job->format;
    int64_t count = job->rows * job->cols;
    float *w = qp_scratch((size_t)count, sizeof *w);
    int8_t *codes = job->packed ? qp_scratch((size_t)count, 1) : job->codes;

    if (w != NULL && codes != NULL) {
        qp_to_f32_ref(job->dtype, count, job->w, w);
        qp_qparams_ref(format, job->rows, job->cols, job->group, w, job->scale, job->zero);
        qp_quantize_ref(&(struct qp_grouped){format, job->rows, job->cols, job->group, job->scale, job->zero}, w,
                        (uint8_t *)codes);
        if (job->packed)
            qp_pack_ref(format->bits, job->rows, job->cols, codes, job->codes);
    }
    if (job->packed)
        free(codes);
    free(w);
}
