#include "runner/pipeline/default.h"

#include <string.h>

/* Whether an option of this name was given, or a --set of the key, of one below it, or of one that holds it. */
static bool is_given(const struct qp_args *args, const char *option, const char *key)
{
    if (qp_arg(args, option))
        return true;
    for (size_t i = 0; i < args->given_count; i++) {
        const char *set = args->given[i].value;
        size_t n = strcspn(set, "="), shorter = n < strlen(key) ? n : strlen(key);
        if (strcmp(args->given[i].option->name, "set") == 0 && strncmp(set, key, shorter) == 0 &&
            strchr("=.", set[shorter]) && strchr(".", key[shorter]))
            return true;
    }
    return false;
}

static int check_given(const struct qp_args *args, struct qp_error *err)
{
    bool model = is_given(args, "model", "model"), output = is_given(args, "output", "output");
    if (model && output)
        return 0;
    return qp_fail(err, QP_ERR_USAGE,
                   "%s: %s missing. No pipeline was named%s, so the default pipeline is meant, which needs both: "
                   "quantpipe %s --model DIR --output FOLDER [--calibration TEXT] [--evaluation TEXT]; or name a "
                   "pipeline (`quantpipe init` writes one)",
                   args->argv[1],
                   model    ? "--output is"
                   : output ? "--model is"
                            : "--model and --output are",
                   qp_arg(args, "default") ? "" : " and there is no " QP_PIPELINE_FILE " here", args->argv[1]);
}

/* Nothing is learned from data: weights are rounded to nearest, by their own ranges. */
static int forget_calibration(struct qp_document *d, struct qp_error *err)
{
    static const char *const settings[] = {"stages.smooth.with={method: none}", "stages.search.with={method: none}",
                                           "stages.quantize.with={method: rtn}"};
    int r = 0;
    qp_document_remove(d, "data.calibration");
    for (size_t i = 0; r == 0 && i < sizeof settings / sizeof *settings; i++)
        r = qp_document_set(d, settings[i], err);
    return r;
}

/* The stage after validate takes its place. */
static int forget_evaluation(struct qp_document *d, struct qp_error *err)
{
    qp_document_remove(d, "data.evaluation");
    qp_document_remove(d, "stages.validate");
    return qp_document_set(d, "stages.export.from=quantize", err);
}

int qp_default_document(const struct qp_args *args, struct qp_document **out, struct qp_error *err)
{
    struct qp_document *d = NULL;
    int r = check_given(args, err);
    if (r == 0)
        r = qp_document_parse(qp_default_pipeline, qp_default_pipeline_size, "default pipeline", &d, err);
    if (r == 0 && !is_given(args, "calibration", "data.calibration"))
        r = forget_calibration(d, err);
    if (r == 0 && !is_given(args, "evaluation", "data.evaluation"))
        r = forget_evaluation(d, err);
    if (r < 0)
        qp_document_free(d);
    else
        *out = d;
    return r;
}
