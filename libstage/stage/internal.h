/* What a running stage is made of. */
#ifndef QUANTPIPE_STAGE_INTERNAL_H
#define QUANTPIPE_STAGE_INTERNAL_H

#include "libstage/include/stage.h"
#include "libstage/network/model_unit.h"

/* What is around a stage: a process with sockets, or a test's call. `log` and `warn` get whole messages; `report` takes
 * the value over. */
struct stage_surroundings {
    int (*emit)(void *context, size_t port, struct qp_unit *unit, struct qp_error *err);
    void (*report)(void *context, const char *key, json_t *value);
    void (*warn)(void *context, const char *code, const char *where, const char *message);
    void (*log)(void *context, enum qp_level level, const char *message);
    void (*progress)(void *context, int64_t done, int64_t total);
    bool (*cancelled)(void *context);
};

struct qp_stage {
    const struct qp_stage_desc *desc;
    void *state;
    struct qp_model *model; /* in the state, of a stage made with qp_stage_blocks; NULL before its first unit */
    const char *port;       /* of the unit in process; NULL: none */
    uint64_t connected;     /* bit i: something leads into input i */
    const json_t *context, *wants, *drops; /* borrowed */
    const char *scratch;                   /* borrowed */
    int threads;
    const struct qp_kernels *kernels;
    const struct qp_allocator *allocator; /* NULL: the heap */
    const struct stage_surroundings *around;
    void *around_context;
};

/* Makes the state, reads the parameters into it, and calls open. Whatever it returns, qp_stage_end follows. */
int qp_stage_begin(struct qp_stage *stage, const json_t *params, struct qp_error *err);
void qp_stage_end(struct qp_stage *stage);

/* Calls process with a unit (taken over; NULL in a source). The first stage of a scheme's branch, which the context
 * says by `replaces_scheme`, sees the context's scheme in the model unit and passes that on; any other one refuses a
 * model unit with another scheme than the context's, unless that is a budget (QP_ERR_STAGE). */
int qp_stage_process(struct qp_stage *stage, struct qp_unit *unit, struct qp_error *err);

size_t qp_port_count(const struct qp_port *ports); /* NULL is accepted */

/* The index of a port by name, or the only one for NULL; -1 when there is none. */
int qp_port_index(const struct qp_port *ports, const char *name);

void qp_stage_print_help(const struct qp_stage_desc *desc);

const char *qp_level_name(enum qp_level level);

/* The lifecycle of a stage process from hello to bye; returns the exit code. */
int qp_stage_live(const struct qp_stage_desc *desc, const char *control, const char *instance, int replica);

#endif
