/* Low-rank corrections in a layer's forward: on inputs as they are before quantization. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/tiny.h"

enum { TOKENS = 12, RANK = 3 };

struct fixture {
    struct qp_arch arch;
    struct qp_scheme *scheme;
    struct qp_unit *units[TINY_UNITS];
    struct qp_block block; /* the first decoder layer */
};

static void set_up(struct fixture *f, const char *scheme)
{
    struct qp_error err;
    json_t *config = tiny_config(), *value = json_loads(scheme, JSON_DECODE_ANY, NULL);
    tiny_units(scheme, false, f->units);
    tiny_quantize(f->units);
    cr_assert_eq(qp_arch_parse(config, "tiny", &f->arch, &err), 0);
    cr_assert_eq(qp_scheme_parse(value, &f->scheme, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_of(&f->arch, qp_kernels_open("cpu"), f->units[2], &f->block, &err), 0);
    json_decref(config);
    json_decref(value);
}

static void tear_down(struct fixture *f)
{
    tiny_free(f->units, TINY_UNITS);
    qp_scheme_free(f->scheme);
}

/* Copies what each site saw. */
struct seen {
    float *input[QP_SITES];
};

static int see(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    struct seen *seen = context;
    (void)err;
    seen->input[site] = malloc((size_t)(rows * in) * sizeof *x);
    memcpy(seen->input[site], x, (size_t)(rows * in) * sizeof *x);
    return 0;
}

static void forward(const struct fixture *f, float *x, struct seen *seen)
{
    struct qp_error err;
    struct qp_layer layer;
    struct qp_workspace *workspace;
    struct qp_taps taps = {.site = seen ? see : NULL, .context = seen};
    struct qp_rotations rotations;
    tiny_random(9, TOKENS * TINY_HIDDEN, 1.0f, x);
    cr_assert_eq(qp_rotations_open(&f->arch, TOKENS, &rotations, &err), 0);
    cr_assert_eq(qp_workspace_new(&workspace, &err), 0);
    cr_assert_eq(qp_layer_load(&f->block, QP_QUANTIZED, f->scheme, &layer, &err), 0, "%s", err.message);
    cr_assert_eq(qp_layer_forward(&layer, &(struct qp_sequences){1, TOKENS, x}, &rotations, workspace, &taps, &err), 0,
                 "%s", err.message);
    qp_layer_free(&layer);
    qp_workspace_free(workspace);
    qp_rotations_close(&rotations);
}

/* Gives a linear random factors; a, b: space for them. */
static void correct(struct fixture *f, int linear, float *a, float *b)
{
    struct qp_error err;
    const struct qp_linear *d = &f->arch.layer_types[0]->linears[linear];
    int64_t in = d->in, out = d->out;
    tiny_random(100 + (uint64_t)linear, RANK * in, 0.3f, a);
    tiny_random(200 + (uint64_t)linear, out * RANK, 0.3f, b);
    cr_assert_eq(qp_block_set_low_rank(&f->block, linear, RANK, a, b, NULL, &err), 0, "%s", err.message);
}

/* The last linear's correction adds b (a x) to the output, x its input before quantization. */
static void corrects_down(const char *scheme)
{
    struct fixture f;
    struct seen seen = {0};
    float without[TOKENS * TINY_HIDDEN], with[TOKENS * TINY_HIDDEN], a[RANK * TINY_FFN], b[TINY_HIDDEN * RANK];
    set_up(&f, scheme);
    forward(&f, without, &seen);
    correct(&f, QP_DOWN, a, b);
    forward(&f, with, NULL);
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < TINY_HIDDEN; i++) {
            double sum = without[t * TINY_HIDDEN + i];
            for (int k = 0; k < RANK; k++)
                for (int j = 0; j < TINY_FFN; j++)
                    sum +=
                        (double)b[i * RANK + k] * a[k * TINY_FFN + j] * seen.input[QP_SITE_MLP_OUT][t * TINY_FFN + j];
            cr_assert_float_eq(with[t * TINY_HIDDEN + i], sum, 1e-4, "%s: %g, expected %g", scheme,
                               (double)with[t * TINY_HIDDEN + i], sum);
        }
    for (int s = 0; s < QP_SITES; s++)
        free(seen.input[s]);
    tear_down(&f);
}

