#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "runner/pipeline/graph.h"
#include "runner/pipeline/pipeline.h"
#include "tests/support/scratch.h"

#define HEAD "quantpipe: 1\nmodel: m\noutput: o\nscheme: int4\nstages:\n"
#define DATA "data: {calibration: {text: t}}\n"

TestSuite(graph, .init = scratch_make, .fini = scratch_drop);

/* A stage is described by its `use`. */
static const struct {
    const char *use, *descriptor;
} kinds[] = {
    {"source", "{'name': 'source', 'outputs': [{'name': 'out', 'provides': ['weights']}]}"},
    {"collect", "{'name': 'collect', 'inputs': [{'name': 'in', 'needs': ['weights']}], 'outputs': [{'name': 'out', "
                "'provides': ['statistics']}], 'collects': ['hessian', 'peak'], 'data': 'calibration'}"},
    {"method", "{'name': 'method', 'inputs': [{'name': 'in', 'needs': ['weights', 'statistics']}], 'outputs': "
               "[{'name': 'out', 'provides': ['quantized']}], 'params': [{'name': 'method', 'type': 'string', "
               "'default': 'gptq'}], 'needs': [{'what': 'hessian', 'param': 'method', 'value': 'gptq'}, {'what': "
               "'peak', 'param': 'method', 'value': 'smooth'}]}"},
    {"pass", "{'name': 'pass', 'inputs': [{'name': 'in'}], 'outputs': [{'name': 'out'}]}"},
    {"reader", "{'name': 'reader', 'inputs': [{'name': 'in'}], 'outputs': [{'name': 'out'}], 'data': 'evaluation'}"},
    {"maybe", "{'name': 'maybe', 'inputs': [{'name': 'in'}], 'outputs': [{'name': 'out'}], 'data': 'evaluation', "
              "'data_optional': true}"},
    {"always", "{'name': 'always', 'inputs': [{'name': 'in'}], 'outputs': null, 'needs': [{'what': 'peak', 'param': "
               "null, 'value': null}]}"},
    {"tuned",
     "{'name': 'tuned', 'inputs': [{'name': 'in'}], 'outputs': null, 'params': [{'name': 'asymmetric', 'type': "
     "'percent', 'default': '0%'}], 'needs': [{'what': 'peak', 'param': 'asymmetric', 'value': null}]}"},
    {"fixed", "{'name': 'fixed', 'inputs': [{'name': 'in'}], 'outputs': null, 'params': [{'name': 'by', 'type': "
              "'string', 'default': 'peak'}], 'needs': [{'what': 'peak', 'scheme': 'static'}, {'what': 'hessian', "
              "'param': 'by', 'value': 'hessian', 'scheme': 'static'}, {'what': 'peak', 'scheme': 'kv_cache'}]}"},
    {"open", "{'name': 'open', 'inputs': [{'name': 'in'}, {'name': 'more', 'optional': true}], 'outputs': [{'name': "
             "'out', 'optional': true}]}"},
    {"cycle", "{'name': 'cycle', 'inputs': [{'name': 'in'}, {'name': 'back', 'needs': ['quantized'], 'optional': true, "
              "'feedback': true, 'collects': ['peak']}], 'outputs': [{'name': 'out', 'provides': ['statistics']}], "
              "'data': 'calibration', 'collects': ['hessian']}"},
    {"sink", "{'name': 'sink', 'inputs': [{'name': 'in', 'needs': ['weights']}], 'outputs': null}"},
    {"strict", "{'name': 'strict', 'inputs': [{'name': 'in', 'needs': ['quantized']}], 'outputs': []}"},
    {"method_says", "{'name': 'method_says', 'inputs': [{'name': 'in'}], 'outputs': [{'name': 'out'}, {'name': 'more', "
                    "'optional': true}], 'needs': [{'what': 'hessian'}], 'uses': []}"},
    {"reads", "{'name': 'reads', 'inputs': [{'name': 'in'}], 'outputs': [{'name': 'out'}], 'uses': ['hessian']}"},
    {"blind", "{'name': 'blind', 'inputs': [{'name': 'in'}], 'outputs': [{'name': 'out', 'optional': true}], "
              "'uses': []}"},
    {"two", "{'name': 'two', 'inputs': [{'name': 'a'}, {'name': 'b'}], 'outputs': [{'name': 'x'}, {'name': 'y'}]}"},
};

