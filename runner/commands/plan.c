/* `quantpipe plan` */
#include <stdio.h>
#include <string.h>

#include "libstage/stage/work_json.h"
#include "runner/pipeline/estimates.h"
#include "runner/pipeline/graph.h"
#include "runner/pipeline/memory.h"
#include "runner/report/roofline.h"
#include "runner/machine.h"
#include "runner/pipeline/prepare.h"
#include "runner/size.h"
#include "runner/pipeline/sizes.h"
#include "runner/subcommand.h"

#define BASE_BYTES (1 << 20) /* a stage's process, before the first unit */

/* What the stages will do, and the least time for it; filled once a plan. */
struct outlook {
    struct qp_estimate stages[QP_MAX_INSTANCES];
    double blocks; /* on their way at a time */
    struct qp_peaks peaks;
    bool measured;
};

static uint64_t largest_block(const struct qp_arch *arch)
{
    uint64_t most = 0;
    for (int64_t i = 0; i < qp_arch_blocks(arch); i++)
        most = qp_block_bytes(arch, i) > most ? qp_block_bytes(arch, i) : most;
    return most;
}

/* The most that a stage's own memory and the shared memory that it makes come to; negative where that is not known. */
static double peak_of(const struct outlook *o, size_t index)
{
    const struct qp_estimate *e = &o->stages[index];
    return e->memory_known ? BASE_BYTES + e->fixed_bytes + e->block_bytes + o->blocks * e->emitted_bytes : -1;
}

static json_t *real_or_null(bool known, double value)
{
    return known ? json_real(value) : json_null();
}

static double roofline_of(const struct outlook *o, size_t index)
{
    struct qp_roofline roofline = qp_roofline_of(&o->stages[index].work, &o->peaks);
    return qp_roofline_seconds(&roofline);
}

/* Of all stages that formulas are known for: the whole cannot be faster. */
static double whole_roofline(const struct qp_plan *plan, const struct outlook *o)
{
    struct qp_roofline sum = {0};
    for (size_t i = 0; i < plan->pipeline->count; i++) {
        struct qp_roofline roofline = qp_roofline_of(&o->stages[i].work, &o->peaks);
        qp_roofline_sum(&sum, &roofline);
    }
    return qp_roofline_seconds(&sum);
}

static json_t *stage_json(const struct qp_plan *plan, const struct outlook *o, size_t index)
{
    const struct qp_instance *in = &plan->pipeline->instances[index];
    const struct qp_estimate *e = &o->stages[index];
    json_t *stage = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:o, s:o, s:O}", "name", in->name, "executable",
                              in->command[0], "host", "localhost", "device", "cpu", "replicas", 1, "threads",
                              in->threads ? in->threads : qp_machine_cores(), "memory_budget_bytes",
                              (json_int_t)(in->memory ? in->memory : qp_machine_memory() / 4), "memory_estimate_bytes",
                              e->memory_known ? json_integer((json_int_t)peak_of(o, index)) : json_null(), "memory",
                              e->memory_known ? qp_memory_json(e) : json_null(), "collects", in->wants);
    json_object_set_new(stage, "work",
                        o->stages[index].work_known ? qp_work_json(&o->stages[index].work) : json_null());
    json_object_set_new(stage, "roofline_seconds",
                        real_or_null(o->stages[index].work_known && o->measured, roofline_of(o, index)));
    return stage;
}

static json_t *as_json(const struct qp_plan *plan, const struct outlook *o)
{
    const struct qp_pipeline *p = plan->pipeline;
    const struct qp_arch *arch = &plan->model->arch;
    json_t *stages = json_array(), *edges = json_array(), *blocks = json_array();
    for (size_t i = 0; i < p->count; i++)
        json_array_append_new(stages, stage_json(plan, o, p->order[i]));
    for (size_t i = 0; i < p->edge_count; i++) {
        const struct qp_edge *e = &p->edges[i];
        json_array_append_new(edges, json_sprintf("%s.%s -> %s.%s%s", p->instances[e->from].name, e->output,
                                                  p->instances[e->to].name, e->input, e->delay ? " (delay 1)" : ""));
    }
    for (int64_t i = 0; i < qp_arch_blocks(arch); i++)
        json_array_append_new(blocks, json_integer((json_int_t)qp_block_bytes(arch, i)));
    return json_pack("{s:i, s:s, s:o, s:s, s:i, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:O}", "quantpipe",
                     QP_PIPELINE_VERSION, "model", p->model, "outputs", qp_plan_outputs(plan), "run_folder",
                     plan->folder, "processes", (int)p->count + 1, "stages", stages, "edges", edges, "block_bytes",
                     blocks, "memory_budget_bytes", (json_int_t)qp_memory_budget(p), "memory_estimate_bytes",
                     (json_int_t)qp_memory_need(p, o->stages, p->blocks), "blocks_on_the_way", (json_int_t)o->blocks,
                     "roofline_seconds", real_or_null(o->measured, whole_roofline(plan, o)), "warnings",
                     plan->warnings);
}

