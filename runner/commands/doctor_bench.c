/* What the machine can do at most, measured: arithmetic in registers, our kernels at the sizes of models, memory, and
 * the disk. Figures are the best of several runs: what disturbs only slows. Except for the disk's they are by the time
 * that the cores spent, so that other programs take away little. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "kernels/peak.h"
#include "kernels/work.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/commands/doctor.h"
#include "runner/machine.h"
#include "runner/execution/run.h"

#define PEAK_SECONDS 0.3
#define KERNEL_SECONDS 0.2
enum { TOKENS = 2048, LEAST_RUNS = 3 };
#define MEMORY_BYTES ((size_t)256 << 20)
#define DISK_BYTES ((size_t)256 << 20)
#define CHUNK_BYTES ((size_t)4 << 20)

/* Operands of every kernel, large enough for each. */
struct bench {
    const struct qp_kernels *kernels;
    float *x, *w, *y;
};

struct shape {
    int64_t rows, in, out;
};

/* Seconds that the cores spent on this process, each of them. */
static double spent(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return ((double)t.tv_sec + 1e-9 * (double)t.tv_nsec) / qp_machine_cores();
}

/* ---- kernels ---- */

static void run_fp32(const struct bench *b, const struct shape *s)
{
    b->kernels->gemm(
        &(struct qp_gemm){false, true, s->rows, s->out, s->in, 1, b->x, s->in, b->w, s->in, 0, b->y, s->out});
}

static void run_bf16(const struct bench *b, const struct shape *s)
{
    b->kernels->linear_bf16(s->rows, s->out, s->in, (const uint16_t *)b->x, (const uint16_t *)b->w, false, b->y);
}

static void run_int8(const struct bench *b, const struct shape *s)
{
    qp_product_int8(s->rows, s->out, s->in, (const int8_t *)b->x, (const int8_t *)b->w, (int32_t *)b->y);
}

static void run_hessian(const struct bench *b, const struct shape *s)
{
    b->kernels->hessian(s->rows, s->in, b->x, b->y);
}

static void run_hessian_bf16(const struct bench *b, const struct shape *s)
{
    b->kernels->hessian_bf16(s->rows, s->in, (const uint16_t *)b->x, b->y);
}

static struct qp_attention attention_of(const struct bench *b, const struct shape *s)
{
    return (struct qp_attention){.sequences = 1,
                                 .length = s->rows,
                                 .heads = (int)(s->in / 64),
                                 .kv_heads = (int)(s->in / 64),
                                 .dim = 64,
                                 .scale = 0.125f,
                                 .q = b->x,
                                 .k = b->x,
                                 .v = b->x,
                                 .q_stride = s->in,
                                 .k_stride = s->in,
                                 .v_stride = s->in,
                                 .out = b->y,
                                 .out_stride = s->in};
}

static void run_attention(const struct bench *b, const struct shape *s)
{
    struct qp_attention a = attention_of(b, s);
    b->kernels->attention(&a);
}

static void run_attention_bf16(const struct bench *b, const struct shape *s)
{
    struct qp_attention a = attention_of(b, s);
    b->kernels->attention_bf16(&a, (uint16_t *)b->y);
}

/* Of a matrix with a heavy diagonal, made anew each time; that takes n² of 2/3 n³. */
static void run_factor(const struct bench *b, const struct shape *s)
{
    memset(b->y, 0, (size_t)(s->in * s->in) * sizeof *b->y);
    for (int64_t i = 0; i < s->in; i++)
        b->y[i * s->in + i] = 1;
    b->kernels->factor(s->in, b->y);
}

static double product_operations(const struct shape *s)
{
    return qp_gemm_operations(s->rows, s->out, s->in);
}

static double hessian_operations(const struct shape *s)
{
    return qp_hessian_operations(s->rows, s->in);
}

static double attention_operations(const struct shape *s)
{
    return qp_attention_operations(1, s->rows, s->in / 64, 64, 0);
}

static double factor_operations(const struct shape *s)
{
    return qp_factor_operations(s->in);
}

