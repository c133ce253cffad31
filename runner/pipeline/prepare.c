#include "runner/pipeline/prepare.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/utf8.h"
#include "libstage/calibration/data.h"
#include "libstage/wire/times.h"
#include "runner/pipeline/default.h"

const struct qp_option qp_pipeline_options[] = {
    {"model", "PATH", "quantize this model instead of the pipeline's"},
    {"scheme", "NAME", "use this preset instead of the pipeline's scheme"},
    {"output", "FOLDER", "write here instead; {scheme} stands for the scheme's name"},
    {"calibration", "TEXT", "learn from this text: .txt, .jsonl (field `text`) or .npy of token ids"},
    {"evaluation", "TEXT", "measure the perplexity on this one"},
    {"default", NULL, "the default pipeline, even where there is a pipeline.yaml"},
    {"strict", NULL, "take any warning for a failed gate (exit 5)"},
    {"set", "KEY.KEY=VALUE", "override any key, as in stages.quantize.with.damping=0.05; may be repeated"},
    {"profile", "NAME", "lay the pipeline's profiles.NAME over it; may be repeated"},
    {"run-dir", "FOLDER", "keep the run's files here instead of OUTPUT.run"},
    {"timeout", "SECONDS",
     "give up a stage that does not start, or sends nothing, for so long, and a run that stands still (60; 0: never)"},
    {0}};

/* A text that is named takes the place of random ids. */
static int set_text_of(struct qp_document *d, const char *name, const char *option, const char *text,
                       struct qp_error *err)
{
    qp_auto_free char *path = qp_format("data.%s.text", name), *random = qp_format("data.%s.synthetic", name);
    if (!path || !random)
        return qp_fail_memory(err, 0, name);
    qp_document_remove(d, random);
    return qp_document_set_text(d, path, option, text, err);
}

static int lay_option(struct qp_document *d, const char *name, const char *value, struct qp_error *err)
{
    qp_auto_free char *option = qp_format("--%s %s", name, value);
    if (!option)
        return qp_fail_memory(err, 0, name);
    if (strcmp(name, "profile") == 0)
        return qp_document_profile(d, value, err);
    if (strcmp(name, "set") == 0)
        return qp_document_set(d, value, err);
    if (strcmp(name, "strict") == 0)
        return qp_document_set(d, "strict=true", err);
    if (strcmp(name, "calibration") == 0 || strcmp(name, "evaluation") == 0)
        return set_text_of(d, name, option, value, err);
    return qp_document_set_text(d, name, option, value, err);
}

/* Profiles first, then --set, then the shortcuts: the more special wins whatever the order on the command line. */
static int overlay(const struct qp_args *args, struct qp_document *d, struct qp_error *err)
{
    static const char *const order[] = {"profile", "set",         "model",      "scheme",
                                        "output",  "calibration", "evaluation", "strict"};
    int r = 0;
    for (size_t o = 0; o < sizeof order / sizeof *order; o++)
        for (size_t i = 0; r == 0 && i < args->given_count; i++)
            if (strcmp(args->given[i].option->name, order[o]) == 0)
                r = lay_option(d, order[o], args->given[i].value, err);
    return r;
}

/* The pipeline that is named, else the working directory's pipeline.yaml, else the default. */
static int load_document(const struct qp_args *args, struct qp_document **out, struct qp_error *err)
{
    const char *path = args->argument_count ? args->arguments[0] : QP_PIPELINE_FILE;
    if (args->argument_count && qp_arg(args, "default"))
        return qp_fail(err, QP_ERR_USAGE, "%s: --default and the pipeline %s are both there; keep one of them",
                       args->argv[1], path);
    if (!qp_exists(path) && args->argument_count)
        return qp_fail(err, QP_ERR_INPUT, "%s: there is no such file", path);
    if (!qp_exists(path) || qp_arg(args, "default"))
        return qp_default_document(args, out, err);
    return qp_document_load(path, out, err);
}

