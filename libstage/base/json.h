/* JSON that loses nothing in silence. jansson's functions that build values return NULL or -1 when memory runs out,
 * when text is not UTF-8 and when a number is not finite, and whoever does not look has lost a key, or the whole of
 * what he built. This header, which everything here includes in place of jansson's own, puts others in their place:
 *   - text becomes valid: bytes that are no UTF-8 stand as \xHH (libstage/base/utf8.h);
 *   - a number that is not finite stands as null, and is counted;
 *   - any other failure is kept for the calling thread until qp_json_check makes an error of it. Files, messages and
 *     what a stage's callback built are checked there, so a caller need not look at the single results. */
#ifndef QUANTPIPE_BASE_JSON_H
#define QUANTPIPE_BASE_JSON_H

#include <jansson.h>

#include "libstage/base/error.h"

/* After work that built JSON with result `r`: `r` when nothing failed or `r` is an error already, else QP_ERR_SPACE
 * with the function that lacked memory. Forgets the failure. */
int qp_json_check(int r, struct qp_error *err);

/* How many numbers of this thread have become null since the last call. */
unsigned qp_json_not_finite(void);

json_t *qp_json_pack(const char *where, const char *format, ...);
json_t *qp_json_sprintf(const char *where, const char *format, ...) __attribute__((format(printf, 2, 3)));
json_t *qp_json_string(const char *where, const char *text); /* NULL for NULL */
json_t *qp_json_real(double value);
int qp_json_set(const char *where, json_t *object, const char *key, json_t *value); /* takes `value` over */
int qp_json_append(const char *where, json_t *array, json_t *value);                /* takes `value` over */
int qp_json_note(const char *where, int r); /* keeps a failure when r is negative; returns r */

#define json_pack(...) qp_json_pack(__func__, __VA_ARGS__)
#define json_sprintf(...) qp_json_sprintf(__func__, __VA_ARGS__)
#define json_string(text) qp_json_string(__func__, text)
#define json_real(value) qp_json_real(value)
#define json_object_set_new(object, key, value) qp_json_set(__func__, object, key, value)
#define json_object_set(object, key, value) qp_json_set(__func__, object, key, json_incref(value))
#define json_array_append_new(array, value) qp_json_append(__func__, array, value)
#define json_array_append(array, value) qp_json_append(__func__, array, json_incref(value))
#define json_array_extend(array, other) qp_json_note(__func__, (json_array_extend)(array, other))
#define json_object_update(object, other) qp_json_note(__func__, (json_object_update)(object, other))
#define json_object_update_new(object, other) qp_json_note(__func__, (json_object_update_new)(object, other))
#define json_object_update_existing(object, other) qp_json_note(__func__, (json_object_update_existing)(object, other))

#endif