Test(low_rank, corrects_on_unquantized_inputs)
{
    corrects_down("{\"weights\": {\"format\": \"int4\", \"group\": 32}}");
    corrects_down("{\"weights\": {\"format\": \"int4\", \"group\": 32}, \"activations\": {\"format\": \"int4\"}}");
    corrects_down("\"int8\""); /* multiplied as codes */
}

/* Of linears that share an input each gets its own. */
Test(low_rank, is_the_same_as_a_weight_with_the_product_added)
{
    struct fixture f, merged;
    struct qp_error err;
    float *a = malloc(RANK * TINY_FFN * sizeof *a), *b = malloc(TINY_FFN * RANK * sizeof *b);
    float separate[TOKENS * TINY_HIDDEN], whole[TOKENS * TINY_HIDDEN];
    const char *scheme = "{\"weights\": {\"format\": \"int4\", \"group\": 32}}";
    set_up(&f, scheme);
    set_up(&merged, scheme);
    for (int l = 0; l < QP_LINEARS; l++) {
        const struct qp_linear *d = &f.arch.layer_types[0]->linears[l];
        int64_t in = d->in, out = d->out;
        char name[128];
        struct qp_quantized q;
        struct qp_tensor *t;
        snprintf(name, sizeof name, "model.layers.0.%s", d->module);
        cr_assert_eq(qp_block_quantized(&f.block, l, qp_scheme_for(f.scheme, name), &q, &err), 1);
        snprintf(name, sizeof name, "model.layers.0.%s.weight", d->module);
        cr_assert_eq(qp_tensor_new(name, QP_F32, 2, (int64_t[]){out, in}, &t, &err), 0);
        f.block.kernels->dequantize(&(struct qp_grouped){&q.format, out, in, q.group, q.scale, q.zero}, q.codes,
                                    t->data);
        correct(&f, l, a, b);
        cr_assert_eq(qp_block_add_low_rank(&f.block, l, t->data, &err), 0, "%s", err.message);
        cr_assert_eq(qp_unit_put(merged.block.unit, t, &err), 0);
        snprintf(name, sizeof name, "model.layers.0.%s.weight_codes", d->module);
        qp_unit_remove(merged.block.unit, name);
    }
    forward(&f, separate, NULL);
    forward(&merged, whole, NULL);
    for (int i = 0; i < TOKENS * TINY_HIDDEN; i++)
        cr_assert_float_eq(separate[i], whole[i], 1e-3 * (1.0 + fabsf(whole[i])), "%d: %g, expected %g", i,
                           (double)separate[i], (double)whole[i]);
    free(a);
    free(b);
    tear_down(&f);
    tear_down(&merged);
}

Test(low_rank, factors_of_other_shapes_are_refused)
{
    struct fixture f;
    struct qp_error err;
    struct qp_tensor *t;
    struct qp_layer layer;
    float a[RANK * TINY_FFN], b[TINY_HIDDEN * RANK];
    set_up(&f, "{\"weights\": {\"format\": \"int4\", \"group\": 32}}");
    correct(&f, QP_DOWN, a, b);
    cr_assert_eq(qp_tensor_new("model.layers.0.mlp.down_proj.low_rank_b", QP_F32, 2, (int64_t[]){TINY_HIDDEN, RANK + 1},
                               &t, &err),
                 0);
    cr_assert_eq(qp_unit_put(f.block.unit, t, &err), 0);
    cr_expect_eq(qp_layer_load(&f.block, QP_QUANTIZED, f.scheme, &layer, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "low_rank_b: found shape [64, 4], expected [64, 3]"), "%s", err.message);
    tear_down(&f);
}
