/* The roofline: the least time that this machine needs for some work, from peaks that `quantpipe doctor --bench`
 * measured once. */
#ifndef QUANTPIPE_RUNNER_REPORT_ROOFLINE_H
#define QUANTPIPE_RUNNER_REPORT_ROOFLINE_H

#include <stdbool.h>

#include "kernels/peak.h"
#include "kernels/work.h"
#include "libstage/base/error.h"
#include "libstage/base/json.h"

/* What all cores together do in a second. 0: not measured, or nothing there that does it. */
struct qp_peaks {
    double operations[QP_PEAKS];
    double memory, disk_read, disk_write; /* bytes */
};

/* Seconds on each of the machine's parts, which work at the same time. */
struct qp_roofline {
    double compute, memory, disk;
};

/* Operations by the peak of their numbers: BF16's and INT8's for those products, FP32's for all else, and for those
 * that the machine has no instructions for; bytes by the rates of memory and disk. */
struct qp_roofline qp_roofline_of(const struct qp_work *work, const struct qp_peaks *peaks);

/* The longest of the parts. Of several stages, which overlap: of the sums of their parts. */
double qp_roofline_seconds(const struct qp_roofline *roofline);
void qp_roofline_sum(struct qp_roofline *a, const struct qp_roofline *b);

/* Where measurements are kept: $XDG_CACHE_HOME/quantpipe/machine.json, ~/.cache without that. New memory, NULL when
 * there is no home or no memory. */
char *qp_machine_path(void);

/* What a machine is called in that file: its processor and how many cores of it are ours. */
const char *qp_machine_name(char *text, size_t size);

/* The peaks of this machine. false: nobody has measured it, or the file cannot be read. */
bool qp_peaks_load(struct qp_peaks *out);

/* From one machine's entry of the file (schemas/machine.schema.json); what is missing is 0. */
void qp_peaks_of(const json_t *entry, struct qp_peaks *out);

/* Replaces this machine's entry; those of others stay. */
int qp_machine_save(const json_t *entry, struct qp_error *err);

/* Adds to a report's stages, each with its `work`, `roofline_seconds` and `share_of_roofline` (of the busy seconds),
 * and to the report the same for the whole run (of its wall seconds): null where nothing is known. */
void qp_report_roofline(json_t *report);

/* What people read in place of a roofline when there is none. */
#define QP_NO_PEAKS "run `quantpipe doctor --bench` once to see the least time that this machine needs"

#endif
