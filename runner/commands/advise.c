/* `quantpipe advise` */
#include "runner/commands/advise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/words.h"
#include "runner/machine.h"
#include "runner/size.h"

static const struct qp_option options[] = {
    {"hardware", "NAME", "what the model will run on: h100, a100, b200, l40s, cpu or any (any)"},
    {"use", "USE", "inference or training (inference)"},
    {"priority", "WHAT", "accuracy, speed or size (accuracy)"},
    {"text", "FILE", "text to calibrate with: .txt, .jsonl or .npy; without it the pipeline rounds to nearest"},
    {"evaluation", "FILE", "text to measure perplexity on"},
    {"measure", NULL, "run the candidates on the texts, a short run, and choose by what they lose"},
    {"output", "FILE", "write the pipeline here (default: print it)"},
    {0}};

/* ---- the question ---- */

static int wrong_value(const char *option, const char *value, const char *const *known, size_t count,
                       struct qp_error *err)
{
    char list[128] = "";
    for (size_t i = 0; i < count; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", known[i]);
    const char *near = qp_nearest(value, known, count);
    return qp_fail(err, QP_ERR_USAGE, "--%s is `%.60s`%s%s%s; expected one of: %s", option, value,
                   near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "", list);
}

static int read_hardware(const char *value, const struct qp_hardware **out, struct qp_error *err)
{
    const char *names[16];
    size_t count = 0;
    for (const struct qp_hardware *h = qp_advice_hardware; h->name; h++) {
        names[count++] = h->name;
        if (strcmp(h->name, value ? value : "any") == 0) {
            *out = h;
            return 0;
        }
    }
    return wrong_value("hardware", value, names, count, err);
}

static int read_choice(const char *option, const char *value, const char *const *known, size_t count, const char **out,
                       struct qp_error *err)
{
    for (size_t i = 0; i < count; i++)
        if (!value || strcmp(value, known[i]) == 0) {
            *out = known[i];
            return 0;
        }
    return wrong_value(option, value, known, count, err);
}

/* The absolute path of a file that has to be there. */
static int read_path(const char *value, char **out, struct qp_error *err)
{
    *out = value ? realpath(value, NULL) : NULL;
    return value && !*out ? qp_fail_errno(err, QP_ERR_INPUT, "%s", value) : 0;
}

static int read_question(const struct qp_args *args, struct qp_advice *a, struct qp_error *err)
{
    static const char *const uses[] = {"inference", "training"}, *const priorities[] = {"accuracy", "speed", "size"};
    int r = read_hardware(qp_arg(args, "hardware"), &a->hardware, err);
    if (r == 0)
        r = read_choice("use", qp_arg(args, "use"), uses, 2, &a->use, err);
    if (r == 0)
        r = read_choice("priority", qp_arg(args, "priority"), priorities, 3, &a->priority, err);
    if (r == 0 && qp_arg(args, "measure") && !qp_arg(args, "text"))
        r = qp_fail(err, QP_ERR_USAGE, "--measure runs the network on text; name one with --text FILE");
    if (r == 0)
        r = read_path(args->arguments[0], &a->model, err);
    if (r == 0)
        r = read_path(qp_arg(args, "text"), &a->text, err);
    return r < 0 ? r : read_path(qp_arg(args, "evaluation"), &a->evaluation, err);
}

/* ---- the answer ---- */

static int look_up(struct qp_advice *a, struct qp_error *err)
{
    for (a->tolerance = qp_advice_tolerances; strcmp(a->tolerance->priority, a->priority) != 0;)
        a->tolerance++;
    for (const struct qp_choice *c = qp_advice_choices; c->use; c++)
        if ((c->hardware & a->hardware->bit) && strcmp(c->use, a->use) == 0 && strcmp(c->priority, a->priority) == 0)
            a->choice = c;
    return a->choice ? 0
                     : qp_fail(err, QP_ERR_STAGE, "the table has nothing for %s, %s, %s", a->hardware->name, a->use,
                               a->priority);
}

static int add_reason(struct qp_advice *a, json_t *sentence, struct qp_error *err)
{
    return json_array_append_new(a->reasons, sentence) < 0 ? qp_fail_memory(err, 0, "a reason") : 0;
}

static struct qp_candidate_figures *find(struct qp_advice *a, const char *scheme)
{
    for (size_t i = 0; i < a->figures.count; i++)
        if (strcmp(a->figures.list[i].recipe->scheme, scheme) == 0)
            return &a->figures.list[i];
    return NULL;
}

/* Why a candidate of the choice is passed over, NULL when it is not. */
static json_t *objection(const struct qp_advice *a, const struct qp_candidate_figures *c)
{
    double increase = c->perplexity / a->figures.perplexity - 1.0;
    if (c->refusal)
        return json_sprintf("%s does not fit this model: %s.", c->recipe->scheme, c->refusal);
    if (isfinite(increase) && increase > a->tolerance->increase)
        return json_sprintf("%s was passed over: it raises perplexity by %.2f %%, and %s allows %.0f %%.",
                            c->recipe->scheme, 100 * increase, a->priority, 100 * a->tolerance->increase);
    if (!isfinite(increase) && qp_figures_sqnr(c) < a->tolerance->sqnr_db)
        return json_sprintf("%s was passed over: it rounds this model's weights at %.1f dB, and %s wants %.0f dB.",
                            c->recipe->scheme, qp_figures_sqnr(c), a->priority, a->tolerance->sqnr_db);
    return NULL;
}

static int give_loss(struct qp_advice *a, struct qp_error *err)
{
    const struct qp_candidate_figures *c = a->best;
    double sqnr = qp_figures_sqnr(c);
    int r = add_reason(
        a,
        json_sprintf("Rounded to nearest, its weights keep %.1f dB of signal above the noise (%.2g %% of their "
                     "energy): the loss to expect is %s; what rounding activations adds is not in this figure.",
                     sqnr, 100 * pow(10, -sqnr / 10), qp_advice_loss(sqnr)),
        err);
    if (r == 0 && isfinite(c->perplexity))
        r = add_reason(a,
                       json_sprintf("Measured on %s: perplexity %.4f where the original has %.4f, KL divergence %.5f.",
                                    a->evaluation ? "the evaluation text" : "the calibration text itself",
                                    c->perplexity, a->figures.perplexity, c->kl),
                       err);
    return r;
}

static int give_reasons(struct qp_advice *a, struct qp_error *err)
{
    const struct qp_recipe *recipe = a->best->recipe;
    char original[32], quantized[32];
    int r = add_reason(a, json_string(recipe->why), err);
    if (r == 0 && json_is_object(a->best->source))
        r = add_reason(a,
                       json_sprintf("Groups of 128 do not divide this model's rows, so groups of %d are taken.",
                                    (int)json_integer_value(
                                        json_object_get(json_object_get(a->best->source, "weights"), "group"))),
                       err);
    if (r == 0)
        r = add_reason(a,
                       json_sprintf("It takes %s where the original takes %s.",
                                    qp_size_text(a->best->bytes, quantized, sizeof quantized),
                                    qp_size_text(a->figures.original_bytes, original, sizeof original)),
                       err);
    if (r == 0)
        r = give_loss(a, err);
    if (r == 0 && !a->text)
        r = add_reason(
            a, json_string("No text to calibrate with was given (--text FILE), so weights are rounded to nearest."),
            err);
    return r;
}

/* The first of the choice against which nothing speaks; else the last that fits. */
static int choose(struct qp_advice *a, struct qp_error *err)
{
    const struct qp_candidate_figures *fits = NULL;
    int r = add_reason(a, json_string(a->hardware->facts), err);
    if (r == 0)
        r = add_reason(a, json_string(a->choice->why), err);
    for (size_t i = 0; r == 0 && !a->best && a->choice->schemes[i]; i++) {
        const struct qp_candidate_figures *c = find(a, a->choice->schemes[i]);
        json_t *against = objection(a, c);
        if (!c->refusal)
            fits = c;
        if (against)
            r = add_reason(a, against, err);
        else
            a->best = c;
    }
    if (r == 0 && !a->best && fits)
        r = add_reason(
            a, json_sprintf("Nothing is better than %s, so that it is, with the loss below.", fits->recipe->scheme),
            err);
    a->best = a->best ? a->best : fits;
    if (r == 0 && !a->best)
        r = qp_fail(err, QP_ERR_INPUT, "%s: none of the formats for %s fits the model; the reason for %s: %s", a->model,
                    a->hardware->name, a->choice->schemes[0], find(a, a->choice->schemes[0])->refusal);
    return r < 0 ? r : give_reasons(a, err);
}

/* ---- the pipeline ---- */

static char *pipeline_of(const struct qp_advice *a)
{
    const char *slash = strrchr(a->model, '/'), *name = slash && slash[1] ? slash + 1 : "model";
    size_t length = strlen(name);
    if (length > 5 && strcmp(name + length - 5, ".gguf") == 0)
        length -= 5;
    qp_auto_free char *output = qp_format("%.*s-%s", (int)length, name, a->best->recipe->scheme);
    qp_auto_free char *scheme =
        json_is_string(a->best->source) ? strdup(json_string_value(a->best->source)) : json_dumps(a->best->source, 0);
    return output && scheme ? qp_advice_pipeline(a, a->best->recipe, scheme, output, true) : NULL;
}

static int answer(const struct qp_advice *a, struct qp_error *err)
{
    const char *path = qp_arg(a->args, "output");
    qp_auto_free char *pipeline = pipeline_of(a);
    int r = pipeline ? 0 : qp_fail_memory(err, 0, "the pipeline");
    if (r == 0 && path)
        r = qp_write_file(path, pipeline, strlen(pipeline), err);
    if (r < 0)
        return r;
    if (qp_arg(a->args, "json"))
        return qp_print_json(qp_advice_json(a, pipeline), err);
    qp_advice_print(a);
    if (path)
        printf("The pipeline is in %s: quantpipe run %s\n", path, path);
    else
        printf("%s", pipeline);
    return 0;
}

/* ---- the subcommand ---- */

static int judge(struct qp_advice *a, struct qp_error *err)
{
    struct qp_checkpoint *model = NULL;
    qp_kernels_set_threads(qp_machine_cores());
    int r = qp_checkpoint_open(a->model, &model, err);
    if (r == 0 && model->scheme)
        r = qp_fail(err, QP_ERR_INPUT, "%s: is quantized already (%s); start from the original checkpoint", a->model,
                    model->scheme->name);
    if (r == 0)
        r = qp_figures_make(model, &a->figures, err);
    qp_checkpoint_close(model);
    return r;
}

static int advise(const struct qp_args *args, struct qp_error *err)
{
    struct qp_advice a = {.args = args, .reasons = json_array()};
    int r = read_question(args, &a, err);
    if (r == 0)
        r = look_up(&a, err);
    if (r == 0)
        r = judge(&a, err);
    if (r == 0 && qp_arg(args, "measure"))
        r = qp_advice_measure(&a, err);
    if (r == 0)
        r = choose(&a, err);
    if (r == 0)
        r = answer(&a, err);
    qp_figures_free(&a.figures);
    json_decref(a.reasons);
    free(a.model);
    free(a.text);
    free(a.evaluation);
    return r;
}

const struct qp_subcommand qp_subcommand_advise = {
    .name = "advise",
    .summary = "name the format and the method that suit a model and its hardware, and why",
    .usage = "MODEL",
    .min_arguments = 1,
    .max_arguments = 1,
    .options = {options, qp_json_option},
    .run = advise,
};