static json_t *descriptor_of(const char *use)
{
    char text[1024];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].use, use) == 0) {
            snprintf(text, sizeof text, "%s", kinds[i].descriptor);
            for (char *p = text; *p; p++)
                *p = *p == '\'' ? '"' : *p;
            json_t *value = json_loads(text, 0, NULL);
            cr_assert_not_null(value, "%s", text);
            return value;
        }
    cr_assert_fail("%s", use);
    return NULL;
}

static int build(const char *yaml, struct qp_pipeline **out, struct qp_error *err)
{
    struct qp_document *d = NULL;
    cr_assert_eq(qp_document_load(scratch_text("p.yaml", yaml), &d, err), 0, "%s", err->message);
    cr_assert_eq(qp_pipeline_parse(d, out, err), 0, "%s", err->message);
    for (size_t i = 0; i < (*out)->count; i++)
        (*out)->instances[i].descriptor = descriptor_of((*out)->instances[i].use);
    return qp_graph_build(*out, err);
}

static void expect_failure(const char *yaml, const char *at, const char *message)
{
    struct qp_pipeline *p = NULL;
    struct qp_error err = {0};
    char start[300];
    snprintf(start, sizeof start, "%s%s: ", scratch("p.yaml"), at);
    cr_expect_eq(build(yaml, &p, &err), QP_ERR_INPUT, "%s", yaml);
    cr_expect(strncmp(err.message, start, strlen(start)) == 0 && strstr(err.message, message), "%s\n%s", yaml,
              err.message);
    qp_pipeline_free(p);
}

static struct qp_pipeline *built(const char *yaml)
{
    struct qp_pipeline *p = NULL;
    struct qp_error err = {0};
    cr_assert_eq(build(yaml, &p, &err), 0, "%s\n%s", yaml, err.message);
    return p;
}

Test(graph, order_follows_the_edges_and_else_the_file)
{
    struct qp_pipeline *p = built(HEAD "  sink: {from: b}\n  b: {use: pass, from: a}\n  c: {use: sink, from: a}\n"
                                       "  a: {use: source}\n");
    static const char *const expected[] = {"a", "b", "sink", "c"};
    for (size_t i = 0; i < 4; i++)
        cr_expect_str_eq(p->instances[p->order[i]].name, expected[i]);
    cr_assert_eq(p->edge_count, 3);
    cr_expect_str_eq(p->edges[0].id, "0.b-sink");
    cr_expect_str_eq(p->edges[0].output, "out");
    cr_expect_str_eq(p->edges[0].input, "in");
    qp_pipeline_free(p);
}

Test(graph, ports_are_named_where_there_are_several)
{
    qp_pipeline_free(built(HEAD
                           "  source: {}\n  two: {from: {a: source.out, b: source}}\n  s: {use: sink, from: two.x}\n"
                           "  t: {use: sink, from: two.y}\n"));
    expect_failure(HEAD "  source: {}\n  two: {from: source}\n", ":7:15", "stage `two` has several inputs");
    expect_failure(HEAD "  source: {}\n  two: {from: {a: source, c: source}}\n", ":7:30",
                   "has no input `c`; it has: a, b");
    expect_failure(HEAD "  source: {}\n  two: {from: {a: source}}\n", ":7:3", "gets nothing at its input `b`");
    expect_failure(HEAD "  source: {}\n  two: {from: {a: source, b: source}}\n  sink: {from: two}\n", ":8:16",
                   "stage `two` has several outputs");
    expect_failure(HEAD "  source: {}\n  sink: {from: source.up}\n", ":7:16", "has no output `up`; it has: out");
    expect_failure(HEAD "  source: {}\n  two: {from: {a: source, b: source}}\n  sink: {from: two.x}\n", ":7:3",
                   "output `y` of stage `two` goes nowhere");
}

