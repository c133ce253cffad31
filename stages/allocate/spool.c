#include "stages/allocate/spool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/checked.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"

#define ALIGNMENT 64

/* A tensor in the spool's file. */
struct entry {
    char *name;
    enum qp_dtype dtype;
    int rank;
    int64_t shape[QP_MAX_RANK];
    uint64_t offset;
};

/* A unit with the tensors that it can refer to, and those that were copied. */
struct kept {
    struct qp_unit *unit;
    struct entry *entries;
    size_t count;
};

struct qp_spool {
    char *path;
    int fd;
    uint64_t size;
    struct kept *units;
    size_t count, next;
    struct qp_storage *storage; /* the whole file, once it is read */
};

int qp_spool_open(const char *scratch, struct qp_spool **out, struct qp_error *err)
{
    struct qp_spool *s = calloc(1, sizeof *s);
    if (!s || !(s->path = qp_join(scratch, "spool-XXXXXX"))) {
        free(s);
        return qp_fail_memory(err, sizeof *s, "a spool");
    }
    s->fd = mkostemp(s->path, O_CLOEXEC);
    if (s->fd < 0) {
        int r = qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot create a scratch file", scratch);
        free(s->path);
        free(s);
        return r;
    }
    *out = s;
    return 0;
}

void qp_spool_close(struct qp_spool *spool)
{
    if (!spool)
        return;
    for (size_t u = 0; u < spool->count; u++) {
        qp_unit_free(spool->units[u].unit);
        for (size_t i = 0; i < spool->units[u].count; i++)
            free(spool->units[u].entries[i].name);
        free(spool->units[u].entries);
    }
    free(spool->units);
    qp_storage_unref(spool->storage);
    close(spool->fd);
    unlink(spool->path);
    free(spool->path);
    free(spool);
}

/* ---- putting ---- */

static int copy(struct qp_spool *s, const struct qp_tensor *t, struct entry *e, struct qp_error *err)
{
    static const char zeros[ALIGNMENT];
    size_t gap = (ALIGNMENT - s->size % ALIGNMENT) % ALIGNMENT;
    *e = (struct entry){.name = strdup(t->name), .dtype = t->dtype, .rank = t->rank, .offset = s->size + gap};
    memcpy(e->shape, t->shape, sizeof e->shape);
    if (!e->name)
        return qp_fail_memory(err, strlen(t->name), "a tensor's name");
    int r = qp_write_all(s->fd, zeros, gap, s->path, err);
    if (r == 0)
        r = qp_write_all(s->fd, t->data, t->bytes, s->path, err);
    s->size = e->offset + t->bytes;
    return r;
}

static int keep(struct qp_spool *s, struct kept *k, struct qp_tensor *t, struct qp_error *err)
{
    if (t->storage->where == QP_WHERE_FILE)
        return qp_unit_put(k->unit, qp_tensor_ref(t), err);
    int r = copy(s, t, &k->entries[k->count], err);
    k->count += k->entries[k->count].name != NULL;
    return r;
}

static int new_kept(struct qp_spool *s, const struct qp_unit *unit, struct qp_error *err)
{
    struct kept *grown = realloc(s->units, (s->count + 1) * sizeof *grown);
    if (!grown)
        return qp_fail_memory(err, (s->count + 1) * sizeof *grown, "a spool");
    s->units = grown;
    struct kept *k = &grown[s->count];
    *k = (struct kept){.entries = calloc(unit->count + 1, sizeof *k->entries)};
    if (!k->entries)
        return qp_fail_memory(err, unit->count * sizeof *k->entries, "a spool");
    int r = qp_unit_new(unit->kind, unit->seq, &k->unit, err);
    if (r < 0) {
        free(k->entries);
        return r;
    }
    s->count++;
    return 0;
}

int qp_spool_put(struct qp_spool *spool, const struct qp_unit *unit, struct qp_error *err)
{
    int r = new_kept(spool, unit, err);
    if (r < 0)
        return r;
    struct kept *k = &spool->units[spool->count - 1];
    json_t *attrs = json_deep_copy(unit->attrs);
    if (!attrs)
        return qp_fail_memory(err, 0, "a unit's attributes");
    json_decref(k->unit->attrs);
    k->unit->attrs = attrs;
    for (size_t i = 0; i < unit->count && r == 0; i++)
        r = keep(spool, k, unit->tensors[i], err);
    return r;
}

/* ---- getting ---- */

static int get(struct qp_spool *s, const struct entry *e, struct qp_unit *unit, struct qp_error *err)
{
    struct qp_tensor *t;
    int r = qp_tensor_view(e->name, e->dtype, e->rank, e->shape, (struct qp_place){s->storage, e->offset}, &t, err);
    return r < 0 ? r : qp_unit_put(unit, t, err);
}

int qp_spool_next(struct qp_spool *spool, struct qp_unit **out, struct qp_error *err)
{
    int r = spool->storage ? 0 : qp_storage_map(spool->path, &spool->storage, err);
    *out = NULL;
    if (r < 0 || spool->next == spool->count)
        return r;
    struct kept *k = &spool->units[spool->next];
    for (size_t i = 0; i < k->count && r == 0; i++)
        r = get(spool, &k->entries[i], k->unit, err);
    if (r < 0)
        return r;
    *out = k->unit;
    k->unit = NULL;
    spool->next++;
    return 0;
}
