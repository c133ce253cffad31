/* Bad input: each exits 3 (or 6) with one clear message, and leaves nothing half-written. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/runs.h"

TestSuite(bad, .init = scratch_make, .fini = scratch_drop, .timeout = 300);

/* One line "quantpipe: error: ..." with `message` in it, and neither an output nor a part of one. */
static void expect_refusal(const char *const *argv, int code, const char *message)
{
    struct command c = command_run(120, argv);
    const char *line = strstr(c.errors, "quantpipe: error: ");
    cr_expect_eq(c.code, code, "%d\n%s", c.code, c.errors);
    cr_expect(line && strstr(line, message), "expected %s\nfound %s", message, c.errors);
    cr_expect(line && strchr(line, '\n') == line + strlen(line) - 1, "not one line: %s", c.errors);
    cr_expect_str_eq(c.output, "");
    cr_expect_not(qp_exists(scratch("out")));
    struct command ls = command_run(10, WORDS("sh", "-c", "ls -d \"$0\"/.*quantpipe-*", scratch("")));
    cr_expect_str_eq(ls.output, "");
    command_free(&ls);
    command_free(&c);
}

static void refuse_pipeline(const char *yaml, int code, const char *message)
{
    const char *path = scratch_text("p.yaml", yaml);
    expect_refusal(WORDS(QUANTPIPE, "run", path, "--progress", "none"), code, message);
    expect_refusal(WORDS(QUANTPIPE, "check", path), code, message);
    cr_expect_not(qp_exists(scratch("out.run")), "nothing was begun");
}

#define HEAD "quantpipe: 1\nmodel: " TINY "\noutput: out\nscheme: int4\n"
#define DATA \
    "data: {calibration: {text: " TINY "/train.txt, samples: 4}, evaluation: {text: " TINY "/test.txt, samples: 4}}\n"
#define LOAD "stages:\n  load: {}\n"
#define REST                                                                                                    \
    "  smooth: {from: calibrate}\n  search: {from: smooth}\n  quantize: {from: search, with: {method: gptq}}\n" \
    "  export: {from: quantize}\n"
#define GOOD LOAD "  calibrate: {from: load}\n" REST

/* ---- the pipeline ---- */

Test(bad, no_such_file)
{
    expect_refusal(WORDS(QUANTPIPE, "run", scratch("none.yaml")), 3, "none.yaml: there is no such file");
    refuse_pipeline("quantpipe: 1\nmodel: none\noutput: out\nscheme: int4\n" DATA GOOD, 3, "p.yaml:2:8: ");
    refuse_pipeline(HEAD "data: {calibration: {text: none.txt}}\n" GOOD, 3, "p.yaml:5:28: ");
    expect_refusal(WORDS(QUANTPIPE, "inspect", scratch("none")), 3, "there is no such file or folder");
    expect_refusal(WORDS(QUANTPIPE, "evaluate", TINY, "--data", scratch("none.txt")), 3, "none.txt");
}

Test(bad, keys_and_types_in_yaml)
{
    refuse_pipeline(HEAD DATA "stage:\n  load: {}\n", 3, "p.yaml:6:1: unknown key `stage`; did you mean `stages`?");
    refuse_pipeline(HEAD DATA "model: x\n" GOOD, 3, "p.yaml:6:1: the key `model` is there twice");
    refuse_pipeline(HEAD DATA LOAD "  calibrate: {from: [load]}\n" REST, 3, "p.yaml:8:21: found a list");
    refuse_pipeline(HEAD DATA LOAD "  calibrate: {from: load, with: {sampels: 3}}\n" REST, 3, "p.yaml:8:34: ");
    refuse_pipeline(HEAD DATA LOAD "  calibrate: {from: load}\n  smooth: {from: calibrate, with: {alpha: high}}\n", 3,
                    "p.yaml:9:43: parameter `alpha` of stage `smooth` is the text `high`; expected a number");
    refuse_pipeline(HEAD "data: {calibration: {text: 5}}\n" GOOD, 3, "p.yaml:5:28: ");
    refuse_pipeline(HEAD "data: {calibration: {txt: a}}\n" GOOD, 3, "p.yaml:5:22: ");
    refuse_pipeline("quantpipe: 1\nmodel: " TINY
                    "\noutput: out\nscheme: {weights: {format: int4, gruop: 64}}\n" DATA GOOD,
                    3, "p.yaml:4:");
    refuse_pipeline("quantpipe: 1\nmodel: " TINY "\noutput: out\nscheme: int5x\n" DATA GOOD, 3, "p.yaml:4:9: ");
}

