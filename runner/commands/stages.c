/* `quantpipe stages` */
#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/pipeline/descriptor.h"
#include "runner/subcommand.h"

static int describe_all(const char *only, json_t **out, struct qp_error *err)
{
    qp_auto_free char *folder = NULL;
    qp_auto_json json_t *names = NULL;
    int r = qp_builtin_folder(&folder, err);
    if (r == 0)
        r = qp_builtin_names(&names, err);
    json_t *list = json_array();
    size_t i;
    json_t *name;
    json_array_foreach(names, i, name) {
        if (r < 0 || (only && strcmp(only, json_string_value(name)) != 0))
            continue;
        qp_auto_free char *path = qp_join(folder, json_string_value(name));
        json_t *descriptor = NULL;
        r = path ? qp_builtin_descriptor(path, &descriptor, err) : qp_fail_memory(err, 0, "a path");
        if (r == 0)
            json_array_append_new(list, descriptor);
    }
    if (r == 0 && only && json_array_size(list) == 0)
        r = qp_fail(err, QP_ERR_USAGE, "there is no built-in stage `%s`; `quantpipe stages` lists them", only);
    if (r < 0)
        json_decref(list);
    else
        *out = list;
    return r;
}

static void print_param(const json_t *param)
{
    char *fallback = json_dumps(json_object_get(param, "default"), JSON_ENCODE_ANY);
    const json_t *choices = json_object_get(param, "choices");
    const char *help = json_string_value(json_object_get(param, "help"));
    printf("    %-24s %s", json_string_value(json_object_get(param, "name")), help ? help : "");
    size_t i;
    json_t *choice;
    json_array_foreach(choices, i, choice)
        printf("%s%s", i ? ", " : " (", json_string_value(choice));
    printf("%s", json_array_size(choices) ? ")" : "");
    if (fallback && strcmp(fallback, "null") != 0)
        printf(" [%s]", fallback);
    printf("\n");
    free(fallback);
}

static void print_stage(const json_t *stage)
{
    const char *summary = json_string_value(json_object_get(stage, "summary"));
    printf("%s: %s\n", json_string_value(json_object_get(stage, "name")), summary ? summary : "");
    size_t i;
    json_t *param;
    json_array_foreach(json_object_get(stage, "params"), i, param)
        print_param(param);
    printf("\n");
}

static int stages(const struct qp_args *args, struct qp_error *err)
{
    json_t *list = NULL;
    int r = describe_all(args->argument_count ? args->arguments[0] : NULL, &list, err);
    if (r < 0)
        return r;
    if (qp_arg(args, "json"))
        return qp_print_json(json_pack("{s:o}", "stages", list), err);
    size_t i;
    json_t *stage;
    json_array_foreach(list, i, stage)
        print_stage(stage);
    json_decref(list);
    return 0;
}

const struct qp_subcommand qp_subcommand_stages = {
    .name = "stages",
    .summary = "list the built-in stages and their parameters",
    .usage = "[STAGE]",
    .max_arguments = 1,
    .options = {qp_json_option},
    .run = stages,
};
