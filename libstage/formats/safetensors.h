/* safetensors: a header of JSON, then the tensors' bytes. Read mapped and strictly; written as a stream. */
#ifndef QUANTPIPE_FORMATS_SAFETENSORS_H
#define QUANTPIPE_FORMATS_SAFETENSORS_H

#include "libstage/base/json.h"

#include "libstage/tensor/tensor.h"

/* One file or a sharded folder, opened and checked whole: header length and limit (100,000,000 bytes), UTF-8 JSON,
 * no duplicate names, known dtypes, shape products, offsets that begin at 0 and neither overlap nor leave a hole,
 * an end that is the file's end; for shards, an index that names each tensor's file and no name twice. */
struct qp_safetensors {
    struct qp_tensor **tensors; /* sorted by name; views of the mapped files, copies where a file misaligns them */
    size_t count;
};

/* `path`: a .safetensors file, or a folder with model.safetensors, or with model.safetensors.index.json and its
 * shards. QP_ERR_INPUT with file:tensor, what was found and what was expected. */
int qp_safetensors_open(const char *path, struct qp_safetensors **out, struct qp_error *err);
void qp_safetensors_close(struct qp_safetensors *file); /* NULL is accepted; tensors that were referenced live on */

/* The tensor of that name (borrowed), or NULL. */
struct qp_tensor *qp_safetensors_find(const struct qp_safetensors *file, const char *name);

/* Writes model-00001-of-0000N.safetensors ... and the index, or one model.safetensors, into an existing folder.
 * Tensors are written as they are put, so memory stays bounded by one of them; only tensors whose size is no multiple
 * of 8 bytes are kept back until their shard closes, so that every tensor lies aligned to its element size. The bytes
 * of the files depend on the tensors and the order of the calls alone. */
struct qp_safetensors_writer;

/* Bytes of a shard's header, its length included, when up to `tensors` tensors were announced. */
uint64_t qp_safetensors_header_bytes(size_t tensors);

/* `shard_bytes`: a shard is closed before it would outgrow this (a single larger tensor makes a larger shard).
 * `tensors`: an upper bound of how many tensors will be put, for the space kept for headers. */
int qp_safetensors_create(const char *folder, uint64_t shard_bytes, size_t tensors, struct qp_safetensors_writer **out,
                          struct qp_error *err);

/* Appends a tensor (its bytes are written before the call returns, or it is referenced until they are). A name that
 * was put before is an error. QP_ERR_SPACE when the disk is full. */
int qp_safetensors_put(struct qp_safetensors_writer *writer, struct qp_tensor *tensor, struct qp_error *err);

/* Completes headers, fsyncs and names the files, writes the index if there are several. *total (may be NULL): bytes of
 * all tensors. The writer is freed whatever happens. */
int qp_safetensors_finish(struct qp_safetensors_writer *writer, uint64_t *total, struct qp_error *err);

/* Gives up: closes the files, and frees the writer; the caller removes the folder. NULL is accepted. */
void qp_safetensors_abandon(struct qp_safetensors_writer *writer);

#endif
