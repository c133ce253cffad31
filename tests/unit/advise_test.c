/* The table "choosing a method" is complete and speaks of what exists. */
#include <criterion/criterion.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "runner/commands/advise.h"

static void expect_sentence(const char *text)
{
    cr_assert_not_null(text);
    size_t n = strlen(text);
    cr_expect(n > 20 && text[n - 1] == '.' && text[0] >= 'A' && text[0] <= 'Z', "%s", text);
}

Test(advise, every_recipe_is_a_preset_that_parses)
{
    for (const struct qp_recipe *r = qp_advice_recipes; r->scheme; r++) {
        struct qp_scheme *scheme = NULL;
        struct qp_error err = {0};
        qp_auto_json json_t *name = json_string(r->scheme);
        cr_expect_eq(qp_scheme_parse(name, &scheme, &err), 0, "%s: %s", r->scheme, err.message);
        cr_expect_str_eq(scheme->name, r->scheme);
        cr_expect_eq(r->native & r->unpacks, 0, "%s", r->scheme);
        cr_expect(r->native | r->unpacks, "%s", r->scheme);
        expect_sentence(r->why);
        qp_scheme_free(scheme);
    }
}

static bool can(const struct qp_recipe *r, unsigned hardware)
{
    return (r->native | r->unpacks) & hardware;
}

/* One choice for every question, of recipes that the hardware can do; the first of `speed` is done natively where
 * anything is. */
Test(advise, every_question_has_one_answer)
{
    static const char *const uses[] = {"inference", "training"}, *const priorities[] = {"accuracy", "speed", "size"};
    for (const struct qp_hardware *h = qp_advice_hardware; h->name; h++) {
        expect_sentence(h->facts);
        for (int q = 0; q < 6; q++) {
            int found = 0;
            for (const struct qp_choice *c = qp_advice_choices; c->use; c++) {
                if (!(c->hardware & h->bit) || strcmp(c->use, uses[q / 3]) != 0 ||
                    strcmp(c->priority, priorities[q % 3]) != 0)
                    continue;
                found++;
                expect_sentence(c->why);
                cr_expect_not_null(c->schemes[0]);
                for (size_t i = 0; c->schemes[i]; i++) {
                    const struct qp_recipe *r = qp_advice_recipe(c->schemes[i]);
                    cr_assert_not_null(r, "%s", c->schemes[i]);
                    cr_expect(can(r, h->bit), "%s on %s", r->scheme, h->name);
                }
            }
            cr_expect_eq(found, 1, "%s %s %s", h->name, uses[q / 3], priorities[q % 3]);
        }
    }
}

Test(advise, every_priority_has_a_tolerance)
{
    int count = 0;
    for (const struct qp_tolerance *t = qp_advice_tolerances; t->priority; t++, count++)
        cr_expect(t->sqnr_db > 0 && t->increase > 0);
    cr_expect_eq(count, 3);
    cr_expect_str_eq(qp_advice_loss(40), "hardly measurable");
    cr_expect_str_eq(qp_advice_loss(3), "large");
}
