/* dump_tokens TOKENIZER TEXT OUT: the ids of a text file as int32, for tokens.py. */
#include <stdio.h>
#include <stdlib.h>

#include "libstage/base/file.h"
#include "libstage/tokenizer/tokenizer.h"

static int dump(const char *tokenizer_path, const char *text_path, const char *out, struct qp_error *err)
{
    struct qp_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t size = 0, count = 0;
    int32_t *ids = NULL;
    int r = qp_tokenizer_open(tokenizer_path, &tokenizer, err);
    if (r == 0)
        r = qp_read_file(text_path, (size_t)1 << 30, &text, &size, err);
    if (r == 0)
        r = qp_tokenizer_encode(tokenizer, text, size, true, &ids, &count, err);
    if (r == 0)
        r = qp_write_file(out, ids, count * sizeof *ids, err);
    free(ids);
    free(text);
    qp_tokenizer_free(tokenizer);
    return r;
}

int main(int argc, char **argv)
{
    struct qp_error err = {0};
    if (argc != 4) {
        fprintf(stderr, "usage: dump_tokens TOKENIZER TEXT OUT\n");
        return 2;
    }
    int r = dump(argv[1], argv[2], argv[3], &err);
    if (r < 0)
        fprintf(stderr, "dump_tokens: %s\n", err.message);
    return -r;
}
