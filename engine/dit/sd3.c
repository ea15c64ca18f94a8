/* sd3.c - the forward pass of SD3 and SD3.5 (MM-DiT, with dual attention MM-DiT-X).
 *
 * Reads like the paper, one op per line. Rows of all items are packed: image rows in one matrix,
 * text rows in another, and struct taca_layout says whose is whose. Nothing here looks at device
 * memory, so the same lines count and plan memory on a backend that has none. */
#include "engine/dit/sd3.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void dit_close(struct dit *d) {
    if (!d) return;
    free(d->blocks);
    free(d);
}

const struct dit_info *dit_get_info(const struct dit *d) { return &d->info; }

/* ---- once per sequence and text condition ---------------------------------------------------- */

void dit_sd3_embed(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                   struct taca_mat temb, const float *t, struct taca_mat pooled) {
    const enum taca_dtype low = taca_backend_precision(b);
    const int64_t n = temb.rows, width = d->info.width;
    const size_t start = s->used;
    struct taca_mat wave = taca_scratch_mat(s, TACA_F32, n, DIT_TIME_FEATURES);
    struct taca_mat h_time = taca_scratch_mat(s, low, n, width);
    struct taca_mat h_text = taca_scratch_mat(s, low, pooled.rows, width);
    struct taca_mat text = taca_scratch_mat(s, TACA_F32, pooled.rows, width);

    taca_time_features(b, wave, t);
    taca_linear(b, h_time, wave, d->time_1, TACA_ACT_SILU);
    taca_linear(b, temb, h_time, d->time_2, TACA_ACT_NONE);
    taca_linear(b, h_text, pooled, d->pooled_1, TACA_ACT_SILU);
    taca_linear(b, text, h_text, d->pooled_2, TACA_ACT_NONE);
    if (pooled.rows == 1) {
        for (int64_t i = 0; i < n; i++) {
            struct taca_mat row = taca_mat_rows(temb, i, 1);
            taca_add(b, row, row, text);
        }
    } else {
        taca_add(b, temb, temb, text);
    }
    s->used = start;
}

void dit_modulation(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                    struct taca_mat mod, const float *t, struct taca_mat pooled) {
    const size_t start = s->used;
    struct taca_mat temb = taca_scratch_mat(s, TACA_F32, mod.rows, d->info.width);
    struct taca_mat h = taca_scratch_mat(s, taca_backend_precision(b), mod.rows, d->info.width);
    dit_sd3_embed(d, b, s, temb, t, pooled);
    taca_activate(b, h, temb, TACA_ACT_SILU);
    taca_linear(b, mod, h, d->mod, TACA_ACT_NONE);
    s->used = start;
}

void dit_context(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                 struct taca_mat context, struct taca_mat text) {
    (void)s;
    taca_linear(b, context, text, d->context, TACA_ACT_NONE);
}

/* ---- every step ------------------------------------------------------------------------------ */

static int64_t patches(const struct dit *d, struct taca_chw x) {
    return (x.h / d->info.patch) * (x.w / d->info.patch);
}

void dit_segments(const struct dit *d, const struct dit_item *items, int n, struct taca_seg *segs) {
    int64_t img = 0, txt = 0;
    for (int i = 0; i < n; i++) {
        const int64_t n_img = patches(d, items[i].latent), n_txt = items[i].context.rows;
        segs[i] = (struct taca_seg){img, n_img, txt, n_txt, items[i].gamma};
        img += n_img;
        txt += n_txt;
    }
}

static void tap(const struct dit_forward *f, const char *name, struct taca_mat value) {
    if (f->tap) f->tap(f->tap_ctx, name, value);
}

static void tap_block(const struct dit_forward *f, int64_t i, int stream, struct taca_mat value) {
    char name[48];
    if (!f->tap) return;
    snprintf(name, sizeof name, "transformer_blocks.%" PRId64 ".%d", i, stream);
    f->tap(f->tap_ctx, name, value);
}

/* Rows are counted from the items, not taken from the layout: where the totals differ, the first op
 * that sees both reports it, and nothing is written past a view. */

