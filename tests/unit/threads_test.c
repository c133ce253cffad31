#include <criterion/criterion.h>

#include "runner/execution/threads.h"

Test(threads, alone_a_stage_has_all_cores)
{
    const struct qp_demand demands[] = {{false, 90, 0}, {true, 1, 0}, {false, 0, 0}};
    int threads[3];
    qp_share_threads(8, 3, demands, threads);
    cr_expect_eq(threads[0], 0);
    cr_expect_eq(threads[1], 8);
    cr_expect_eq(threads[2], 0);
}

Test(threads, cores_go_by_time_taken)
{
    const struct qp_demand demands[] = {{true, 30, 0}, {true, 10, 0}};
    int threads[2];
    qp_share_threads(16, 2, demands, threads);
    cr_expect_eq(threads[0], 12);
    cr_expect_eq(threads[1], 4);
    qp_share_threads(2, 2, (struct qp_demand[]){{true, 3, 0}, {true, 2, 0}}, threads);
    cr_expect_eq(threads[0], 1);
    cr_expect_eq(threads[1], 1);
}

Test(threads, what_needs_little_takes_no_core_from_others)
{
    const struct qp_demand demands[] = {{true, 50, 0}, {true, 0.01, 0}};
    int threads[2];
    qp_share_threads(2, 2, demands, threads);
    cr_expect_eq(threads[0], 2);
    cr_expect_eq(threads[1], 1);
}

Test(threads, a_pinned_number_stays)
{
    const struct qp_demand demands[] = {{true, 30, 3}, {true, 10, 0}};
    int threads[2];
    qp_share_threads(16, 2, demands, threads);
    cr_expect_eq(threads[0], 3);
    cr_expect_eq(threads[1], 4);
}

Test(threads, nonsense_is_survived)
{
    const struct qp_demand demands[] = {{true, 1e308, 0}, {true, 1e308, 0}, {true, -5, 0}};
    int threads[3];
    qp_share_threads(4, 3, demands, threads);
    cr_expect_eq(threads[0], 2);
    cr_expect_eq(threads[1], 2);
    cr_expect_eq(threads[2], 1);
}
