/* batch.c - the inputs of one forward pass as reference tensors, and the pass itself. */
#include <stdlib.h>

#include "engine/verify/case.h"

static struct taca_chw chw_at(struct taca_chw m, int i) {
    if (m.data) m.data += i * m.c * m.h * m.w;
    return m;
}

/* Scratch for admission and for a forward of all items. */
static enum taca_code reserve(struct verify_case *c, const struct case_batch *in,
                              struct taca_err *err) {
    struct memplan plan;
    size_t bytes;
    const struct memplan_want want = {.h = in->latent.h,
                                      .w = in->latent.w,
                                      .text_rows = in->text_rows,
                                      .n_branches = 1,
                                      .steps = in->n,
                                      .loras = &in->loras,
                                      .control = in->control.c > 0};
    enum taca_code rc = memplan_run(c->e, &want, &plan, err);
    if (rc) return rc;
    if (!taca_mul(&bytes, plan.step_bytes, (size_t)in->n))
        return taca_fail(err, TACA_ENOMEM, "scratch of %d items", in->n);
    return taca_scratch_reserve(&c->e->scratch, bytes, err);
}

enum taca_code case_batch_prepare(struct verify_case *c, const struct case_batch *in,
                                  struct taca_err *err) {
    struct lora_set set;
    const struct dit_loras *loras = seq_loras_on(&in->loras, true, &set);
    enum taca_code rc = reserve(c, in, err);
    if (rc) return rc;
    for (int i = 0; i < in->n; i++) {
        const struct dit_condition cond = {.t = &in->t[i],
                                           .guidance = in->guidance ? in->guidance[i] : 0,
                                           .pooled = taca_mat_rows(in->pooled, i, 1),
                                           .loras = *loras};
        dit_context(c->e->dit, c->e->b, &c->e->scratch,
                    taca_mat_rows(in->context, i * in->text_rows, in->text_rows),
                    taca_mat_rows(in->text, i * in->text_rows, in->text_rows), loras);
        dit_modulation(c->e->dit, c->e->b, &c->e->scratch, taca_mat_rows(in->mod, i, 1), &cond);
    }
    return taca_sync(c->e->b, err);
}

static enum taca_code upload_mat(struct verify_case *c, struct taca_mat *out, const float *host,
                                 int64_t rows, int64_t cols, struct taca_err *err) {
    float *device;
    enum taca_code rc = case_upload(c, &device, host, rows * cols, err);
    if (!rc) *out = (struct taca_mat){device, TACA_F32, rows, cols, cols};
    return rc;
}

/* Token rows [n, 4 c] to latents [c, 2, 2 n] of the device, and back. */
static void tokens_to_latents(struct verify_case *c, struct taca_chw to, const float *from,
                              int64_t rows) {
    const struct taca_mat x = {(void *)(uintptr_t)from, TACA_F32, rows, to.c * 4, to.c * 4};
    taca_unpatchify(c->e->b, to, x, 2, TACA_PATCH_CHANNEL_MAJOR);
}
static void latents_to_tokens(struct verify_case *c, float *to, struct taca_chw from,
                              int64_t rows) {
    const struct taca_mat y = {to, TACA_F32, rows, from.c * 4, from.c * 4};
    taca_patchify(c->e->b, y, from, 2, TACA_PATCH_CHANNEL_MAJOR);
}

static enum taca_code load_latents(struct verify_case *c, struct case_batch *in, int64_t x[4],
                                   struct taca_err *err) {
    const struct dit_info *d = dit_get_info(c->e->dit);
    float *host;
    x[1] = d->in_channels;
    enum taca_code rc = case_input(c, "in.hidden_states", 4, x, &host, err);
    if (rc) return rc;
    if (x[2] % d->patch || x[3] % d->patch || x[2] / d->patch > d->max_patches ||
        x[3] / d->patch > d->max_patches)
        return taca_fail(err, TACA_EFORMAT,
                         "in.hidden_states: %lld x %lld latents, wanted multiples of %d up to %lld",
                         (long long)x[2], (long long)x[3], d->patch,
                         (long long)(d->max_patches * d->patch));
    in->latent = (struct taca_chw){NULL, x[1], x[2], x[3]};
    return case_upload(c, &in->latent.data, host, x[0] * x[1] * x[2] * x[3], err);
}

