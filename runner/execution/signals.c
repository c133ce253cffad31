#include "runner/execution/signals.h"

#include <signal.h>
#include <stddef.h>
#include <sys/signalfd.h>
#include <time.h>

static const int stops[] = {SIGINT, SIGTERM, SIGHUP};
#define STOPS (sizeof stops / sizeof *stops)

static void signal_set(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < STOPS; i++)
        sigaddset(set, stops[i]);
    sigaddset(set, SIGCHLD);
}

void qp_signals_block(void)
{
    sigset_t set;
    signal_set(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* where our parent ignored it the kernel would reap the stages */
}

void qp_signals_release(void)
{
    sigset_t set;
    while (qp_signals_take())
        ;
    signal_set(&set);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    signal(SIGPIPE, SIG_DFL);
}

int qp_signals_take(void)
{
    sigset_t set;
    const struct timespec at_once = {0};
    signal_set(&set);
    int signal = sigtimedwait(&set, NULL, &at_once);
    return signal > 0 ? signal : 0;
}

bool qp_signals_stop_waits(void)
{
    sigset_t waiting;
    bool found = false;
    sigpending(&waiting);
    for (size_t i = 0; i < STOPS; i++)
        found = found || sigismember(&waiting, stops[i]) == 1;
    return found;
}

int qp_signals_descriptor(void)
{
    sigset_t set;
    signal_set(&set);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}
