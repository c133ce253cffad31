#include "tests/support/command.h"

#include <criterion/criterion.h>
#include <glob.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_US 5000

static char *read_back(FILE *file)
{
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    long size = ftell(file);
    char *text = calloc(1, (size_t)size + 1);
    rewind(file);
    cr_assert_eq(fread(text, 1, (size_t)size, file), (size_t)size);
    fclose(file);
    return text;
}

static pid_t start(const char *const *argv, FILE *out, FILE *err)
{
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid > 0)
        return pid;
    setpgid(0, 0);
    if (!freopen("/dev/null", "r", stdin))
        _exit(127);
    dup2(fileno(out), 1);
    dup2(fileno(err), 2);
    execvp(argv[0], (char *const *)argv);
    fprintf(stderr, "%s cannot be started", argv[0]);
    _exit(127);
}

static bool exists(const char *pattern)
{
    glob_t found = {0};
    bool any = glob(pattern, GLOB_NOSORT, NULL, &found) == 0;
    globfree(&found);
    return any;
}

static struct command run(int seconds, int signal, const char *when, const char *const *argv)
{
    FILE *out = tmpfile(), *err = tmpfile();
    cr_assert(out && err);
    struct command result = {.code = -1};
    pid_t pid = start(argv, out, err);
    int status = 0;
    pid_t ended = 0;
    for (long tick = 0; !ended && tick < seconds * (1000000L / TICK_US); tick++) {
        usleep(TICK_US);
        ended = waitpid(pid, &status, WNOHANG);
        if (!ended && when && exists(when)) {
            kill(pid, signal);
            when = NULL;
        }
    }
    if (!ended) {
        kill(-pid, SIGKILL);
        waitpid(pid, &status, 0);
    } else {
        result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    result.output = read_back(out);
    result.errors = read_back(err);
    return result;
}

struct command command_run(int seconds, const char *const *argv)
{
    return run(seconds, 0, NULL, argv);
}

struct command command_interrupt(int seconds, int signal, const char *when, const char *const *argv)
{
    return run(seconds, signal, when, argv);
}

void command_free(struct command *command)
{
    free(command->output);
    free(command->errors);
}
