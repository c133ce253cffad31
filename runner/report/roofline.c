#include "runner/report/roofline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/stage/work_json.h"
#include "runner/machine.h"

#define FILE_LIMIT ((size_t)1 << 20)

/* ---- the machine's file ---- */

char *qp_machine_path(void)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && cache[0] == '/') /* the specification wants relative ones ignored */
        return qp_join(cache, "quantpipe/machine.json");
    return home && home[0] == '/' ? qp_join(home, ".cache/quantpipe/machine.json") : NULL;
}

const char *qp_machine_name(char *text, size_t size)
{
    char model[160];
    snprintf(text, size, "%s, %d cores", qp_machine_cpu(model, sizeof model), qp_machine_cores());
    return text;
}

static json_t *read_file(void)
{
    struct qp_error ignored;
    json_t *file = NULL;
    qp_auto_free char *path = qp_machine_path();
    if (!path || !qp_exists(path) || qp_read_json(path, FILE_LIMIT, &file, &ignored) < 0)
        return NULL;
    return file;
}

static double rate(const json_t *object, const char *key, const char *inner)
{
    double value = json_number_value(json_object_get(json_object_get(object, key), inner));
    return isfinite(value) && value > 0 ? value : 0;
}

void qp_peaks_of(const json_t *entry, struct qp_peaks *out)
{
    const json_t *peaks = json_object_get(entry, "peaks"), *memory = json_object_get(entry, "memory");
    for (int i = 0; i < QP_PEAKS; i++)
        out->operations[i] = rate(peaks, qp_peak_names[i], "operations_per_second");
    double read = json_number_value(json_object_get(memory, "read_bytes_per_second"));
    out->memory = fmax(read, json_number_value(json_object_get(memory, "copy_bytes_per_second")));
    out->disk_read = rate(entry, "disk", "read_bytes_per_second");
    out->disk_write = rate(entry, "disk", "write_bytes_per_second");
}

bool qp_peaks_load(struct qp_peaks *out)
{
    char name[256];
    qp_auto_json json_t *file = read_file();
    const json_t *entry = json_object_get(json_object_get(file, "machines"), qp_machine_name(name, sizeof name));
    *out = (struct qp_peaks){0};
    if (json_is_object(entry))
        qp_peaks_of(entry, out);
    return out->operations[QP_PEAK_FP32] > 0;
}

int qp_machine_save(const json_t *entry, struct qp_error *err)
{
    char name[256];
    qp_auto_free char *path = qp_machine_path();
    qp_auto_free char *folder = path ? qp_folder_of(path) : NULL;
    if (!folder)
        return qp_fail(err, QP_ERR_INPUT, "HOME and XDG_CACHE_HOME are not set: there is no place for machine.json");
    int r = qp_make_folders(folder, err);
    if (r < 0)
        return r;
    qp_auto_json json_t *file = read_file();
    json_t *machines = json_object_get(file, "machines");
    if (!json_is_object(machines)) {
        json_decref(file);
        file = json_pack("{s:i, s:{}}", "quantpipe", 1, "machines");
        machines = json_object_get(file, "machines");
    }
    if (json_object_set(machines, qp_machine_name(name, sizeof name), (json_t *)entry) < 0)
        return qp_fail_memory(err, 0, path);
    return qp_write_json(path, file, err);
}

/* ---- the roofline ---- */

static enum qp_peak peak_of(enum qp_work_kind kind)
{
    switch (kind) {
    case QP_WORK_GEMM_BF16:
    case QP_WORK_ATTENTION_BF16:
    case QP_WORK_HESSIAN_BF16:
        return QP_PEAK_BF16;
    case QP_WORK_GEMM_INT8:
        return QP_PEAK_INT8;
    default:
        return QP_PEAK_FP32;
    }
}

static double seconds(double amount, double per_second)
{
    return per_second > 0 ? amount / per_second : 0;
}

struct qp_roofline qp_roofline_of(const struct qp_work *work, const struct qp_peaks *peaks)
{
    struct qp_roofline roofline = {.memory = seconds(work->bytes_read + work->bytes_written, peaks->memory),
                                   .disk = seconds(work->disk_read, peaks->disk_read) +
                                           seconds(work->disk_written, peaks->disk_write)};
    for (int i = 0; i < QP_WORK_KINDS; i++) {
        double peak = peaks->operations[peak_of((enum qp_work_kind)i)];
        roofline.compute += seconds(work->operations[i], peak > 0 ? peak : peaks->operations[QP_PEAK_FP32]);
    }
    return roofline;
}

double qp_roofline_seconds(const struct qp_roofline *roofline)
{
    return fmax(roofline->compute, fmax(roofline->memory, roofline->disk));
}

void qp_roofline_sum(struct qp_roofline *a, const struct qp_roofline *b)
{
    a->compute += b->compute;
    a->memory += b->memory;
    a->disk += b->disk;
}

/* ---- the report ---- */

static void set_roofline(json_t *object, double roofline, double took)
{
    json_object_set_new(object, "roofline_seconds", json_real(roofline));
    json_object_set_new(object, "share_of_roofline", took > 0 ? json_real(roofline / took) : json_null());
}

void qp_report_roofline(json_t *report)
{
    struct qp_peaks peaks;
    struct qp_roofline sum = {0};
    bool measured = qp_peaks_load(&peaks);
    size_t i;
    json_t *stage;
    json_array_foreach(json_object_get(report, "stages"), i, stage) {
        struct qp_work work;
        qp_work_from_json(json_object_get(stage, "work"), &work);
        struct qp_roofline roofline = qp_roofline_of(&work, &peaks);
        qp_roofline_sum(&sum, &roofline);
        json_object_set_new(stage, "roofline_seconds", json_null());
        json_object_set_new(stage, "share_of_roofline", json_null());
        if (measured && json_is_object(json_object_get(stage, "work")))
            set_roofline(stage, qp_roofline_seconds(&roofline),
                         json_number_value(json_object_get(stage, "busy_seconds")));
    }
    json_object_set_new(report, "roofline_seconds", json_null());
    json_object_set_new(report, "share_of_roofline", json_null());
    if (measured)
        set_roofline(report, qp_roofline_seconds(&sum), json_number_value(json_object_get(report, "wall_seconds")));
}
