/* Forks and joins around stages that keep units back. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "runner/pipeline/pipeline.h"
#include "tests/support/scratch.h"

#define HEAD "quantpipe: 1\nmodel: m\noutput: o\nscheme: int4\nstages:\n  s: {use: source}\n"

TestSuite(holds, .init = scratch_make, .fini = scratch_drop);

static const struct {
    const char *use, *descriptor;
} kinds[] = {
    {"source", "{\"name\": \"source\", \"outputs\": [{\"name\": \"out\"}]}"},
    {"pass", "{\"name\": \"pass\", \"inputs\": [{\"name\": \"in\"}], \"outputs\": [{\"name\": \"out\"}]}"},
    {"few", "{\"name\": \"few\", \"holds\": 3, \"inputs\": [{\"name\": \"in\"}], \"outputs\": [{\"name\": \"out\"}]}"},
    {"more",
     "{\"name\": \"more\", \"holds\": 4, \"inputs\": [{\"name\": \"in\"}], \"outputs\": [{\"name\": \"out\"}]}"},
    {"all", "{\"name\": \"all\", \"holds\": \"all\", \"inputs\": [{\"name\": \"in\"}], \"outputs\": [{\"name\": "
            "\"out\"}]}"},
    {"join", "{\"name\": \"join\", \"inputs\": [{\"name\": \"a\"}, {\"name\": \"b\"}], \"outputs\": [{\"name\": "
             "\"out\", \"optional\": true}]}"},
};

static json_t *descriptor_of(const char *use)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].use, use) == 0)
            return json_loads(kinds[i].descriptor, 0, NULL);
    return NULL;
}

/* Builds the graph of these stages after the source `s`; `message` NULL: it must be accepted. */
static void expect(const char *stages, const char *message)
{
    char yaml[1024];
    struct qp_document *d = NULL;
    struct qp_pipeline *p = NULL;
    struct qp_error err = {0};
    snprintf(yaml, sizeof yaml, HEAD "%s", stages);
    cr_assert_eq(qp_document_load(scratch_text("p.yaml", yaml), &d, &err), 0, "%s", err.message);
    cr_assert_eq(qp_pipeline_parse(d, &p, &err), 0, "%s", err.message);
    for (size_t i = 0; i < p->count; i++)
        cr_assert_not_null(p->instances[i].descriptor = descriptor_of(p->instances[i].use));
    int r = qp_graph_build(p, &err);
    cr_expect_eq(r, message ? QP_ERR_INPUT : 0, "%s%s", stages, err.message);
    cr_expect(!message || strstr(err.message, message), "%s%s", stages, err.message);
    qp_pipeline_free(p);
}

Test(holds, a_fork_around_a_holder_is_refused)
{
    expect(
        "  h: {use: all, from: s}\n  j: {use: join, from: {a: s, b: h}}\n",
        "`h` keeps back all units on the path s -> h -> j.b, and `j` takes the same units in order from the path s -> "
        "j.a");
    expect(
        "  h: {use: all, from: s}\n  p: {use: pass, from: s}\n  q: {use: pass, from: h}\n"
        "  j: {use: join, from: {a: q, b: p}}\n",
        "`h` keeps back all units on the path s -> h -> q -> j.a, and `j` takes the same units in order from the path "
        "s -> p -> j.b");
    expect("  p: {use: pass, from: s}\n  h: {use: all, from: p}\n  f: {use: few, from: p}\n"
           "  j: {use: join, from: {a: f, b: h}}\n",
           "the path p -> h -> j.b");
}

Test(holds, a_number_is_held_to_the_places_of_the_other_path)
{
    expect("  h: {use: few, from: s}\n  j: {use: join, from: {a: s, b: h}}\n", NULL);
    expect("  h: {use: more, from: s}\n  j: {use: join, from: {a: s, b: h}}\n", "`h` keeps back 4 units");
    expect("  h: {use: more, from: s}\n  p: {use: pass, from: s}\n  j: {use: join, from: {a: p, b: h}}\n", NULL);
    expect("  h: {use: more, from: s}\n  i: {use: few, from: h}\n  p: {use: pass, from: s}\n"
           "  j: {use: join, from: {a: p, b: i}}\n",
           "path s -> h -> i -> j.b");
}

Test(holds, holders_that_no_other_path_waits_for_are_none_of_its_business)
{
    expect("  h: {use: all, from: s}\n  j: {use: join, from: {a: h, b: h}}\n", NULL);
    expect("  h: {use: all, from: s}\n  i: {use: all, from: s}\n  j: {use: join, from: {a: h, b: i}}\n", NULL);
    expect("  h: {use: all, from: s}\n  p: {use: pass, from: h}\n  q: {use: pass, from: h}\n"
           "  j: {use: join, from: {a: p, b: q}}\n",
           NULL);
    expect("  t: {use: source}\n  h: {use: all, from: t}\n  j: {use: join, from: {a: s, b: h}}\n", NULL);
}
