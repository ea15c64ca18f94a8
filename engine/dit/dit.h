/* dit.h - the diffusion transformer: velocity of ragged sets of latents in one forward.
 *
 * SD3, SD3.5 and FLUX.1 are one structure with more or fewer of its parts: joint blocks of two
 * streams, perhaps blocks of one joint stream after them, places from a table or rotary. One opener
 * per family (sd3_open.c, flux_open.c) fills it, one forward runs it. Structure comes from config
 * and checkpoint; model code has no device ifdefs. */
#ifndef TACA_ENGINE_DIT_DIT_H
#define TACA_ENGINE_DIT_DIT_H

#include <jansson.h>

#include "engine/io/checkpoint.h"
#include "kernels/backend.h"

struct dit;

enum dit_family { DIT_SD3, DIT_FLUX };

struct dit_info {
    enum dit_family kind;
    char family[16];     /* "sd3", or "sd3.5" when it has qk norm; "flux-dev", "flux-schnell" */
    int64_t in_channels; /* of a latent */
    int patch;
    int64_t width, heads;
    int64_t depth, singles; /* blocks of two streams, then blocks of one */
    int64_t joint_width, pooled_width;
    int64_t mod_width;    /* floats of one row of modulations */
    int64_t max_patches;  /* largest h/patch and w/patch */
    int64_t place_width;  /* floats of one row's rotary place; 0: the model has a position table */
    bool guidance_embeds; /* a guidance value is one of its inputs */
};

/* The family is that of the config's _class_name, SD3Transformer2DModel or FluxTransformer2DModel;
 * where that is missing, of the fields that only one of them has. */
enum taca_code dit_open(struct dit **out, struct taca_backend *b, const json_t *config,
                        struct taca_ckpt *ckpt, struct taca_err *err) TACA_MUST_USE;
void dit_close(struct dit *d);
const struct dit_info *dit_get_info(const struct dit *d);

/* Low-rank adapters that are on, and how strongly for whom: gate[i] of item i in a forward, gate[0]
 * outside of one; 0 = off. In one order everywhere, for sums depend on it. See adapter.h. */
struct dit_lora {
    const struct dit_adapter *adapter;
    const float *gate;
};
struct dit_loras {
    const struct dit_lora *list;
    int n;
};

/* ---- once per sequence and text condition ---------------------------------------------------- */

struct dit_condition {
    const float *t;         /* [n] on the host: 0..1000, sigma * 1000 */
    float guidance;         /* as people give it (3.5); only with guidance_embeds */
    struct taca_mat pooled; /* f32 [1, pooled_width] or [n, pooled_width] */
    struct dit_loras loras;
};
/* mod[i] = everything that adaLN derives from the condition at t[i], for all blocks and the final
 * layer.   mod f32 [n, mod_width] */
void dit_modulation(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                    struct taca_mat mod, const struct dit_condition *c);
/* context [T, width] = the projected text.   text f32 [T, joint_width]; loras NULL = none */
void dit_context(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                 struct taca_mat context, struct taca_mat text, const struct dit_loras *loras);
/* Rotary places of a sequence's rows, in host memory: the image rows of an h x w latent, then
 * text_rows, all in the same place. Nothing without place_width.
 *   table [h/patch * w/patch + text_rows, place_width] */
void dit_places(const struct dit *d, float *table, int64_t h, int64_t w, int64_t text_rows);
/* The same from explicit coordinates.   at [rows, 3] */
void dit_places_at(const struct dit *d, float *table, const float *at, int64_t rows);

/* ---- every step ------------------------------------------------------------------------------ */

/* One latent under one text condition; a CFG pair is two items that share the latent. */
struct dit_item {
    struct taca_chw latent;   /* in */
    struct taca_chw velocity; /* out: noise - x0 */
    struct taca_chw control;  /* for control adapters, as large as latent; c = 0: none */
    struct taca_mat context;  /* f32 [T, width] of dit_context; T may differ between items */
    struct taca_mat places;   /* f32 [image rows + T, place_width]; no columns without */
    struct taca_mat mod;      /* f32 [1, mod_width]: the row of this step */
    float gamma;              /* TACA, 1 outside the window */
};

struct dit_forward {
    const struct dit_item *items;
    int n_items;
    const struct taca_layout *layout; /* one segment per item, gammas included: dit_segments */
    struct dit_loras loras;
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
