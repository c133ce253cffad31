#include "libstage/base/words.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define LONGEST 48 /* longer words are not compared */

bool qp_known(const char *word, const char *const *known)
{
    for (; *known; known++)
        if (strcmp(word, *known) == 0)
            return true;
    return false;
}

static bool same(char a, char b)
{
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Optimal string alignment distance: Levenshtein's, and neighbours swapped count as one edit. */
static int distance(const char *a, int m, const char *b, int n)
{
    int d[LONGEST + 1][LONGEST + 1];
    for (int i = 0; i <= m; i++)
        d[i][0] = i;
    for (int j = 0; j <= n; j++)
        d[0][j] = j;
    for (int i = 1; i <= m; i++)
        for (int j = 1; j <= n; j++) {
            d[i][j] = least(d[i - 1][j - 1] + !same(a[i - 1], b[j - 1]), least(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[m][n];
}

const char *qp_nearest(const char *word, const char *const *words, size_t count)
{
    size_t length = strlen(word);
    if (length > LONGEST)
        return NULL;
    const char *nearest = NULL;
    int best = length < 4 ? 2 : (int)length / 3 + 2; /* an edit for short words, about a third of long ones */
    for (size_t i = 0; i < count; i++) {
        size_t n = strlen(words[i]);
        int d = n > LONGEST ? LONGEST : distance(word, (int)length, words[i], (int)n);
        if (d < best) {
            best = d;
            nearest = words[i];
        }
    }
    return nearest;
}

size_t qp_word_count(const char *const *known)
{
    size_t count = 0;
    while (known[count])
        count++;
    return count;
}

const char *qp_word_list(const char *const *known, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (size_t i = 0; known[i] && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%s", i ? ", " : "", known[i]);
    return text;
}

int qp_fail_unknown(struct qp_error *err, int code, const char *where, const char *what, const char *word,
                    const char *const *known)
{
    char list[QP_ERROR_SIZE / 2];
    const char *near = qp_nearest(word, known, qp_word_count(known));
    return qp_fail(err, code, "%s: unknown %s '%.100s'%s%s%s Known: %s", where, what, word,
                   near ? ", did you mean '" : ".", near ? near : "", near ? "'?" : "",
                   qp_word_list(known, list, sizeof list));
}
