#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/stage/work_json.h"
#include "runner/report/roofline.h"
#include "tests/support/scratch.h"

static void make(void)
{
    scratch_make();
    setenv("XDG_CACHE_HOME", scratch("cache"), 1);
}

TestSuite(roofline, .init = make, .fini = scratch_drop);

static const struct qp_peaks peaks = {{100, 200, 400}, 50, 10, 5};

Test(roofline, each_kind_by_the_peak_of_its_numbers)
{
    struct qp_work work = {.operations = {[QP_WORK_GEMM] = 100,
                                          [QP_WORK_GEMM_BF16] = 100,
                                          [QP_WORK_GEMM_INT8] = 100,
                                          [QP_WORK_ATTENTION] = 50,
                                          [QP_WORK_HESSIAN_BF16] = 50,
                                          [QP_WORK_SOLVE] = 25},
                           .bytes_read = 60,
                           .bytes_written = 40,
                           .disk_read = 10,
                           .disk_written = 5};
    struct qp_roofline f = qp_roofline_of(&work, &peaks);
    cr_expect_float_eq(f.compute, 1 + 0.5 + 0.25 + 0.5 + 0.25 + 0.25, 1e-12);
    cr_expect_float_eq(f.memory, 2, 1e-12);
    cr_expect_float_eq(f.disk, 1 + 1, 1e-12);
    cr_expect_float_eq(qp_roofline_seconds(&f), 2.75, 1e-12);
}

Test(roofline, what_the_machine_has_no_instruction_for_is_done_in_fp32)
{
    struct qp_peaks old = {{100, 0, 0}, 50, 0, 0};
    struct qp_work work = {.operations = {[QP_WORK_GEMM_BF16] = 100}, .disk_read = 10};
    struct qp_roofline f = qp_roofline_of(&work, &old);
    cr_expect_float_eq(f.compute, 1, 1e-12);
    cr_expect_eq(f.disk, 0, "never measured");
}

Test(roofline, of_stages_that_overlap)
{
    struct qp_roofline a = {3, 1, 0}, b = {1, 4, 2};
    qp_roofline_sum(&a, &b);
    cr_expect_float_eq(qp_roofline_seconds(&a), 5, 1e-12, "memory: 1 + 4, arithmetic: 3 + 1");
}

static json_t *entry(double fp32)
{
    return json_pack("{s:{s:{s:f}, s:{s:n}}, s:{s:f, s:f}, s:{s:f, s:f}}", "peaks", "fp32", "operations_per_second",
                     fp32, "bf16", "operations_per_second", "memory", "read_bytes_per_second", 40.0,
                     "copy_bytes_per_second", 45.0, "disk", "write_bytes_per_second", 3.0, "read_bytes_per_second",
                     2.0);
}

Test(roofline, machines_are_kept_beside_each_other)
{
    struct qp_peaks found;
    struct qp_error err;
    qp_auto_json json_t *first = entry(520), *second = entry(530), *file = NULL;
    cr_expect_not(qp_peaks_load(&found), "nothing was measured");
    cr_assert_eq(qp_make_folders(scratch("cache/quantpipe"), &err), 0);
    scratch_text("cache/quantpipe/machine.json", "{\"quantpipe\": 1, \"machines\": {\"another\": {\"cores\": 3}}}");
    cr_expect_not(qp_peaks_load(&found), "another machine's");
    cr_assert_eq(qp_machine_save(first, &err), 0, "%s", err.message);
    cr_assert_eq(qp_machine_save(second, &err), 0, "%s", err.message);
    cr_assert(qp_peaks_load(&found));
    cr_expect_eq(found.operations[QP_PEAK_FP32], 530);
    cr_expect_eq(found.operations[QP_PEAK_BF16], 0);
    cr_expect_eq(found.memory, 45);
    cr_expect_eq(found.disk_write, 3);
    cr_assert_eq(qp_read_json(scratch("cache/quantpipe/machine.json"), 1 << 20, &file, &err), 0, "%s", err.message);
    cr_expect_eq(json_object_size(json_object_get(file, "machines")), 2);
}

Test(roofline, a_broken_file_is_measured_anew)
{
    struct qp_peaks found;
    struct qp_error err;
    qp_auto_json json_t *one = entry(520);
    cr_assert_eq(qp_make_folders(scratch("cache/quantpipe"), &err), 0);
    scratch_text("cache/quantpipe/machine.json", "{\"machines\": [");
    cr_expect_not(qp_peaks_load(&found));
    cr_assert_eq(qp_machine_save(one, &err), 0, "%s", err.message);
    cr_expect(qp_peaks_load(&found));
}

Test(roofline, work_survives_a_message)
{
    struct qp_work work = {.bytes_read = 1, .bytes_written = 2, .disk_read = 3, .disk_written = 4}, back;
    for (int i = 0; i < QP_WORK_KINDS; i++)
        work.operations[i] = 1e15 + i;
    qp_auto_json json_t *json = qp_work_json(&work);
    qp_work_from_json(json, &back);
    cr_expect_eq(memcmp(&work, &back, sizeof work), 0);
    qp_auto_json json_t *odd =
        json_pack("{s:{s:s, s:i}, s:i}", "operations", "gemm", "many", "solve", -1, "bytes_read", 7);
    qp_work_from_json(odd, &back);
    cr_expect_eq(back.operations[QP_WORK_GEMM] + back.operations[QP_WORK_SOLVE], 0);
    cr_expect_eq(back.bytes_read, 7);
}

/* A stage that counts nothing has no roofline; the share is of its busy seconds. */
Test(roofline, report)
{
    struct qp_error err;
    struct qp_work work = {.operations = {[QP_WORK_GEMM] = 1040}};
    qp_auto_json json_t *measured = entry(520);
    qp_auto_json json_t *report =
        json_pack("{s:f, s:[{s:f, s:o}, {s:f, s:n}]}", "wall_seconds", 8.0, "stages", "busy_seconds", 4.0, "work",
                  qp_work_json(&work), "busy_seconds", 1.0, "work");
    json_t *stages = json_object_get(report, "stages");
    qp_report_roofline(report);
    cr_expect(json_is_null(json_object_get(report, "roofline_seconds")), "nothing was measured");
    cr_assert_eq(qp_machine_save(measured, &err), 0, "%s", err.message);
    qp_report_roofline(report);
    const json_t *first = json_array_get(stages, 0), *second = json_array_get(stages, 1);
    cr_expect_float_eq(json_number_value(json_object_get(first, "roofline_seconds")), 2, 1e-12);
    cr_expect_float_eq(json_number_value(json_object_get(first, "share_of_roofline")), 0.5, 1e-12);
    cr_expect(json_is_null(json_object_get(second, "roofline_seconds")));
    cr_expect_float_eq(json_number_value(json_object_get(report, "share_of_roofline")), 0.25, 1e-12);
}
