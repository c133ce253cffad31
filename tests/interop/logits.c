/* dump_logits MODEL IDS OUT [BACKEND]: float32 logits of a Hugging Face folder or a .gguf file, for logits.py.
 * IDS is a text file: the number of windows, their length, then the token ids. Prints the seconds that it took. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "libstage/base/file.h"
#include "tests/support/network.h"

static int read_ids(const char *path, struct qp_windows *w, struct qp_error *err)
{
    FILE *file = fopen(path, "r");
    long long count, length;
    if (!file || fscanf(file, "%lld %lld", &count, &length) != 2 || count < 1 || length < 1 || count > 1 << 20 ||
        length > 1 << 20) {
        if (file)
            fclose(file);
        return qp_fail(err, QP_ERR_INPUT, "%s: expected a number of windows and a length", path);
    }
    *w = (struct qp_windows){calloc((size_t)(count * length), sizeof *w->ids), count, length};
    int64_t n = 0;
    while (w->ids && n < count * length && fscanf(file, "%d", &w->ids[n]) == 1)
        n++;
    fclose(file);
    return n == count * length ? 0 : qp_fail(err, QP_ERR_INPUT, "%s: ends at id %lld", path, (long long)n);
}

static int dump(const char *model, const char *out, const struct qp_windows *w, const char *backend,
                struct qp_error *err)
{
    const struct qp_kernels *kernels = qp_kernels_open(backend);
    struct qp_checkpoint *checkpoint;
    struct timespec start, end;
    if (!kernels)
        return qp_fail(err, QP_ERR_USAGE, "%s: no such backend", backend);
    int r = qp_checkpoint_open(model, &checkpoint, err);
    if (r < 0)
        return r;
    size_t bytes = (size_t)(w->count * w->length * checkpoint->arch.vocab) * sizeof(float);
    float *logits = malloc(bytes);
    clock_gettime(CLOCK_MONOTONIC, &start);
    r = logits ? network_logits(checkpoint, w, kernels, logits, err) : qp_fail_memory(err, bytes, "logits");
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (r == 0)
        r = qp_write_file(out, logits, bytes, err);
    printf("%.3f\n", (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec));
    free(logits);
    qp_checkpoint_close(checkpoint);
    return r;
}

int main(int argc, char **argv)
{
    struct qp_error err = {0};
    struct qp_windows w = {0};
    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: dump_logits MODEL IDS OUT [BACKEND]\n");
        return 2;
    }
    int r = read_ids(argv[2], &w, &err);
    if (r == 0)
        r = dump(argv[1], argv[3], &w, argc == 5 ? argv[4] : "cpu", &err);
    if (r < 0)
        fprintf(stderr, "dump_logits: %s\n", err.message);
    free(w.ids);
    return -r;
}
