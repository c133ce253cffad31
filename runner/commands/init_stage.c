#include "runner/commands/init_stage.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"

/* What a stage is called in pipelines, and, with _ for -, in programs. */
static int check_name(const char *name, char *identifier, size_t size, struct qp_error *err)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    if (n == 0 || name[n] || n >= size || n >= 48 || !isalpha((unsigned char)name[0]))
        return qp_fail(err, QP_ERR_USAGE,
                       "`%.60s` is no name of a stage: expected at most 47 letters, digits, - and _, a letter first",
                       name);
    for (size_t i = 0; i <= n; i++)
        identifier[i] = name[i] == '-' ? '_' : name[i];
    return 0;
}

static int check_language(const char *language, struct qp_error *err)
{
    for (const struct qp_template *t = qp_templates; t->language; t++)
        if (strcmp(t->language, language) == 0)
            return 0;
    return qp_fail(err, QP_ERR_USAGE, "--language %.40s: expected c or python", language);
}

/* The text with `new` for each `old`, in new memory; NULL without memory. */
static char *replaced(const char *text, const char *old, const char *new)
{
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, old)); at += strlen(old))
        count++;
    char *result = malloc(strlen(text) + count * strlen(new) + 1), *to = result;
    for (const char *at = text; result; text = at += strlen(old)) {
        at = strstr(text, old);
        size_t n = at ? (size_t)(at - text) : strlen(text);
        memcpy(to, text, n);
        to += n;
        if (!at)
            break;
        memcpy(to, new, strlen(new));
        to += strlen(new);
    }
    if (result)
        *to = '\0';
    return result;
}

static int write_template(const struct qp_template *t, const char *name, const char *identifier, struct qp_error *err)
{
    qp_auto_free char *file = replaced(t->file, "NAME", identifier);
    qp_auto_free char *half = replaced(t->text, "@IDENTIFIER@", identifier);
    qp_auto_free char *text = half ? replaced(half, "@NAME@", name) : NULL;
    qp_auto_free char *path = file ? qp_join(name, file) : NULL;
    if (!text || !path)
        return qp_fail_memory(err, strlen(t->text), t->file);
    int r = qp_write_file(path, text, strlen(text), err);
    if (r == 0)
        printf("%s\n", path);
    return r;
}

int qp_init_stage(const char *name, const char *language, struct qp_error *err)
{
    char identifier[64];
    int r = check_name(name, identifier, sizeof identifier, err);
    if (r == 0)
        r = check_language(language, err);
    if (r == 0 && mkdir(name, 0777) < 0)
        r = errno == EEXIST
                ? qp_fail(err, QP_ERR_INPUT, "%s: exists, and stays as it is; remove it, or give another name", name)
                : qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot be made", name);
    for (const struct qp_template *t = qp_templates; r == 0 && t->language; t++)
        if (strcmp(t->language, language) == 0)
            r = write_template(t, name, identifier, err);
    if (r == 0)
        printf("its test: cd %s && %s\n", name,
               strcmp(language, "c") == 0 ? "make test   (an installed quantpipe is needed)"
                                          : "python3 -m unittest   (pip install examples/python is needed)");
    return r;
}
