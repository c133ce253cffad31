#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/pipeline/descriptor.h"
#include "runner/pipeline/pipeline.h"
#include "runner/process.h"
#include "runner/size.h"
#include "tests/support/scratch.h"

#define HEAD "quantpipe: 1\nmodel: m\noutput: out/\nscheme: int4\n"

TestSuite(pipeline, .init = scratch_make, .fini = scratch_drop);
TestSuite(stages, .init = scratch_make, .fini = scratch_drop);

static int parse(const char *text, struct qp_pipeline **out, struct qp_error *err)
{
    struct qp_document *d = NULL;
    cr_assert_eq(qp_document_load(scratch_text("p.yaml", text), &d, err), 0, "%s", err->message);
    return qp_pipeline_parse(d, out, err);
}

Test(pipeline, says_what_was_written)
{
    struct qp_pipeline *p = NULL;
    struct qp_error err;
    cr_assert_eq(parse("stages:\n"
                       "  b: {from: {left: a.out, right: c}, place: {memory: 1.5 GiB, threads: 3, device: cpu}}\n"
                       "  a:\n"
                       "  c: {use: load, with: {x: 1}}\n"
                       "  d: {run: [python3, my stage.py], from: b}\n"
                       "  e: {run: ' ./own  --fast ', from: b.out}\n"
                       "scheme: {weights: {format: int8}}\n"
                       "data: {calibration: {text: t.txt, samples: 3}, evaluation: }\n"
                       "output: out//\nmodel: /m\nquantpipe: 1\n",
                       &p, &err),
                 0, "%s", err.message);
    cr_assert_eq(p->count, 5);
    const struct qp_instance *b = qp_pipeline_find(p, "b"), *c = qp_pipeline_find(p, "c");
    cr_expect_eq(b->source_count, 2);
    cr_expect_str_eq(b->sources[0].input, "left");
    cr_expect_str_eq(b->sources[0].instance, "a");
    cr_expect_str_eq(b->sources[0].output, "out");
    cr_expect_null(b->sources[1].output);
    cr_expect_eq(b->memory, (uint64_t)3 << 29);
    cr_expect_eq(b->threads, 3);
    cr_expect_str_eq(b->use, "b");
    cr_expect_str_eq(c->use, "load");
    cr_expect_eq(json_integer_value(json_object_get(c->params, "x")), 1);
    cr_expect_str_eq(qp_pipeline_find(p, "d")->command[1], "my stage.py");
    cr_expect_str_eq(qp_pipeline_find(p, "e")->command[0], "./own");
    cr_expect_str_eq(qp_pipeline_find(p, "e")->command[1], "--fast");
    cr_expect_null(qp_pipeline_find(p, "e")->command[2]);
    cr_expect_str_eq(p->model, "/m");
    cr_expect_str_eq(p->output, scratch("out"));
    cr_expect_str_eq(json_string_value(json_object_get(json_object_get(p->data, "calibration"), "text")),
                     scratch("t.txt"));
    cr_expect_null(json_object_get(p->data, "evaluation"));
    qp_pipeline_free(p);
}

