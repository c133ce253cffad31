/* What a run must not leave over. */
#ifndef QUANTPIPE_TESTS_TRACES_H
#define QUANTPIPE_TESTS_TRACES_H

/* Objects in /dev/shm whose name starts with "qp-RUN-". */
int traces_segments(const char *run);

/* Entries of a folder; -1 when it cannot be read. */
int traces_entries(const char *folder);

#endif
