#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/tokenizer/tokenizer.h"

#define GOLDEN SOURCE_DIR "/tests/unit/golden/tokenizer.golden.json"

/* Bytes of a hexadecimal string, in new memory. */
static char *from_hex(const char *hex, size_t *size)
{
    *size = strlen(hex) / 2;
    char *bytes = malloc(*size + 1);
    for (size_t i = 0; i < *size; i++) {
        unsigned byte = 0;
        sscanf(hex + 2 * i, "%2x", &byte);
        bytes[i] = (char)byte;
    }
    return bytes;
}

static void check_text(const struct qp_tokenizer *tokenizer, const char *name, const char *hex, const json_t *expected)
{
    struct qp_error err = {0};
    size_t size = 0, count = 0;
    qp_auto_free int32_t *ids = NULL;
    qp_auto_free char *text = from_hex(hex, &size);
    cr_assert_eq(qp_tokenizer_encode(tokenizer, text, size, true, &ids, &count, &err), 0, "%s: %s", name, err.message);
    cr_expect_eq(count, json_array_size(expected), "%s: text %s: %zu ids, expected %zu", name, hex, count,
                 json_array_size(expected));
    for (size_t i = 0; i < count && i < json_array_size(expected); i++)
        if (ids[i] != json_integer_value(json_array_get(expected, i))) {
            cr_expect(0, "%s: text %s: id %zu is %d, expected %lld", name, hex, i, ids[i],
                      (long long)json_integer_value(json_array_get(expected, i)));
            break;
        }
}

static void check_case(const json_t *texts, const json_t *models, const json_t *one)
{
    struct qp_error err = {0};
    struct qp_tokenizer *tokenizer = NULL;
    const char *name = json_string_value(json_object_get(one, "name"));
    qp_auto_json json_t *json = json_copy(json_object_get(one, "tokenizer"));
    json_t *model = json_copy(json_object_get(models, json_string_value(json_object_get(one, "model"))));
    json_object_update(model, json_object_get(one, "options"));
    json_object_set_new(json, "model", model);
    cr_assert_eq(qp_tokenizer_parse(json, name, &tokenizer, &err), 0, "%s", err.message);
    for (size_t i = 0; i < json_array_size(texts); i++)
        check_text(tokenizer, name, json_string_value(json_array_get(texts, i)),
                   json_array_get(json_object_get(one, "ids"), i));
    qp_tokenizer_free(tokenizer);
}

Test(tokenizer, gives_the_ids_of_the_tokenizers_package)
{
    struct qp_error err = {0};
    qp_auto_json json_t *golden = NULL;
    cr_assert_eq(qp_read_json(GOLDEN, 16 << 20, &golden, &err), 0, "%s", err.message);
    const json_t *cases = json_object_get(golden, "cases");
    cr_assert_geq(json_array_size(cases), 40);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(json_object_get(golden, "texts"), json_object_get(golden, "models"), json_array_get(cases, i));
}

/* Parses, and expects an error whose message has `what` in it. */
static void refused(const char *text, const char *what)
{
    json_error_t at;
    struct qp_error err = {0};
    struct qp_tokenizer *tokenizer = NULL;
    qp_auto_json json_t *json = json_loads(text, 0, &at);
    cr_assert_not_null(json, "%s: %s", text, at.text);
    cr_expect_eq(qp_tokenizer_parse(json, "t.json", &tokenizer, &err), QP_ERR_INPUT, "accepted: %s", text);
    cr_expect(strstr(err.message, what) && strstr(err.message, "t.json"), "\"%s\" lacks \"%s\"", err.message, what);
    cr_expect_null(tokenizer);
}

#define AB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
#define MODEL "\"model\":{\"type\":\"BPE\"," AB ",\"merges\":[\"a b\"]}"

