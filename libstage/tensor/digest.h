/* The digest of a set of tensors: XXH3-128 over names, dtypes, shapes and bytes, whatever the order they came in. */
#ifndef QUANTPIPE_TENSOR_DIGEST_H
#define QUANTPIPE_TENSOR_DIGEST_H

#include "libstage/tensor/tensor.h"

#define QP_DIGEST_TEXT 33 /* 32 hexadecimal digits and NUL */

struct qp_digest;

struct qp_digest *qp_digest_new(void); /* NULL without memory */
void qp_digest_free(struct qp_digest *digest);
/* Adds text under a name. */
int qp_digest_add_text(struct qp_digest *digest, const char *name, const char *text, struct qp_error *err);
int qp_digest_add(struct qp_digest *digest, const struct qp_tensor *tensor, struct qp_error *err);

/* Digest of the tensors added: XXH3-128 over the digests of the single tensors in the order of their names. */
void qp_digest_text(struct qp_digest *digest, char text[QP_DIGEST_TEXT]);

#endif
