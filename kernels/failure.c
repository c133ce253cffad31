#include "kernels/failure.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int kind_of_first;
static char message_of_first[512];

void qp_failure_set(enum qp_failure kind, const char *format, ...)
{
    va_list args;
    pthread_mutex_lock(&lock);
    if (atomic_load(&kind_of_first) == QP_FAILURE_NONE) {
        va_start(args, format);
        vsnprintf(message_of_first, sizeof message_of_first, format, args);
        va_end(args);
        atomic_store(&kind_of_first, kind);
    }
    pthread_mutex_unlock(&lock);
}

bool qp_failure_is_set(void)
{
    return atomic_load_explicit(&kind_of_first, memory_order_relaxed) != QP_FAILURE_NONE;
}

static enum qp_failure read_first(char *message, size_t size, bool forget)
{
    pthread_mutex_lock(&lock);
    enum qp_failure kind = (enum qp_failure)atomic_load(&kind_of_first);
    if (kind != QP_FAILURE_NONE)
        snprintf(message, size, "%s", message_of_first);
    if (forget && kind != QP_FAILURE_STOPPED)
        atomic_store(&kind_of_first, QP_FAILURE_NONE);
    pthread_mutex_unlock(&lock);
    return kind;
}

enum qp_failure qp_failure_look(char *message, size_t size)
{
    return read_first(message, size, false);
}

enum qp_failure qp_failure_take(char *message, size_t size)
{
    return read_first(message, size, true);
}
