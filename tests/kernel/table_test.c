#include "tests/kernel/harness.h"

/* After the name a table holds function pointers alone. */
static void expect_full(const struct qp_kernels *k)
{
    const char *first = (const char *)&k->to_f32, *end = (const char *)(k + 1);

    for (const char *entry = first; entry < end; entry += sizeof k->to_f32) {
        qp_convert_fn *function;
        memcpy(&function, entry, sizeof function);
        cr_assert(function != NULL, "%s: entry %d is NULL", k->backend, (int)((entry - first) / (int)sizeof k->to_f32));
    }
}

Test(table, has_no_empty_entry)
{
    expect_full(reference());
    expect_full(qp_kernels_open("cpu"));
    EACH_RUN(run)
    expect_full(run.k);
}

Test(table, opens_by_name)
{
    cr_assert_str_eq(qp_kernels_open("ref")->backend, "ref");
    cr_assert_str_eq(qp_kernels_open("cpu")->backend, "cpu");
    cr_assert_eq(qp_kernels_open("cpu"), qp_kernels_open("cpu"));
    cr_assert_null(qp_kernels_open("gpu"));
    cr_assert_null(qp_kernels_open(""));
}

Test(table, the_best_of_the_cpu_is_what_cpu_means)
{
    const struct qp_kernels *best =
        qp_kernels_open("avx512") != NULL ? qp_kernels_open("avx512") : qp_kernels_open("avx2");

    if (best != NULL)
        cr_assert(best->rms_norm == qp_kernels_open("cpu")->rms_norm);
    cr_assert(qp_kernels_open("cpu")->gemm != reference()->gemm);
}

Test(table, description_names_the_libraries)
{
    cr_assert_not_null(strstr(qp_kernels_description(), "oneDNN"));
    cr_assert_not_null(strstr(qp_kernels_description(), "OpenBLAS"));
}
