#include "tests/support/stops.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/failure.h"
#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"

enum verdict { STOPPED_SOON, STOPPED_LATE, NOT_STOPPED, NOT_REACHED };

static struct qp_kernels real;
static int calls, stop_at, most_further;

static void note(void)
{
    if (++calls == stop_at)
        qp_failure_set(QP_FAILURE_STOPPED, "stopped by a test");
}

static void gemm(const struct qp_gemm *g)
{
    note();
    real.gemm(g);
}

static void hessian(int64_t rows, int64_t n, const float *x, float *h)
{
    note();
    real.hessian(rows, n, x, h);
}

static void gptq_block(const struct qp_gptq_block *b)
{
    note();
    real.gptq_block(b);
}

static int64_t descent(const struct qp_descent *p)
{
    note();
    return real.descent(p);
}

static void scale_search(const struct qp_scale_search *s)
{
    note();
    real.scale_search(s);
}

static void to_f32(enum qp_dtype dtype, int64_t count, const void *in, void *out)
{
    if (count >= TINY_HIDDEN * TINY_HIDDEN / 2) /* not a row of a table */
        note();
    real.to_f32(dtype, count, in, out);
}

static void watch_operations(void)
{
    struct qp_kernels *table = (struct qp_kernels *)qp_kernels_open("cpu"); /* not in memory that is read only */
    real = *table;
    table->gemm = gemm;
    table->hessian = hessian;
    table->gptq_block = gptq_block;
    table->descent = descent;
    table->scale_search = scale_search;
    table->to_f32 = to_f32;
}

static enum verdict run(const struct qp_stage_desc *desc, const char *params, const char *context,
                        const char *const *wants, const char *scheme, bool hessians)
{
    struct qp_unit *units[TINY_UNITS], **out = NULL;
    size_t count = 0;
    struct qp_error err = {0};
    qp_auto_json json_t *p = json_loads(params ? params : "{}", 0, NULL);
    qp_auto_json json_t *c = json_loads(context ? context : "{}", 0, NULL);
    tiny_units(scheme, hessians, units);
    watch_operations();
    int r = qp_stage_call(
        desc, &(struct qp_call){.params = p, .context = c, .wants = wants, .units = units, .count = TINY_UNITS}, &out,
        &count, NULL, &err);
    if (calls < stop_at)
        return NOT_REACHED;
    if (r != QP_ERR_INTERRUPTED)
        return NOT_STOPPED;
    return calls - stop_at <= most_further ? STOPPED_SOON : STOPPED_LATE;
}

static enum verdict run_alone(const struct qp_stage_desc *desc, const char *params, const char *context,
                              const char *const *wants, const char *scheme, bool hessians)
{
    int status = 0;
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0)
        _exit(run(desc, params, context, wants, scheme, hessians));
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status), "stopped at operation %d it died of signal %d", stop_at, WTERMSIG(status));
    return (enum verdict)WEXITSTATUS(status);
}

void stops_everywhere(const struct qp_stage_desc *desc, int further, const char *params, const char *context,
                      const char *const *wants, const char *scheme, bool hessians)
{
    int reached = 0;
    most_further = further;
    for (stop_at = 1;; stop_at *= 2) {
        enum verdict v = run_alone(desc, params, context, wants, scheme, hessians);
        if (v == NOT_REACHED)
            break;
        cr_expect_neq(v, NOT_STOPPED, "stopped at operation %d it went on to its end", stop_at);
        cr_expect_neq(v, STOPPED_LATE, "stopped at operation %d it began more than %d others", stop_at, further);
        reached++;
    }
    cr_expect_geq(reached, 3, "the test reached only %d operations", reached);
}
