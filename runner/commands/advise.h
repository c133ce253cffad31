/* `quantpipe advise`: choosing a method, as tables and figures. */
#ifndef QUANTPIPE_RUNNER_COMMANDS_ADVISE_H
#define QUANTPIPE_RUNNER_COMMANDS_ADVISE_H

#include "libstage/network/checkpoint.h"
#include "runner/subcommand.h"

/* ---- the table (advise_table.c) ---- */

/* Bits of hardware; QP_ON_ANY stands for hardware that is not known. */
enum { QP_ON_ANY = 1, QP_ON_A100 = 2, QP_ON_L40S = 4, QP_ON_H100 = 8, QP_ON_B200 = 16, QP_ON_CPU = 32 };

struct qp_hardware {
    const char *name; /* of --hardware */
    unsigned bit;
    const char *facts; /* a sentence */
};

/* A scheme as it is recommended. */
struct qp_recipe {
    const char *scheme;                     /* a preset */
    unsigned native;                        /* hardware that multiplies in these numbers */
    unsigned unpacks;                       /* hardware with kernels that make 16 bits of them first */
    const char *smooth, *search, *quantize; /* methods when there is text to learn from */
    const char *why;                        /* a sentence */
};

/* What to take, the first that fits the model and loses no more than the priority allows. */
struct qp_choice {
    unsigned hardware; /* bits */
    const char *use, *priority;
    const char *schemes[4]; /* of recipes; ends with NULL */
    const char *why;        /* a sentence */
};

/* How much a priority lets a scheme lose. */
struct qp_tolerance {
    const char *priority;
    double sqnr_db;  /* of the weights, at least */
    double increase; /* of measured perplexity, at most */
};

extern const struct qp_hardware qp_advice_hardware[];         /* ends with a NULL name */
extern const struct qp_recipe qp_advice_recipes[];            /* ends with a NULL scheme */
extern const struct qp_choice qp_advice_choices[];            /* ends with a NULL use; one a combination */
extern const struct qp_tolerance qp_advice_tolerances[];      /* ends with a NULL priority */
const struct qp_recipe *qp_advice_recipe(const char *scheme); /* NULL: none */

/* What weights with this much noise mean, in words. */
const char *qp_advice_loss(double sqnr_db);

/* ---- figures (advise_figures.c) ---- */

#define QP_MAX_RECIPES 16

/* A recipe on one model. */
struct qp_candidate_figures {
    const struct qp_recipe *recipe;
    struct qp_scheme *scheme; /* bound; its groups made smaller where the preset's do not divide the model's rows */
    json_t *source;           /* for a pipeline: the preset's name, or a mapping */
    char *refusal;            /* why the model cannot have it; NULL when it can */
    uint64_t bytes;           /* of the quantized checkpoint's tensors */
    double signal, noise;     /* sums of squares over all weights to quantize */
    double perplexity, kl;    /* measured; NAN: not */
};

struct qp_figures {
    struct qp_candidate_figures list[QP_MAX_RECIPES]; /* in the order of the recipes */
    size_t count;
    uint64_t original_bytes;
    double perplexity; /* of the original; NAN: not measured */
};

/* Sizes of all recipes, and the signal-to-noise ratio of rounding the weights to nearest: one pass over the checkpoint,
 * or, of a large one, over some of its layers, a linear at a time. */
int qp_figures_make(struct qp_checkpoint *model, struct qp_figures *out, struct qp_error *err);
void qp_figures_free(struct qp_figures *figures);

double qp_figures_sqnr(const struct qp_candidate_figures *candidate); /* dB; at most 999 */

/* ---- the advice (advise.c, advise_text.c) ---- */

struct qp_advice {
    const struct qp_args *args;
    char *model; /* absolute */
    const struct qp_hardware *hardware;
    const char *use, *priority;
    char *text, *evaluation; /* absolute; NULL: not given */
    const struct qp_choice *choice;
    const struct qp_tolerance *tolerance;
    struct qp_figures figures;
    const struct qp_candidate_figures *best;
    json_t *reasons; /* array of sentences */
};

/* The pipeline that does what the advice says; new memory. `schemes` is what stands after `scheme:`. */
char *qp_advice_pipeline(const struct qp_advice *advice, const struct qp_recipe *recipe, const char *schemes,
                         const char *output, bool publish);
json_t *qp_advice_json(const struct qp_advice *advice, const char *pipeline);
void qp_advice_print(const struct qp_advice *advice);

/* ---- measurement (advise_measure.c) ---- */

/* Runs the recipes of the choice on the texts, in one short run each method, and fills perplexity and kl. */
int qp_advice_measure(struct qp_advice *advice, struct qp_error *err);

#endif