Test(pipeline, refusals_say_where_and_what_to_do)
{
    static const struct {
        const char *yaml, *at, *message;
    } rows[] = {
        {"quantpipe: 1\n", "", "the key `model` is missing"},
        {"model: m\n", "", "begin with `quantpipe: 1`"},
        {"quantpipe: 2\nmodel: m\n", ":1:12", "`quantpipe` is the number 2; expected 1"},
        {"quantpipe: 1\nmodel: [m]\n", ":2:8", "`model` is a list; expected a Hugging Face folder"},
        {"quantpipe: 1\nmodell: m\n", ":2:1", "unknown key `modell`; did you mean `model`?"},
        {"quantpipe: 1\nmodel: m\noutput: o\nstages: {a: {}}\n", "", "the key `scheme` is missing"},
        {"quantpipe: 1\nmodel: m\noutput: o\nscheme: 5\nstages: {a: {}}\n", ":4:9",
         "expected a preset (`quantpipe schemes`), a mapping, or a list of these"},
        {"quantpipe: 1\nmodel: m\noutput: o\nscheme: []\nstages: {a: {}}\n", ":4:9", "a list of 0 schemes"},
        {"quantpipe: 1\nmodel: m\noutput: o\nscheme: [int4, int4]\nstages: {a: {}}\n", ":4:16",
         "two schemes are called `int4`"},
        {"quantpipe: 1\nmodel: m\noutput: o\nscheme: [int4, {weights: {format: int8}}]\nstages: {a: {}}\n", ":4:16",
         "a mapping in a list of schemes needs a `name`"},
        {"quantpipe: 1\nmodel: m\noutput: o\nscheme: [{name: a/b}]\nstages: {a: {}}\n", ":4:10", "not `a/b`"},
        {"quantpipe: 1\nmodel: m\noutput: o\nscheme: int4\nstrict: 1\nstages: {a: {}}\n", ":5:9",
         "expected true or false"},
        {HEAD, "", "the key `stages` is missing"},
        {HEAD "stages: []\n", ":5:9", "`stages` is a list"},
        {HEAD "stages: {}\n", ":5:9", "expected a mapping from names"},
        {HEAD "stages: {a b: {}}\n", ":5:10", "a stage is named by"},
        {HEAD "stages: {a: 5}\n", ":5:13", "`stages.a` is the number 5; expected a mapping"},
        {HEAD "stages:\n  a: {form: b}\n", ":6:7", "unknown key `form`; did you mean `from`?"},
        {HEAD "stages:\n  a: {from: 5}\n", ":6:13", "`stages.a.from` is the number 5"},
        {HEAD "stages:\n  a: {from: [b, c]}\n", ":6:13", "found a list; this version takes one stage"},
        {HEAD "stages:\n  a: {from: {in: [b]}}\n", ":6:18", "expected one stage, or stage.port"},
        {HEAD "stages:\n  a: {from: {in: b, delay: 1}}\n", ":6:21", "`delay` belongs to one input: from: {PORT: STAGE"},
        {HEAD "stages:\n  a: {from: {in: {from: b, delay: 2}}}\n", ":6:35", "expected 1: each block comes back before"},
        {HEAD "stages:\n  a: {from: {in: {from: b, dely: 1}}}\n", ":6:28", "did you mean `delay`"},
        {HEAD "stages:\n  a: {from: {in: {delay: 1}}}\n", ":6:18", "for feedback {from: STAGE, delay: 1}"},
        {HEAD "stages:\n  a: {from: b.}\n", ":6:13", "expected the name of a stage, or stage.port"},
        {HEAD "stages:\n  a: {with: 3}\n", ":6:13", "expected a mapping"},
        {HEAD "stages:\n  a: {use: ../../bin/sh}\n", ":6:12", "expected the name of a built-in stage"},
        {HEAD "stages:\n  a: {use: load, run: x}\n", ":6:18", "`use` and `run` are both there"},
        {HEAD "stages:\n  a: {run: ' '}\n", ":6:12", "the command line is empty"},
        {HEAD "stages:\n  a: {run: [x, 5]}\n", ":6:12", "an argument of the command line"},
        {HEAD "stages:\n  a: {place: {replicas: 2}}\n", ":6:25", "this version runs one replica"},
        {HEAD "stages:\n  a: {place: {replicas: x}}\n", ":6:25", "expected a whole number"},
        {HEAD "stages:\n  a: {place: {device: cuda:0}}\n", ":6:23", "expected `cpu`"},
        {HEAD "stages:\n  a: {place: {hosts: [n1]}}\n", ":6:15", "`hosts` is not supported"},
        {HEAD "stages:\n  a: {place: {memory: 2 lots}}\n", ":6:23", "expected bytes, as in 2GiB"},
        {HEAD "stages:\n  a: {place: {thread: 2}}\n", ":6:15", "unknown key `thread`; did you mean `threads`?"},
        {HEAD "data: {calibraton: {}}\nstages: {a: {}}\n", ":5:8", "did you mean `calibration`?"},
        {HEAD "data: {calibration: x}\nstages: {a: {}}\n", ":5:21", "expected a mapping, as in {text: train.txt}"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qp_pipeline *p = NULL;
        struct qp_error err = {0};
        cr_expect_eq(parse(rows[i].yaml, &p, &err), QP_ERR_INPUT, "%s", rows[i].yaml);
        char at[300];
        snprintf(at, sizeof at, "%s%s: ", scratch("p.yaml"), rows[i].at);
        cr_expect(strncmp(err.message, at, strlen(at)) == 0 && strstr(err.message, rows[i].message), "%s: %s",
                  rows[i].yaml, err.message);
    }
}

/* ---- sizes ---- */

Test(sizes, are_read_and_written)
{
    static const struct {
        const char *json;
        uint64_t bytes; /* 0: refused */
    } rows[] = {{"2048", 2048},
                {"\"2GiB\"", 2147483648},
                {"\"2 GB\"", 2000000000},
                {"\"1.5K\"", 1536},
                {"\"7\"", 7},
                {"0", 0},
                {"-5", 0},
                {"1.5", 0},
                {"\"GiB\"", 0},
                {"\"2 lots\"", 0},
                {"\"1e3\"", 1000},
                {"\"99999999TiB\"", 0},
                {"true", 0},
                {"\"-2GiB\"", 0},
                {"\"500mb\"", 500000000},
                {"[]", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t bytes = 0;
        qp_auto_json json_t *value = json_loads(rows[i].json, JSON_DECODE_ANY, NULL);
        cr_expect_eq(qp_size_read(value, &bytes), rows[i].bytes > 0, "%s", rows[i].json);
        cr_expect(rows[i].bytes == 0 || bytes == rows[i].bytes, "%s: %llu", rows[i].json, (unsigned long long)bytes);
    }
    char text[32];
    cr_expect_str_eq(qp_size_text(1023, text, sizeof text), "1023 B");
    cr_expect_str_eq(qp_size_text(1536, text, sizeof text), "1.50 KiB");
    cr_expect_str_eq(qp_size_text((uint64_t)20 << 30, text, sizeof text), "20.0 GiB");
    cr_expect_str_eq(qp_seconds_text(59.94, text, sizeof text), "59.9 s");
    cr_expect_str_eq(qp_seconds_text(125.4, text, sizeof text), "2 min 05 s");
}

/* ---- stages that describe themselves ---- */

static const char *script(const char *name, const char *body)
{
    char text[4096];
    snprintf(text, sizeof text, "#!/bin/sh\n%s\n", body);
    const char *path = scratch_text(name, text);
    cr_assert_eq(chmod(path, 0700), 0);
    return path;
}

static int describe(const char *yaml, struct qp_error *err)
{
    struct qp_pipeline *p = NULL;
    cr_assert_eq(parse(yaml, &p, err), 0, "%s", err->message);
    int r = qp_stages_describe(p, err);
    qp_pipeline_free(p);
    return r;
}

#define PARAMS                                                                              \
    "{\"quantpipe\": 1, \"version\": 1, \"protocol\": 1, \"outputs\": [],"                  \
    "\"name\": \"mine\", \"params\": ["                                                     \
    "{\"name\": \"damping\", \"type\": \"float\", \"min\": 0, \"max\": 1},"                 \
    "{\"name\": \"count\", \"type\": \"int\", \"min\": 1, \"max\": 9},"                     \
    "{\"name\": \"free\", \"type\": \"int\", \"min\": null, \"max\": null},"                \
    "{\"name\": \"on\", \"type\": \"bool\"}, {\"name\": \"limit\", \"type\": \"percent\"}," \
    "{\"name\": \"method\", \"type\": \"string\", \"choices\": [\"rtn\", \"gptq\"]}], \"inputs\": []}"

Test(stages, parameters_are_held_to_the_descriptor)
{
    static const struct {
        const char *with, *at, *message; /* NULL: good */
    } rows[] = {{"{damping: 0.05, count: 9, on: true, limit: 5%, method: gptq, free: -7}", NULL, NULL},
                {"{damping: 1, limit: 0.05}", NULL, NULL},
                {"{}", NULL, NULL},
                {"{dampng: 1}", ":6:32", "has no parameter `dampng`; did you mean `damping`?"},
                {"{zzz: 1}", ":6:32", "it has: damping, count, free, on, limit, method"},
                {"{damping: 2}", ":6:41", "`damping` is 2; expected a value from 0 to 1"},
                {"{damping: 5%}", ":6:41", "is the text `5%`; expected a number"},
                {"{count: 0}", ":6:39", "`count` is 0; expected a value from 1 to 9"},
                {"{count: 1.5}", ":6:39", "expected a whole number"},
                {"{on: yes}", ":6:36", "is the text `yes`; expected true or false"},
                {"{limit: five}", ":6:39", "expected a percentage, as 5% or 0.05"},
                {"{method: 4}", ":6:40", "expected text"},
                {"{method: gtpq}", ":6:40", "`method` is `gtpq`; did you mean `gptq`?; expected one of: rtn, gptq"},
                {"{method: }", ":6:40", "is nothing; expected text"}};
    script("mine", "[ \"$1\" = fast ] && [ \"$2\" = --describe ] && cat <<'X'\n" PARAMS "\nX");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qp_error err = {0};
        char yaml[512], at[300];
        snprintf(yaml, sizeof yaml, HEAD "stages:\n  s: {run: ./mine fast, with: %s}\n", rows[i].with);
        int r = describe(yaml, &err);
        cr_expect_eq(r, rows[i].at ? QP_ERR_INPUT : 0, "%s: %s", rows[i].with, err.message);
        snprintf(at, sizeof at, "%s%s: ", scratch("p.yaml"), rows[i].at ? rows[i].at : "");
        if (rows[i].at)
            cr_expect(strncmp(err.message, at, strlen(at)) == 0 && strstr(err.message, rows[i].message), "%s: %s",
                      rows[i].with, err.message);
    }
}

/* Stages need not know their defaults a second time. */
Test(stages, get_their_defaults_from_the_runner)
{
    struct qp_error err = {0};
    struct qp_pipeline *p = NULL;
    script("mine", "cat <<'X'\n{\"quantpipe\": 1, \"version\": 1, \"protocol\": 1, \"name\": \"mine\", "
                   "\"inputs\": [], \"outputs\": [], \"params\": ["
                   "{\"name\": \"count\", \"type\": \"int\", \"default\": \"7\"},"
                   "{\"name\": \"given\", \"type\": \"int\", \"default\": \"7\"},"
                   "{\"name\": \"on\", \"type\": \"bool\", \"default\": \"true\"},"
                   "{\"name\": \"share\", \"type\": \"float\", \"default\": \"0.5\"},"
                   "{\"name\": \"limit\", \"type\": \"percent\", \"default\": \"5%\"},"
                   "{\"name\": \"word\", \"type\": \"string\", \"default\": \"8\"},"
                   "{\"name\": \"unset\", \"type\": \"int\", \"default\": null}]}\nX");
    cr_assert_eq(parse(HEAD "stages:\n  s: {run: ./mine, with: {given: 9}}\n", &p, &err), 0, "%s", err.message);
    cr_assert_eq(qp_stages_describe(p, &err), 0, "%s", err.message);
    qp_auto_json json_t *params = qp_params_of(qp_pipeline_find(p, "s"));
    qp_auto_json json_t *expected = json_pack("{s:i, s:i, s:b, s:f, s:s, s:s}", "count", 7, "given", 9, "on", 1,
                                              "share", 0.5, "limit", "5%", "word", "8");
    cr_expect(json_equal(params, expected), "%s", json_dumps(params, 0));
    qp_pipeline_free(p);
}

Test(stages, executables_that_do_not_answer_well)
{
    static const struct {
        const char *body, *message;
        int code;
    } rows[] = {
        {"echo gone wrong >&2; exit 7", "ended with exit code 7; it said: gone wrong", QP_ERR_STAGE},
        {"kill -9 $$", "ended with signal 9", QP_ERR_STAGE},
        {"echo '{'", "wrote no valid JSON", QP_ERR_INPUT},
        {"echo '[]'", "descriptor: found [], expected object; see schemas/stage.schema.json", QP_ERR_INPUT},
        {"echo '{\"quantpipe\": 1, \"name\": \"a\"}'", "descriptor: the key `version` is missing", QP_ERR_INPUT},
        {"head -c 2000000 /dev/zero", "wrote more than 1048576 bytes", QP_ERR_STAGE}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qp_error err = {0};
        script("mine", rows[i].body);
        int r = describe(HEAD "stages:\n  s: {run: ./mine}\n", &err);
        cr_expect_eq(r, rows[i].code, "%s: %d", rows[i].body, r);
        cr_expect(strstr(err.message, rows[i].message) && strstr(err.message, "p.yaml:6:3: stage `s`"), "%s: %s",
                  rows[i].body, err.message);
    }
}

Test(stages, executables_that_are_not_there)
{
    static const struct {
        const char *stage, *message;
    } rows[] = {{"{run: ./p.yaml}", "p.yaml: not an executable; make it one (chmod +x)"},
                {"{run: ./missing}", "missing: there is no such file"},
                {"{run: no-such-program-anywhere}", "no-such-program-anywhere: there is no such executable in PATH"},
                {"{use: no-such-stage}", "there is no built-in stage `no-such-stage`"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qp_error err = {0};
        char yaml[512];
        snprintf(yaml, sizeof yaml, HEAD "stages:\n  s: %s\n", rows[i].stage);
        cr_expect_eq(describe(yaml, &err), QP_ERR_INPUT, "%s", rows[i].stage);
        cr_expect(strstr(err.message, rows[i].message), "%s", err.message);
    }
}

Test(process, output_has_a_time_limit)
{
    char *argv[] = {"/bin/sh", "-c", "echo early >&2; sleep 60", NULL}, *text = NULL;
    struct qp_error err;
    cr_expect_eq(qp_process_output(argv, NULL, 300, 100, &text, &err), QP_ERR_STAGE);
    cr_expect_str_eq(err.message, "did not answer in time; it said: early");
}