Test(tokenizer, refuses_broken_models)
{
    refused("[]", "model");
    refused("{}", "BPE");
    refused("{\"model\":{\"type\":\"WordPiece\"}}", "WordPiece");
    refused("{\"model\":{\"type\":\"BPE\"}}", "vocab");
    refused("{\"model\":{\"vocab\":{},\"merges\":[]}}", "vocab");
    refused("{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "\"a\"");
    refused("{\"model\":{\"vocab\":{\"a\":2147483648},\"merges\":[]}}", "\"a\"");
    refused("{\"model\":{\"vocab\":{\"a\":1.5},\"merges\":[]}}", "\"a\"");
    refused("{\"model\":{\"vocab\":{\"a\":3,\"b\":3},\"merges\":[]}}", "id 3");
    refused("{\"model\":{" AB "}}", "merges");
    refused("{\"model\":{" AB ",\"merges\":[\"ab\"]}}", "merges[0]");
    refused("{\"model\":{" AB ",\"merges\":[\"a b\",\"a b c\"]}}", "merges[1]");
    refused("{\"model\":{" AB ",\"merges\":[[\"a\"]]}}", "merges[0]");
    refused("{\"model\":{" AB ",\"merges\":[[\"a\",7]]}}", "merges[0]");
    refused("{\"model\":{" AB ",\"merges\":[\"a x\"]}}", "\"x\"");
    refused("{\"model\":{" AB ",\"merges\":[\"b a\"]}}", "\"ba\"");
    refused("{\"model\":{" AB ",\"merges\":[],\"dropout\":0.1}}", "dropout");
    refused("{\"model\":{" AB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}", "end_of_word_suffix");
    refused("{\"model\":{" AB ",\"merges\":[],\"byte_fallback\":1}}", "byte_fallback");
    refused("{\"model\":{" AB ",\"merges\":[],\"unk_token\":1}}", "unk_token");
}

Test(tokenizer, refuses_broken_added_tokens)
{
    refused("{" MODEL ",\"added_tokens\":{}}", "added_tokens");
    refused("{" MODEL ",\"added_tokens\":[7]}", "added_tokens[0]");
    refused("{" MODEL ",\"added_tokens\":[{\"content\":\"x\",\"id\":-1}]}", "added_tokens[0].id");
    refused("{" MODEL ",\"added_tokens\":[{\"content\":\"x\",\"id\":2147483647}]}", "added_tokens[0].id");
    refused("{" MODEL ",\"added_tokens\":[{\"content\":\"a\",\"id\":5}]}", "\"a\" has the id 5 here and 0");
    refused("{" MODEL ",\"added_tokens\":[{\"content\":\"x\",\"id\":1}]}", "another token's");
    refused("{" MODEL ",\"added_tokens\":[{\"content\":\"x\",\"id\":5},{\"content\":\"y\",\"id\":5}]}", "id 5");
    refused("{" MODEL ",\"added_tokens\":[{\"content\":\"x\",\"id\":5,\"normalized\":false},"
            "{\"content\":\"x\",\"id\":6,\"normalized\":false}]}",
            "twice");
    refused("{" MODEL ",\"added_tokens\":[{\"content\":\"x\",\"id\":5,\"lstrip\":3}]}", "lstrip");
}

static void refused_split(const char *expression, const char *what)
{
    qp_auto_free char *text = qp_format("{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\","
                                        "\"pattern\":{\"Regex\":\"%s\"}}}",
                                        expression);
    refused(text, what);
}

Test(tokenizer, refuses_what_it_cannot_do_exactly)
{
    refused("{" MODEL ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", "BertPreTokenizer");
    refused("{" MODEL ",\"normalizer\":{\"type\":\"Nmt\"}}", "Nmt");
    refused("{" MODEL ",\"normalizer\":{\"kind\":\"NFC\"}}", "type");
    refused("{" MODEL ",\"normalizer\":{\"type\":\"Sequence\"}}", "normalizers");
    refused("{" MODEL ",\"normalizer\":{\"type\":\"Prepend\"}}", "prepend");
    refused("{" MODEL ",\"normalizer\":{\"type\":\"Replace\",\"content\":\"x\"}}", "pattern");
    refused("{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"xy\"}}", "one character");
    refused("{" MODEL ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":\"yes\"}}", "use_regex");
    refused("{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"}}}", "behavior");
    refused("{" MODEL ",\"post_processor\":{\"type\":\"RobertaProcessing\"}}", "RobertaProcessing");
    refused("{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}}", "sequence A");
    refused("{" MODEL
            ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"s\"}},"
            "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"s\":{\"ids\":[3]}}}}",
            "vocabulary");
    refused_split("(", "does not compile");
    refused_split("a{3,1}", "does not compile");
    refused_split("(?:(?:(?:a{999}){999}){999}){999}", "does not compile");
    refused_split("[a-z&&[^b]]", "intersection");
    refused_split("[a[b]]", "class within");
    refused_split("\\\\h", "escape");
    refused_split("\\\\bx", "escape");
    refused_split("(?m:.)", "group");
    refused_split("(*FAIL)", "(*");
    refused_split("a{2,3}+", "interval");
    refused_split("\\\\p{Nonsense}", "does not compile");
    refused_split("\\\\pL", "property");
    refused_split("\\\\", "backslash");
}

