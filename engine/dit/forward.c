/* forward.c - the forward pass of an MM-DiT: SD3, SD3.5 (with dual attention) and FLUX.1.
 *
 * Reads like the papers, one op per line. Rows of all items are packed: image rows, then text rows,
 * and struct taca_layout says whose is whose. Nothing here looks at device memory, so the same
 * lines count and plan memory on a backend that has none. */

#include <inttypes.h>
#include <stdio.h>

#include "base/buf.h"
#include "engine/dit/adapted.h"
#include "engine/dit/model.h"

/* ---- once per sequence and text condition ---------------------------------------------------- */

/* A pass outside of a forward: rows of one sequence, without a layout. */
static struct dit_pass alone(struct taca_backend *b, struct taca_scratch *s,
                             const struct dit_loras *loras) {
    struct dit_pass p = {.b = b, .s = s};
    if (loras) p.loras = *loras;
    return p;
}

static void run_embedder(const struct dit_pass *p, struct taca_mat y, struct taca_mat x,
                         const struct dit_embedder *e) {
    const size_t start = p->s->used;
    struct taca_mat h = dit_low(p, x.rows, e->in->out);
    dit_linear(p, h, x, e->in, TACA_ACT_SILU, DIT_ONE);
    dit_linear(p, y, h, e->out, TACA_ACT_NONE, DIT_ONE);
    p->s->used = start;
}

/* all[i] += row, or row i of as many. */
static void add_to_rows(struct taca_backend *b, struct taca_mat all, struct taca_mat row) {
    if (row.rows == all.rows) {
        taca_add(b, all, all, row);
        return;
    }
    for (int64_t i = 0; i < all.rows; i++)
        taca_add(b, taca_mat_rows(all, i, 1), taca_mat_rows(all, i, 1), row);
}

void dit_embed(struct dit *d, struct taca_backend *b, struct taca_scratch *s, struct taca_mat temb,
               const struct dit_condition *c) {
    const size_t start = s->used;
    const int64_t width = d->info.width;
    const struct dit_pass p = alone(b, s, &c->loras);
    struct taca_mat wave = taca_scratch_mat(s, TACA_F32, temb.rows, DIT_TIME_FEATURES);
    struct taca_mat text = taca_scratch_mat(s, TACA_F32, c->pooled.rows, width);
    taca_time_features(b, wave, c->t);
    run_embedder(&p, temb, wave, &d->time);
    if (d->guidance.in) {
        const float g = c->guidance * 1000;
        struct taca_mat guidance = taca_scratch_mat(s, TACA_F32, 1, width);
        taca_time_features(b, taca_mat_rows(wave, 0, 1), &g);
        run_embedder(&p, guidance, taca_mat_rows(wave, 0, 1), &d->guidance);
        add_to_rows(b, temb, guidance);
    }
    run_embedder(&p, text, c->pooled, &d->pooled);
    add_to_rows(b, temb, text);
    s->used = start;
}

static void project_mod(const struct dit_pass *p, const struct dit_mod *m, struct taca_mat mod,
                        struct taca_mat h) {
    dit_linear(p, taca_mat_cols(mod, m->at, m->w->out), h, m->w, TACA_ACT_NONE, DIT_ONE);
}

static void modulation_of(const struct dit_pass *p, const struct dit *d, struct taca_mat mod,
                          struct taca_mat temb) {
    const size_t start = p->s->used;
    struct taca_mat h = dit_low(p, temb.rows, temb.cols);
    taca_activate(p->b, h, temb, TACA_ACT_SILU);
    for (int64_t i = 0; i < d->info.depth; i++) project_mod(p, &d->blocks[i].mod, mod, h);
    for (int64_t i = 0; i < d->info.singles; i++) project_mod(p, &d->singles[i].mod, mod, h);
    project_mod(p, &d->final_mod, mod, h);
    p->s->used = start;
}

void dit_modulation_of(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                       struct taca_mat mod, struct taca_mat temb) {
    const struct dit_pass p = alone(b, s, NULL);
    modulation_of(&p, d, mod, temb);
}

void dit_modulation(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                    struct taca_mat mod, const struct dit_condition *c) {
    const size_t start = s->used;
    const struct dit_pass p = alone(b, s, &c->loras);
    struct taca_mat temb = taca_scratch_mat(s, TACA_F32, mod.rows, d->info.width);
    dit_embed(d, b, s, temb, c);
    modulation_of(&p, d, mod, temb);
    s->used = start;
}

