/* All that a stage's author needs.
 *
 * A stage is one executable: callbacks, a parameter table, port tables and, last in its file, one
 * `const struct qp_stage_desc qp_stage_desc`. Linked with libquantpipe-stage (pkg-config quantpipe-stage, once
 * quantpipe is installed) it gets main(), --help, --describe, --estimate, parameters, sockets, credit, acknowledgement,
 * signals, logs and exit codes.
 *
 * Order of calls: open once, with the parameters in the state; process once for each unit, in order of seq (a stage
 * without input ports is called once with NULL, and emits everything), and for unit n of a feedback port after unit n,
 * and before unit n + 1, of the others (qp_stage_port tells them apart); close once, also after a failure. All
 * callbacks run on one thread; none sees a socket. They return 0 or a negative code with `err` described; a failure
 * stops the run. A process callback owns its unit: it passes it on with qp_stage_emit, or frees it. A stage that passes
 * a model unit on must pass on every block and the end unit as well. A unit is acknowledged upstream by itself, when
 * everything that was emitted while it was processed has been acknowledged downstream and no reference of its shared
 * tensors is left: who keeps a tensor of a unit beyond process keeps memory of the stage that made it, and better keeps
 * a copy. */
#ifndef QUANTPIPE_STAGE_H
#define QUANTPIPE_STAGE_H

#include <stdbool.h>
#include <stddef.h>
#include "libstage/base/json.h"

#include "kernels/kernels.h"
#include "libstage/base/error.h"
#include "libstage/tensor/unit.h"

struct qp_stage; /* a running stage */
struct qp_task;  /* libstage/network/estimate.h, as is qp_estimate */
struct qp_estimate;

enum qp_param_type { QP_PARAM_BOOL, QP_PARAM_INT, QP_PARAM_FLOAT, QP_PARAM_STRING, QP_PARAM_PERCENT };

/* A parameter. The field at `offset` in the state is bool, int64_t, double, const char * (borrowed until close), or for
 * a percentage a double fraction: 5% and 0.05 are the same. Ends with a NULL name. */
struct qp_param {
    const char *name;
    enum qp_param_type type;
    const char *fallback;       /* the default, as a user would write it; NULL: unset (NAN, INT64_MIN, NULL, false) */
    double min, max;            /* of numbers; both 0: any */
    const char *const *choices; /* of strings; NULL: any; ends with NULL */
    const char *help;
    size_t offset;
    const char *was; /* its name in the version before, which the runner takes with a warning; NULL: none */
};

/* Rows of a table, of the field `at_` of the state, which is a `state_`. */
#define QP_FLAG(name_, state_, at_, fallback_, help_)                                                               \
    {                                                                                                               \
        .name = name_, .type = QP_PARAM_BOOL, .fallback = fallback_, .help = help_, .offset = offsetof(state_, at_) \
    }
#define QP_TEXT(name_, state_, at_, fallback_, help_) QP_CHOICE(name_, state_, at_, fallback_, NULL, help_)
#define QP_CHOICE(name_, state_, at_, fallback_, choices_, help_)                                          \
    {                                                                                                      \
        .name = name_, .type = QP_PARAM_STRING, .fallback = fallback_, .choices = choices_, .help = help_, \
        .offset = offsetof(state_, at_)                                                                    \
    }
#define QP_INT(name_, state_, at_, fallback_, min_, max_, help_) \
    QP_NUMBER(QP_PARAM_INT, name_, state_, at_, fallback_, min_, max_, help_)
#define QP_FLOAT(name_, state_, at_, fallback_, min_, max_, help_) \
    QP_NUMBER(QP_PARAM_FLOAT, name_, state_, at_, fallback_, min_, max_, help_)
#define QP_NUMBER(type_, name_, state_, at_, fallback_, min_, max_, help_)                            \
    {                                                                                                 \
        .name = name_, .type = type_, .fallback = fallback_, .min = min_, .max = max_, .help = help_, \
        .offset = offsetof(state_, at_)                                                               \
    }

/* A port carries units. Features are the words that the type check of an edge works with: an input `needs` features
 * (weights, statistics, quantized, validated ...) that some stage upstream `provides`. NULL-terminated, or NULL. Into
 * an optional input nothing needs to come; what leaves an optional output may go nowhere. A feedback input takes an
 * edge with `delay: 1`, on which the stage's own units come back from downstream: a process callback frees those, and
 * emits nothing of them. */
struct qp_port {
    const char *name;
    const char *const *needs;    /* of inputs */
    const char *const *provides; /* of outputs: added to what came in */
    const char *help;
    bool optional, feedback;
    const char *const *collects; /* of inputs: what the stage can collect only while this one is connected */
    const char *was;             /* its name in the version before, as qp_param's */
};

/* Something that a stage upstream has to collect (a word of libstage/network/block.h: "hessian", "absmax" ...)
 * when the parameter `param` has the value `value`; with a NULL value, when it is set to anything but 0, false, none or
 * nothing; with a NULL param, always. With a `scheme` only if the run's has that as well: "static" or "kv_cache"
 * (qp_scheme_has). Ends with a NULL what. */
struct qp_need {
    const char *what, *param, *value, *scheme;
};

#define QP_HOLDS_ALL (-1)

