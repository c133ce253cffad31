/* `quantpipe evaluate` */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/network/evaluate.h"
#include "runner/machine.h"
#include "runner/subcommand.h"

static const struct qp_option options[] = {
    {"text", "FILE", "text to predict: .txt, .jsonl (field `text`) or .npy of token ids"},
    {"data", "FILE", "another name of --text"},
    {"length", "TOKENS", "tokens of a window (512)"},
    {"samples", "N", "windows, at most (all)"},
    {"seed", "SEED", "choose the windows by this seed (0: the first ones)"},
    {"threads", "N", "threads to compute with (all cores)"},
    {0}};

/* The text to predict, by either name; NULL where neither was given. */
static const char *text_of(const struct qp_args *args)
{
    const char *text = qp_arg(args, "text");
    return text ? text : qp_arg(args, "data");
}

static int read_spec(const struct qp_args *args, json_t **out, struct qp_error *err)
{
    long long length, samples, seed;
    const char *text = text_of(args);
    if (!text)
        return qp_fail(err, QP_ERR_USAGE, "evaluate: --text is missing; name a text to predict");
    if (qp_arg(args, "text") && qp_arg(args, "data"))
        return qp_fail(err, QP_ERR_USAGE, "evaluate: --text and --data are two names of one option; keep one of them");
    int r = qp_arg_integer(args, "length", 2, 1 << 24, 512, &length, err);
    if (r == 0)
        r = qp_arg_integer(args, "samples", 1, 1 << 30, 0, &samples, err);
    if (r == 0)
        r = qp_arg_integer(args, "seed", 0, 1LL << 53, 0, &seed, err);
    if (r < 0)
        return r;
    *out = json_pack("{s:s, s:I, s:I}", "text", text, "length", (json_int_t)length, "seed", (json_int_t)seed);
    if (*out && samples > 0)
        json_object_set_new(*out, "samples", json_integer(samples));
    if (!*out)
        return qp_fail(err, QP_ERR_USAGE, "--text: not valid UTF-8");
    return 0;
}

static int load_windows(const struct qp_checkpoint *c, const json_t *spec, struct qp_windows *out, struct qp_error *err)
{
    qp_auto_free char *tokenizer = NULL;
    int r = qp_windows_check(spec, "--text", err);
    if (r == 0)
        r = qp_checkpoint_tokenizer(c, &tokenizer, err);
    return r < 0 ? r : qp_windows_open(spec, tokenizer, c->arch.vocab, out, err);
}

static void show(void *context, int64_t done, int64_t total)
{
    (void)context;
    if (isatty(2))
        fprintf(stderr, done < total ? "\r\033[Kblock %lld of %lld" : "\r\033[K", (long long)done, (long long)total);
}

static int answer(const struct qp_args *args, const struct qp_checkpoint *c, const struct qp_windows *windows,
                  const struct qp_metrics *m, struct qp_error *err)
{
    if (qp_arg(args, "json"))
        return qp_print_json(json_pack("{s:s, s:s, s:f, s:I, s:I, s:I}", "model", c->path, "data", text_of(args),
                                       "perplexity", m->perplexity, "tokens", (json_int_t)m->tokens, "windows",
                                       (json_int_t)windows->count, "length", (json_int_t)windows->length),
                             err);
    printf("perplexity %.4f over %lld predictions in %lld windows of %lld tokens\n", m->perplexity,
           (long long)m->tokens, (long long)windows->count, (long long)windows->length);
    return 0;
}

static int measure(const struct qp_args *args, struct qp_checkpoint *c, const json_t *spec, struct qp_error *err)
{
    struct qp_windows windows = {0};
    struct qp_metrics metrics;
    long long threads;
    int r = qp_arg_integer(args, "threads", 1, 4096, qp_machine_cores(), &threads, err);
    if (r == 0)
        r = load_windows(c, spec, &windows, err);
    if (r < 0)
        return r;
    qp_kernels_set_threads((int)threads);
    r = qp_evaluate(c, &windows, qp_kernels_open("cpu"), show, NULL, &metrics, err);
    if (r == 0 && !isfinite(metrics.perplexity))
        r = qp_fail(err, QP_ERR_INPUT, "%s: its perplexity is not finite: weights or scales are broken", c->path);
    if (r == 0)
        r = answer(args, c, &windows, &metrics, err);
    qp_windows_free(&windows);
    return r;
}

static int evaluate(const struct qp_args *args, struct qp_error *err)
{
    struct qp_checkpoint *checkpoint = NULL;
    qp_auto_json json_t *spec = NULL;
    int r = read_spec(args, &spec, err);
    if (r == 0 && !qp_exists(args->arguments[0]))
        r = qp_fail(err, QP_ERR_INPUT,
                    "%s: there is no such file or folder; expected a Hugging Face folder or a .gguf file",
                    args->arguments[0]);
    if (r == 0)
        r = qp_checkpoint_open(args->arguments[0], &checkpoint, err);
    if (r == 0)
        r = measure(args, checkpoint, spec, err);
    qp_checkpoint_close(checkpoint);
    return r;
}

const struct qp_subcommand qp_subcommand_evaluate = {
    .name = "evaluate",
    .summary = "measure the perplexity of a model, quantized or not",
    .usage = "MODEL --text FILE",
    .min_arguments = 1,
    .max_arguments = 1,
    .options = {options, qp_json_option},
    .run = evaluate,
};