void dit_context(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                 struct taca_mat context, struct taca_mat text, const struct dit_loras *loras) {
    const struct dit_pass p = alone(b, s, loras);
    dit_linear(&p, context, text, d->context, TACA_ACT_NONE, DIT_ONE);
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

static void tap_block(const struct dit_forward *f, const struct dit_pass *p, const char *kind,
                      int64_t i, struct dit_stream *s) {
    char name[64];
    if (!f->tap) return;
    dit_settle(p, s);
    snprintf(name, sizeof name, "%s.%" PRId64 ".%d", kind, i, s->id == TACA_IMG);
    f->tap(f->tap_ctx, name, s->x);
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

/* Residual rows of all items and where they lie: image rows first. */
struct streams {
    struct taca_mat all, x, c;
};

static struct streams take_streams(const struct dit *d, const struct dit_pass *p,
                                   const struct dit_forward *f) {
    int64_t img = 0, txt = 0;
    for (int i = 0; i < f->n_items; i++) {
        img += patches(d, f->items[i].latent);
        txt += f->items[i].context.rows;
    }
    struct taca_mat all = taca_scratch_mat(p->s, TACA_F32, img + txt, d->info.width);
    return (struct streams){all, taca_mat_rows(all, 0, img), taca_mat_rows(all, img, txt)};
}

/* The items' rotary places, by stream. */
static void gather_places(const struct dit *d, struct dit_pass *p, const struct dit_forward *f,
                          const struct streams *h) {
    int64_t img = 0, txt = 0;
    if (!d->info.place_width) return;
    struct taca_mat all = taca_scratch_mat(p->s, TACA_F32, h->all.rows, d->info.place_width);
    p->places[TACA_IMG] = taca_mat_rows(all, 0, h->x.rows);
    p->places[TACA_TXT] = taca_mat_rows(all, h->x.rows, h->c.rows);
    for (int i = 0; i < f->n_items; i++) {
        const struct dit_item *item = &f->items[i];
        const int64_t n_img = patches(d, item->latent), n_txt = item->context.rows;
        taca_activate(p->b, taca_mat_rows(p->places[TACA_IMG], img, n_img),
                      taca_mat_rows(item->places, 0, n_img), TACA_ACT_NONE);
        taca_activate(p->b, taca_mat_rows(p->places[TACA_TXT], txt, n_txt),
                      taca_mat_rows(item->places, n_img, n_txt), TACA_ACT_NONE);
        img += n_img;
        txt += n_txt;
    }
}

/* The text stream: a copy, for the blocks change it. */
static void gather_text(const struct dit_pass *p, const struct dit_forward *f, struct taca_mat c) {
    int64_t at = 0;
    for (int i = 0; i < f->n_items; i++) {
        struct taca_mat text = f->items[i].context;
        taca_activate(p->b, taca_mat_rows(c, at, text.rows), text, TACA_ACT_NONE);
        at += text.rows;
    }
}

/* Patches of the latents, and beside them those of the control latents where an item has one. */
static struct taca_mat gather_tokens(const struct dit *d, const struct dit_pass *p,
                                     const struct dit_forward *f, int64_t rows) {
    const int64_t in = d->patch->in;
    bool control = false;
    int64_t at = 0;
    for (int i = 0; i < f->n_items; i++) control = control || f->items[i].control.c;
    struct taca_mat all = dit_low(p, rows, control ? 2 * in : in);
    if (control)
        taca_fill_zero(p->b, all.data, (size_t)(rows * all.ld) * taca_dtype_bytes(all.dtype));
    for (int i = 0; i < f->n_items; i++) {
        const struct dit_item *item = &f->items[i];
        const struct taca_mat own = taca_mat_rows(all, at, patches(d, item->latent));
        taca_patchify(p->b, taca_mat_cols(own, 0, in), item->latent, d->info.patch,
                      TACA_PATCH_CHANNEL_MAJOR);
        if (item->control.c)
            taca_patchify(p->b, taca_mat_cols(own, in, in), item->control, d->info.patch,
                          TACA_PATCH_CHANNEL_MAJOR);
        at += own.rows;
    }
    return taca_mat_cols(all, 0, in);
}

/* The image stream: patches of the latents, projected, plus their places where a table has them. */
static void embed_latents(const struct dit *d, const struct dit_pass *p,
                          const struct dit_forward *f, struct taca_mat x) {
    const int64_t side = d->info.max_patches, patch = d->info.patch;
    const size_t mark = p->s->used;
    const struct taca_mat tokens = gather_tokens(d, p, f, x.rows);
    dit_linear(p, x, tokens, d->patch, TACA_ACT_NONE, DIT_IMG);
    p->s->used = mark;
    if (!d->position.rows) {
        tap(f, "x_embedder", x);
        return;
    }
    int64_t at = 0;
    for (int i = 0; i < f->n_items; i++) {
        struct taca_chw z = f->items[i].latent;
        taca_add_position(p->b, taca_mat_rows(x, at, patches(d, z)), d->position, side, z.h / patch,
                          z.w / patch);
        at += patches(d, z);
    }
    tap(f, "pos_embed", x);
}

/* The last norm and projection. */
static void project_velocity(const struct dit *d, const struct dit_pass *p,
                             const struct dit_forward *f, struct taca_mat y, struct dit_stream *s) {
    struct taca_mat h = dit_low(p, s->x.rows, s->x.cols);
    dit_modulate(p, h, s, d->final_shift, d->final_scale);
    tap(f, "norm_out", h);
    dit_linear(p, y, h, d->proj, TACA_ACT_NONE, DIT_IMG);
    tap(f, "proj_out", y);
}

/* Rows back to the items' velocities. */
static void scatter_velocity(const struct dit *d, const struct dit_pass *p,
                             const struct dit_forward *f, struct taca_mat y) {
    int64_t at = 0;
    for (int i = 0; i < f->n_items; i++) {
        int64_t n = patches(d, f->items[i].latent);
        taca_unpatchify(p->b, f->items[i].velocity, taca_mat_rows(y, at, n), d->info.patch,
                        d->out_order);
        at += n;
    }
}

/* The streams before the first block. */
static struct dit_streams begin_streams(const struct dit_pass *p, const struct streams *h) {
    const int64_t img = h->x.rows, txt = h->c.rows;
    const struct taca_mat y = taca_scratch_mat(p->s, TACA_F32, img + txt, h->all.cols);
    return (struct dit_streams){
        .img = {.x = h->x, .y = taca_mat_rows(y, 0, img), .id = TACA_IMG},
        .txt = {.x = h->c, .y = taca_mat_rows(y, img, txt), .id = TACA_TXT},
        .y = y,
    };
}

/* From embedded rows to velocities as rows: works on scratch, weights and the layout alone. */
static void run_blocks(const struct dit *d, const struct dit_pass *p, const struct dit_forward *f,
                       const struct streams *h, struct taca_mat y) {
    const size_t start = p->s->used;
    struct dit_streams s = begin_streams(p, h);
    for (int64_t i = 0; i < d->info.depth; i++) {
        if (f->skip && f->skip[i]) continue;
        dit_block_run(&d->blocks[i], p, &s);
        if (d->blocks[i].txt.out) tap_block(f, p, "transformer_blocks", i, &s.txt);
        tap_block(f, p, "transformer_blocks", i, &s.img);
    }
    for (int64_t i = 0; i < d->info.singles; i++) {
        dit_single_run(&d->singles[i], p, &s);
        tap_block(f, p, "single_transformer_blocks", i, &s.txt);
        tap_block(f, p, "single_transformer_blocks", i, &s.img);
    }
    project_velocity(d, p, f, y, &s.img);
    p->s->used = start;
}

/* ---- replay ---------------------------------------------------------------------------------- */

static void key_number(struct taca_buf *key, int64_t n) { taca_buf_put(key, &n, sizeof n); }
static void key_address(struct taca_buf *key, const void *p) { taca_buf_put(key, &p, sizeof p); }

/* All that the launches of run_blocks depend on. Latents, noise levels, places, modulations and
 * gammas are contents of device memory, so they are not part of it; rows, weights and adapters are.
 * Addresses of what is in scratch follow from where it begins, but are cheap to be sure of. */
static void make_key(struct taca_buf *key, const struct dit *d, const struct dit_pass *p,
                     const struct dit_forward *f, const struct streams *h, struct taca_mat y) {
    const struct taca_layout *l = f->layout;
    const void *const addresses[] = {d,
                                     p->s->base + p->s->used,
                                     p->mod.data,
                                     y.data,
                                     p->places[TACA_IMG].data,
                                     p->places[TACA_TXT].data,
                                     h->x.data,
                                     l->device};
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++)
        key_address(key, addresses[i]);
    key_number(key, h->x.rows);
    key_number(key, h->c.rows);
    key_number(key, l->n_segs);
    for (int i = 0; i < l->n_segs; i++) {
        key_number(key, l->segs[i].n_img);
        key_number(key, l->segs[i].n_txt);
    }
    key_number(key, f->skip != NULL);
    if (f->skip) taca_buf_put(key, f->skip, (size_t)d->info.depth * sizeof *f->skip);
    for (int i = 0; i < f->loras.n; i++) {
        key_address(key, f->loras.list[i].adapter);
        taca_buf_put(key, f->loras.list[i].gate, (size_t)l->n_segs * sizeof(float));
    }
}

/* run_blocks, or what was recorded of it. */
static void run_or_replay(const struct dit *d, const struct dit_pass *p,
                          const struct dit_forward *f, const struct streams *h, struct taca_mat y) {
    enum { KEY_BYTES = 1 << 20 };
    struct taca_buf key;
    taca_buf_init(&key, KEY_BYTES);
    const bool keyed = taca_replays(p->b) && !f->tap;
    if (keyed) make_key(&key, d, p, f, h, y);
    if (!keyed || key.failed)
        run_blocks(d, p, f, h, y);
    else if (!taca_replay(p->b, key.data, key.len))
        do run_blocks(d, p, f, h, y);
        while (!taca_recorded(p->b));
    taca_buf_finish(&key);
}

void dit_run(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
             const struct dit_forward *f) {
    const size_t start = s->used;
    struct dit_pass p = {.b = b, .s = s, .layout = f->layout, .attn = d->attn, .loras = f->loras};
    p.mod = gather_mod(d, &p, f);
    const struct streams h = take_streams(d, &p, f);
    gather_places(d, &p, f, &h);
    gather_text(&p, f, h.c);
    tap(f, "context_embedder", h.c);
    embed_latents(d, &p, f, h.x);
    const struct taca_mat y = taca_scratch_mat(s, TACA_F32, h.x.rows, d->proj->out);
    run_or_replay(d, &p, f, &h, y);
    scatter_velocity(d, &p, f, y);
    s->used = start;
}
