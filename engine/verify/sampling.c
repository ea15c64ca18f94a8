/* sampling.c - a reference pipeline's call from its generator to its images, on the engine's own
 * sequences. */
#include <stdlib.h>
#include <string.h>

#include "engine/sample/taca.h"
#include "engine/verify/case.h"

struct state {
    const struct case_sampling *s;
    int images;
    int64_t dim[4]; /* [images, c, h, w] of the latents */
    int64_t n;      /* values of one latent */
    int start;      /* first step that runs */
    struct taca_schedule schedule;
    struct taca_rng rng[CASE_MAX_IMAGES];
    float *x, *noise, *z0; /* [images, n]; z0 only with an image */
    float *mask;           /* [h * w], 1 = repaint; NULL without */
    struct taca_seq *seq[CASE_MAX_IMAGES];
};

/* ---- before the first step ------------------------------------------------------------------- */

static enum taca_code shape_latents(struct verify_case *c, struct state *st, struct taca_err *err) {
    const struct dit_info *d = dit_get_info(c->e->dit);
    const struct vae_info *v = vae_get_info(c->e->vae);
    int64_t h = st->s->args.height_px, w = st->s->args.width_px, unit = v->factor * d->patch;
    if (h == 0 || w == 0) {
        int64_t dim[4] = {-1, -1, -1, -1};
        float *ignored;
        enum taca_code rc = case_input(c, "out.latent", 4, dim, &ignored, err);
        if (rc) return rc;
        h = dim[2] * v->factor;
        w = dim[3] * v->factor;
    }
    if (h % unit || w % unit || h / unit > d->max_patches || w / unit > d->max_patches)
        return taca_fail(
            err, TACA_EFORMAT, "height %lld, width %lld: wanted multiples of %lld up to %lld",
            (long long)h, (long long)w, (long long)unit, (long long)(unit * d->max_patches));
    if (d->in_channels != v->latent_channels)
        return taca_fail(err, TACA_EFORMAT,
                         "the transformer has %lld latent channels, the vae %lld",
                         (long long)d->in_channels, (long long)v->latent_channels);
    st->dim[0] = st->images;
    st->dim[1] = d->in_channels;
    st->dim[2] = h / v->factor;
    st->dim[3] = w / v->factor;
    st->n = st->dim[1] * st->dim[2] * st->dim[3];
    return TACA_OK;
}

static enum taca_lora_when when(const struct case_args *a) {
    return a->window.rule == TACA_WINDOW_OFF ? TACA_LORA_ALWAYS : TACA_LORA_IN_WINDOW;
}

static enum taca_code compare_schedule(struct verify_case *c, struct state *st,
                                       struct taca_err *err) {
    const struct case_args *a = &st->s->args;
    float gamma[TACA_MAX_STEPS], lora[TACA_MAX_STEPS];
    const int64_t patch = dit_get_info(c->e->dit)->patch;
    const int64_t tokens = st->dim[2] / patch * (st->dim[3] / patch);
    enum taca_code rc =
        taca_schedule_init(&st->schedule, &c->e->scheduler, a->steps, tokens, 0, err);
    if (rc) return rc;
    for (int i = 0; i < a->steps; i++) {
        const double sigma = (double)st->schedule.sigma[i];
        const bool inside = taca_window_has(&a->window, i, a->steps, sigma);
        gamma[i] = (float)taca_gamma(&a->window, i, a->steps, sigma);
        lora[i] = inside || when(a) == TACA_LORA_ALWAYS ? (float)a->lora_scale : 0;
    }
    rc = case_compare(c, "sigmas", st->schedule.sigma, a->steps + 1, err);
    if (!rc) rc = case_compare(c, "timesteps", st->schedule.timestep, a->steps, err);
    if (!rc) rc = case_compare(c, "gammas", gamma, a->steps, err);
    if (!rc) rc = case_compare(c, "lora_scales", lora, a->steps, err);
    return rc;
}

/* The current latents as the reference has them: FLUX's are token rows, 2 x 2 latents in each,
 * channel by channel. */
static void store_latents(const struct state *st, float *to) {
    const int64_t channels = st->dim[1], h = st->dim[2], w = st->dim[3];
    if (!st->s->args.flux) {
        memcpy(to, st->x, (size_t)(st->images * st->n) * sizeof *to);
        return;
    }
    for (int64_t i = 0; i < st->images; i++)
        for (int64_t r = 0; r < h; r++)
            for (int64_t k = 0; k < w; k++)
                for (int64_t ch = 0; ch < channels; ch++)
                    to[i * st->n + (r / 2 * (w / 2) + k / 2) * channels * 4 + ch * 4 + r % 2 * 2 +
                       k % 2] = st->x[i * st->n + (ch * h + r) * w + k];
}

