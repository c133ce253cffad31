#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libstage/tensor/unit.h"
#include "tests/support/scratch.h"

static struct qp_error err;

static void says(const char *fragment)
{
    cr_assert_not_null(strstr(err.message, fragment), "'%s' lacks '%s'", err.message, fragment);
}

static struct qp_tensor *made(const char *name, enum qp_dtype dtype, int64_t rows, int64_t cols)
{
    struct qp_tensor *t = NULL;
    cr_assert_eq(qp_tensor_new(name, dtype, 2, (int64_t[]){rows, cols}, &t, &err), 0, "%s", err.message);
    return t;
}

Test(tensor, sizes_are_in_bytes_rounded_up)
{
    int64_t elements;
    size_t bytes;
    cr_assert_eq(qp_tensor_size(QP_BF16, 2, (int64_t[]){3, 5}, &elements, &bytes, &err), 0);
    cr_assert(elements == 15 && bytes == 30);
    cr_assert_eq(qp_tensor_size(QP_I4, 1, (int64_t[]){5}, &elements, &bytes, &err), 0);
    cr_assert(elements == 5 && bytes == 3);
    cr_assert_eq(qp_tensor_size(QP_F64, 0, NULL, &elements, &bytes, &err), 0);
    cr_assert(elements == 1 && bytes == 8);
    cr_assert_eq(qp_tensor_size(QP_F32, 2, (int64_t[]){0, 5}, &elements, &bytes, &err), 0);
    cr_assert(elements == 0 && bytes == 0);
}

