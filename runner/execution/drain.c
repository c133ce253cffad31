#include "runner/execution/drain.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/edge_in.h"
#include "libstage/wire/socket.h"
#include "runner/execution/supervise.h"

#define WINDOW_UNITS ((int64_t)1 << 20) /* nothing is kept, so that there is always space */
#define WINDOW_BYTES ((int64_t)1 << 50)

struct qp_drain {
    void *context;
    struct qp_references *references;
    int wake;
    struct qp_in *ins[QP_MAX_INSTANCES];
    size_t count;
};

static int dial(struct qp_drain *drain, const struct qp_supervisor *s, const struct qp_edge *e, struct qp_error *err)
{
    const struct qp_child *from = &s->children[e->from];
    char host[QP_HOST_SIZE];
    qp_host_identity(host, sizeof host);
    struct qp_in_config config = {.run = s->run->id,
                                  .edge = e->id,
                                  .instance = s->children[e->to].instance->name,
                                  .host = host,
                                  .endpoint = json_string_value(json_object_get(from->endpoints, e->output)),
                                  .local = strcmp(from->host, host) == 0,
                                  .discards = true,
                                  .window_units = WINDOW_UNITS,
                                  .window_bytes = WINDOW_BYTES,
                                  .references = drain->references,
                                  .wake = drain->wake};
    int r = qp_in_open(drain->context, &config, &drain->ins[drain->count], err);
    drain->count += r == 0;
    return r;
}

static int open_references(struct qp_drain *drain, const struct qp_supervisor *s, struct qp_error *err)
{
    qp_auto_json json_t *roots = qp_run_roots(s->run);
    size_t count = json_array_size(roots);
    qp_auto_free const char **list = calloc(count + 1, sizeof *list);
    if (!list)
        return qp_fail_memory(err, count, "the roots");
    for (size_t i = 0; i < count; i++)
        list[i] = json_string_value(json_array_get(roots, i));
    return qp_references_new(s->run->id, list, &drain->references, err);
}

static int open_all(struct qp_drain *drain, const struct qp_supervisor *s, int branch, struct qp_error *err)
{
    const struct qp_pipeline *p = s->run->plan->pipeline;
    drain->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (drain->wake < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "eventfd");
    int r = qp_context_new(&drain->context, err);
    if (r == 0)
        r = open_references(drain, s, err);
    for (size_t i = 0; r == 0 && i < p->edge_count; i++) {
        const struct qp_edge *e = &p->edges[i];
        if (p->instances[e->to].branch == branch && p->instances[e->from].branch == QP_SHARED)
            r = dial(drain, s, e, err);
    }
    return r;
}

int qp_drain_open(const struct qp_supervisor *s, int branch, struct qp_drain **out, struct qp_error *err)
{
    struct qp_drain *drain = calloc(1, sizeof *drain);
    if (!drain)
        return qp_fail_memory(err, sizeof *drain, "a drain");
    drain->wake = -1;
    int r = open_all(drain, s, branch, err);
    if (r < 0) {
        qp_drain_free(drain);
        return r;
    }
    *out = drain;
    return 0;
}

void qp_drain_free(struct qp_drain *drain)
{
    if (!drain)
        return;
    for (size_t i = 0; i < drain->count; i++)
        qp_in_close_socket(drain->ins[i]);
    if (drain->context)
        zmq_ctx_term(drain->context);
    for (size_t i = 0; i < drain->count; i++)
        qp_in_free(drain->ins[i]);
    qp_references_free(drain->references);
    qp_cleanup_close(&drain->wake);
    free(drain);
}

static void drop_units(struct qp_in *in)
{
    while (qp_in_next(in)) {
        struct qp_receipt *receipt;
        struct qp_unit *unit = qp_in_take(in, &receipt);
        qp_unit_free(unit);
        qp_in_processed(in, receipt);
        qp_receipt_release(receipt);
    }
}

int qp_drain_poll(struct qp_drain *drain, struct qp_error *err)
{
    int r = 0;
    for (size_t i = 0; r >= 0 && i < drain->count; i++) {
        r = qp_in_poll(drain->ins[i], err);
        drop_units(drain->ins[i]);
        if (r >= 0)
            r = qp_in_poll(drain->ins[i], err); /* acknowledges what was dropped */
    }
    return r < 0 ? r : 0;
}
