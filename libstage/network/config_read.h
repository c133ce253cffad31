/* Reading a config.json: typed values with defaults, and messages that name the file, the key, what was found and what
 * was expected. */
#ifndef QUANTPIPE_NETWORK_CONFIG_READ_H
#define QUANTPIPE_NETWORK_CONFIG_READ_H

#include "libstage/network/families/family.h"

/* One object of the file; `prefix` names it in messages: "" or "rope_scaling.". */
struct qp_config_object {
    const json_t *json;
    const char *path, *prefix;
};

/* Whether the key is there and not null. */
bool qp_config_has(const struct qp_config_object *o, const char *key);

/* QP_ERR_INPUT: "PATH: PREFIXkey: found VALUE, expected ...". */
int qp_config_wrong(const struct qp_config_object *o, const char *key, const char *expected, struct qp_error *err);

/* A whole number of [min, max]; `fallback` when the key is absent or null, unless it is below min: then required. */
int qp_config_int(const struct qp_config_object *o, const char *key, int64_t fallback, int64_t min, int64_t max,
                  int64_t *out, struct qp_error *err);

/* A finite number above 0; `fallback` when the key is absent or null, unless that is 0: then required. */
int qp_config_real(const struct qp_config_object *o, const char *key, double fallback, double *out,
                   struct qp_error *err);

/* What a family's table asks for; a number whose fallback is 0 may be absent, and is 0 then. */
int qp_config_number(const struct qp_config_object *o, const struct qp_number *number, double *out,
                     struct qp_error *err);
int qp_config_flag(const struct qp_config_object *o, const struct qp_flag *flag, bool *out, struct qp_error *err);

/* `fallback` when absent or null. */
int qp_config_string(const struct qp_config_object *o, const char *key, const char *fallback, const char **out,
                     struct qp_error *err);

/* The object that has a text model's keys, a new reference: config itself or, of a multimodal model, a copy of its
 * text_config with what its top says for both; *wrapper NULL: it is none. */
int qp_config_text(const json_t *config, const char *path, const struct qp_wrapper **wrapper, json_t **out,
                   struct qp_error *err);

/* Which of a network's ropes queries and keys take, -1 for none. */
struct qp_rope_choice {
    int q, k;
};

/* The ropes of a network: rope_of[0] of layers with full attention, rope_of[1], where it differs, of those with a
 * window. */
int qp_config_ropes(const struct qp_config_object *config, struct qp_arch *arch, struct qp_rope_choice rope_of[2],
                    struct qp_error *err);

#endif
