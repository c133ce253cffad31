/* How many units a consumer lets its producer send before it has processed the first of them. */
#ifndef QUANTPIPE_STAGE_WINDOW_H
#define QUANTPIPE_STAGE_WINDOW_H

#define QP_WINDOW_UNITS 3

#endif
