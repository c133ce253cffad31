/* A temporary folder for one test, and files in it. */
#ifndef QUANTPIPE_TESTS_SCRATCH_H
#define QUANTPIPE_TESTS_SCRATCH_H

#include <stddef.h>

/* Fixtures: .init makes the folder, .fini removes it with all it holds. */
void scratch_make(void);
void scratch_drop(void);

/* The path of `name` in the folder ("" for the folder itself); static storage of eight paths, used in turn. */
const char *scratch(const char *name);

/* Writes a file and returns scratch(name). */
const char *scratch_write(const char *name, const void *bytes, size_t size);
const char *scratch_text(const char *name, const char *text);

/* Reads a whole file into a new buffer that the caller frees. */
void *scratch_read(const char *path, size_t *size);

#endif