/* The items' rows of modulations, one per segment. */
static struct taca_mat gather_mod(const struct dit *d, const struct dit_pass *p,
                                  const struct dit_forward *f) {
    struct taca_mat mod = taca_scratch_mat(p->s, TACA_F32, f->n_items, d->info.mod_width);
    for (int i = 0; i < f->n_items; i++)
        taca_activate(p->b, taca_mat_rows(mod, i, 1), f->items[i].mod, TACA_ACT_NONE);
    return mod;
}

/* The text stream: a copy, for the blocks change it. */
static struct taca_mat gather_text(const struct dit *d, const struct dit_pass *p,
                                   const struct dit_forward *f) {
    int64_t rows = 0, at = 0;
    for (int i = 0; i < f->n_items; i++) rows += f->items[i].context.rows;
    struct taca_mat c = taca_scratch_mat(p->s, TACA_F32, rows, d->info.width);
    for (int i = 0; i < f->n_items; i++) {
        struct taca_mat text = f->items[i].context;
        taca_activate(p->b, taca_mat_rows(c, at, text.rows), text, TACA_ACT_NONE);
        at += text.rows;
    }
    return c;
}

/* The image stream: patches of the latents, projected, plus their places. */
static struct taca_mat embed_latents(const struct dit *d, const struct dit_pass *p,
                                     const struct dit_forward *f) {
    const int64_t side = d->info.max_patches, patch = d->info.patch;
    int64_t rows = 0, at = 0;
    for (int i = 0; i < f->n_items; i++) rows += patches(d, f->items[i].latent);
    struct taca_mat x = taca_scratch_mat(p->s, TACA_F32, rows, d->info.width);
    const size_t mark = p->s->used;
    struct taca_mat tokens = dit_low(p, rows, d->patch->in);
    for (int i = 0; i < f->n_items; i++) {
        struct taca_chw z = f->items[i].latent;
        taca_patchify(p->b, taca_mat_rows(tokens, at, patches(d, z)), z, d->info.patch,
                      TACA_PATCH_CHANNEL_MAJOR);
        at += patches(d, z);
    }
    taca_linear(p->b, x, tokens, d->patch, TACA_ACT_NONE);
    at = 0;
    for (int i = 0; i < f->n_items; i++) {
        struct taca_chw z = f->items[i].latent;
        taca_add_position(p->b, taca_mat_rows(x, at, patches(d, z)), d->position, side, z.h / patch,
                          z.w / patch);
        at += patches(d, z);
    }
    p->s->used = mark;
    return x;
}

/* The last norm and projection, and rows back to the items' velocities. */
static void project_velocity(const struct dit *d, const struct dit_pass *p,
                             const struct dit_forward *f, struct taca_mat x) {
    struct taca_mat h = dit_low(p, x.rows, x.cols);
    struct taca_mat y = taca_scratch_mat(p->s, TACA_F32, x.rows, d->proj->out);
    taca_norm_modulate(p->b, h, x, p->mod, d->final_shift, d->final_scale, p->layout, TACA_IMG,
                       DIT_EPS);
    tap(f, "norm_out", h);
    taca_linear(p->b, y, h, d->proj, TACA_ACT_NONE);
    tap(f, "proj_out", y);
    int64_t at = 0;
    for (int i = 0; i < f->n_items; i++) {
        int64_t n = patches(d, f->items[i].latent);
        taca_unpatchify(p->b, f->items[i].velocity, taca_mat_rows(y, at, n), d->info.patch,
                        TACA_PATCH_CHANNEL_LAST);
        at += n;
    }
}

void dit_run(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
             const struct dit_forward *f) {
    const size_t start = s->used;
    struct dit_pass p = {.b = b, .s = s, .layout = f->layout, .attn = d->attn};
    p.mod = gather_mod(d, &p, f);
    struct taca_mat c = gather_text(d, &p, f);
    tap(f, "context_embedder", c);
    struct taca_mat x = embed_latents(d, &p, f);
    tap(f, "pos_embed", x);
    for (int64_t i = 0; i < d->info.depth; i++) {
        if (f->skip && f->skip[i]) continue;
        dit_block_run(&d->blocks[i], &p, x, c);
        if (d->blocks[i].txt.out) tap_block(f, i, 0, c);
        tap_block(f, i, 1, x);
    }
    project_velocity(d, &p, f, x);
    s->used = start;
}