/* count latents of normals: one draw for all, or one from each image's own generator. */
static void draw(struct state *st, float *out, int count) {
    if (st->s->args.n_seeds == 1) {
        taca_rng_randn(&st->rng[0], out, (size_t)(count * st->n));
        return;
    }
    for (int i = 0; i < count; i++) taca_rng_randn(&st->rng[i], out + i * st->n, (size_t)st->n);
}

/* z0 of each image: encoded, drawn from the posterior, scaled. One generator draws once for all
 * images that were given and repeats them. */
static enum taca_code encode_images(struct verify_case *c, struct state *st, struct taca_err *err) {
    const struct vae_info *v = vae_get_info(c->e->vae);
    int64_t dim[4] = {-1, v->image_channels, st->dim[2] * v->factor, st->dim[3] * v->factor};
    const int64_t n = st->n;
    float *image, *rows, *drawn;
    struct memplan plan = {0};
    if (!v->has_encoder) return taca_fail(err, TACA_EFORMAT, "the vae has no encoder for in.image");
    enum taca_code rc = case_input(c, "in.image", 4, dim, &image, err);
    if (rc) return rc;
    if (dim[0] > st->images || st->images % dim[0])
        return taca_fail(err, TACA_EFORMAT, "in.image: %lld of them for %d images",
                         (long long)dim[0], st->images);
    int given = (int)dim[0], draws = st->s->args.n_seeds == 1 ? given : st->images;
    const int64_t plane = dim[2] * dim[3], pixels = dim[1] * plane;
    rc = case_floats(c, &drawn, draws * n, err);
    if (!rc) rc = case_floats(c, &rows, pixels, err);
    if (!rc) rc = memplan_encode(c->e, st->dim[2], st->dim[3], &plan, err);
    if (!rc) rc = engine_reserve_side(c->e, plan.side_bytes, err);
    if (rc) return rc;
    draw(st, drawn, draws);
    for (int i = 0; i < st->images && !rc; i++) {
        const float *from = image + i % given * pixels;
        const struct taca_chw z = {st->z0 + i * n, st->dim[1], st->dim[2], st->dim[3]};
        for (int64_t k = 0; k < pixels; k++)
            rows[k] = 2 * from[k % dim[1] * plane + k / dim[1]] - 1;
        rc = seq_encode(c->e, z, rows, drawn + i % draws * n, err);
    }
    return rc;
}

static enum taca_code load_mask(struct verify_case *c, struct state *st, struct taca_err *err) {
    const int factor = vae_get_info(c->e->vae)->factor;
    int64_t h = st->dim[2], w = st->dim[3], dim[4] = {1, 1, h * factor, w * factor};
    float *mask;
    enum taca_code rc = case_input(c, "in.mask_image", 4, dim, &mask, err);
    if (!rc) rc = case_floats(c, &st->mask, h * w, err);
    if (rc) return rc;
    const int64_t n = dim[2] * dim[3];
    uint8_t *bytes = malloc((size_t)n);
    if (!bytes) return taca_fail(err, TACA_ENOMEM, "a mask of %lld bytes", (long long)n);
    for (int64_t i = 0; i < n; i++) bytes[i] = mask[i] >= 0.5f ? 255 : 0;
    seq_shrink_mask(st->mask, h, w, factor, bytes);
    free(bytes);
    return TACA_OK;
}

