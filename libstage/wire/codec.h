/* JSON values as msgpack. Only what JSON has travels: nil, bool, integers that fit int64_t, finite floats, UTF-8
 * strings without NUL, arrays, and maps with distinct string keys; nested at most QP_CODEC_DEPTH deep. */
#ifndef QUANTPIPE_WIRE_CODEC_H
#define QUANTPIPE_WIRE_CODEC_H

#include "libstage/base/json.h"
#include <msgpack/pack.h>
#include <msgpack/sbuffer.h>

#include "libstage/base/error.h"

#define QP_CODEC_DEPTH 24

/* Appends `value` to `out`. QP_ERR_INPUT when it is nested too deep. */
int qp_codec_pack(const json_t *value, msgpack_sbuffer *out, struct qp_error *err);

/* Appends a string: what the writers of headers need most. */
void qp_codec_pack_string(msgpack_packer *packer, const char *text);

/* Reads exactly one value that takes all of `size` bytes; a new reference. Memory is bounded by a small multiple of
 * `size`, whatever the bytes say. QP_ERR_STAGE with the offset of the first byte that is refused. */
int qp_codec_unpack(const void *data, size_t size, json_t **out, struct qp_error *err);

#endif
