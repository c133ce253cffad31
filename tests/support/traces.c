#include "tests/support/traces.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

static int count(const char *path, const char *prefix)
{
    DIR *dir = opendir(path);
    if (!dir)
        return -1;
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    closedir(dir);
    return n;
}

int traces_segments(const char *run)
{
    char prefix[96];
    snprintf(prefix, sizeof prefix, "qp-%s-", run);
    return count("/dev/shm", prefix);
}

int traces_entries(const char *folder)
{
    return count(folder, "");
}
