/* A shared library that is opened at run time. */
#ifndef QUANTPIPE_KERNELS_CPU_LIBRARY_H
#define QUANTPIPE_KERNELS_CPU_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

/* A function of the library, and the pointer that gets its address. */
struct qp_symbol {
    const char *name;
    void *pointer;
};

struct qp_shared {
    const char *title, *name, *path; /* name: as programs are linked with it; path: where it was found when this was
                                        compiled, for systems that look elsewhere */
    const struct qp_symbol *symbols; /* up to one without a name */
    bool usable;
    char problem[512]; /* when it is not usable */
};

/* Opens the library and fills all pointers, or describes the problem. To be called once. */
void qp_shared_open(struct qp_shared *shared);

/* Writes what is wrong with a library that was opened, and makes it unusable. */
void qp_shared_refuse(struct qp_shared *shared, const char *why);

#endif
