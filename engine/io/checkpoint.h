/* checkpoint.h - the weights of one part of a model (transformer, vae, text encoder) as named
 * tensors, whichever files hold them: a .safetensors or .gguf file, or a sharded set with its
 * index; alone or among the other parts of a model; under the names of diffusers and transformers
 * or others; as floats, 8-bit floats or quantised blocks.
 *
 * Model code asks by diffusers (transformers) name and wanted shape; a missing or misshapen tensor
 * is an error that says both shapes. What no model code asked for can be listed
 * (taca_ckpt_unused). */
#ifndef TACA_ENGINE_IO_CHECKPOINT_H
#define TACA_ENGINE_IO_CHECKPOINT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "engine/io/storage.h"
#include "kernels/tensor.h"

struct taca_ckpt;

/* What a set of weights may be. */
enum taca_kind { TACA_DIT, TACA_AUTOENCODER, TACA_CLIP_L, TACA_CLIP_G, TACA_T5, TACA_KINDS };
const char *taca_kind_flag(enum taca_kind k); /* the option that takes it: "clip-l" */

/* path: a .safetensors or .gguf file, or a component directory with <base>.safetensors or
 * <base>.safetensors.index.json (base "diffusion_pytorch_model" or "model"; variants such as
 * model.fp16.safetensors are accepted when alone). An index only says where to look: every tensor
 * it lists must be in the shard it names, and no tensor may be in two shards.
 *
 * A file of one known part gives its tensors under their wanted names; one with several, or with
 * none that is known, as they are stored. */
enum taca_code taca_ckpt_open(struct taca_ckpt **out, const char *path,
                              struct taca_err *err) TACA_MUST_USE;
/* The part of that kind alone, also out of a file with several. Every call maps the file anew: the
 * pages are shared, and closing a part that is loaded lets go of its own. TACA_EFORMAT says what
 * the path is instead and which option takes it. */
enum taca_code taca_ckpt_open_kind(struct taca_ckpt **out, const char *path, enum taca_kind kind,
                                   struct taca_err *err) TACA_MUST_USE;
/* No file: whatever is asked for is there, in the wanted shape, with normal values. For benchmarks.
 */
enum taca_code taca_ckpt_open_random(struct taca_ckpt **out, uint64_t seed,
                                     struct taca_err *err) TACA_MUST_USE;
/* Whether a part of that kind is in it, whatever it was opened for. */
bool taca_ckpt_holds(const struct taca_ckpt *c, enum taca_kind kind);
/* What the file is, as the end of "this is ...", NULL when unknown. */
const char *taca_ckpt_looks_like(const struct taca_ckpt *c);
/* Whether its file's name, or what the file says of its own name, has the word; case aside. */
bool taca_ckpt_is_called(const struct taca_ckpt *c, const char *word);
/* From now on there is no tensor of that name. */
void taca_ckpt_hide(struct taca_ckpt *c, const char *name);
void taca_ckpt_close(struct taca_ckpt *c); /* NULL is fine */
/* One more owner: it is closed when all of them have. */
void taca_ckpt_hold(struct taca_ckpt *c);
bool taca_ckpt_has(const struct taca_ckpt *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Shape and dtype of a tensor, NULL when absent or unreadable: for structure that only the file
 * knows. Its data may be NULL. Neither this nor taca_ckpt_has counts as asking for it. */
const struct taca_tensor *taca_ckpt_peek(const struct taca_ckpt *c, const char *name);
/* The tensor called `name` with exactly this shape (rank dims; -1 accepts any). It points into the
 * file where that has it as wanted; what is quantised, scaled or rearranged is converted into
 * memory of the checkpoint, valid until taca_ckpt_drop or close. */
enum taca_code taca_ckpt_get(struct taca_ckpt *c, struct taca_tensor *out, const char *name,
                             int rank, const int64_t *dim, struct taca_err *err) TACA_MUST_USE;
/* Frees everything converted so far, and takes the file's pages of what was handed out from memory
 * (pointers into the file stay good). Loaders call it after each layer they have prepared, so the
 * peak is that of a layer. */
void taca_ckpt_drop(struct taca_ckpt *c);
/* What conversions of floats give: TACA_F32 (as opened) or TACA_BF16. Drops what is converted. */
void taca_ckpt_set_floats(struct taca_ckpt *c, enum taca_dtype dtype);
/* For plans: from now on what has to be converted comes as zeros that take no memory. */
void taca_ckpt_set_hollow(struct taca_ckpt *c);
/* Bytes of the file and of conversions that were handed out between two drops, at most. */
size_t taca_ckpt_most_held(const struct taca_ckpt *c);
/* The bytes of a tensor as they lie in the file, for code that computes with quantised blocks;
 * false when absent, rearranged or not cut between blocks. Counts as asking. */
bool taca_ckpt_raw(struct taca_ckpt *c, const char *name, struct taca_stored *out);
/* n elements from `first` on of such a tensor, widened; both at the bounds of blocks. */
void taca_stored_read(float *dst, const struct taca_stored *t, int64_t first, size_t n);
/* Takes the tensor's pages from memory; they come back when somebody looks. */
void taca_stored_let_go(const struct taca_stored *t);
int64_t taca_ckpt_parameters(const struct taca_ckpt *c); /* elements in all */
int64_t taca_ckpt_bytes(const struct taca_ckpt *c);
struct taca_ckpt_stats {
    int files, tensors;
    int64_t elements[TACA_STORAGE_TYPES]; /* by enum taca_storage */
    char other[12];                       /* a type that is not read, "" = none */
    int64_t in_matrices;                  /* elements of tensors of rank 2 and more */
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
