/* Quality of each quantized linear of a decoder layer. */
#ifndef QUANTPIPE_STAGES_VALIDATE_LINEARS_H
#define QUANTPIPE_STAGES_VALIDATE_LINEARS_H

#include "libstage/include/stage.h"
#include "libstage/network/block.h"
#include "libstage/network/model_unit.h"

/* Reports, under `linears`, name, scheme, sqnr_db and, where the block carries the site's Hessian, site_loss and
 * site_loss_rtn: the squared error of the linear's outputs summed over the calibration tokens, and what rounding the
 * same weights to nearest would have made of it. Warns `site-loss-worse` of a linear that lost more than that. */
int qp_judge_linears(struct qp_stage *stage, const struct qp_model *model, const struct qp_block *block,
                     struct qp_error *err);

#endif
