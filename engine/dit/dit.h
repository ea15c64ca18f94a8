/* dit.h - the diffusion transformer: velocity of ragged sets of latents in one forward.
 *
 * One file per family (sd3.c, later flux.c) over shared block code. Structure (depth, width, dual
 * attention, qk norm) comes from config and checkpoint; model code has no device ifdefs. */
#ifndef TACA_ENGINE_DIT_DIT_H
#define TACA_ENGINE_DIT_DIT_H

#include <jansson.h>

#include "engine/io/checkpoint.h"
#include "kernels/backend.h"

struct dit;

struct dit_info {
    char family[16];     /* "sd3", or "sd3.5" when it has qk norm */
    int64_t in_channels; /* of a latent */
    int patch;
    int64_t width, depth, heads;
    int64_t joint_width, pooled_width;
    int64_t mod_width;   /* floats of one row of modulations */
    int64_t max_patches; /* largest h/patch and w/patch */
};

enum taca_code dit_sd3_open(struct dit **out, struct taca_backend *b, const json_t *config,
                            struct taca_ckpt *ckpt, struct taca_err *err) TACA_MUST_USE;
void dit_close(struct dit *d);
const struct dit_info *dit_get_info(const struct dit *d);

/* ---- once per sequence and text condition ---------------------------------------------------- */

/* mod[i] = everything that adaLN derives from timestep t[i] (0..1000, sigma * 1000) and the pooled
 * text, for all blocks and the final layer.   mod f32 [n, mod_width], t on the host, pooled f32 [1,
 * pooled_width] or [n, pooled_width] */
void dit_modulation(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                    struct taca_mat mod, const float *t, struct taca_mat pooled);
/* context [T, width] = the projected text.   text f32 [T, joint_width] */
void dit_context(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                 struct taca_mat context, struct taca_mat text);

/* ---- every step ------------------------------------------------------------------------------ */

/* One latent under one text condition; a CFG pair is two items that share the latent. */
struct dit_item {
    struct taca_chw latent;   /* in */
    struct taca_chw velocity; /* out: noise - x0 */
    struct taca_mat context;  /* f32 [T, width] of dit_context; T may differ between items */
    struct taca_mat mod;      /* f32 [1, mod_width]: the row of this step */
    float gamma;              /* TACA, 1 outside the window */
};

struct dit_forward {
    const struct dit_item *items;
    int n_items;
    const struct taca_layout *layout; /* one segment per item, gammas included: dit_layout */
    const bool *skip; /* [depth] blocks left out (skip-layer guidance), NULL = none */
    /* Tests look inside: called with the reference's module names ("transformer_blocks.0.1", ...).
     * NULL in production. */
    void (*tap)(void *ctx, const char *name, struct taca_mat value);
    void *tap_ctx;
};
/* Fills segs[n] for items in their order; then taca_layout_init. */
void dit_segments(const struct dit *d, const struct dit_item *items, int n, struct taca_seg *segs);
void dit_run(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
             const struct dit_forward *f);

#endif
