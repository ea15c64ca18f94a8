/* checkpoint.h - the weights of one component (transformer, vae, text encoder) as named tensors,
 * whichever files hold them: a single .safetensors file or a sharded set with its index.
 *
 * Model code asks by diffusers name and wanted shape; a missing or misshapen tensor is an error
 * that says both shapes. What no model code asked for can be listed (taca_ckpt_unused). */
#ifndef TACA_ENGINE_IO_CHECKPOINT_H
#define TACA_ENGINE_IO_CHECKPOINT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "kernels/tensor.h"

struct taca_ckpt;

/* path: a .safetensors file, or a component directory with <base>.safetensors or
 * <base>.safetensors.index.json (base "diffusion_pytorch_model" or "model"; variants such as
 * model.fp16.safetensors are accepted when alone). An index only says where to look: every tensor
 * it lists must be in the shard it names, and no tensor may be in two shards. */
enum taca_code taca_ckpt_open(struct taca_ckpt **out, const char *path,
                              struct taca_err *err) TACA_MUST_USE;
void taca_ckpt_close(struct taca_ckpt *c);
bool taca_ckpt_has(const struct taca_ckpt *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Shape of a tensor as stored, NULL when absent: for structure that only the file knows. Neither
 * this nor taca_ckpt_has counts as asking for it. */
const struct taca_tensor *taca_ckpt_peek(const struct taca_ckpt *c, const char *name);
/* The tensor called `name` with exactly this shape (rank dims; -1 accepts any). */
enum taca_code taca_ckpt_get(struct taca_ckpt *c, struct taca_tensor *out, const char *name,
                             int rank, const int64_t *dim, struct taca_err *err) TACA_MUST_USE;
int64_t taca_ckpt_parameters(const struct taca_ckpt *c); /* elements in all */
int64_t taca_ckpt_bytes(const struct taca_ckpt *c);
struct taca_ckpt_stats {
    int files, tensors;
    int64_t elements[TACA_DTYPES];
    int64_t other_elements; /* of dtypes that are not supported */
    char other_dtype[12];   /* one of them, "" = none */
    int64_t in_matrices;    /* elements of tensors of rank 2 and more */
};
void taca_ckpt_get_stats(const struct taca_ckpt *c, struct taca_ckpt_stats *out);
/* Calls fn for every tensor never asked for. */
void taca_ckpt_unused(const struct taca_ckpt *c, void (*fn)(void *ctx, const char *name),
                      void *ctx);

/* ---- config.json ----------------------------------------------------------------------------- */

/* Parses a JSON object from a file (duplicates refused, at most 16 MiB). Free with json_decref. */
enum taca_code taca_json_load(json_t **out, const char *path, struct taca_err *err) TACA_MUST_USE;
/* A field of a config: absent or null gives `fallback`; a wrong type or a value outside min..max is
 * TACA_EFORMAT naming file-independent field, found value and range. */
enum taca_code taca_cfg_int(const json_t *cfg, const char *key, int64_t fallback, int64_t min,
                            int64_t max, int64_t *out, struct taca_err *err) TACA_MUST_USE;
enum taca_code taca_cfg_number(const json_t *cfg, const char *key, double fallback, double min,
                               double max, double *out, struct taca_err *err) TACA_MUST_USE;
enum taca_code taca_cfg_bool(const json_t *cfg, const char *key, bool fallback, bool *out,
                             struct taca_err *err) TACA_MUST_USE;
/* Borrowed from cfg. */
enum taca_code taca_cfg_string(const json_t *cfg, const char *key, const char *fallback,
                               const char **out, struct taca_err *err) TACA_MUST_USE;
/* Array of ints, at most max_n; *n = 0 when absent. */
enum taca_code taca_cfg_ints(const json_t *cfg, const char *key, int64_t *out, int max_n, int *n,
                             struct taca_err *err) TACA_MUST_USE;

#endif
