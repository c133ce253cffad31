/* How many units are on their way. */
#ifndef QUANTPIPE_STAGE_WINDOW_H
#define QUANTPIPE_STAGE_WINDOW_H

/* Units that a consumer lets its producer send before it has processed the first of them. */
#define QP_WINDOW_UNITS 3

/* Blocks between the stage that makes them and the last one that works on them, in all: one that is worked on by the
 * slowest stage, one that is ready for it and one that has left it. */
#define QP_WINDOW_BLOCKS 3

#endif
