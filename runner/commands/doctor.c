/* `quantpipe doctor` */
#include "runner/commands/doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/libraries.h"
#include "kernels/peak.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/report/roofline.h"
#include "runner/subcommand.h"

static const struct qp_option options[] = {
    {"bench", NULL, "measure what the machine can do at most, and keep it for plans and reports"},
    {"folder", "FOLDER", "where runs are to be kept: look at this disk (the working directory)"},
    {0}};

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

/* ---- for people ---- */

static void print_findings(const json_t *findings)
{
    size_t i;
    json_t *finding;
    json_array_foreach(findings, i, finding) {
        const char *status = text(finding, "status");
        const char *mark = strcmp(status, "good") == 0 ? " " : strcmp(status, "advice") == 0 ? "?" : "!";
        printf("%s %-20s %s\n", mark, text(finding, "name"), text(finding, "value"));
        if (json_is_string(json_object_get(finding, "advice")))
            printf("%*s-> %s\n", 23, "", text(finding, "advice"));
    }
}

static void print_rate(const char *name, double rate, const char *unit, const char *note)
{
    char value[32] = "-";
    if (rate > 0)
        snprintf(value, sizeof value, "%.1f", rate / 1e9);
    printf("  %-34s %9s %s  %s\n", name, value, unit, note);
}

static void print_measured(const json_t *m)
{
    const json_t *peaks = json_object_get(m, "peaks"), *memory = json_object_get(m, "memory");
    const json_t *disk = json_object_get(m, "disk");
    size_t i;
    json_t *kernel;
    printf("\nmeasured, all cores together\n");
    for (int p = 0; p < QP_PEAKS; p++) {
        const json_t *peak = json_object_get(peaks, qp_peak_names[p]);
        char name[64];
        snprintf(name, sizeof name, "%s in registers", qp_peak_names[p]);
        print_rate(name, number(peak, "operations_per_second"), "Gop/s", text(peak, "instruction"));
    }
    json_array_foreach(json_object_get(m, "kernels"), i, kernel) {
        char note[64];
        snprintf(note, sizeof note, "%.0f %% of the peak", 100 * number(kernel, "share_of_peak"));
        print_rate(text(kernel, "name"), number(kernel, "operations_per_second"), "Gop/s",
                   number(kernel, "share_of_peak") > 0 ? note : "");
    }
    print_rate("memory, read", number(memory, "read_bytes_per_second"), "GB/s ", "");
    print_rate("memory, copy (read and written)", number(memory, "copy_bytes_per_second"), "GB/s ", "");
    print_rate("disk, write and fsync", number(disk, "write_bytes_per_second"), "GB/s ", text(disk, "folder"));
    print_rate("disk, read past the page cache", number(disk, "read_bytes_per_second"), "GB/s ", "");
    print_rate("page cache, read", number(disk, "cached_read_bytes_per_second"), "GB/s ", "");
}

static int measure(const char *folder, json_t **out, struct qp_error *err)
{
    if (isatty(2))
        fprintf(stderr, "measuring, for some seconds\n");
    int r = qp_doctor_measure(folder, out, err);
    return r < 0 ? r : qp_machine_save(*out, err);
}

/* Nothing that computes would work; what was found has been printed. */
static int judge(bool printed, struct qp_error *err)
{
    for (int i = 0; i < QP_LIBRARIES; i++) {
        const char *problem = qp_library_problem((enum qp_library)i);
        if (problem)
            return qp_fail(err, QP_ERR_STAGE, "%s", printed ? "" : problem);
    }
    return 0;
}

static int doctor(const struct qp_args *args, struct qp_error *err)
{
    const char *given = qp_arg(args, "folder");
    qp_auto_free char *here = getcwd(NULL, 0), *path = qp_machine_path();
    qp_auto_json json_t *measured = NULL;
    const char *folder = given ? given : here ? here : ".";
    int r = qp_arg(args, "bench") ? measure(folder, &measured, err) : 0;
    if (r < 0)
        return r;
    qp_auto_json json_t *findings = qp_doctor_look(folder);
    if (qp_arg(args, "json")) {
        r = qp_print_json(json_pack("{s:i, s:O, s:O?}", "quantpipe", 1, "findings", findings, "measured", measured),
                          err);
        return r < 0 ? r : judge(true, err);
    }
    print_findings(findings);
    if (measured) {
        print_measured(measured);
        printf("\nkept in %s\n", path);
    }
    return judge(false, err);
}

const struct qp_subcommand qp_subcommand_doctor = {
    .name = "doctor",
    .summary = "look at this machine, print what is in the way of runs, and measure what it can do",
    .usage = "",
    .options = {options, qp_json_option},
    .run = doctor,
};
