/* Several schemes in one pipeline: what becomes of its stages and its output. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "runner/pipeline/pipeline.h"
#include "tests/support/scratch.h"

#define HEAD "quantpipe: 1\nmodel: m\noutput: /o\n"
#define STAGES                                                                                                 \
    "stages:\n  source: {}\n  before: {use: pass, from: source}\n  collect: {from: before}\n  method: {from: " \
    "collect}\n"                                                                                               \
    "  sink: {from: method.out}\n"
#define DATA "data: {calibration: {text: t}}\n"

TestSuite(branches, .init = scratch_make, .fini = scratch_drop);

/* A stage is described by its `use`. */
static json_t *descriptor_of(const char *use)
{
    static const struct {
        const char *use, *descriptor;
    } kinds[] = {
        {"source", "{'name': 'source', 'outputs': [{'name': 'out'}]}"},
        {"pass", "{'name': 'pass', 'inputs': [{'name': 'in'}], 'outputs': [{'name': 'out'}]}"},
        {"collect", "{'name': 'collect', 'inputs': [{'name': 'in'}], 'outputs': [{'name': 'out'}], 'collects': "
                    "['hessian'], 'data': 'calibration'}"},
        {"hears", "{'name': 'hears', 'inputs': [{'name': 'in'}, {'name': 'back'}], 'outputs': [{'name': 'out'}], "
                  "'collects': ['hessian'], 'data': 'calibration'}"},
        {"method", "{'name': 'method', 'inputs': [{'name': 'in'}], 'outputs': [{'name': 'out'}], 'needs': [{'what': "
                   "'hessian'}]}"},
        {"sink", "{'name': 'sink', 'inputs': [{'name': 'in'}]}"},
    };
    char text[512];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].use, use) == 0) {
            snprintf(text, sizeof text, "%s", kinds[i].descriptor);
            for (char *p = text; *p; p++)
                *p = *p == '\'' ? '"' : *p;
            return json_loads(text, 0, NULL);
        }
    cr_assert_fail("%s", use);
    return NULL;
}

static int expand(const char *yaml, struct qp_pipeline **out, struct qp_error *err)
{
    struct qp_document *d = NULL;
    cr_assert_eq(qp_document_load(scratch_text("p.yaml", yaml), &d, err), 0, "%s", err->message);
    cr_assert_eq(qp_pipeline_parse(d, out, err), 0, "%s", err->message);
    for (size_t i = 0; i < (*out)->count; i++)
        (*out)->instances[i].descriptor = descriptor_of((*out)->instances[i].use);
    return qp_branches_expand(*out, err);
}

static struct qp_pipeline *built(const char *yaml)
{
    struct qp_pipeline *p = NULL;
    struct qp_error err = {0};
    cr_assert_eq(expand(yaml, &p, &err), 0, "%s\n%s", yaml, err.message);
    cr_assert_eq(qp_graph_build(p, &err), 0, "%s\n%s", yaml, err.message);
    return p;
}

static void expect_edge(const struct qp_pipeline *p, const char *from, const char *to)
{
    for (size_t i = 0; i < p->edge_count; i++)
        if (strcmp(p->instances[p->edges[i].from].name, from) == 0 &&
            strcmp(p->instances[p->edges[i].to].name, to) == 0)
            return;
    cr_expect_fail("no edge %s -> %s", from, to);
}

Test(branches, one_scheme_changes_nothing)
{
    struct qp_pipeline *p = built(HEAD "scheme: int4\n" STAGES DATA);
    cr_expect_not(qp_has_branches(p));
    cr_assert_eq(p->branch_count, 1);
    cr_expect_str_eq(p->branches[0].output, "/o");
    cr_expect_eq(p->count, 5);
    for (size_t i = 0; i < p->count; i++)
        cr_expect_eq(p->instances[i].branch, QP_SHARED);
    qp_pipeline_free(p);
}