static const struct {
    const char *name;
    enum qp_peak peak; /* what it is a share of */
    struct shape shape;
    void (*run)(const struct bench *, const struct shape *);
    double (*operations)(const struct shape *);
} kernels[] = {
    {"FP32 product 576 x 576", QP_PEAK_FP32, {TOKENS, 576, 576}, run_fp32, product_operations},
    {"FP32 product 4096 x 4096", QP_PEAK_FP32, {TOKENS, 4096, 4096}, run_fp32, product_operations},
    {"BF16 product 576 x 576", QP_PEAK_BF16, {TOKENS, 576, 576}, run_bf16, product_operations},
    {"BF16 product 4096 x 4096", QP_PEAK_BF16, {TOKENS, 4096, 4096}, run_bf16, product_operations},
    {"INT8 product 576 x 576", QP_PEAK_INT8, {TOKENS, 576, 576}, run_int8, product_operations},
    {"INT8 product 4096 x 4096", QP_PEAK_INT8, {TOKENS, 4096, 4096}, run_int8, product_operations},
    {"FP32 Hessian of 1536", QP_PEAK_FP32, {TOKENS, 1536, 0}, run_hessian, hessian_operations},
    {"BF16 Hessian of 1536", QP_PEAK_BF16, {TOKENS, 1536, 0}, run_hessian_bf16, hessian_operations},
    {"FP32 attention, 2048 tokens", QP_PEAK_FP32, {TOKENS, 576, 0}, run_attention, attention_operations},
    {"BF16 attention, 2048 tokens", QP_PEAK_BF16, {TOKENS, 576, 0}, run_attention_bf16, attention_operations},
    {"FP32 factor of a Hessian of 1536", QP_PEAK_FP32, {0, 1536, 0}, run_factor, factor_operations},
};

/* Small enough that no sum leaves the normal numbers, in float32 and when two halves are read as BF16. */
static void fill(float *x, int64_t count)
{
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525 + 1013904223;
        uint16_t high = (uint16_t)(0x3c00 | (state >> 16 & 0x80ff)), low = (uint16_t)(0x3c00 | (state >> 8 & 0xff));
        uint32_t bits = (uint32_t)high << 16 | low;
        memcpy(&x[i], &bits, sizeof bits);
    }
}

static int open_bench(struct bench *b, struct qp_error *err)
{
    const int64_t side = 4096, count = side * side;
    *b = (struct bench){.kernels = qp_kernels_open("cpu"),
                        .x = aligned_alloc(64, (size_t)(TOKENS * side) * sizeof(float)),
                        .w = aligned_alloc(64, (size_t)count * sizeof(float)),
                        .y = aligned_alloc(64, (size_t)count * sizeof(float))};
    if (!b->x || !b->w || !b->y)
        return qp_fail_memory(err, (size_t)count * sizeof(float), "matrices to measure with");
    fill(b->x, TOKENS * side);
    fill(b->w, count);
    memset(b->y, 0, (size_t)count * sizeof(float));
    return 0;
}

static void close_bench(struct bench *b)
{
    free(b->x);
    free(b->w);
    free(b->y);
}

