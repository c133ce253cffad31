#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/tokenizer/tokenizer.h"

/* A file of metadata only, whose keys stand without "tokenizer.ggml.". */
static struct qp_gguf file_of(const char *text)
{
    json_error_t at;
    qp_auto_json json_t *short_keys = json_loads(text, 0, &at);
    cr_assert_not_null(short_keys, "%s: %s", text, at.text);
    struct qp_gguf file = {.path = (char *)"m.gguf", .metadata = json_object()};
    const char *key;
    json_t *value;
    json_object_foreach(short_keys, key, value) {
        char name[100];
        snprintf(name, sizeof name, "tokenizer.ggml.%s", key);
        json_object_set(file.metadata, name, value);
    }
    return file;
}

static void refused(const char *text, const char *what)
{
    struct qp_error err = {0};
    json_t *json = NULL;
    struct qp_gguf file = file_of(text);
    cr_expect_eq(qp_tokenizer_from_gguf(&file, &json, &err), QP_ERR_INPUT, "accepted: %s", text);
    cr_expect(strstr(err.message, what) && strncmp(err.message, "m.gguf:", 7) == 0, "\"%s\" lacks \"%s\"", err.message,
              what);
    json_decref(file.metadata);
}

/* Ids of `input`, as "0 1 2 ". */
static void expect(const char *text, const char *input, const char *expected)
{
    struct qp_error err = {0};
    qp_auto_json json_t *json = NULL;
    struct qp_tokenizer *tokenizer = NULL;
    qp_auto_free int32_t *ids = NULL;
    size_t count = 0;
    char found[256] = "";
    struct qp_gguf file = file_of(text);
    cr_assert_eq(qp_tokenizer_from_gguf(&file, &json, &err), 0, "%s", err.message);
    cr_assert_eq(qp_tokenizer_parse(json, file.path, &tokenizer, &err), 0, "%s", err.message);
    cr_assert_eq(qp_tokenizer_encode(tokenizer, input, strlen(input), true, &ids, &count, &err), 0, "%s", err.message);
    for (size_t i = 0; i < count && i < 20; i++)
        sprintf(found + strlen(found), "%d ", ids[i]);
    cr_expect_str_eq(found, expected, "%s: %s, expected %s", input, found, expected);
    qp_tokenizer_free(tokenizer);
    json_decref(file.metadata);
}

#define GPT2(pre)                                                                                   \
    "{\"model\":\"gpt2\"," pre "\"tokens\":[\"1\",\"2\",\"3\",\"4\",\"12\",\"123\",\"1234\",\"a\"," \
    "\"'\",\"S\",\"'S\",\"<e>\",\"<u>\",\"aa\"],\"token_type\":[1,1,1,1,1,1,1,1,1,1,1,3,4,1],"      \
    "\"bos_token_id\":11,\"eos_token_id\":12,\"merges\":[\"1 2\",\"12 3\",\"123 4\",\"' S\"]}"

Test(tokenizer_gguf, splits_as_the_named_kind_does)
{
    expect(GPT2(""), "1234'S<e><u>", "6 8 9 11 12 ");
    expect(GPT2("\"pre\":\"default\","), "1234", "6 ");
    expect(GPT2("\"pre\":\"gpt-2\",\"add_bos_token\":true,"), "1234", "11 6 ");
    expect(GPT2("\"pre\":\"smollm\",\"add_eos_token\":true,"), "1234'S", "0 1 2 3 8 9 12 ");
    expect(GPT2("\"pre\":\"llama-bpe\","), "aa1234'S", "11 13 5 3 10 "); /* aa: a whole word, though no merge */
    expect(GPT2("\"pre\":\"llama-bpe\",\"add_bos_token\":false,"), "1234'S", "5 3 10 ");
    expect(GPT2("\"pre\":\"qwen2\","), "1234'S", "0 1 2 3 10 ");
}

#define LLAMA(more)                                                                                         \
    "{\"model\":\"llama\",\"tokens\":[\"<unk>\",\"<s>\",\"</s>\",\"<0x7A>\",\"\\u2581\",\"a\",\"b\",\"c\"," \
    "\"ab\",\"bc\",\"\\u2581a\"],\"token_type\":[2,3,3,6,1,1,1,1,1,1,1]," more "}"

Test(tokenizer_gguf, merges_by_score)
{
    expect(LLAMA("\"scores\":[0,0,0,0,0,0,0,0,-1,-2,-3]"), "abc", "1 4 8 7 ");
    expect(LLAMA("\"scores\":[0,0,0,0,0,0,0,0,-2,-1,-3]"), "abc", "1 10 9 ");
    expect(LLAMA("\"scores\":[0,0,0,0,0,0,0,0,-2,-1,-3],\"add_bos_token\":false,\"add_space_prefix\":false"), "abc",
           "5 9 ");
    expect(LLAMA("\"scores\":[0,0,0,0,0,0,0,0,-2,-1,-3],\"add_eos_token\":true"), "z<s>y", "1 4 3 1 4 0 2 ");
}

Test(tokenizer_gguf, refuses_what_it_cannot_read)
{
    refused("{}", "model");
    refused("{\"model\":\"bert\"}", "\"bert\"");
    refused("{\"model\":\"gpt2\"}", "tokens");
    refused("{\"model\":\"gpt2\",\"tokens\":[]}", "tokens");
    refused("{\"model\":\"gpt2\",\"tokens\":[1],\"merges\":[]}", "tokens");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\",\"a\"],\"merges\":[]}", "twice");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"]}", "merges");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"],\"merges\":7}", "merges");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"],\"merges\":[],\"pre\":\"tekken\"}", "\"tekken\"");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"],\"merges\":[],\"pre\":\"gpt\"}", "\"gpt\"");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"],\"merges\":[],\"pre\":\"\"}", "pre");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"],\"merges\":[],\"token_type\":[1,1]}", "token_type");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"],\"merges\":[],\"add_bos_token\":1}", "add_bos_token");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"],\"merges\":[],\"add_bos_token\":true}", "bos_token_id");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"],\"merges\":[],\"add_bos_token\":true,\"bos_token_id\":1}",
            "bos_token_id");
    refused("{\"model\":\"gpt2\",\"tokens\":[\"a\"],\"merges\":[],\"add_eos_token\":true,\"eos_token_id\":-1}",
            "eos_token_id");
    refused("{\"model\":\"llama\",\"tokens\":[\"a\",\"b\"]}", "scores");
    refused("{\"model\":\"llama\",\"tokens\":[\"a\",\"b\"],\"scores\":[1]}", "scores");
    refused("{\"model\":\"llama\",\"tokens\":[\"a\",\"b\"],\"scores\":[1,\"x\"]}", "scores");
    refused("{\"model\":\"llama\",\"tokens\":[\"a\",\"b\"],\"scores\":[1,2],\"unknown_token_id\":9}",
            "unknown_token_id");
}

Test(tokenizer_gguf, refuses_a_token_too_long_to_merge)
{
    char text[2048] = "{\"model\":\"llama\",\"scores\":[0,0],\"tokens\":[\"a\",\"";
    memset(text + strlen(text), 'b', 1025);
    strcat(text, "\"]}");
    refused(text, "1025 bytes");
}