/* x gets [n, c, h, w] of the latents that the tokens become. */
static enum taca_code load_tokens(struct verify_case *c, struct case_batch *in, int64_t x[4],
                                  struct taca_err *err) {
    const struct dit_info *d = dit_get_info(c->e->dit);
    const int64_t width = d->in_channels * 4;
    int64_t dim[3] = {-1, -1, width};
    float *host, *device;
    enum taca_code rc = case_input(c, "in.hidden_states", 3, dim, &host, err);
    if (rc) return rc;
    const int64_t rows = dim[1], n = dim[0] * rows * width;
    x[0] = dim[0], x[1] = d->in_channels, x[2] = 2, x[3] = 2 * rows;
    in->latent = (struct taca_chw){NULL, x[1], x[2], x[3]};
    rc = case_upload(c, &device, host, n, err);
    if (!rc) rc = case_upload(c, &in->latent.data, NULL, n, err);
    for (int64_t i = 0; i < dim[0] && !rc; i++)
        tokens_to_latents(c, chw_at(in->latent, (int)i), device + i * rows * width, rows);
    return rc;
}

enum taca_code case_batch_control(struct verify_case *c, struct case_batch *in,
                                  struct taca_err *err) {
    const int64_t rows = in->latent.w / 2, width = in->latent.c * 4, n = in->n * rows * width;
    int64_t dim[3] = {in->n, rows, 2 * width};
    float *host, *device, *latent, *control;
    if (dit_get_info(c->e->dit)->kind != DIT_FLUX)
        return taca_fail(err, TACA_EUNSUPPORTED, "control latents are of FLUX alone");
    enum taca_code rc = case_input(c, "in.hidden_states.control", 3, dim, &host, err);
    if (!rc) rc = case_upload(c, &device, host, 2 * n, err);
    if (!rc) rc = case_upload(c, &latent, NULL, n, err);
    if (!rc) rc = case_upload(c, &control, NULL, n, err);
    if (rc) return rc;
    in->control = in->latent;
    in->latent.data = latent;
    in->control.data = control;
    for (int i = 0; i < in->n; i++) {
        const struct taca_mat x = {device + i * 2 * rows * width, TACA_F32, rows, 2 * width,
                                   2 * width};
        taca_unpatchify(c->e->b, chw_at(in->latent, i), taca_mat_cols(x, 0, width), 2,
                        TACA_PATCH_CHANNEL_MAJOR);
        taca_unpatchify(c->e->b, chw_at(in->control, i), taca_mat_cols(x, width, width), 2,
                        TACA_PATCH_CHANNEL_MAJOR);
    }
    return taca_sync(c->e->b, err);
}

/* The places of image rows, then of text rows, which all items share. */
static enum taca_code load_places(struct verify_case *c, struct case_batch *in,
                                  struct taca_err *err) {
    const int64_t width = dit_get_info(c->e->dit)->place_width, rows = in->latent.w / 2;
    int64_t img[2] = {rows, 3}, txt[2] = {in->text_rows, 3};
    float *at_img, *at_txt, *table, *device;
    enum taca_code rc = case_input(c, "in.img_ids", 2, img, &at_img, err);
    if (!rc) rc = case_input(c, "in.txt_ids", 2, txt, &at_txt, err);
    if (!rc) rc = case_floats(c, &table, (rows + in->text_rows) * width, err);
    if (rc) return rc;
    dit_places_at(c->e->dit, table, at_img, rows);
    dit_places_at(c->e->dit, table + rows * width, at_txt, in->text_rows);
    rc = case_upload(c, &device, table, (rows + in->text_rows) * width, err);
    in->places = (struct taca_mat){device, TACA_F32, rows + in->text_rows, width, width};
    return rc;
}