Test(graph, loose_ends_are_refused)
{
    expect_failure(HEAD "  source: {}\n", ":6:3", "output `out` of stage `source` goes nowhere");
    expect_failure(HEAD "  sink: {}\n", ":6:3", "stage `sink` gets nothing at its input `in`; add `from: STAGE`");
    expect_failure(HEAD "  source: {}\n  sink: {from: sourc}\n", ":7:16",
                   "there is no stage `sourc` in this pipeline; did you mean `source`?");
    expect_failure(HEAD "  source: {from: sink}\n  sink: {from: source}\n", ":6:18", "stage `sink` has no output");
    expect_failure(HEAD "  source: {}\n  b: {use: source, from: source}\n", ":7:26", "stage `b` has no input");
}

Test(graph, optional_ports_may_be_loose)
{
    struct qp_pipeline *p = built(HEAD "  source: {}\n  open: {from: {in: source}}\n");
    cr_expect_eq(p->edge_count, 1);
    qp_pipeline_free(p);
    qp_pipeline_free(built(HEAD "  source: {}\n  open: {from: {in: source, more: source}}\n"));
    expect_failure(HEAD "  source: {}\n  open: {from: {more: source}}\n", ":7:3", "gets nothing at its input `in`");
}

Test(graph, a_need_without_a_value_is_active_when_the_parameter_is_set)
{
    static const char *const set[] = {"1%", "0.5", "2", "true", "entropy"};
    static const char *const unset[] = {"0", "0.0", "0%", "false", "none", "''"};
    char yaml[512];
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        snprintf(yaml, sizeof yaml,
                 HEAD
                 "  source: {}\n  collect: {from: source}\n  tuned: {from: collect, with: {asymmetric: %s}}\n" DATA,
                 set[i]);
        struct qp_pipeline *p = built(yaml);
        cr_expect_eq(json_array_size(qp_pipeline_find(p, "collect")->wants), 1, "%s", set[i]);
        qp_pipeline_free(p);
    }
    for (size_t i = 0; i < sizeof unset / sizeof *unset; i++) {
        snprintf(yaml, sizeof yaml,
                 HEAD "  source: {}\n  collect: {from: source}\n  tuned: {from: collect, with: {asymmetric: %s}}\n",
                 unset[i]);
        struct qp_pipeline *p = built(yaml);
        cr_expect_eq(json_array_size(qp_pipeline_find(p, "collect")->wants), 0, "%s", unset[i]);
        qp_pipeline_free(p);
    }
    expect_failure(HEAD "  source: {}\n  tuned: {from: source, with: {asymmetric: 3}}\n", ":7:3",
                   "`asymmetric: 3` of stage `tuned` needs `peak`, and no stage upstream collects it");
}

Test(graph, needs_can_ask_for_what_the_scheme_has)
{
    static const struct {
        const char *scheme, *with;
        size_t wants;
    } runs[] = {{"int8", "", 0},
                {"int8", ", with: {by: peak}", 0},
                {"fp8", "", 1},
                {"fp8", ", with: {by: hessian}", 2},
                {"nvfp4", "", 1},
                {"{weights: {format: int4}, kv_cache: {format: int8}}", "", 1},
                {"{weights: {format: int8}, rules: [{match: a, activations: {format: int8, dynamic: false}}]}", "", 1},
                {"[int8, fp8]", "", 1}};
    char yaml[512];
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        snprintf(yaml, sizeof yaml,
                 "quantpipe: 1\nmodel: m\noutput: o\nscheme: %s\nstages:\n  source: {}\n  collect: {from: source}\n"
                 "  fixed: {from: collect%s}\n" DATA,
                 runs[i].scheme, runs[i].with);
        struct qp_pipeline *p = built(yaml);
        cr_expect_eq(json_array_size(qp_pipeline_find(p, "collect")->wants), runs[i].wants, "%s", yaml);
        qp_pipeline_free(p);
    }
    expect_failure("quantpipe: 1\nmodel: m\noutput: o\nscheme: fp8\nstages:\n  source: {}\n  fixed: {from: source}\n",
                   ":7:3",
                   "the scheme's fixed ranges of activations in stage `fixed` needs `peak`, and no stage upstream");
}

Test(graph, a_cycle_is_printed)
{
    expect_failure(HEAD "  end: {use: sink, from: c}\n  a: {use: pass, from: c}\n  b: {use: pass, from: a}\n"
                        "  c: {use: pass, from: b}\n",
                   ":9:24", "the stages form a cycle: c -> a -> b -> c");
    expect_failure(HEAD "  a: {use: pass, from: a}\n", ":6:24", "a -> a;");
}

