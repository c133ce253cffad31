/* What users' machines lack, in one place each: every look ends in one finding. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "kernels/libraries.h"
#include "kernels/peak.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/pipeline/descriptor.h"
#include "runner/commands/doctor.h"
#include "runner/report/roofline.h"
#include "runner/machine.h"
#include "runner/size.h"

#define LEAST_MEMORY ((uint64_t)2 << 30)
#define LEAST_SHM ((uint64_t)512 << 20)
#define LEAST_DISK ((uint64_t)10 << 30)
#define LEAST_FILES 1024

enum status { GOOD, ADVICE, PROBLEM };

/* `advice` NULL: there is nothing to do. */
static void add(json_t *findings, const char *name, enum status status, const char *advice, const char *value)
{
    static const char *const words[] = {"good", "advice", "problem"};
    json_array_append_new(findings, json_pack("{s:s, s:s, s:s, s:s?}", "name", name, "value", value, "status",
                                              words[status], "advice", advice));
}

static void look_at_system(json_t *findings)
{
    struct utsname u;
    char text[512];
    snprintf(text, sizeof text, "quantpipe %s", QUANTPIPE_VERSION);
    add(findings, "program", GOOD, NULL, text);
    if (uname(&u) == 0) {
        snprintf(text, sizeof text, "%.100s %.100s on %.60s", u.sysname, u.release, u.machine);
        add(findings, "system", GOOD, NULL, text);
    }
}

static void look_at_processor(json_t *findings)
{
    char model[160], text[256];
    int present = (int)sysconf(_SC_NPROCESSORS_ONLN), ours = qp_machine_cores();
    snprintf(text, sizeof text, "%s, %d of %d cores", qp_machine_cpu(model, sizeof model), ours, present);
    add(findings, "processor", ours < present ? ADVICE : GOOD,
        ours < present ? "an affinity mask or a container leaves quantpipe fewer cores than the machine has" : NULL,
        text);
    *text = '\0';
    for (int i = 0; i < QP_PEAKS; i++) {
        const char *instruction = qp_peak_instruction((enum qp_peak)i);
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s: %s", i ? ", " : "", qp_peak_names[i],
                 instruction ? instruction : "none");
    }
    bool vectors = qp_peak_instruction(QP_PEAK_FP32) != NULL;
    add(findings, "instructions", vectors ? GOOD : ADVICE,
        vectors ? NULL : "without AVX2 everything runs on portable code, many times slower", text);
}

static void look_at_load(json_t *findings)
{
    double load[1];
    char text[64];
    if (getloadavg(load, 1) != 1)
        return;
    bool busy = load[0] > 0.5 * qp_machine_cores();
    snprintf(text, sizeof text, "%.1f over the last minute", load[0]);
    add(findings, "load", busy ? ADVICE : GOOD,
        busy ? "other programs are at work: runs take longer, and what is measured now is too low" : NULL, text);
}

static uint64_t meminfo(const char *key)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), ": %llu", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return (uint64_t)kib * 1024;
}

static void look_at_memory(json_t *findings)
{
    char total[32], free_[32], swap[32], text[160];
    uint64_t available = meminfo("MemAvailable");
    snprintf(text, sizeof text, "%s, %s available, swap %s", qp_size_text(qp_machine_memory(), total, sizeof total),
             qp_size_text(available, free_, sizeof free_), qp_size_text(meminfo("SwapTotal"), swap, sizeof swap));
    bool low = available > 0 && available < LEAST_MEMORY;
    add(findings, "memory", low ? ADVICE : GOOD,
        low ? "less than 2 GiB are available: fine for models below 1B parameters, tight above" : NULL, text);
}

static void look_at_gpu(json_t *findings)
{
    char line[128] = "";
    FILE *f = fopen("/proc/driver/nvidia/version", "re");
    if (f && fgets(line, sizeof line, f))
        line[strcspn(line, "\n")] = '\0';
    if (f)
        fclose(f);
    add(findings, "gpu", GOOD, NULL, *line ? line : "none found; stages compute on the CPU");
}

/* Whether a library can be used at all, and whether OpenBLAS runs code as new as the processor. */
static void look_at_library(json_t *findings, enum qp_library library)
{
    const char *problem = qp_library_problem(library), *better = qp_blas_better_core();
    char advice[256];
    if (problem) {
        add(findings, qp_library_name(library), PROBLEM, problem, "cannot be used");
    } else if (library == QP_OPENBLAS && better) {
        snprintf(advice, sizeof advice, "it runs code for an older processor, and this one could run %s: %s", better,
                 getenv("OPENBLAS_CORETYPE") ? "unset OPENBLAS_CORETYPE"
                                             : "install a release that was built for all processors (DYNAMIC_ARCH)");
        add(findings, "core of OpenBLAS", ADVICE, advice, qp_blas_core());
    }
}

static void look_at_threads_of_openblas(json_t *findings)
{
    if (qp_library_problem(QP_OPENBLAS))
        return;
    add(findings, "threads of OpenBLAS", qp_kernels_share_threads() ? GOOD : ADVICE,
        qp_kernels_share_threads() ? NULL
                                   : "it has a pool of its own, which fights with ours for the cores; install its "
                                     "OpenMP build (libopenblas0-openmp)",
        qp_kernels_share_threads() ? "those of OpenMP, shared" : "its own");
}