Test(tensor, bad_sizes_are_refused)
{
    int64_t elements;
    size_t bytes;
    cr_assert_eq(qp_tensor_size((enum qp_dtype)99, 0, NULL, &elements, &bytes, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_tensor_size(QP_DTYPE_NONE, 0, NULL, &elements, &bytes, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_tensor_size(QP_F32, 9, NULL, &elements, &bytes, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_tensor_size(QP_F32, -1, NULL, &elements, &bytes, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_tensor_size(QP_F32, 1, (int64_t[]){-1}, &elements, &bytes, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_tensor_size(QP_F32, 2, (int64_t[]){INT64_MAX, 2}, &elements, &bytes, &err), QP_ERR_INPUT);
    says("shape [9223372036854775807, 2] is negative or too large");
    cr_assert_eq(qp_tensor_size(QP_F64, 1, (int64_t[]){INT64_MAX / 32}, &elements, &bytes, &err), QP_ERR_INPUT);
}

Test(tensor, memory_is_aligned_and_refused_when_there_is_too_little)
{
    struct qp_tensor *t = made("t", QP_U8, 3, 1), *none = NULL;
    cr_assert_eq((uintptr_t)t->data % 64, 0);
    qp_tensor_unref(t);
    cr_assert_eq(qp_tensor_new("big", QP_U8, 1, (int64_t[]){INT64_MAX / 16}, &none, &err), QP_ERR_SPACE);
    says("big: no memory for a tensor");
    cr_assert_null(none);
}

Test(tensor, views_must_lie_in_their_storage)
{
    struct qp_storage *storage;
    struct qp_tensor *view = NULL;
    cr_assert_eq(qp_storage_new(16, &storage, &err), 0);
    cr_assert_eq(qp_tensor_view("v", QP_F32, 1, (int64_t[]){2}, (struct qp_place){storage, 8}, &view, &err), 0, "%s",
                 err.message);
    cr_assert_eq((char *)view->data - (char *)storage->base, 8);
    cr_assert_eq(atomic_load(&storage->references), 2);
    qp_tensor_unref(view);
    cr_assert_eq(qp_tensor_view("v", QP_F32, 1, (int64_t[]){2}, (struct qp_place){storage, 9}, &view, &err),
                 QP_ERR_INPUT);
    says("v: 8 bytes at offset 9 lie outside its storage (16 bytes)");
    cr_assert_eq(qp_tensor_view("v", QP_F32, 1, (int64_t[]){2}, (struct qp_place){storage, UINT64_MAX}, &view, &err),
                 QP_ERR_INPUT);
    cr_assert_eq(atomic_load(&storage->references), 1);
    qp_storage_unref(storage);
}

Test(tensor, shapes_are_printed_and_cut)
{
    char text[8];
    cr_assert_str_eq(qp_shape_text(2, (int64_t[]){2, 3}, text, sizeof text), "[2, 3]");
    cr_assert_str_eq(qp_shape_text(0, NULL, text, sizeof text), "[]");
    cr_assert_str_eq(qp_shape_text(2, (int64_t[]){12345, 67890}, text, sizeof text), "[12345,");
}

static void *churn(void *tensor)
{
    for (int i = 0; i < 20000; i++)
        qp_tensor_unref(qp_tensor_ref(tensor));
    qp_tensor_unref(tensor);
    return NULL;
}

Test(tensor, references_may_be_dropped_by_any_thread)
{
    struct qp_tensor *t = made("t", QP_U8, 1, 1);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, churn, qp_tensor_ref(t)), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(atomic_load(&t->references), 1);
    qp_tensor_unref(t);
}

TestSuite(storage, .init = scratch_make, .fini = scratch_drop);

Test(storage, files_are_mapped)
{
    struct qp_storage *s = NULL;
    cr_assert_eq(qp_storage_map(scratch_text("a", "hello"), &s, &err), 0, "%s", err.message);
    cr_assert(s->size == 5 && s->where == QP_WHERE_FILE && memcmp(s->base, "hello", 5) == 0);
    cr_assert_str_eq(s->path, scratch("a"));
    qp_storage_unref(s);
    cr_assert_eq(qp_storage_map(scratch_text("empty", ""), &s, &err), 0, "%s", err.message);
    cr_assert_eq(s->size, 0);
    qp_storage_unref(s);
    cr_assert_eq(qp_storage_map(scratch("none"), &s, &err), QP_ERR_INPUT);
    cr_assert_eq(qp_storage_map(scratch(""), &s, &err), QP_ERR_INPUT);
    says("expected a regular file");
}

Test(storage, shared_memory_reaches_an_opener_and_ends_with_its_creator)
{
    char name[64];
    snprintf(name, sizeof name, "/quantpipe-test-%ld", (long)getpid());
    struct qp_storage *there = NULL, *here = NULL, *twice = NULL;
    cr_assert_eq(qp_storage_create_shm(name, 100, &there, &err), 0, "%s", err.message);
    strcpy(there->base, "shared");
    cr_assert_eq(qp_storage_create_shm(name, 100, &twice, &err), QP_ERR_STAGE, "it exists");
    cr_assert_eq(qp_storage_open_shm(name, &here, &err), 0, "%s", err.message);
    cr_assert_str_eq(here->base, "shared");
    cr_assert_eq(here->where, QP_WHERE_SHM);
    qp_storage_unref(there);
    cr_assert_str_eq(here->base, "shared", "an opener keeps the bytes");
    qp_storage_unref(here);
    cr_assert_eq(qp_storage_open_shm(name, &here, &err), QP_ERR_INPUT);
}

Test(storage, shared_memory_without_space_is_refused)
{
    struct qp_storage *s = NULL;
    char name[64];
    snprintf(name, sizeof name, "/quantpipe-test-big-%ld", (long)getpid());
    cr_assert_eq(qp_storage_create_shm(name, (size_t)1 << 60, &s, &err), QP_ERR_SPACE, "%s", err.message);
    says("enlarge /dev/shm");
    cr_assert_eq(qp_storage_open_shm(name, &s, &err), QP_ERR_INPUT, "nothing is left");
}

Test(unit, tensors_are_put_found_replaced_and_removed)
{
    struct qp_unit *unit = NULL;
    cr_assert_eq(qp_unit_new(QP_UNIT_BLOCK, 3, &unit, &err), 0, "%s", err.message);
    for (int i = 0; i < 20; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%d", i);
        cr_assert_eq(qp_unit_put(unit, made(name, QP_U8, 1, i + 1), &err), 0, "%s", err.message);
    }
    cr_assert_eq(qp_unit_find(unit, "t7")->bytes, 8);
    cr_assert_eq(qp_unit_put(unit, made("t7", QP_U8, 1, 100), &err), 0, "%s", err.message);
    cr_assert_eq(qp_unit_find(unit, "t7")->bytes, 100);
    qp_unit_remove(unit, "t7");
    qp_unit_remove(unit, "t7");
    cr_assert_null(qp_unit_find(unit, "t7"));
    cr_assert_not_null(qp_unit_find(unit, "t19"));
    qp_unit_free(unit);
    qp_unit_free(NULL);
    cr_assert_str_eq(qp_unit_kind_name(QP_UNIT_BLOCK), "block");
    cr_assert_str_eq(qp_unit_kind_name((enum qp_unit_kind)77), "?");
}