#define CYCLE HEAD "  source: {}\n  cycle: {from: {in: source, back: {from: method, delay: 1}}}\n"
#define METHOD "  method: {from: cycle}\n"

Test(graph, a_delayed_edge_closes_a_cycle)
{
    struct qp_pipeline *p = built(CYCLE METHOD "  strict: {from: method}\n" DATA);
    static const char *const expected[] = {"source", "cycle", "method", "strict"};
    for (size_t i = 0; i < 4; i++)
        cr_expect_str_eq(p->instances[p->order[i]].name, expected[i]);
    cr_assert_eq(p->edge_count, 4);
    int delays = 0;
    for (size_t i = 0; i < 4; i++)
        delays += p->edges[i].delay;
    cr_expect_eq(delays, 1);
    cr_expect_eq(p->edges[1].delay, 1);
    cr_expect_str_eq(p->edges[1].input, "back");
    qp_pipeline_free(p);
    expect_failure(HEAD "  source: {}\n  cycle: {from: {in: source, back: method}}\n" METHOD, ":7:36",
                   "the stages form a cycle: cycle -> method -> cycle; take one `from` out of it, or let "
                   "blocks come back later at a stage that has an input for that: from: {in: STAGE, feedback: {from: "
                   "STAGE, delay: 1}}");
}

Test(graph, a_delay_has_its_place)
{
    expect_failure(HEAD "  source: {}\n  cycle: {from: {in: source, back: source}}\n  sink: {from: cycle}\n", ":7:36",
                   "input `back` of stage `cycle` takes blocks that come back: write {from: source, delay: 1}");
    expect_failure(HEAD "  source: {}\n  cycle: {from: {in: source, back: {from: source, delay: 1}}}\n"
                        "  sink: {from: cycle}\n",
                   ":7:36", "nothing comes back from stage `source`, which gets nothing of what `cycle` puts out");
    expect_failure(HEAD "  a: {use: pass, from: {in: {from: b, delay: 1}}}\n  b: {use: pass, from: a}\n", ":6:29",
                   "input `in` of stage `a` takes no blocks that come back; remove `delay`");
    expect_failure(HEAD "  source: {}\n  cycle: {from: {in: source, back: {from: pass, delay: 1}}}\n"
                        "  pass: {from: cycle}\n  sink: {from: pass}\n",
                   ":7:36", "cycle.back needs [quantized], but pass.out provides [weights, statistics]");
}

Test(graph, what_comes_back_does_not_go_on)
{
    expect_failure(CYCLE METHOD "  strict: {from: cycle}\n  sink: {from: method}\n" DATA, ":9:18",
                   "strict.in needs [quantized], but cycle.out provides [weights, statistics]");
}

Test(graph, without_feedback_the_other_input_is_the_only_one)
{
    struct qp_pipeline *p = built(HEAD "  source: {}\n  cycle: {from: source}\n  sink: {from: cycle}\n");
    cr_assert_eq(p->edge_count, 2);
    cr_expect_str_eq(p->edges[0].input, "in");
    qp_pipeline_free(p);
}

Test(graph, some_statistics_need_feedback)
{
    struct qp_pipeline *p =
        built(CYCLE "  method: {from: cycle, with: {method: smooth}}\n  sink: {from: method}\n" DATA);
    const json_t *wants = qp_pipeline_find(p, "cycle")->wants;
    cr_assert_eq(json_array_size(wants), 1);
    cr_expect_str_eq(json_string_value(json_array_get(wants, 0)), "peak");
    qp_pipeline_free(p);
    expect_failure(HEAD "  source: {}\n  cycle: {from: source}\n"
                        "  method: {from: cycle, with: {method: smooth}}\n  sink: {from: method}\n" DATA,
                   ":7:3",
                   "`method: smooth` of stage `method` needs `peak`, which stage `cycle` collects only with something "
                   "at its input `back`: write from: {in: STAGE, back: {from: method, delay: 1}}");
}

