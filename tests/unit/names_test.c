/* Names found by hash: in maps, in units of many tensors, and in schemes of many rules. */
#include <criterion/criterion.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "libstage/base/random.h"
#include "libstage/base/strings.h"
#include "libstage/tensor/scheme/match.h"
#include "libstage/tensor/unit.h"

enum { MANY = 2000, LENGTH = 16 };

static struct qp_error err;
static char texts[MANY][LENGTH];

static void make_texts(void)
{
    for (int i = 0; i < MANY; i++)
        snprintf(texts[i], LENGTH, "experts.%d", i);
}

TestSuite(names, .init = make_texts);

static int64_t find(const struct qp_strings *map, const char *text)
{
    return qp_strings_find(map, text, strlen(text));
}

Test(names, each_has_its_value_and_others_have_none)
{
    struct qp_strings names = {0};
    cr_expect_eq(find(&names, "experts.0"), -1);
    for (int64_t i = 0; i < MANY; i++)
        qp_strings_add(&names, texts[i], strlen(texts[i]), i);
    cr_assert_not(names.failed);
    cr_expect_eq(names.count, MANY);
    for (int64_t i = 0; i < MANY; i++)
        cr_expect_eq(find(&names, texts[i]), i);
    cr_expect_eq(find(&names, "experts.2000"), -1);
    cr_expect_eq(find(&names, ""), -1);
    qp_strings_add(&names, "", 0, 77);
    cr_expect_eq(find(&names, ""), 77);
    cr_expect_eq(find(&names, "experts.5"), 5);
    qp_strings_clear(&names);
    cr_expect_eq(find(&names, "experts.5"), -1);
}

static struct qp_tensor *tensor_of(const char *name, int64_t elements)
{
    struct qp_tensor *t = NULL;
    cr_assert_eq(qp_tensor_new(name, QP_U8, 1, &elements, &t, &err), 0, "%s", err.message);
    return t;
}

/* A unit and a plain list go through the same changes. */
Test(names, a_unit_finds_what_a_list_has)
{
    struct qp_unit *unit = NULL;
    int64_t sizes[MANY] = {0}; /* 0: not there */
    uint64_t seed = 3;
    size_t count = 0;
    cr_assert_eq(qp_unit_new(QP_UNIT_BLOCK, 1, &unit, &err), 0);
    for (int step = 0; step < 3 * MANY; step++) {
        size_t i = qp_random(&seed) % 300;
        bool removed = qp_random(&seed) % 3 == 0;
        count += (size_t)(!removed && sizes[i] == 0) - (size_t)(removed && sizes[i] != 0);
        sizes[i] = removed ? 0 : 1 + step;
        if (removed)
            qp_unit_remove(unit, texts[i]);
        else
            cr_assert_eq(qp_unit_put(unit, tensor_of(texts[i], sizes[i]), &err), 0, "%s", err.message);
        size_t other = qp_random(&seed) % 300;
        const struct qp_tensor *found = qp_unit_find(unit, texts[other]);
        cr_assert_eq(found != NULL, sizes[other] != 0, "step %d", step);
        cr_assert(!found || (found->shape[0] == sizes[other] && strcmp(found->name, texts[other]) == 0));
        cr_assert_eq(unit->count, count);
    }
    qp_unit_free(unit);
}

/* Names and patterns at random: the first that matches, as one finds it by trying all of them. */
Test(names, the_first_pattern_that_matches)
{
    static const char *const patterns[] = {"experts.1*", "experts.?7", "experts.12",   "*.2[0-4]",
                                           "experts.13", "experts.13", "*3",           "experts.\\13",
                                           "nothing",    "experts.2",  "experts.[!1]*"};
    const size_t all = sizeof patterns / sizeof *patterns;
    uint64_t seed = 9;
    for (int round = 0; round < 200; round++) {
        struct qp_match_list list = {0};
        const char *chosen[8];
        size_t count = qp_random(&seed) % 8;
        for (size_t i = 0; i < count; i++) {
            chosen[i] = patterns[qp_random(&seed) % all];
            cr_assert_eq(qp_match_add(&list, chosen[i], &err), 0);
        }
        for (int i = 0; i < 40; i++) {
            size_t first = 0;
            while (first < count && fnmatch(chosen[first], texts[i], 0) != 0)
                first++;
            cr_expect_eq(qp_match_first(&list, texts[i]), first < count ? first : QP_NO_MATCH, "%s", texts[i]);
        }
        qp_match_clear(&list);
    }
}
