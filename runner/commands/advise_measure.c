/* `quantpipe advise --measure`: what the candidates really lose, by short runs without an output. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/commands/advise.h"
#include "runner/process.h"

#define CALIBRATION "data.calibration.samples=32"
#define EVALUATION "data.evaluation.samples=16"
#define TABLE_LIMIT ((size_t)1 << 20)

/* The pipeline of one candidate, in `folder`; new memory. */
static int write_pipeline(const struct qp_advice *a, const struct qp_candidate_figures *c, const char *folder,
                          char **path, struct qp_error *err)
{
    struct qp_advice question = *a;
    if (!question.evaluation)
        question.evaluation = question.text;
    qp_auto_free char *scheme = json_dumps(c->source, JSON_ENCODE_ANY);
    qp_auto_free char *text = scheme ? qp_advice_pipeline(&question, c->recipe, scheme, "unused", false) : NULL;
    *path = qp_format("%s/%s.yaml", folder, c->recipe->scheme);
    if (!text || !*path)
        return qp_fail_memory(err, 0, "a pipeline");
    return qp_write_file(*path, text, strlen(text), err);
}

static int run(const char *pipeline, const char *folder, struct qp_error *err)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "/proc/self/exe");
    self[n] = '\0';
    char *const argv[] = {self,        "run",   (char *)pipeline, "--run-dir",  (char *)folder, "--set",
                          CALIBRATION, "--set", EVALUATION,       "--progress", "none",         NULL};
    qp_auto_free char *table = NULL;
    return qp_process_output(argv, NULL, 0, TABLE_LIMIT, &table, err);
}

static int read_report(struct qp_advice *a, struct qp_candidate_figures *c, const char *folder, struct qp_error *err)
{
    qp_auto_free char *path = qp_format("%s/report.json", folder);
    qp_auto_json json_t *report = NULL;
    int r = path ? qp_read_json(path, (size_t)1 << 28, &report, err) : qp_fail_memory(err, 0, "a path");
    if (r < 0)
        return r;
    const json_t *output = json_array_get(json_object_get(report, "outputs"), 0);
    const json_t *perplexity = json_object_get(output, "perplexity");
    a->figures.perplexity = json_number_value(json_object_get(perplexity, "original"));
    c->perplexity = json_number_value(json_object_get(perplexity, "quantized"));
    c->kl = json_number_value(json_object_get(output, "kl_divergence"));
    return 0;
}

static int measure(struct qp_advice *a, struct qp_candidate_figures *c, const char *folder, struct qp_error *err)
{
    qp_auto_free char *pipeline = NULL;
    qp_auto_free char *run_folder = qp_format("%s/%s", folder, c->recipe->scheme);
    if (isatty(2))
        fprintf(stderr, "measuring %s\n", c->recipe->scheme);
    int r = run_folder ? write_pipeline(a, c, folder, &pipeline, err) : qp_fail_memory(err, 0, "a path");
    if (r == 0)
        r = run(pipeline, run_folder, err);
    if (r == 0)
        r = read_report(a, c, run_folder, err);
    return r < 0 ? qp_wrap(err, "measuring %s", c->recipe->scheme) : 0;
}

static bool is_chosen_from(const struct qp_advice *a, const struct qp_candidate_figures *c)
{
    for (size_t i = 0; a->choice->schemes[i]; i++)
        if (strcmp(a->choice->schemes[i], c->recipe->scheme) == 0)
            return true;
    return false;
}

int qp_advice_measure(struct qp_advice *advice, struct qp_error *err)
{
    const char *base = getenv("TMPDIR");
    qp_auto_free char *folder = qp_format("%s/quantpipe-advise-XXXXXX", base ? base : "/tmp");
    struct qp_error ignored;
    int r = 0;
    if (!folder)
        return qp_fail_memory(err, 0, "a path");
    if (!mkdtemp(folder))
        return qp_fail_errno(err, QP_ERR_STAGE, "%s", folder);
    for (size_t i = 0; r == 0 && i < advice->figures.count; i++)
        if (advice->figures.list[i].scheme && is_chosen_from(advice, &advice->figures.list[i]))
            r = measure(advice, &advice->figures.list[i], folder, err);
    qp_remove_tree(folder, &ignored);
    return r;
}
