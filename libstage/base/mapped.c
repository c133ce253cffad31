#include "libstage/base/mapped.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAPPINGS = 4096 };

/* The handler reads the table while others change it, so base is written last and cleared first. */
struct mapping {
    _Atomic uintptr_t base; /* 0: free */
    size_t size;
    dev_t device;
    ino_t inode;
    const char *path;
};

static struct mapping mappings[MAPPINGS];
static atomic_int used; /* mappings from this index on are free */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction before;
static uintptr_t page_size;

/* The first file that a read found shorter; written by the handler alone, once until it is asked for. */
enum { NOTHING, WRITING, WRITTEN };
static atomic_int lost;
static char lost_path[1024];

static struct mapping *find(uintptr_t address)
{
    int count = atomic_load(&used);
    for (int i = 0; i < count; i++) {
        uintptr_t base = atomic_load(&mappings[i].base);
        if (base != 0 && address >= base && address - base < mappings[i].size)
            return &mappings[i];
    }
    return NULL;
}

static void keep_path(const char *path)
{
    int expected = NOTHING;
    size_t i = 0;
    if (!atomic_compare_exchange_strong(&lost, &expected, WRITING))
        return;
    for (; path[i] && i < sizeof lost_path - 1; i++)
        lost_path[i] = path[i];
    lost_path[i] = '\0';
    atomic_store(&lost, WRITTEN);
}

/* Calls nothing that a handler may not: mmap is a system call. What is no mapping of ours faults again, as before. */
static void on_bus_error(int signal, siginfo_t *info, void *context)
{
    int kept = errno;
    uintptr_t address = (uintptr_t)info->si_addr, page = address & ~(page_size - 1);
    const struct mapping *m = find(address);
    (void)context;
    if (m) {
        size_t rest = m->size - (page - atomic_load(&m->base));
        void *zeros = mmap((void *)page, rest, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (zeros != MAP_FAILED)
            keep_path(m->path);
        else
            m = NULL;
    }
    if (!m)
        sigaction(signal, &before, NULL);
    errno = kept;
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
}

void qp_mapped_add(void *base, const struct stat *file, const char *path)
{
    pthread_once(&once, install);
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < MAPPINGS && atomic_load(&mappings[i].base) != 0)
        i++;
    if (i < MAPPINGS) {
        mappings[i].size = (size_t)file->st_size;
        mappings[i].device = file->st_dev;
        mappings[i].inode = file->st_ino;
        mappings[i].path = path;
        atomic_store(&mappings[i].base, (uintptr_t)base);
        if (i >= atomic_load(&used))
            atomic_store(&used, i + 1);
    }
    pthread_mutex_unlock(&lock);
}

void qp_mapped_remove(void *base)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < atomic_load(&used); i++)
        if (atomic_load(&mappings[i].base) == (uintptr_t)base)
            atomic_store(&mappings[i].base, 0);
    pthread_mutex_unlock(&lock);
}

/* Whether the file that is mapped has become shorter. */
static bool is_shorter(const struct mapping *m)
{
    struct stat now;
    return atomic_load(&m->base) != 0 && stat(m->path, &now) == 0 && now.st_dev == m->device &&
           now.st_ino == m->inode && (uintmax_t)now.st_size < m->size;
}

static int fail(const char *path, struct qp_error *err)
{
    return qp_fail(err, QP_ERR_INPUT,
                   "%s: the file was truncated while it was read, or its disk cannot be read: run again when nobody "
                   "writes to it",
                   path);
}

int qp_mapped_check(struct qp_error *err)
{
    int r = 0;
    if (atomic_load(&lost) == WRITTEN) {
        r = fail(lost_path, err);
        atomic_store(&lost, NOTHING);
        return r;
    }
    pthread_mutex_lock(&lock);
    for (int i = 0; r == 0 && i < atomic_load(&used); i++)
        if (is_shorter(&mappings[i]))
            r = fail(mappings[i].path, err);
    pthread_mutex_unlock(&lock);
    return r;
}
