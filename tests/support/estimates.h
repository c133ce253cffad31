/* Asks the stage that a test is linked with for its estimate. */
#ifndef QUANTPIPE_TESTS_ESTIMATES_H
#define QUANTPIPE_TESTS_ESTIMATES_H

#include <criterion/criterion.h>
#include <string.h>

#include "libstage/stage/estimate.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

/* A question about a small model (tests/support/tiny.h) in INT4 with groups of 32, and `windows` windows of 16 tokens.
 * Takes params, wants and upstream over (NULL: none). A new reference. */
static inline json_t *estimate_question(json_t *params, json_t *wants, json_t *upstream, int64_t windows)
{
    json_t *model = json_pack("{s:s, s:o, s:n, s:{s:{s:s, s:i}}}", "path", "tiny", "config", tiny_config(), "tokenizer",
                              "scheme", "weights", "format", "int4", "group", 32);
    json_t *text = windows ? json_pack("{s:I, s:i}", "windows", (json_int_t)windows, "length", 16) : json_null();
    return json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:b}", "quantpipe", 1, "model", model, "params",
                     params ? params : json_object(), "wants", wants ? wants : json_array(), "upstream",
                     upstream ? upstream : json_array(), "text", text, "feedback", 0);
}

/* The answer of qp_stage_desc; takes the question over. Asserts that there is one. */
static inline struct qp_estimate estimate_of(json_t *question)
{
    struct qp_error err = {0};
    struct qp_estimate estimate;
    json_t *answer = NULL;
    int r = qp_stage_estimate(&qp_stage_desc, question, &answer, &err);
    cr_assert_eq(r, 0, "%s", err.message);
    qp_estimate_from_json(answer, &estimate);
    json_decref(answer);
    json_decref(question);
    return estimate;
}

#endif