static double time_kernel(const struct bench *b, size_t i)
{
    double best = 0, begun = qp_now();
    for (int run = 0; run < LEAST_RUNS || qp_now() - begun < KERNEL_SECONDS; run++) {
        double start = spent();
        kernels[i].run(b, &kernels[i].shape);
        double rate = kernels[i].operations(&kernels[i].shape) / (spent() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

static json_t *measure_kernels(const struct bench *b, const double *peaks)
{
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        double rate = time_kernel(b, i), peak = peaks[kernels[i].peak];
        json_array_append_new(list, json_pack("{s:s, s:f, s:o}", "name", kernels[i].name, "operations_per_second", rate,
                                              "share_of_peak", peak > 0 ? json_real(rate / peak) : json_null()));
    }
    return list;
}

static json_t *measure_peaks(double *peaks)
{
    json_t *object = json_object();
    for (int i = 0; i < QP_PEAKS; i++) {
        const char *instruction = qp_peak_instruction((enum qp_peak)i);
        peaks[i] = qp_peak_measure((enum qp_peak)i, qp_machine_cores(), PEAK_SECONDS);
        json_object_set_new(object, qp_peak_names[i],
                            json_pack("{s:s?, s:o}", "instruction", instruction, "operations_per_second",
                                      peaks[i] > 0 ? json_real(peaks[i]) : json_null()));
    }
    return object;
}

/* ---- memory ---- */

/* The library's search for a byte that is not there: nothing reads faster. */
static bool read_all(const char *data, size_t bytes)
{
    bool found = false;
#pragma omp parallel for schedule(static) reduction(|| : found)
    for (size_t at = 0; at < bytes; at += CHUNK_BYTES)
        found = found || memchr(data + at, 0, CHUNK_BYTES) != NULL;
    return found;
}

static void copy_all(char *to, const char *from, size_t bytes)
{
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < bytes; at += CHUNK_BYTES)
        memcpy(to + at, from + at, CHUNK_BYTES);
}

static int measure_memory(json_t **out, struct qp_error *err)
{
    qp_auto_free char *a = aligned_alloc(64, MEMORY_BYTES), *b = aligned_alloc(64, MEMORY_BYTES);
    double read = 0, copy = 0;
    bool found = false;
    if (!a || !b)
        return qp_fail_memory(err, MEMORY_BYTES, "a buffer to measure memory with");
    memset(a, 1, MEMORY_BYTES);
    copy_all(b, a, MEMORY_BYTES);
    for (int run = 0; run < 5; run++) {
        double start = spent();
        found = found || read_all(a, MEMORY_BYTES);
        double middle = spent();
        copy_all(b, a, MEMORY_BYTES);
        double end = spent();
        read = (double)MEMORY_BYTES / (middle - start) > read ? (double)MEMORY_BYTES / (middle - start) : read;
        copy = 2.0 * (double)MEMORY_BYTES / (end - middle) > copy ? 2.0 * (double)MEMORY_BYTES / (end - middle) : copy;
    }
    *out = json_pack("{s:f, s:f}", "read_bytes_per_second", found ? 0.0 : read, "copy_bytes_per_second", copy);
    return 0;
}

/* ---- disk ---- */

static int write_file(int fd, const char *data, const char *path, double *rate, struct qp_error *err)
{
    double start = qp_now();
    int r = lseek(fd, 0, SEEK_SET) < 0 ? qp_fail_errno(err, QP_ERR_SPACE, "%s", path) : 0;
    for (size_t at = 0; r == 0 && at < DISK_BYTES; at += CHUNK_BYTES)
        r = qp_write_all(fd, data, CHUNK_BYTES, path, err);
    if (r == 0 && fsync(fd) < 0)
        r = qp_fail_errno(err, QP_ERR_SPACE, "%s: cannot sync", path);
    double found = (double)DISK_BYTES / (qp_now() - start);
    *rate = r == 0 && found > *rate ? found : *rate;
    return r;
}

/* Bytes a second; 0 where a file system cannot do it, as some cannot without their cache. */
static double read_file(const char *path, int flags, char *data)
{
    qp_auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    double start = qp_now();
    size_t done = 0;
    ssize_t n = 0;
    while (fd >= 0 && (n = read(fd, data, CHUNK_BYTES)) > 0)
        done += (size_t)n;
    return done == DISK_BYTES ? (double)done / (qp_now() - start) : 0;
}

/* The first write takes new blocks of the disk, the second is what a disk in use does. */
static int measure_disk(const char *folder, json_t **out, struct qp_error *err)
{
    qp_auto_free char *path = qp_join(folder, "quantpipe-doctor-XXXXXX"), *data = aligned_alloc(4096, CHUNK_BYTES);
    double write = 0, cold = 0, cached = 0;
    if (!path || !data)
        return qp_fail_memory(err, CHUNK_BYTES, "a buffer to measure the disk with");
    for (size_t i = 0; i < CHUNK_BYTES; i++)
        data[i] = (char)(i * 2654435761u >> 13);
    qp_auto_close int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot create a file to measure the disk with", folder);
    int r = write_file(fd, data, path, &write, err);
    if (r == 0)
        r = write_file(fd, data, path, &write, err);
    for (int run = 0; r == 0 && run < 2; run++) {
        double one = read_file(path, O_DIRECT, data), two = read_file(path, 0, data);
        cold = one > cold ? one : cold;
        cached = two > cached ? two : cached;
    }
    unlink(path);
    if (r == 0)
        *out = json_pack("{s:s, s:f, s:o, s:f}", "folder", folder, "write_bytes_per_second", write,
                         "read_bytes_per_second", cold > 0 ? json_real(cold) : json_null(),
                         "cached_read_bytes_per_second", cached);
    return r;
}

/* ---- all of it ---- */

static const char *now_text(char *text, size_t size)
{
    time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(text, size, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

int qp_doctor_measure(const char *folder, json_t **out, struct qp_error *err)
{
    struct bench bench = {0};
    double peaks[QP_PEAKS], load[1] = {0};
    char cpu[160], when[32];
    json_t *memory = NULL, *disk = NULL;
    getloadavg(load, 1);
    qp_kernels_set_threads(qp_machine_cores());
    int r = measure_disk(folder, &disk, err);
    if (r == 0)
        r = measure_memory(&memory, err);
    if (r == 0)
        r = open_bench(&bench, err);
    if (r < 0) {
        close_bench(&bench);
        json_decref(memory);
        json_decref(disk);
        return r;
    }
    json_t *found = measure_peaks(peaks);
    *out = json_pack("{s:s, s:i, s:s, s:s, s:f, s:o, s:o, s:o, s:o}", "processor", qp_machine_cpu(cpu, sizeof cpu),
                     "cores", qp_machine_cores(), "measured_at", now_text(when, sizeof when), "libraries",
                     qp_kernels_description(), "load", load[0], "peaks", found, "kernels",
                     measure_kernels(&bench, peaks), "memory", memory, "disk", disk);
    close_bench(&bench);
    return *out ? 0 : qp_fail_memory(err, 0, "measurements");
}
