#include "runner/execution/threads.h"

#include <math.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "runner/pipeline/graph.h"
#include "runner/machine.h"
#include "runner/execution/supervise.h"

/* Before anything was measured stages count alike. */
#define LEAST_SECONDS 1e-3
#define MOST_SECONDS 1e12 /* what a stage says is not believed without end */

static double weight(const struct qp_demand *d)
{
    return fmin(fmax(d->cpu_seconds, LEAST_SECONDS), MOST_SECONDS);
}

void qp_share_threads(int cores, size_t count, const struct qp_demand *demands, int *threads)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += demands[i].busy ? weight(&demands[i]) : 0;
    for (size_t i = 0; i < count; i++) {
        const struct qp_demand *d = &demands[i];
        int share = d->busy ? (int)lround(cores * weight(d) / sum) : 0;
        threads[i] = !d->busy ? 0 : d->pinned ? d->pinned : share < 1 ? 1 : share;
    }
}

/* It may be gone: then its end is seen soon. */
static void tell(struct qp_supervisor *s, struct qp_child *c, int threads)
{
    struct qp_error ignored;
    if (threads == 0 || threads == c->record->threads)
        return;
    c->record->threads = threads;
    qp_auto_json json_t *body = json_pack("{s:i}", "threads", threads);
    if (body)
        qp_control_send(s->control, c->instance->name, 0, "threads", body, &ignored);
}

void qp_arrange_threads(struct qp_supervisor *s)
{
    struct qp_demand demands[QP_MAX_INSTANCES];
    int threads[QP_MAX_INSTANCES];
    for (size_t i = 0; i < s->count; i++) {
        const struct qp_child *c = &s->children[i];
        demands[i] =
            (struct qp_demand){.busy = c->record->busy, .cpu_seconds = c->cpu_seconds, .pinned = c->instance->threads};
    }
    qp_share_threads(qp_machine_cores(), s->count, demands, threads);
    for (size_t i = 0; i < s->count; i++)
        tell(s, &s->children[i], threads[i]);
}
