/* Runs a program as a person would, and keeps what it said. */
#ifndef QUANTPIPE_TESTS_COMMAND_H
#define QUANTPIPE_TESTS_COMMAND_H

struct command {
    int code;     /* exit code; 128 + signal when it was killed; -1 when it took longer than it may */
    char *output; /* its stdout */
    char *errors; /* its stderr */
};

/* Runs argv[0] (in PATH, or a path) with the arguments up to NULL, stdin empty, for at most `seconds`. Environment
 * changes of the test are seen by it. */
struct command command_run(int seconds, const char *const *argv);

/* The same, and sends `signal` as soon as a file that matches the pattern `when` exists. */
struct command command_interrupt(int seconds, int signal, const char *when, const char *const *argv);

void command_free(struct command *command);

/* An array of words for the functions above. */
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

#endif