Test(graph, features_accumulate_along_the_path)
{
    qp_pipeline_free(built(HEAD "  source: {}\n  collect: {from: source}\n  pass: {from: collect}\n"
                                "  method: {from: pass, with: {method: rtn}}\n  strict: {from: method}\n"));
    expect_failure(HEAD "  source: {}\n  strict: {from: source}\n", ":7:18",
                   "strict.in needs [quantized], but source.out provides [weights]: the first that is missing is "
                   "`quantized`");
    expect_failure(HEAD "  source: {}\n  method: {from: source, with: {method: rtn}}\n  strict: {from: method}\n",
                   ":7:18", "the first that is missing is `statistics`");
}

Test(graph, needs_travel_to_the_nearest_collector)
{
    struct qp_pipeline *p =
        built(HEAD "  source: {}\n  far: {use: collect, from: source}\n  near: {use: collect, from: "
                   "far}\n  method: {from: near}\n  m2: {use: method, from: method}\n"
                   "  sink: {from: m2}\n" DATA);
    cr_expect_eq(json_array_size(qp_pipeline_find(p, "far")->wants), 0);
    const json_t *wants = qp_pipeline_find(p, "near")->wants;
    cr_assert_eq(json_array_size(wants), 1, "asked for once, however many need it");
    cr_expect_str_eq(json_string_value(json_array_get(wants, 0)), "hessian");
    qp_pipeline_free(p);
    p = built(HEAD "  source: {}\n  collect: {from: source}\n  method: {from: collect, with: {method: rtn}}\n"
                   "  sink: {from: method}\n");
    cr_expect_eq(json_array_size(qp_pipeline_find(p, "collect")->wants), 0, "nothing needs it, so no data is needed");
    qp_pipeline_free(p);
    p = built(HEAD "  source: {}\n  collect: {from: source}\n  always: {from: collect}\n" DATA);
    cr_expect_str_eq(json_string_value(json_array_get(qp_pipeline_find(p, "collect")->wants, 0)), "peak");
    qp_pipeline_free(p);
    expect_failure(HEAD "  source: {}\n  always: {from: source}\n", ":7:3", "no stage upstream collects it");
}

/* Whether an instance is told to drop the Hessian, which is all that is collected. */
static void expect_drop(const struct qp_pipeline *p, const char *name, bool drop)
{
    qp_auto_json json_t *drops = qp_drops_of(p, (size_t)(qp_pipeline_find(p, name) - p->instances));
    cr_expect_eq(json_array_size(drops), drop, "%s", name);
}

Test(graph, a_statistic_is_dropped_after_its_last_reader)
{
#define READER "  source: {}\n  collect: {from: source}\n  method_says: {from: collect}\n"
    struct qp_pipeline *p = built(HEAD READER "  blind: {from: method_says}\n" DATA);
    expect_drop(p, "collect", false);
    expect_drop(p, "method_says", true);
    expect_drop(p, "blind", true);
    qp_pipeline_free(p);
    p = built(HEAD READER "  mid: {use: blind, from: method_says}\n  reads: {from: mid}\n"
                          "  blind: {from: reads}\n" DATA);
    expect_drop(p, "method_says", false);
    expect_drop(p, "mid", false);
    expect_drop(p, "reads", true);
    qp_pipeline_free(p);
    p = built(HEAD READER "  pass: {from: method_says}\n  blind: {from: pass}\n" DATA);
    expect_drop(p, "method_says", false); /* pass does not say what it reads */
    expect_drop(p, "pass", true);
    qp_pipeline_free(p);
    p = built(HEAD READER "  one: {use: blind, from: method_says}\n  two: {use: reads, from: collect}\n"
                          "  blind: {from: two}\n" DATA);
    expect_drop(p, "method_says", true); /* the reader is on another branch */
    expect_drop(p, "collect", false);
    qp_pipeline_free(p);
}

Test(graph, data_is_there_where_it_is_needed)
{
    expect_failure(HEAD "  source: {}\n  collect: {from: source}\n  method: {from: collect}\n  sink: {from: method}\n",
                   ":7:3",
                   "`method: gptq` of stage `method` needs data, which stage `collect` reads from "
                   "`data.calibration`");
    expect_failure(HEAD "  source: {}\n  reader: {from: source}\n  sink: {from: reader}\n" DATA, ":7:3",
                   "stage `reader` needs data, which stage `reader` reads from `data.evaluation`");
    qp_pipeline_free(built(HEAD "  source: {}\n  maybe: {from: source}\n  sink: {from: maybe}\n"));
}
