#include "tests/support/runs.h"

#include <criterion/criterion.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/safetensors.h"

static char sockets[256];

void runs_make(void)
{
    struct qp_error err;
    scratch_make();
    snprintf(sockets, sizeof sockets, "%s", scratch("r"));
    cr_assert_eq(qp_make_folders(sockets, &err), 0, "%s", err.message);
    setenv("XDG_RUNTIME_DIR", sockets, 1);
}

const char *runs_sockets(void)
{
    return sockets;
}

int runs_processes(void)
{
    glob_t found = {0};
    int count = 0;
    cr_assert_eq(glob("/proc/[0-9]*/cmdline", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char line[4096];
        FILE *file = fopen(found.gl_pathv[i], "r");
        size_t size = file ? fread(line, 1, sizeof line, file) : 0;
        if (file)
            fclose(file);
        count += memmem(line, size, runs_sockets(), strlen(runs_sockets())) != NULL;
    }
    globfree(&found);
    return count;
}

const char *runs_model_of(int layers)
{
    struct qp_error err;
    qp_auto_json json_t *config = NULL;
    run_well(WORDS("cp", "-r", TINY, scratch("model")));
    cr_assert_eq(qp_read_json(scratch("model/config.json"), 1 << 20, &config, &err), 0, "%s", err.message);
    cr_assert_eq(json_object_set_new(config, "num_hidden_layers", json_integer(layers)), 0);
    cr_assert_eq(qp_write_json(scratch("model/config.json"), config, &err), 0, "%s", err.message);
    return scratch("model");
}

void run_well(const char *const *argv)
{
    struct command c = command_run(300, argv);
    cr_assert_eq(c.code, 0, "%d\n%s%s", c.code, c.output, c.errors);
    command_free(&c);
}

void run_to(int code, const char *message, const char *const *argv)
{
    struct command c = command_run(300, argv);
    cr_expect_eq(c.code, code, "%d\n%s%s", c.code, c.output, c.errors);
    cr_expect(strstr(c.errors, message), "%s", c.errors);
    command_free(&c);
}

json_t *answer_of(const char *const *argv)
{
    struct command c = command_run(300, argv);
    cr_assert_eq(c.code, 0, "%d\n%s", c.code, c.errors);
    json_t *answer = json_loads(c.output, 0, NULL);
    cr_assert_not_null(answer, "%s", c.output);
    command_free(&c);
    return answer;
}

json_t *report_of(const char *output)
{
    struct qp_error err;
    json_t *report = NULL;
    qp_auto_free char *path = qp_format("%s.run/report.json", output);
    cr_assert_eq(qp_read_json(path, 1 << 24, &report, &err), 0, "%s", err.message);
    return report;
}

const json_t *first_output(const json_t *report)
{
    return json_array_get(json_object_get(report, "outputs"), 0);
}

const json_t *stage_of(const json_t *report, const char *name)
{
    size_t i;
    json_t *stage;
    json_array_foreach(json_object_get(report, "stages"), i, stage)
        if (strcmp(text(stage, "name"), name) == 0)
            return stage;
    return NULL;
}

void runs_expect_network(const json_t *output)
{
    double original = number(output, "perplexity", "original"), quantized = number(output, "perplexity", "quantized");
    double divergence = number(output, "kl_divergence", NULL);
    cr_expect(original > 1 && quantized > 1 && quantized < 2 * original, "%g, originally %g", quantized, original);
    cr_expect(isfinite(divergence) && divergence > 0, "%g", divergence);
}

double runs_perplexity(const char *checkpoint, const char *samples)
{
    qp_auto_json json_t *answer = answer_of(WORDS(QUANTPIPE, "evaluate", checkpoint, "--data", TINY "/test.txt",
                                                  "--length", "512", "--samples", samples, "--json"));
    return number(answer, "perplexity", NULL);
}

bool runs_same_tensor(const char *one, const char *other, const char *name)
{
    struct qp_error err;
    struct qp_safetensors *files[2];
    const struct qp_tensor *tensors[2];
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(qp_safetensors_open(i ? other : one, &files[i], &err), 0, "%s", err.message);
        tensors[i] = qp_safetensors_find(files[i], name);
        cr_assert(tensors[i], "%s has no %s", i ? other : one, name);
    }
    bool same =
        tensors[0]->bytes == tensors[1]->bytes && memcmp(tensors[0]->data, tensors[1]->data, tensors[0]->bytes) == 0;
    qp_safetensors_close(files[0]);
    qp_safetensors_close(files[1]);
    return same;
}

double number(const json_t *object, const char *key, const char *inner)
{
    const json_t *value = json_object_get(object, key);
    if (inner)
        value = json_object_get(value, inner);
    cr_assert(json_is_number(value), "%s%s%s is no number", key, inner ? "." : "", inner ? inner : "");
    return json_number_value(value);
}

const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    cr_assert_not_null(value, "%s is no string", key);
    return value;
}

void runs_make_python(void)
{
    runs_make();
    setenv("PYTHONPATH", SOURCE_DIR "/examples/python", 1);
    setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
}

const char *runs_python(void)
{
    static char path[512];
    struct command c = command_run(600, WORDS(SOURCE_DIR "/scripts/python"));
    cr_assert_eq(c.code, 0, "%s", c.errors);
    snprintf(path, sizeof path, "%.*s", (int)strcspn(c.output, "\n"), c.output);
    command_free(&c);
    return path;
}
