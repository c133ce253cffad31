/* GPT-2 as OPT (checkpoint_gpt2.h): what becomes of its config.json and tensors; its logits are in families_test.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "libstage/base/file.h"
#include "libstage/network/checkpoint.h"
#include "libstage/network/checkpoint_gpt2.h"
#include "tests/support/scratch.h"

TestSuite(gpt2, .init = scratch_make, .fini = scratch_drop);

static int convert(const char *text, json_t **out, struct qp_error *err)
{
    json_t *config = json_loads(text, 0, NULL);
    cr_assert(config, "%s", text);
    cr_assert(qp_is_gpt2(config));
    int r = qp_gpt2_config(config, "config.json", out, err);
    json_decref(config);
    return r;
}

Test(gpt2, sizes_have_the_defaults_of_its_class)
{
    json_t *opt;
    struct qp_arch arch;
    struct qp_error err;
    cr_assert_eq(convert("{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_head\": 4}", &opt, &err), 0, "%s",
                 err.message);
    cr_assert_eq(qp_arch_parse(opt, "config.json", &arch, &err), 0, "%s", err.message);
    cr_expect(arch.vocab == 50257 && arch.hidden == 32 && arch.ffn == 128 && arch.layers == 12 && arch.heads == 4);
    cr_expect(arch.max_length == 1024 && arch.tied && arch.embed_width == 32);
    cr_expect_eq(qp_layer_type(&arch, 0)->act, QP_ACT_GELU_TANH);
    json_decref(opt);
}

Test(gpt2, what_opt_has_not_is_refused)
{
    static const char *const refused[] = {"\"layer_norm_epsilon\": 1e-6", "\"scale_attn_weights\": false",
                                          "\"scale_attn_by_inverse_layer_idx\": true", "\"add_cross_attention\": true",
                                          "\"n_inner\": -1"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char text[128], key[64];
        json_t *opt;
        struct qp_error err;
        snprintf(text, sizeof text, "{\"model_type\": \"gpt2\", %s}", refused[i]);
        snprintf(key, sizeof key, "%.*s", (int)strcspn(refused[i] + 1, "\""), refused[i] + 1);
        cr_expect_eq(convert(text, &opt, &err), QP_ERR_INPUT, "%s", text);
        cr_expect(strstr(err.message, key), "%s: %s", key, err.message);
    }
}

static int open_with(const char *config, struct qp_error *err)
{
    struct qp_checkpoint *checkpoint;
    scratch_write("config.json", config, strlen(config));
    cr_assert_eq(qp_copy_file(SOURCE_DIR "/tests/unit/golden/families/gpt2/model.safetensors",
                              scratch("model.safetensors"), err),
                 0, "%s", err->message);
    return qp_checkpoint_open(scratch(""), &checkpoint, err);
}

Test(gpt2, tensors_that_do_not_fit_are_named_as_they_are_stored)
{
    struct qp_error err;
    cr_expect_eq(
        open_with("{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_head\": 4, \"n_layer\": 2, \"vocab_size\": 64, "
                  "\"n_positions\": 32, \"n_inner\": 96}",
                  &err),
        QP_ERR_INPUT);
    cr_expect(strstr(err.message, "transformer.h.0.mlp.c_fc.weight: found BF16 [32, 128], expected [32, 96]"), "%s",
              err.message);
    cr_expect_eq(
        open_with("{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_head\": 4, \"n_layer\": 3, \"vocab_size\": 64, "
                  "\"n_positions\": 32}",
                  &err),
        QP_ERR_INPUT);
    cr_expect(strstr(err.message, "transformer.h.2.ln_1.weight is missing"), "%s", err.message);
}