Test(bad, the_graph)
{
    refuse_pipeline(HEAD DATA LOAD "  calibrate: {from: search}\n" REST, 3, "the stages form a cycle: ");
    refuse_pipeline(HEAD DATA LOAD "  export: {from: load}\n", 3, "p.yaml:8:18: export.in needs [");
    refuse_pipeline(HEAD DATA LOAD "  calibrate: {from: laod}\n" REST, 3,
                    "p.yaml:8:21: there is no stage `laod` in this pipeline; did you mean `load`?");
}

Test(bad, a_group_that_does_not_divide)
{
    refuse_pipeline("quantpipe: 1\nmodel: " TINY
                    "\noutput: out\nscheme: {weights: {format: int4, group: 96}}\n" DATA GOOD,
                    3, "ragged: true");
}

Test(bad, no_data_where_the_method_needs_it)
{
    refuse_pipeline(HEAD GOOD, 3,
                    "p.yaml:7:3: `method: gptq` of stage `quantize` needs data, which stage `calibrate` reads from "
                    "`data.calibration`, and that is not there; add ");
}

Test(bad, the_output_exists)
{
    struct qp_error err;
    const char *path = scratch_text("p.yaml", HEAD DATA GOOD);
    cr_assert_eq(qp_make_folders(scratch("there"), &err), 0);
    scratch_text("there/mine", "x");
    expect_refusal(WORDS(QUANTPIPE, "run", path, "--output", scratch("there")), 3,
                   "exists; remove it (rm -r), or choose");
    cr_expect(qp_exists(scratch("there/mine")));
    cr_expect_not(qp_exists(scratch("there.run")));
}

/* ---- the data ---- */

/* The length of a text is known when it is tokenized, in the stage. */
static void refuse_text(const char *text, const char *message)
{
    scratch_text("t.txt", text);
    const char *path = scratch_text("p.yaml", HEAD "data: {calibration: {text: t.txt}}\n" GOOD);
    expect_refusal(WORDS(QUANTPIPE, "run", path, "--progress", "none"), 3, message);
    expect_refusal(WORDS(QUANTPIPE, "evaluate", TINY, "--data", scratch("t.txt")), 3, "t.txt");
}

Test(bad, texts_that_are_empty_or_too_short)
{
    refuse_text("", "stage `calibrate`: ");
    refuse_text("Too short.", "512");
}

/* ---- the model ---- */

struct model {
    json_t *header;
    char *data;
    size_t size;
};

/* A copy of the embedded model in the scratch folder "m", its header parsed. */
static struct model copy_model(void)
{
    struct command c = command_run(20, WORDS("cp", "-r", TINY, scratch("m")));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    command_free(&c);
    struct model m = {0};
    size_t size;
    uint64_t length;
    char *file = scratch_read(scratch("m/model.safetensors"), &size);
    memcpy(&length, file, sizeof length);
    m.header = json_loadb(file + 8, length, 0, NULL);
    m.size = size - 8 - length;
    m.data = malloc(m.size);
    memcpy(m.data, file + 8 + length, m.size);
    free(file);
    return m;
}

static void write_model(struct model *m, uint64_t claimed, size_t drop)
{
    qp_auto_free char *text = json_dumps(m->header, JSON_COMPACT);
    uint64_t length = strlen(text), said = claimed ? claimed : length;
    qp_auto_free char *file = malloc(8 + length + m->size);
    memcpy(file, &said, 8);
    memcpy(file + 8, text, length);
    memcpy(file + 8 + length, m->data, m->size);
    scratch_write("m/model.safetensors", file, 8 + length + m->size - drop);
    json_decref(m->header);
    free(m->data);
}

