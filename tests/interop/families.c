/* dump_families [MODEL]: for families.py. Without an argument each family's name and its name in GGUF ("-": none), one
 * a line; of a checkpoint the sites of its first layer and what a scale there can be folded into: norm, rows or none.
 */
#include <stdio.h>

#include "libstage/network/checkpoint.h"
#include "libstage/network/families/family.h"

static void list_families(void)
{
    for (const struct qp_family *const *f = qp_families(); *f; f++)
        printf("%s %s\n", (*f)->name, (*f)->gguf ? (*f)->gguf : "-");
}

static int list_sites(const char *model, struct qp_error *err)
{
    static const char *const folds[] = {[QP_FOLD_NONE] = "none", [QP_FOLD_NORM] = "norm", [QP_FOLD_ROWS] = "rows"};
    struct qp_checkpoint *checkpoint;
    int r = qp_checkpoint_open(model, &checkpoint, err);
    if (r < 0)
        return r;
    const struct qp_layer_type *type = qp_layer_type(&checkpoint->arch, 0);
    for (int s = 0; s < type->site_count; s++)
        printf("%s %s\n", type->sites[s].name, folds[type->sites[s].fold]);
    qp_checkpoint_close(checkpoint);
    return 0;
}

int main(int argc, char **argv)
{
    struct qp_error err = {0};
    if (argc > 2) {
        fprintf(stderr, "usage: dump_families [MODEL]\n");
        return 2;
    }
    if (argc == 1)
        list_families();
    else if (list_sites(argv[1], &err) < 0) {
        fprintf(stderr, "dump_families: %s\n", err.message);
        return 3;
    }
    return 0;
}
