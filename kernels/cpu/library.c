#include "kernels/cpu/library.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#define ADVICE "install what scripts/deps names, or unset LD_LIBRARY_PATH if it leads to another file"

/* A file that is found and cannot be loaded is not passed over: somebody put it there. */
static void *open_by_name(struct qp_shared *shared)
{
    void *library = dlopen(shared->name, RTLD_NOW | RTLD_LOCAL);
    if (library != NULL)
        return library;
    const char *why = dlerror();
    if (strchr(why, '/') == NULL)
        library = dlopen(shared->path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        snprintf(shared->problem, sizeof shared->problem, "%s cannot be used: %s: " ADVICE, shared->title,
                 strchr(why, '/') == NULL ? dlerror() : why);
    return library;
}

static const char *file_of(void *library, const char *fallback)
{
    struct link_map *map = NULL;
    return dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 && map->l_name[0] != '\0' ? map->l_name : fallback;
}

static bool find_all(struct qp_shared *shared, void *library)
{
    for (const struct qp_symbol *s = shared->symbols; s->name != NULL; s++) {
        void *address = dlsym(library, s->name);
        if (address == NULL) {
            snprintf(shared->problem, sizeof shared->problem, "%s cannot be used: %s: it has no function %s: " ADVICE,
                     shared->title, file_of(library, shared->name), s->name);
            return false;
        }
        memcpy(s->pointer, &address, sizeof address);
    }
    return true;
}

void qp_shared_open(struct qp_shared *shared)
{
    void *library = open_by_name(shared);
    shared->usable = library != NULL && find_all(shared, library);
}

void qp_shared_refuse(struct qp_shared *shared, const char *why)
{
    snprintf(shared->problem, sizeof shared->problem, "%s cannot be used: %s: %s: " ADVICE, shared->title, shared->name,
             why);
    shared->usable = false;
}