static enum taca_code start(struct verify_case *c, struct state *st, struct taca_err *err) {
    const struct case_args *a = &st->s->args;
    int64_t all = st->images * st->n;
    enum taca_code rc = case_floats(c, &st->x, all, err);
    if (!rc) rc = case_floats(c, &st->noise, all, err);
    if (rc) return rc;
    for (int i = 0; i < a->n_seeds; i++) taca_rng_seed(&st->rng[i], a->seed[i]);
    if (a->task != CASE_TEXT_TO_IMAGE) {
        st->start = taca_first_step(a->steps, a->strength);
        if (st->start >= a->steps)
            return taca_fail(err, TACA_EFORMAT, "strength %g of %d steps leaves none", a->strength,
                             a->steps);
        rc = case_floats(c, &st->z0, all, err);
        if (!rc) rc = encode_images(c, st, err);
        if (!rc && a->task == CASE_INPAINT) rc = load_mask(c, st, err);
        if (rc) return rc;
    }
    draw(st, st->noise, st->images);
    return TACA_OK;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static enum taca_code open_sequences(struct verify_case *c, struct state *st,
                                     struct taca_err *err) {
    const struct case_args *a = &st->s->args;
    const int factor = vae_get_info(c->e->vae)->factor;
    struct taca_gen_params p = {.width_px = (int)st->dim[3] * factor,
                                .height_px = (int)st->dim[2] * factor,
                                .steps = a->steps,
                                .cfg_scale = a->guidance,
                                .guidance_scale = a->embedded,
                                .taca = a->window,
                                .strength = a->strength};
    enum taca_code rc = TACA_OK;
    if (a->lora) p.loras[p.n_loras++] = (struct taca_lora_use){a->lora, a->lora_scale, when(a)};
    for (int i = 0; i < st->images && !rc; i++) {
        const struct seq_start from = {st->noise + i * st->n, st->z0 ? st->z0 + i * st->n : NULL,
                                       st->mask};
        const struct seq_given given = {.cond = &st->s->cond[i],
                                        .uncond = a->guidance > 1 ? &st->s->uncond[i] : NULL,
                                        .rng = &st->rng[0],
                                        .start = &from};
        rc = seq_open_with(c->e, &p, &given, &st->seq[i], err);
    }
    return rc;
}

static enum taca_code compare_start(struct verify_case *c, struct state *st, struct taca_err *err) {
    const int64_t all = st->images * st->n;
    float *init;
    enum taca_code rc = case_floats(c, &init, all, err);
    for (int i = 0; i < st->images && !rc; i++)
        rc = seq_latent_read(c->e, st->seq[i], st->x + i * st->n, err);
    if (rc) return rc;
    store_latents(st, init);
    rc = case_compare(c, "init.noise", st->noise, all, err);
    if (!rc && st->z0) rc = case_compare(c, "init.image_latents", st->z0, all, err);
    if (!rc) rc = case_compare(c, "init.latents", init, all, err);
    return rc;
}

static enum taca_code walk(struct verify_case *c, struct state *st, struct taca_err *err) {
    int64_t all = st->images * st->n;
    int run = st->schedule.steps - st->start;
    float *steps;
    enum taca_code rc = case_floats(c, &steps, run * all, err);
    for (int k = 0; k < run && !rc; k++) {
        rc = taca_step(c->e, st->seq, st->images, err);
        for (int i = 0; i < st->images && !rc; i++)
            rc = seq_latent_read(c->e, st->seq[i], st->x + i * st->n, err);
        store_latents(st, steps + k * all);
    }
    if (!rc) rc = case_compare(c, "steps", steps, run * all, err);
    if (!rc) rc = case_compare(c, "out.latent", steps + (run - 1) * all, all, err);
    return rc;
}

static enum taca_code decode(struct verify_case *c, struct state *st, struct taca_err *err) {
    const struct vae_info *v = vae_get_info(c->e->vae);
    int64_t n = st->images * v->image_channels * st->dim[2] * st->dim[3] * v->factor * v->factor;
    int64_t all = st->images * st->n;
    bool raw = st->s->args.task == CASE_INPAINT && !st->s->args.flux;
    float *image;
    if (!case_has(c, "out.image")) return TACA_OK;
    enum taca_code rc = case_floats(c, &image, n, err);
    if (rc) return rc;
    /* The reference's inpainting with SD3 forgets to add the shift before it decodes; a picture
     * made for people adds it, a comparison must not. */
    for (int64_t i = 0; raw && i < all; i++) st->x[i] /= (float)v->scaling_factor;
    rc = case_decode(c, image, st->x, st->dim, raw, err);
    /* written so that what is not a number stays visible */
    for (int64_t i = 0; i < n; i++) {
        float y = image[i] * 0.5f + 0.5f;
        image[i] = y < 0 ? 0 : y > 1 ? 1 : y;
    }
    return rc ? rc : case_compare(c, "out.image", image, n, err);
}

enum taca_code case_sample(struct verify_case *c, const struct case_sampling *s,
                           struct taca_err *err) {
    struct state st = {.s = s, .images = s->images};
    if (s->args.n_seeds != 1 && s->args.n_seeds != s->images)
        return taca_fail(err, TACA_EFORMAT, "seed: %d of them for %d images", s->args.n_seeds,
                         s->images);
    enum taca_code rc = shape_latents(c, &st, err);
    if (!rc) rc = compare_schedule(c, &st, err);
    if (!rc) rc = start(c, &st, err);
    if (!rc) rc = open_sequences(c, &st, err);
    if (!rc) rc = compare_start(c, &st, err);
    if (!rc) rc = walk(c, &st, err);
    for (int i = 0; i < st.images; i++) taca_seq_close(c->e, st.seq[i]);
    if (!rc) rc = decode(c, &st, err);
    return rc;
}