struct qp_stage_desc {
    const char *name;
    const char *summary;
    int version;
    size_t state_size;             /* zeroed before open */
    const struct qp_param *params; /* NULL: none */
    const struct qp_port *inputs;  /* NULL: a source; ends with a NULL name */
    const struct qp_port *outputs; /* NULL: a sink */
    const struct qp_need *needs;   /* NULL: none */
    const char *const *collects;   /* what it can always collect for stages downstream; NULL: nothing */
    const char *const *uses;       /* statistics that it may read, besides its needs; {NULL}: no others; NULL: any, so
                                      that none is dropped before it */
    const char *const *forms;      /* forms of tensors that it can take, and send when all after it take them; NULL: the
                                      plain ones. "packed_codes": libstage/network/block.h */
    const char *data;              /* the data entry it reads: "calibration", "evaluation"; NULL: none */
    bool data_optional;            /* it works without that entry; else, it is missing only if nobody needs it */
    bool any_scheme;               /* works before the formats of a budget are chosen: model.scheme has none yet */
    bool sequential;               /* works on layers that come in steps (libstage/network/sequential.h) */
    bool stateful;                 /* process depends on former units */
    int holds;                     /* units that it keeps back before it emits the first of them; QP_HOLDS_ALL: it emits
                                      none before the end unit has come. 0: each at once */
    bool copies; /* what it keeps back are copies of its own: units are done when they are processed */
    /* What the stage will do and hold, for plans (--estimate); NULL: unknown. The state is zeroed, with the parameters
     * in it; *out is zeroed. Nothing is open. */
    int (*estimate)(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err);
    int (*open)(struct qp_stage *stage, void *state, struct qp_error *err);
    int (*process)(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err);
    void (*close)(struct qp_stage *stage, void *state); /* may be NULL */
};

/* ---- what callbacks may call ---- */

/* Sends a unit through an output port (NULL: the only one, or the only one that is not optional); takes the unit over,
 * also when it fails. Waits while the consumers have no space. */
int qp_stage_emit(struct qp_stage *stage, const char *port, struct qp_unit *unit, struct qp_error *err);

/* How a process callback ends that hands its unit on: emits it through the only output when `r` is 0, otherwise frees
 * it and returns r. */
int qp_stage_pass(struct qp_stage *stage, struct qp_unit *unit, int r, struct qp_error *err);

/* The input port of the unit in process; NULL in a source. */
const char *qp_stage_port(const struct qp_stage *stage);

/* Whether an edge leads into this input port. */
bool qp_stage_connected(const struct qp_stage *stage, const char *port);

/* Tensors allocated here reach consumers on the same host without a copy. */
const struct qp_allocator *qp_stage_allocator(struct qp_stage *stage);

/* Gives back what is kept for the next tensors there: for a stage that now needs much memory of its own. */
void qp_stage_trim(struct qp_stage *stage);

const struct qp_kernels *qp_stage_kernels(struct qp_stage *stage);
int qp_stage_threads(const struct qp_stage *stage);

/* Whether a stage downstream asked for this (one of desc->collects), or all take this form (one of desc->forms). */
bool qp_stage_wants(const struct qp_stage *stage, const char *what);

/* Whether no stage after this one reads a statistic. It leaves the units that this one emits; who is done with it
 * earlier can free it earlier (qp_block_drop). */
bool qp_stage_drops(const struct qp_stage *stage, const char *statistic);

/* The run's context (borrowed): model, scheme (of this stage's branch; the first one where all schemes share the
 * stage), output (where to write it: a name in a private folder), destination (the name that it gets when all went
 * well), data (this stage's entry or null). */
const json_t *qp_stage_context(const struct qp_stage *stage);

/* A folder of this stage's own in the run folder, for files that may be large. */
const char *qp_stage_scratch(const struct qp_stage *stage);

/* True when the run is being stopped: return QP_ERR_INTERRUPTED soon. Long loops ask now and then. */
bool qp_stage_cancelled(const struct qp_stage *stage);

void qp_stage_progress(struct qp_stage *stage, int64_t done, int64_t total);

/* Puts `value` (reference taken over) under `key` in what the runner makes report.json of. A second call with the same
 * key replaces it, or appends its elements when both are arrays. Keys used: model, outputs, linears, metrics, compute.
 * Numbers that are not finite have become null by then (libstage/base/json.h), which is warned of: metric-not-finite. A
 * value that cannot be sent is warned of as well: report-lost. */
void qp_stage_report(struct qp_stage *stage, const char *key, json_t *value);

/* A warning for the report: code (a word), where (a tensor, a file) and a message. */
void qp_stage_warn(struct qp_stage *stage, const char *code, const char *where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

enum qp_level { QP_DEBUG, QP_INFO, QP_WARNING };
void qp_stage_log(struct qp_stage *stage, enum qp_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- for main() and tests ---- */

/* A stage's main: the whole lifecycle of the process. Returns the exit code. */
int qp_stage_main(const struct qp_stage_desc *desc, int argc, char **argv);

/* The contract of a stage as JSON (schemas/stage.schema.json): what --describe prints. A new reference. */
json_t *qp_stage_describe(const struct qp_stage_desc *desc);

/* Reads `values` (an object) into the state by the parameter table, defaults for what is absent. QP_ERR_INPUT names the
 * parameter, what was found and what is accepted; unknown names come with the nearest known one. */
int qp_params_parse(const struct qp_param *params, const json_t *values, void *state, struct qp_error *err);

struct qp_call {
    const json_t *params, *context;
    const char *const *wants; /* what downstream asks for, ends with NULL; NULL: nothing */
    struct qp_unit **units;   /* `count` of them, taken over */
    const char *const *ports; /* through which they come, one each; NULL: the first for all */
    size_t count;
};

/* Runs a stage inside the calling process, without sockets: opens it, feeds it the units, and collects what leaves its
 * first output into *out (new array of *count units that the caller frees with free and qp_unit_free). Ports that are
 * named are connected. `report` (may be NULL) receives an object. */
int qp_stage_call(const struct qp_stage_desc *desc, const struct qp_call *call, struct qp_unit ***out, size_t *count,
                  json_t **report, struct qp_error *err);

#endif
