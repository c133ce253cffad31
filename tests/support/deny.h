/* System calls that fail in this process, and in those that it starts, as they do on kernels and file systems that lack
 * them. */
#ifndef QUANTPIPE_TESTS_DENY_H
#define QUANTPIPE_TESTS_DENY_H

/* From here on system call `number` (SYS_...) returns `error` (ENOSYS, ...). Cannot be undone. */
void deny_call(int number, int error);

#endif