enum taca_code case_batch_load(struct verify_case *c, struct case_batch *in, struct taca_err *err) {
    const struct dit_info *d = dit_get_info(c->e->dit);
    const bool flux = d->kind == DIT_FLUX;
    int64_t x[4] = {-1, -1, -1, -1};
    float *text, *pooled, *t, *guidance = NULL;
    enum taca_code rc = flux ? load_tokens(c, in, x, err) : load_latents(c, in, x, err);
    if (rc) return rc;
    int64_t enc[3] = {x[0], -1, d->joint_width}, pool[2] = {x[0], d->pooled_width};
    int64_t each[1] = {x[0]};
    rc = case_input(c, "in.encoder_hidden_states", 3, enc, &text, err);
    if (!rc) rc = case_input(c, "in.pooled_projections", 2, pool, &pooled, err);
    if (!rc) rc = case_input(c, "in.timestep", 1, each, &t, err);
    if (!rc && d->guidance_embeds) rc = case_input(c, "in.guidance", 1, each, &guidance, err);
    if (rc) return rc;
    if (x[0] > TACA_MAX_STEPS)
        return taca_fail(err, TACA_EUNSUPPORTED, "in.hidden_states: a batch of %lld, at most %d",
                         (long long)x[0], TACA_MAX_STEPS);
    for (int64_t i = 0; flux && i < x[0]; i++) t[i] *= 1000; /* given as a noise level */
    in->n = (int)x[0];
    in->text_rows = enc[1];
    in->velocity = in->latent;
    rc = case_upload(c, &in->velocity.data, NULL, x[0] * x[1] * x[2] * x[3], err);
    if (!rc && flux) rc = load_places(c, in, err);
    in->t = t;
    in->guidance = guidance;
    const int64_t rows = in->n * in->text_rows;
    if (!rc) rc = upload_mat(c, &in->text, text, rows, d->joint_width, err);
    if (!rc) rc = upload_mat(c, &in->pooled, pooled, in->n, d->pooled_width, err);
    if (!rc) rc = upload_mat(c, &in->context, NULL, rows, d->width, err);
    if (!rc) rc = upload_mat(c, &in->mod, NULL, in->n, d->mod_width, err);
    return rc ? rc : case_batch_prepare(c, in, err);
}

/* The velocities as the reference has them, in host memory. */
static enum taca_code read_velocities(struct verify_case *c, const struct case_batch *in,
                                      float *got, struct taca_err *err) {
    const int64_t one = in->latent.c * in->latent.h * in->latent.w, rows = in->latent.w / 2;
    const float *from = in->velocity.data;
    float *tokens;
    enum taca_code rc = TACA_OK;
    if (dit_get_info(c->e->dit)->kind == DIT_FLUX) {
        rc = case_upload(c, &tokens, NULL, in->n * one, err);
        for (int i = 0; i < in->n && !rc; i++)
            latents_to_tokens(c, tokens + i * one, chw_at(in->velocity, i), rows);
        from = tokens;
    }
    if (!rc) taca_download(c->e->b, got, from, (size_t)(in->n * one) * sizeof *got);
    return rc ? rc : taca_sync(c->e->b, err);
}

/* The adapters of a forward: every item has them all. gate [loras, items]. */
static struct dit_loras gates_of(const struct case_batch *in, struct dit_lora *list, float *gate) {
    for (int k = 0; k < in->loras.n; k++) {
        list[k] = (struct dit_lora){in->loras.list[k].lora->adapter, gate + k * in->n};
        for (int i = 0; i < in->n; i++) gate[k * in->n + i] = in->loras.list[k].scale;
    }
    return (struct dit_loras){list, in->loras.n};
}

enum taca_code case_batch_run(struct verify_case *c, const struct case_batch *in, float gamma,
                              const bool *skip, const char *output, struct taca_err *err) {
    int64_t n = in->n * in->latent.c * in->latent.h * in->latent.w;
    struct dit_item *items = calloc((size_t)in->n, sizeof *items);
    struct taca_seg *segs = calloc((size_t)in->n, sizeof *segs);
    float *gate = calloc((size_t)in->n, TACA_MAX_LORAS * sizeof *gate);
    struct dit_lora loras[TACA_MAX_LORAS];
    float *got = calloc((size_t)n, sizeof *got);
    struct taca_layout layout = {0};
    enum taca_code rc = TACA_OK;
    if (!items || !segs || !gate || !got) {
        rc = taca_fail(err, TACA_ENOMEM, "a forward of %d items", in->n);
        goto out;
    }
    for (int i = 0; i < in->n; i++)
        items[i] = (struct dit_item){
            .latent = chw_at(in->latent, i),
            .velocity = chw_at(in->velocity, i),
            .control = chw_at(in->control, i),
            .context = taca_mat_rows(in->context, i * in->text_rows, in->text_rows),
            .places = in->places,
            .mod = taca_mat_rows(in->mod, i, 1),
            .gamma = gamma};
    dit_segments(c->e->dit, items, in->n, segs);
    rc = taca_layout_init(&layout, c->e->b, segs, in->n, err);
    if (rc) goto out;
    dit_run(c->e->dit, c->e->b, &c->e->scratch,
            &(struct dit_forward){.items = items,
                                  .n_items = in->n,
                                  .layout = &layout,
                                  .loras = gates_of(in, loras, gate),
                                  .skip = skip});
    rc = read_velocities(c, in, got, err);
    taca_layout_finish(&layout);
    if (!rc) rc = case_compare(c, output, got, n, err);
out:
    free(items);
    free(segs);
    free(gate);
    free(got);
    return rc;
}