static void print_stage(const struct qp_plan *plan, const struct outlook *o, size_t index)
{
    const struct qp_pipeline *p = plan->pipeline;
    const struct qp_instance *in = &p->instances[index];
    char text[32], budget[32];
    size_t i;
    json_t *what;
    bool known = o->stages[index].memory_known;
    printf("  %-20s threads %d, memory %s%s of %s", in->name, in->threads ? in->threads : qp_machine_cores(),
           known ? "about " : "", known ? qp_size_text((uint64_t)peak_of(o, index), text, sizeof text) : "unknown",
           qp_size_text(in->memory ? in->memory : qp_machine_memory() / 4, budget, sizeof budget));
    for (size_t e = 0; e < p->edge_count; e++)
        if (p->edges[e].to == index)
            printf(", %s %s.%s", p->edges[e].delay ? "and a block later from" : "from",
                   p->instances[p->edges[e].from].name, p->edges[e].output);
    json_array_foreach(in->wants, i, what)
        printf("%s%s", i ? ", " : "; collects ", json_string_value(what));
    printf("\n");
}

/* "gemm 1234.5" for each kind of operation that there is, in units of 10^9. */
static void print_operations(const struct qp_work *work)
{
    const char *separator = "";
    for (int i = 0; i < QP_WORK_KINDS; i++)
        if (work->operations[i] > 0) {
            printf("%s%s %.4g", separator, qp_work_names[i], work->operations[i] / 1e9);
            separator = ", ";
        }
}

static void print_work(const struct qp_plan *plan, const struct outlook *o, size_t index)
{
    const struct qp_work *work = &o->stages[index].work;
    double moved = work->bytes_read + work->bytes_written + work->disk_written;
    char bytes[32], least[32];
    printf("  %-20s ", plan->pipeline->instances[index].name);
    if (!o->stages[index].work_known) {
        printf("no formula is known for it\n");
        return;
    }
    printf("%10s  %10s  ", o->measured ? qp_seconds_text(roofline_of(o, index), least, sizeof least) : "-",
           qp_size_text((uint64_t)moved, bytes, sizeof bytes));
    print_operations(work);
    printf("\n");
}

static void print_roofline(const struct qp_plan *plan, const struct outlook *o)
{
    char least[32];
    printf("\n  %-20s %10s  %10s  %s\n", "stage", "at least", "moves", "10^9 operations");
    for (size_t i = 0; i < plan->pipeline->count; i++)
        print_work(plan, o, plan->pipeline->order[i]);
    if (o->measured)
        printf("  %-20s %10s  by the measured peaks of this machine\n", "the whole run",
               qp_seconds_text(whole_roofline(plan, o), least, sizeof least));
    else
        printf("  " QP_NO_PEAKS "\n");
}

static void print_plan(const struct qp_plan *plan, const struct outlook *o)
{
    const struct qp_pipeline *p = plan->pipeline;
    const struct qp_arch *arch = &plan->model->arch;
    char total[32], layer[32], most[32];
    printf("%s\n", p->model);
    for (size_t i = 0; i < p->branch_count; i++)
        printf("  -> %s, scheme %s\n", p->branches[i].output, p->branches[i].name);
    printf("run folder %s%s\n\n", plan->folder, p->strict ? "; strict: a warning is a failed gate" : "");
    printf("%zu processes on this machine: quantpipe and, in order of the data,\n", p->count + 1);
    for (size_t i = 0; i < p->count; i++)
        print_stage(plan, o, p->order[i]);
    printf("\n%lld blocks on %zu edges: the embedding, %lld layers of %s, the head; the largest has %s, all of them "
           "%s\n",
           (long long)qp_arch_blocks(arch), p->edge_count, (long long)arch->layers,
           qp_size_text(qp_block_bytes(arch, 1), layer, sizeof layer),
           qp_size_text(largest_block(arch), most, sizeof most),
           qp_size_text((uint64_t)qp_arch_parameters(arch) * (uint64_t)qp_dtype_bits(arch->dtype) / 8, total,
                        sizeof total));
    printf("all processes together hold about %s of %s, with %lld blocks on their way\n",
           qp_size_text((uint64_t)qp_memory_need(p, o->stages, p->blocks), layer, sizeof layer),
           qp_size_text(qp_memory_budget(p), most, sizeof most), (long long)p->blocks);
    print_roofline(plan, o);
}

static int plan_command(const struct qp_args *args, struct qp_error *err)
{
    struct qp_plan plan;
    int r = qp_prepare(args, false, &plan, err);
    if (r < 0)
        return r;
    struct outlook outlook;
    outlook.measured = qp_peaks_load(&outlook.peaks);
    r = qp_plan_estimates(&plan, outlook.stages, err);
    if (r == 0)
        r = qp_memory_divide(plan.pipeline, outlook.stages, err);
    outlook.blocks = (double)plan.pipeline->blocks;
    if (r == 0 && qp_arg(args, "json"))
        r = qp_print_json(as_json(&plan, &outlook), err);
    else if (r == 0)
        print_plan(&plan, &outlook);
    qp_plan_warn(&plan);
    qp_plan_free(&plan);
    return r;
}

const struct qp_subcommand qp_subcommand_plan = {
    .name = "plan",
    .summary =
        "print what a run would do: order, processes, blocks, memory, what is collected, the least time it takes",
    .usage = "[PIPELINE]",
    .max_arguments = 1,
    .options = {qp_pipeline_options, qp_json_option},
    .run = plan_command,
};
