#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/checked.h"
#include "libstage/base/memory.h"
#include "libstage/calibration/data_ids.h"
#include "libstage/tensor/tensor.h"

/* The header: a Python dictionary between `at` and `end`. */
struct scanner {
    const char *at, *end;
};

struct array {
    char type[8]; /* "<i4" */
    bool fortran;
    int rank;
    int64_t shape[2];
    unsigned seen; /* keys, by bit */
};

static void skip_spaces(struct scanner *in)
{
    while (in->at < in->end && *in->at == ' ')
        in->at++;
}

/* Steps over a token and the spaces before it. */
static bool take(struct scanner *in, const char *token)
{
    size_t n = strlen(token);
    skip_spaces(in);
    if ((size_t)(in->end - in->at) < n || memcmp(in->at, token, n) != 0)
        return false;
    in->at += n;
    return true;
}

static bool take_string(struct scanner *in, char *out, size_t size)
{
    if (!take(in, "'"))
        return false;
    const char *close = memchr(in->at, '\'', (size_t)(in->end - in->at));
    if (!close || (size_t)(close - in->at) >= size)
        return false;
    snprintf(out, size, "%.*s", (int)(close - in->at), in->at);
    in->at = close + 1;
    return true;
}

static bool take_number(struct scanner *in, int64_t *out)
{
    skip_spaces(in);
    const char *start = in->at;
    for (*out = 0; in->at < in->end && *in->at >= '0' && *in->at <= '9'; in->at++)
        if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, *in->at - '0', out))
            return false;
    return in->at > start;
}

/* "(3,)" or "(3, 4)". */
static bool take_shape(struct scanner *in, struct array *array)
{
    if (!take(in, "(") || !take_number(in, &array->shape[0]) || !take(in, ","))
        return false;
    array->rank = 1;
    if (take(in, ")"))
        return true;
    array->rank = 2;
    return take_number(in, &array->shape[1]) && take(in, ")");
}

static bool take_entry(struct scanner *in, struct array *array)
{
    char key[16];
    if (!take_string(in, key, sizeof key) || !take(in, ":"))
        return false;
    unsigned bit = strcmp(key, "descr") == 0           ? 1
                   : strcmp(key, "fortran_order") == 0 ? 2
                   : strcmp(key, "shape") == 0         ? 4
                                                       : 0;
    if (bit == 0 || (array->seen & bit))
        return false;
    array->seen |= bit;
    if (bit == 1)
        return take_string(in, array->type, sizeof array->type);
    if (bit == 4)
        return take_shape(in, array);
    array->fortran = take(in, "True");
    return array->fortran || take(in, "False");
}

static bool take_header(struct scanner *in, struct array *array)
{
    if (!take(in, "{"))
        return false;
    bool comma = true;
    while (!take(in, "}")) {
        if (!comma || !take_entry(in, array))
            return false;
        comma = take(in, ",");
    }
    return array->seen == 7 && take(in, "\n") && in->at == in->end;
}

/* Where the header lies; false when the file is too short for it or no .npy. */
static bool find_header(const unsigned char *file, size_t size, struct scanner *out)
{
    if (size < 10 || memcmp(file, "\x93NUMPY", 6) != 0 || file[6] < 1 || file[6] > 3 || file[7] != 0)
        return false;
    size_t start = file[6] == 1 ? 10 : 12, length = file[8] | (size_t)file[9] << 8;
    if (size < start)
        return false;
    if (file[6] > 1)
        length |= (size_t)file[10] << 16 | (size_t)file[11] << 24;
    *out = (struct scanner){(const char *)file + start, (const char *)file + start + length};
    return length <= size - start;
}

static int check_array(const char *path, const struct array *array, size_t bytes, int64_t *elements,
                       struct qp_error *err)
{
    bool wide = strcmp(array->type, "<i8") == 0;
    int64_t need;
    if (!wide && strcmp(array->type, "<i4") != 0)
        return qp_fail(err, QP_ERR_INPUT, "%s: elements of type '%s'; token ids must be '<i4' or '<i8'", path,
                       array->type);
    if (array->fortran)
        return qp_fail(err, QP_ERR_INPUT, "%s: in Fortran order; save it with numpy.ascontiguousarray", path);
    if (!qp_elements(array->shape, array->rank, elements) || __builtin_mul_overflow(*elements, wide ? 8 : 4, &need) ||
        (uint64_t)need != bytes) {
        char shape[64];
        return qp_fail(err, QP_ERR_INPUT, "%s: shape %s of '%s' does not fit the %zu bytes of data", path,
                       qp_shape_text(array->rank, array->shape, shape, sizeof shape), array->type, bytes);
    }
    return 0;
}

static int copy_ids(const char *path, const char *data, bool wide, int64_t elements, int64_t vocab, int32_t *out,
                    struct qp_error *err)
{
    for (int64_t i = 0; i < elements; i++) {
        int64_t id = 0;
        int32_t narrow = 0;
        memcpy(wide ? (void *)&id : (void *)&narrow, data + i * (wide ? 8 : 4), wide ? 8 : 4);
        if (!wide)
            id = narrow;
        if (id < 0 || id >= vocab)
            return qp_fail(err, QP_ERR_INPUT, "%s: element %lld is %lld; the model's token ids go from 0 to %lld", path,
                           (long long)i, (long long)id, (long long)vocab - 1);
        out[i] = (int32_t)id;
    }
    return 0;
}

static int read_array(const char *path, const struct qp_storage *file, int64_t vocab, struct qp_id_runs *out,
                      struct qp_error *err)
{
    struct scanner header = {0};
    struct array array = {0};
    int64_t elements = 0;
    if (!find_header(file->base, file->size, &header))
        return qp_fail(err, QP_ERR_INPUT, "%s: expected a .npy file of version 1.0, 2.0 or 3.0 with a whole header",
                       path);
    if (!take_header(&header, &array))
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: expected a header with descr, fortran_order and shape of one or two dimensions; stopped at "
                       "byte %zu",
                       path, (size_t)(header.at - (const char *)file->base));
    size_t bytes = file->size - (size_t)(header.end - (const char *)file->base);
    int r = check_array(path, &array, bytes, &elements, err);
    if (r < 0)
        return r;
    int32_t *ids = qp_new_array(elements, sizeof *ids, "token ids", err);
    if (!ids)
        return QP_ERR_SPACE;
    r = copy_ids(path, header.end, array.type[2] == '8', elements, vocab, ids, err);
    if (r < 0)
        free(ids);
    else
        *out = array.rank == 1 ? (struct qp_id_runs){ids, 1, elements}
                               : (struct qp_id_runs){ids, array.shape[0], array.shape[1]};
    return r;
}

int qp_ids_from_npy(const char *path, int64_t vocab, struct qp_id_runs *out, struct qp_error *err)
{
    struct qp_storage *file = NULL;
    int r = qp_storage_map(path, &file, err);
    if (r == 0)
        r = read_array(path, file, vocab, out, err);
    qp_storage_unref(file);
    return r;
}
