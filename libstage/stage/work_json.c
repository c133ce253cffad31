#include "libstage/stage/work_json.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

static const struct {
    const char *name;
    size_t offset;
} bytes[] = {{"bytes_read", offsetof(struct qp_work, bytes_read)},
             {"bytes_written", offsetof(struct qp_work, bytes_written)},
             {"disk_read_bytes", offsetof(struct qp_work, disk_read)},
             {"disk_written_bytes", offsetof(struct qp_work, disk_written)}};
enum { BYTES = sizeof bytes / sizeof *bytes };

json_t *qp_work_json(const struct qp_work *work)
{
    json_t *json = json_object(), *operations = json_object();
    for (int i = 0; i < QP_WORK_KINDS; i++)
        json_object_set_new(operations, qp_work_names[i], json_integer((json_int_t)work->operations[i]));
    json_object_set_new(json, "operations", operations);
    for (int i = 0; i < BYTES; i++)
        json_object_set_new(json, bytes[i].name,
                            json_integer((json_int_t) * (const double *)((const char *)work + bytes[i].offset)));
    return json;
}

static double amount(const json_t *object, const char *key)
{
    double value = json_number_value(json_object_get(object, key));
    return isfinite(value) && value > 0 ? value : 0;
}

void qp_work_from_json(const json_t *json, struct qp_work *out)
{
    const json_t *operations = json_object_get(json, "operations");
    for (int i = 0; i < QP_WORK_KINDS; i++)
        out->operations[i] = amount(operations, qp_work_names[i]);
    for (int i = 0; i < BYTES; i++)
        *(double *)((char *)out + bytes[i].offset) = amount(json, bytes[i].name);
}

/* Documentation/filesystems/proc.rst: pages that were made dirty count as written, less those that were truncated. */
void qp_disk_read(struct qp_work *work)
{
    char line[128];
    unsigned long long value, cancelled = 0;
    FILE *file = fopen("/proc/self/io", "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "read_bytes: %llu", &value) == 1)
            work->disk_read = (double)value;
        else if (sscanf(line, "write_bytes: %llu", &value) == 1)
            work->disk_written = (double)value;
        else if (sscanf(line, "cancelled_write_bytes: %llu", &value) == 1)
            cancelled = value;
    }
    fclose(file);
    work->disk_written = fmax(work->disk_written - (double)cancelled, 0);
}