static int read_timeout(const struct qp_args *args, struct qp_pipeline *p, struct qp_error *err)
{
    long long seconds;
    int r = qp_arg_integer(args, "timeout", 0, 1000000, QP_TIMEOUT_SECONDS, &seconds, err);
    if (r == 0)
        p->timeout = (int)seconds;
    return r;
}

static int load(const struct qp_args *args, struct qp_pipeline **out, struct qp_error *err)
{
    struct qp_document *d = NULL;
    int r = load_document(args, &d, err);
    if (r < 0)
        return r;
    r = overlay(args, d, err);
    if (r < 0) {
        qp_document_free(d);
        return r;
    }
    r = qp_pipeline_parse(d, out, err);
    return r < 0 ? r : read_timeout(args, *out, err);
}

/* Stages get paths as text in messages, so that one with other bytes cannot be given to them. */
static int check_text(const struct qp_document *d, const char *key, const char *path, struct qp_error *err)
{
    if (qp_utf8_is_valid(path, strlen(path)))
        return 0;
    return qp_document_fail(d, key, err, "%s: the path is no UTF-8; rename the folder", path);
}

/* The model's path becomes its real one: references to its files are checked against that by the stages. */
static int check_model(struct qp_plan *plan, struct qp_error *err)
{
    struct qp_pipeline *p = plan->pipeline;
    if (!qp_exists(p->model))
        return qp_document_fail(p->document, "model", err,
                                "%s: there is no such file or folder; expected a Hugging Face folder or a .gguf file",
                                p->model);
    char *real = realpath(p->model, NULL);
    if (!real)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: %s", qp_document_at(p->document, "model"), p->model);
    free(p->model);
    p->model = real;
    int r = check_text(p->document, "model", p->model, err);
    if (r < 0)
        return r;
    r = qp_checkpoint_open(p->model, &plan->model, err);
    return r < 0 ? qp_wrap(err, "%s", qp_document_at(p->document, "model")) : 0;
}

/* What is wrong with a scheme of a list stands at "scheme.2...", not at "scheme...". */
static int place_scheme(const struct qp_pipeline *p, const struct qp_branch *b, struct qp_error *err)
{
    const size_t word = strlen("scheme");
    if (qp_has_branches(p) && strncmp(err->message, "scheme.", word + 1) == 0) {
        char rest[sizeof err->message];
        snprintf(rest, sizeof rest, "%s", err->message + word);
        qp_fail(err, err->code, "%s%s", b->path, rest);
    }
    return qp_document_place(p->document, b->path, err);
}

static int check_schemes(struct qp_plan *plan, struct qp_error *err)
{
    struct qp_pipeline *p = plan->pipeline;
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->branch_count; i++) {
        struct qp_branch *b = &p->branches[i];
        r = qp_scheme_parse(b->source, &b->scheme, err);
        if (r == 0) {
            qp_scheme_bind(b->scheme, plan->model->arch.dtype);
            r = qp_scheme_check_model(b->scheme, &plan->model->arch, err);
        }
        if (r == 0)
            r = qp_scheme_warnings(b, &plan->model->arch, plan->warnings, err);
        if (r < 0)
            return place_scheme(p, b, err);
        r = qp_budget_check(p, i, err);
    }
    return r;
}

static int check_data(const struct qp_pipeline *p, struct qp_error *err)
{
    const char *name;
    json_t *entry;
    json_object_foreach(p->data, name, entry) {
        qp_auto_free char *path = qp_format("data.%s", name);
        if (!path)
            return qp_fail_memory(err, 0, name);
        if (qp_windows_check(entry, path, err) < 0)
            return qp_document_place(p->document, path, err);
    }
    return 0;
}

/* The nearest folder above `path` that exists must be writable: missing ones are made below it. */
static int check_space(const struct qp_document *d, const char *key, const char *path, struct qp_error *err)
{
    qp_auto_free char *folder = qp_folder_of(path);
    while (folder && !qp_exists(folder)) {
        char *above = qp_folder_of(folder);
        free(folder);
        folder = above;
    }
    if (!folder)
        return qp_fail_memory(err, strlen(path), path);
    if (!qp_is_folder(folder) || access(folder, W_OK | X_OK) < 0)
        return qp_document_fail(d, key, err,
                                "%s cannot be made: %s is not a folder that can be written; choose another --output",
                                path, folder);
    return 0;
}