Test(tokenizer, refuses_deep_nesting)
{
    char text[8192] = "{" MODEL ",\"normalizer\":";
    for (int i = 0; i < 50; i++)
        strcat(text, "{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 50; i++)
        strcat(text, "]}");
    strcat(text, "}");
    refused(text, "deeply");
}

static struct qp_tokenizer *parsed(const char *text)
{
    struct qp_error err = {0};
    struct qp_tokenizer *tokenizer = NULL;
    qp_auto_json json_t *json = json_loads(text, 0, NULL);
    cr_assert_eq(qp_tokenizer_parse(json, "t.json", &tokenizer, &err), 0, "%s", err.message);
    return tokenizer;
}

Test(tokenizer, merges_a_word_of_a_megabyte)
{
    enum { SIZE = 1 << 20 };
    struct qp_error err = {0};
    struct qp_tokenizer *tokenizer = parsed("{" MODEL "}");
    qp_auto_free char *text = malloc(SIZE);
    for (int i = 0; i < SIZE; i++)
        text[i] = i % 2 ? 'b' : 'a';
    qp_auto_free int32_t *ids = NULL;
    size_t count = 0;
    cr_assert_eq(qp_tokenizer_encode(tokenizer, text, SIZE, true, &ids, &count, &err), 0, "%s", err.message);
    cr_assert_eq(count, SIZE / 2);
    for (size_t i = 0; i < count; i++)
        cr_assert_eq(ids[i], 2);
    qp_tokenizer_free(tokenizer);
}

Test(tokenizer, stops_an_expression_that_would_run_forever)
{
    struct qp_error err = {0};
    struct qp_tokenizer *tokenizer =
        parsed("{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\","
               "\"pattern\":{\"Regex\":\"(?:a|aa)*(?:a|aa)*(?:a|aa)*[bc]\"}}}");
    char text[400];
    memset(text, 'a', sizeof text);
    int32_t *ids = NULL;
    size_t count = 0;
    cr_assert_eq(qp_tokenizer_encode(tokenizer, text, sizeof text, true, &ids, &count, &err), QP_ERR_INPUT);
    cr_expect_not_null(strstr(err.message, "fails at byte 0"), "%s", err.message);
    qp_tokenizer_free(tokenizer);
}

Test(tokenizer, leaves_special_tokens_out_when_asked)
{
    struct qp_error err = {0};
    struct qp_tokenizer *tokenizer =
        parsed("{" MODEL ",\"added_tokens\":[{\"content\":\"<s>\",\"id\":9,\"special\":true}],\"post_processor\":"
               "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"s\"}},{\"Sequence\":{\"id\":"
               "\"A\"}}],\"special_tokens\":{\"s\":{\"ids\":[9]}}}}");
    cr_expect_eq(qp_tokenizer_vocabulary(tokenizer), 10);
    for (int special = 0; special < 2; special++) {
        qp_auto_free int32_t *ids = NULL;
        size_t count = 0;
        cr_assert_eq(qp_tokenizer_encode(tokenizer, "ab<s>b", 6, special, &ids, &count, &err), 0);
        cr_assert_eq(count, (size_t)(3 + special));
        cr_expect_eq(ids[0], special ? 9 : 2);
        cr_expect_eq(ids[special + 1], 9);
        cr_expect_eq(ids[special + 2], 1);
    }
    qp_tokenizer_free(tokenizer);
}

Test(tokenizer, names_an_unknown_token_that_is_missing_itself)
{
    struct qp_error err = {0};
    struct qp_tokenizer *tokenizer = parsed("{\"model\":{" AB ",\"merges\":[],\"unk_token\":\"<u>\"}}");
    int32_t *ids = NULL;
    size_t count = 0;
    cr_assert_eq(qp_tokenizer_encode(tokenizer, "ax", 2, true, &ids, &count, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "\"x\"") && strstr(err.message, "<u>"), "%s", err.message);
    qp_tokenizer_free(tokenizer);
}
