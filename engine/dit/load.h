/* load.h - weights of a transformer by name, as a list that reads without error handling: the first
 * failure stays in rc and turns the rest into no-ops. Inside engine/dit only. */
#ifndef TACA_ENGINE_DIT_LOAD_H
#define TACA_ENGINE_DIT_LOAD_H

#include "engine/dit/model.h"

enum { DIT_MAX_DEPTH = 256, DIT_MAX_PARTS = 3 };

struct dit_loader {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    struct taca_err *err;
    enum taca_code rc;
    int64_t width, head_dim;
    char prefix[48]; /* of every name: "transformer_blocks.3." */
};

void dit_load_prefix(struct dit_loader *l, const char *kind, int64_t i); /* NULL: none */
/* The tensor prefix + name. */
void dit_load_tensor(struct dit_loader *l, struct taca_tensor *t, int rank, const int64_t *dim,
                     const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* NAME.weight [out, in] and NAME.bias. */
struct taca_linear *dit_load_linear(struct dit_loader *l, const char *name, int64_t out,
                                    int64_t in);
/* Up to DIT_MAX_PARTS of them as one, rows stacked. */
struct taca_linear *dit_load_stacked(struct dit_loader *l, const char *const *names, int n,
                                     const int64_t *out, int64_t in);
/* The modulations of a block, the last that is loaded of it: never narrow. */
struct taca_linear *dit_load_mod(struct dit_loader *l, const char *const *names, int n,
                                 const int64_t *out);
/* q, k and v, width rows each. */
struct taca_linear *dit_load_qkv(struct dit_loader *l, const char *const names[3]);
/* NAME.weight [head_dim]. */
struct taca_vec dit_load_gain(struct dit_loader *l, const char *name);
void dit_load_mlp(struct dit_loader *l, struct dit_mlp *w, const char *up, const char *down);
/* NAME.linear_1 [width, in] and NAME.linear_2. */
void dit_load_embedder(struct dit_loader *l, struct dit_embedder *e, const char *name, int64_t in);
/* The modulations of the final layer, which end a row that is filled up to `at`. */
void dit_load_final(struct dit_loader *l, struct dit *d, int64_t at);
/* A block `kind`.n would be one more than the config's field says. */
void dit_load_end(struct dit_loader *l, const char *kind, const char *field, int64_t n);
/* TACA_EFORMAT naming the tensor prefix + name when it is there; why ends the message. */
void dit_load_refuse(struct dit_loader *l, const char *name, const char *why, ...)
    __attribute__((format(printf, 3, 4)));

#endif
