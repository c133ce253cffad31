#include "libstage/wire/reference.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"

struct file {
    struct file *next;
    struct qp_storage *storage;
};

struct qp_references {
    char *prefix; /* of shared memory objects */
    char **roots;
    struct file *files;
};

/* The owner of a mapping of shared memory. */
struct mapping {
    struct qp_release release; /* what its end is told by; the first, as that is freed */
    void (*unmap)(struct qp_storage *);
    struct qp_receipt *receipt;
};

int qp_references_new(const char *run, const char *const *roots, struct qp_references **out, struct qp_error *err)
{
    size_t count = 0;
    while (roots[count])
        count++;
    struct qp_references *r = calloc(1, sizeof *r);
    bool good = r && (r->prefix = qp_format("/qp-%s-", run)) && (r->roots = calloc(count + 1, sizeof(char *)));
    for (size_t i = 0, n = 0; good && i < count; i++)
        if ((r->roots[n] = realpath(roots[i], NULL)))
            n++; /* nothing lies below a folder that is not there */
    if (!good) {
        qp_references_free(r);
        return qp_fail_memory(err, sizeof *r, "references");
    }
    *out = r;
    return 0;
}

void qp_references_free(struct qp_references *references)
{
    if (!references)
        return;
    while (references->files) {
        struct file *file = references->files;
        references->files = file->next;
        qp_storage_unref(file->storage);
        free(file);
    }
    for (char **root = references->roots; root && *root; root++)
        free(*root);
    free(references->roots);
    free(references->prefix);
    free(references);
}

/* Whether a path without symbolic links lies below a root. */
static bool below_a_root(const struct qp_references *references, const char *path)
{
    for (char **root = references->roots; *root; root++) {
        size_t n = strcmp(*root, "/") == 0 ? 0 : strlen(*root);
        if (strncmp(path, *root, n) == 0 && path[n] == '/')
            return true;
    }
    return false;
}

static int open_file(struct qp_references *references, const char *path, struct qp_storage **out, struct qp_error *err)
{
    for (const struct file *file = references->files; file; file = file->next)
        if (strcmp(file->storage->path, path) == 0) {
            *out = qp_storage_ref(file->storage);
            return 0;
        }
    qp_auto_free char *real = path[0] == '/' ? realpath(path, NULL) : NULL;
    if (!real || !below_a_root(references, real))
        return qp_fail(err, QP_ERR_STAGE, "%s: refused, there is no such file in the run's folders", path);
    struct file *file = calloc(1, sizeof *file);
    if (!file)
        return qp_fail_memory(err, sizeof *file, path);
    int r = qp_storage_map(path, &file->storage, err);
    if (r < 0) {
        free(file);
        return r;
    }
    file->next = references->files;
    references->files = file;
    *out = qp_storage_ref(file->storage);
    return 0;
}

static void release_mapping(struct qp_storage *storage)
{
    struct mapping *mapping = storage->owner;
    void (*unmap)(struct qp_storage *) = mapping->unmap;
    struct qp_receipt *receipt = mapping->receipt;
    unmap(storage);
    qp_receipt_note_release(receipt, &mapping->release);
    qp_receipt_release(receipt);
}

static int open_shm(const struct qp_references *references, const char *name, struct qp_receipt *receipt, size_t tensor,
                    struct qp_storage **out, struct qp_error *err)
{
    size_t n = strlen(references->prefix);
    if (strncmp(name, references->prefix, n) != 0 || strchr(name + 1, '/'))
        return qp_fail(err, QP_ERR_STAGE, "%s: refused, this run's shared memory is called %s...", name,
                       references->prefix);
    struct mapping *mapping = calloc(1, sizeof *mapping);
    if (!mapping)
        return qp_fail_memory(err, sizeof *mapping, name);
    int r = qp_storage_open_shm(name, out, err);
    if (r < 0) {
        free(mapping);
        return r;
    }
    mapping->release.seq = receipt->seq;
    mapping->release.tensor = tensor;
    mapping->unmap = (*out)->release;
    mapping->receipt = receipt;
    qp_receipt_hold(receipt);
    (*out)->owner = mapping;
    (*out)->release = release_mapping;
    return 0;
}

int qp_references_open(struct qp_references *references, enum qp_where where, const char *path,
                       struct qp_receipt *receipt, size_t tensor, struct qp_storage **out, struct qp_error *err)
{
    return where == QP_WHERE_FILE ? open_file(references, path, out, err)
                                  : open_shm(references, path, receipt, tensor, out, err);
}