/* A variable that makes libraries choose slower code than the processor could run. */
static void look_at_libraries(json_t *findings)
{
    static const char *const limits[] = {"OPENBLAS_CORETYPE", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"};
    char text[160];
    add(findings, "libraries", GOOD, NULL, qp_kernels_description());
    for (int i = 0; i < QP_LIBRARIES; i++)
        look_at_library(findings, (enum qp_library)i);
    look_at_threads_of_openblas(findings);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (getenv(limits[i])) {
            snprintf(text, sizeof text, "%s", getenv(limits[i]));
            add(findings, limits[i], ADVICE,
                "this variable makes a library choose its code without looking at the processor; unset it unless it "
                "is there for a reason",
                text);
        }
}

static void look_at_stages(json_t *findings)
{
    struct qp_error err;
    char text[64];
    qp_auto_json json_t *names = NULL;
    if (qp_builtin_names(&names, &err) < 0) {
        add(findings, "stages", PROBLEM, "install quantpipe with its libexec folder beside bin", err.message);
        return;
    }
    size_t count = json_array_size(names);
    snprintf(text, sizeof text, "%zu built in", count);
    add(findings, "stages", count > 0 ? GOOD : PROBLEM,
        count > 0 ? NULL : "install quantpipe with its libexec folder beside bin", text);
}

/* Free bytes for us on the file system of a path; false when it is not there. */
static bool space_at(const char *path, uint64_t *bytes)
{
    struct statvfs s;
    if (statvfs(path, &s) < 0)
        return false;
    *bytes = (uint64_t)s.f_bavail * (uint64_t)s.f_frsize;
    return true;
}

static void look_at_shared_memory(json_t *findings)
{
    uint64_t space;
    char size[32], text[96];
    if (!space_at("/dev/shm", &space) || access("/dev/shm", W_OK) < 0) {
        add(findings, "shared memory", ADVICE, "without it stages copy blocks through sockets; mount a tmpfs there",
            "/dev/shm cannot be written");
        return;
    }
    snprintf(text, sizeof text, "%s free in /dev/shm", qp_size_text(space, size, sizeof size));
    add(findings, "shared memory", space < LEAST_SHM ? ADVICE : GOOD,
        space < LEAST_SHM ? "blocks that find no space are copied through sockets; a container gets more by --shm-size"
                          : NULL,
        text);
}

static void look_at_files(json_t *findings)
{
    struct rlimit limit;
    char text[64];
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    snprintf(text, sizeof text, "%llu open files a process", (unsigned long long)limit.rlim_cur);
    bool low = limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < LEAST_FILES;
    add(findings, "file descriptors", low ? ADVICE : GOOD,
        low ? "checkpoints of many files and runs of many stages need more: ulimit -n 4096" : NULL, text);
}

static void look_at_sockets(json_t *findings)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    const char *folder = runtime && *runtime ? runtime : "/tmp";
    bool good = access(folder, W_OK | X_OK) == 0;
    add(findings, "socket folder", good ? GOOD : PROBLEM,
        good ? NULL : "runs keep their sockets there: set XDG_RUNTIME_DIR to a folder of your own", folder);
}

static void look_at_disk(json_t *findings, const char *folder)
{
    uint64_t space;
    char size[32], text[512];
    if (!space_at(folder, &space)) {
        snprintf(text, sizeof text, "%.400s is not there", folder);
        add(findings, "disk", PROBLEM, "name the folder of your runs with --folder", text);
        return;
    }
    snprintf(text, sizeof text, "%s free in %.400s", qp_size_text(space, size, sizeof size), folder);
    if (access(folder, W_OK | X_OK) < 0)
        add(findings, "disk", PROBLEM, "it cannot be written: give --output a place that can", text);
    else
        add(findings, "disk", space < LEAST_DISK ? ADVICE : GOOD,
            space < LEAST_DISK ? "an output takes up to the model's size, and the hidden states of calibration 4 bytes "
                                 "for each token and channel"
                               : NULL,
            text);
}

static void look_at_peaks(json_t *findings)
{
    struct qp_peaks peaks;
    bool measured = qp_peaks_load(&peaks);
    char text[160];
    snprintf(text, sizeof text, "FP32 %.0f, BF16 %.0f, INT8 %.0f 10^9 operations a second; memory %.0f GB/s",
             peaks.operations[QP_PEAK_FP32] / 1e9, peaks.operations[QP_PEAK_BF16] / 1e9,
             peaks.operations[QP_PEAK_INT8] / 1e9, peaks.memory / 1e9);
    add(findings, "peaks", measured ? GOOD : ADVICE, measured ? NULL : QP_NO_PEAKS, measured ? text : "never measured");
}

json_t *qp_doctor_look(const char *folder)
{
    json_t *findings = json_array();
    look_at_system(findings);
    look_at_processor(findings);
    look_at_load(findings);
    look_at_memory(findings);
    look_at_gpu(findings);
    look_at_libraries(findings);
    look_at_stages(findings);
    look_at_shared_memory(findings);
    look_at_files(findings);
    look_at_sockets(findings);
    look_at_disk(findings, folder);
    look_at_peaks(findings);
    return findings;
}