static int check_output(const struct qp_plan *plan, struct qp_error *err)
{
    const struct qp_pipeline *p = plan->pipeline;
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->branch_count; i++) {
        const char *output = p->branches[i].output;
        if (qp_exists(output))
            return qp_document_fail(p->document, "output", err,
                                    "the output %s exists; remove it (rm -r), or choose another one with --output",
                                    output);
        r = check_text(p->document, "output", output, err);
        if (r == 0)
            r = check_space(p->document, "output", output, err);
    }
    if (r == 0)
        r = check_text(p->document, "output", plan->folder, err);
    return r < 0 ? r : check_space(p->document, "output", plan->folder, err);
}

static int run_folder(const struct qp_args *args, struct qp_plan *plan, struct qp_error *err)
{
    const char *given = qp_arg(args, "run-dir");
    qp_auto_free char *here = getcwd(NULL, 0);
    if (!here)
        return qp_fail_errno(err, QP_ERR_INPUT, "the working directory");
    const struct qp_pipeline *p = plan->pipeline;
    qp_auto_free char *all = qp_has_branches(p) ? qp_output_of(p->output, "all", false) : strdup(p->branches[0].output);
    plan->folder = given ? qp_join(here, given) : all ? qp_format("%s.run", all) : NULL;
    for (size_t n = plan->folder ? strlen(plan->folder) : 0; n > 1 && plan->folder[n - 1] == '/'; n--)
        plan->folder[n - 1] = '\0';
    return plan->folder ? 0 : qp_fail_memory(err, 0, "the run folder");
}

static int prepare(const struct qp_args *args, bool fresh, struct qp_plan *plan, struct qp_error *err)
{
    int r = load(args, &plan->pipeline, err);
    if (r == 0)
        r = run_folder(args, plan, err);
    if (r == 0)
        r = qp_stages_describe(plan->pipeline, err);
    if (r == 0)
        r = qp_branches_expand(plan->pipeline, err);
    if (r == 0)
        r = qp_graph_build(plan->pipeline, err);
    if (r == 0 && json_array_extend(plan->warnings, plan->pipeline->warnings) < 0)
        r = qp_fail_memory(err, 0, "warnings");
    if (r == 0)
        r = check_model(plan, err);
    if (r == 0)
        r = check_schemes(plan, err);
    if (r == 0)
        r = check_data(plan->pipeline, err);
    if (r == 0 && fresh)
        r = check_output(plan, err);
    return r;
}

int qp_prepare(const struct qp_args *args, bool fresh, struct qp_plan *out, struct qp_error *err)
{
    *out = (struct qp_plan){.warnings = json_array()};
    int r = prepare(args, fresh, out, err);
    if (r < 0)
        qp_plan_free(out);
    return r;
}

void qp_plan_free(struct qp_plan *plan)
{
    json_decref(plan->warnings);
    qp_checkpoint_close(plan->model);
    qp_pipeline_free(plan->pipeline);
    free(plan->folder);
    *plan = (struct qp_plan){0};
}

json_t *qp_plan_outputs(const struct qp_plan *plan)
{
    json_t *outputs = json_array();
    for (size_t i = 0; i < plan->pipeline->branch_count; i++)
        json_array_append_new(outputs, json_pack("{s:s, s:s}", "scheme", plan->pipeline->branches[i].name, "path",
                                                 plan->pipeline->branches[i].output));
    return outputs;
}

void qp_plan_warn(const struct qp_plan *plan)
{
    size_t i;
    json_t *warning;
    json_array_foreach(plan->warnings, i, warning) {
        const char *scheme = json_string_value(json_object_get(warning, "scheme"));
        fprintf(stderr, "%s%s%swarning: %s: %s\n", scheme ? "scheme " : "", scheme ? scheme : "", scheme ? ": " : "",
                json_string_value(json_object_get(warning, "where")),
                json_string_value(json_object_get(warning, "message")));
    }
}
