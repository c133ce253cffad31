#include "libstage/stage/usage.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

/* VmHWM and not getrusage's ru_maxrss, which a process inherits from who started it. */
void qp_usage_read(struct qp_usage *usage)
{
    memset(usage, 0, sizeof *usage);
    FILE *file = fopen("/proc/self/status", "re");
    if (!file)
        return;
    char line[256];
    long long kib;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "VmHWM: %lld", &kib) == 1)
            usage->peak_rss = kib * 1024;
        else if (sscanf(line, "VmRSS: %lld", &kib) == 1)
            usage->rss = kib * 1024;
        else if (sscanf(line, "RssAnon: %lld", &kib) == 1)
            usage->anonymous = kib * 1024;
    }
    fclose(file);
}

double qp_cpu_seconds(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

double qp_wall_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
