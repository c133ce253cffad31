/* Descent over a small family of scales. */
#ifndef QUANTPIPE_STAGES_SEARCH_JOINT_H
#define QUANTPIPE_STAGES_SEARCH_JOINT_H

#include "stages/search/scales.h"

/* Coordinate descent on the trial's loss over (a, b, c) of log s = a log x - b log w + c u: from the best of a few
 * starts, with steps that halve when none of them helps. Leaves the best in t->best. */
int search_joint(const struct profile *p, struct trial *t, struct qp_error *err);

#endif