Test(branches, stages_after_the_collector_are_copied)
{
    static const char *const names[] = {"source",    "before",   "collect", "method@int4",
                                        "sink@int4", "method@a", "sink@a"};
    static const int branch[] = {-1, -1, -1, 0, 0, 1, 1};
    struct qp_pipeline *p = built(HEAD "scheme: [int4, {name: a, weights: {format: int8}}]\n" STAGES DATA);
    cr_assert_eq(p->count, 7);
    for (size_t i = 0; i < 7; i++) {
        cr_expect_str_eq(p->instances[i].name, names[i]);
        cr_expect_eq(p->instances[i].branch, branch[i], "%s", names[i]);
    }
    cr_assert_eq(p->edge_count, 6);
    expect_edge(p, "before", "collect");
    expect_edge(p, "collect", "method@int4");
    expect_edge(p, "collect", "method@a");
    expect_edge(p, "method@a", "sink@a");
    cr_expect_str_eq(p->branches[0].output, "/o-int4");
    cr_expect_str_eq(p->branches[1].output, "/o-a");
    cr_expect_eq(json_array_size(p->instances[2].wants), 1, "asked for once by both");
    char base[65];
    cr_expect_str_eq(qp_base_name(&p->instances[6], base, sizeof base), "sink");
    cr_expect_str_eq(p->instances[6].path, "stages.sink");
    qp_pipeline_free(p);
}

Test(branches, without_a_collector_the_source_is_shared)
{
    struct qp_pipeline *p =
        built("quantpipe: 1\nmodel: m\noutput: /o-{scheme}-x\nscheme: [int4]\nstages:\n  source: {}\n"
              "  pass: {from: source}\n  sink: {from: pass}\n");
    cr_assert_eq(p->count, 3);
    cr_expect_str_eq(p->instances[1].name, "pass@int4");
    cr_expect_str_eq(p->branches[0].output, "/o-int4-x");
    qp_pipeline_free(p);
}

/* A second collector after a method learns from what one scheme made. */
Test(branches, later_collectors_belong_to_branches)
{
    struct qp_pipeline *p =
        built(HEAD "scheme: [int4, int8]\nstages:\n  source: {}\n  collect: {from: source}\n  method: {from: "
                   "collect}\n  again: {use: collect, from: method}\n  more: {use: method, from: again}\n"
                   "  sink: {from: more}\n" DATA);
    cr_expect_eq(p->count, 2 + 2 * 4);
    cr_expect_eq(qp_pipeline_find(p, "again@int8")->branch, 1);
    cr_expect_eq(json_array_size(qp_pipeline_find(p, "again@int8")->wants), 1);
    qp_pipeline_free(p);
}

static void expect_failure(const char *yaml, const char *at, const char *message)
{
    struct qp_pipeline *p = NULL;
    struct qp_error err = {0};
    char start[300];
    snprintf(start, sizeof start, "%s%s: ", scratch("p.yaml"), at);
    cr_expect_eq(expand(yaml, &p, &err), QP_ERR_INPUT, "%s", yaml);
    cr_expect(strncmp(err.message, start, strlen(start)) == 0 && strstr(err.message, message), "%s", err.message);
    qp_pipeline_free(p);
}

Test(branches, feedback_into_what_is_shared_is_refused)
{
    expect_failure(
        HEAD "scheme: [int4, int8]\nstages:\n  source: {}\n  collect: {use: hears, from: {in: source, back: method}}\n"
             "  method: {from: collect}\n  sink: {from: method}\n",
        ":7:50", "stage `method` feeds back into `collect`, which all schemes of the list share");
}

Test(branches, limits)
{
    expect_failure(HEAD "scheme: [abcdefghijklmnopqrstuvwxyz012345]\nstages:\n  source: {}\n"
                        "  a2345678901234567890123456789012345: {use: sink, from: source}\n",
                   ":4:10", "is longer than the 63 characters");
    char yaml[2048] = HEAD "scheme: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]\nstages:\n  s0: {use: source}\n";
    for (int i = 1; i < 5; i++)
        sprintf(yaml + strlen(yaml), "  s%d: {use: pass, from: s%d}\n", i, i - 1);
    expect_failure(yaml, ":4:9", "16 schemes make 65 stages of this pipeline; at most 64");
}