static json_t *tensor(const struct model *m, const char *name)
{
    json_t *t = json_object_get(m->header, name);
    cr_assert_not_null(t, "%s", name);
    return t;
}

static void refuse_model(const char *message)
{
    refuse_pipeline("quantpipe: 1\nmodel: m\noutput: out\nscheme: int4\n" DATA GOOD, 3, message);
    expect_refusal(WORDS(QUANTPIPE, "inspect", scratch("m")), 3, message);
}

#define UP "model.layers.0.mlp.up_proj.weight"

Test(bad, truncated_safetensors)
{
    struct model m = copy_model();
    write_model(&m, 0, 1000);
    refuse_model("m/model.safetensors");
    scratch_write("m/model.safetensors", "\x10\0\0", 3);
    refuse_model("m/model.safetensors");
    scratch_write("m/model.safetensors", "", 0);
    refuse_model("m/model.safetensors");
}

Test(bad, a_header_over_the_limit)
{
    struct model m = copy_model();
    write_model(&m, 100000001, 0);
    refuse_model("100000000");
}

Test(bad, overlapping_offsets)
{
    struct model m = copy_model();
    json_t *offsets = json_object_get(tensor(&m, UP), "data_offsets");
    for (size_t i = 0; i < 2; i++)
        json_integer_set(json_array_get(offsets, i), json_integer_value(json_array_get(offsets, i)) - 2);
    write_model(&m, 0, 0);
    refuse_model("model.safetensors:");
}

Test(bad, a_wrong_dtype)
{
    struct model m = copy_model();
    json_object_set_new(tensor(&m, UP), "dtype", json_string("I16"));
    write_model(&m, 0, 0);
    refuse_model(UP);
}

Test(bad, a_wrong_shape)
{
    struct model m = copy_model();
    json_object_set_new(tensor(&m, UP), "shape", json_pack("[i, i]", 128, 384));
    write_model(&m, 0, 0);
    refuse_model(UP);
}

Test(bad, a_tensor_that_is_missing)
{
    struct model m = copy_model();
    json_t *t = json_incref(tensor(&m, UP));
    json_object_del(m.header, UP);
    json_object_set_new(m.header, "model.layers.0.mlp.upper_proj.weight", t);
    write_model(&m, 0, 0);
    refuse_model(UP);
}

Test(bad, an_unknown_architecture)
{
    struct qp_error err;
    struct model m = copy_model();
    write_model(&m, 0, 0);
    qp_auto_json json_t *config = NULL;
    cr_assert_eq(qp_read_json(scratch("m/config.json"), 1 << 20, &config, &err), 0, "%s", err.message);
    json_object_set_new(config, "model_type", json_string("mamba"));
    json_object_set_new(config, "architectures", json_pack("[s]", "MambaForCausalLM"));
    cr_assert_eq(qp_write_json(scratch("m/config.json"), config, &err), 0, "%s", err.message);
    refuse_model("mamba");
}

/* ---- the disk ---- */

/* The output on a tmpfs with space for less than it, in a mount namespace of the test's own. */
Test(bad, a_full_disk)
{
    struct qp_error err;
    struct command probe = command_run(
        10, WORDS("unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"));
    if (probe.code != 0)
        cr_skip_test("no mount namespace on this machine: %s", probe.errors);
    command_free(&probe);
    const char *path = scratch_text("p.yaml", HEAD DATA GOOD);
    cr_assert_eq(qp_make_folders(scratch("disk"), &err), 0);
    char script[1024];
    snprintf(
        script, sizeof script,
        "mount -t tmpfs -o size=400k none %s && { %s run %s --output %s/out --run-dir %s --progress none; code=$?; "
        "ls -A %s; exit $code; }",
        scratch("disk"), QUANTPIPE, path, scratch("disk"), scratch("run"), scratch("disk"));
    expect_refusal(WORDS("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script), 6,
                   "No space left on device; free some space and run again");
    cr_expect(qp_exists(scratch("run/report.json")));
}
