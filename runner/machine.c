#include "runner/machine.h"

#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* cpu.max of control groups v2: "QUOTA PERIOD" or "max PERIOD". */
static int quota_cores(void)
{
    double quota = 0, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!f)
        return 0;
    int n = fscanf(f, "%lf %lf", &quota, &period);
    fclose(f);
    return n == 2 && period > 0 ? (int)ceil(quota / period) : 0;
}

int qp_machine_cores(void)
{
    cpu_set_t set;
    int allowed = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = quota_cores();
    int cores = quota > 0 && quota < allowed ? quota : allowed;
    return cores > 0 ? cores : 1;
}

uint64_t qp_machine_memory(void)
{
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    unsigned long long limit = 0;
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");
    if (f && fscanf(f, "%llu", &limit) == 1 && limit > 0 && limit < memory)
        memory = limit;
    if (f)
        fclose(f);
    return memory;
}

/* What the kernel can give without swapping: free pages and those of files (proc(5)). */
static uint64_t kernel_available(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && kib == 0 && fgets(line, sizeof line, f))
        sscanf(line, "MemAvailable: %llu", &kib);
    if (f)
        fclose(f);
    return (uint64_t)kib * 1024;
}

uint64_t qp_machine_available(void)
{
    uint64_t total = qp_machine_memory(), available = kernel_available();
    unsigned long long used = 0;
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re"); /* a group without a limit is not looked at */
    unsigned long long limit = 0;
    bool limited = f && fscanf(f, "%llu", &limit) == 1;
    if (f)
        fclose(f);
    f = limited ? fopen("/sys/fs/cgroup/memory.current", "re") : NULL;
    if (f && fscanf(f, "%llu", &used) == 1 && used < total && (available == 0 || total - used < available))
        available = total - used;
    if (f)
        fclose(f);
    return available > 0 && available < total ? available : total;
}

const char *qp_machine_cpu(char *text, size_t size)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(text, size, "unknown processor");
    while (f && fgets(line, sizeof line, f)) {
        const char *value = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (!value)
            continue;
        value += 1 + strspn(value + 1, " \t");
        snprintf(text, size, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    if (f)
        fclose(f);
    return text;
}

double qp_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
