/* transformer.c - one forward pass of a transformer against its reference: module sets, and TACA
 * sets with their factors and skipped layers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/verify/case.h"

/* ---- transformer ----------------------------------------------------------------------------- */

/* The inputs of a batch on the device, prepared as a sequence prepares them at admission. FLUX's
 * reference has tokens instead of latents: they become latents one token high, and the places that
 * it gives say where they are. */
struct batch {
    int n;
    struct taca_chw latent, velocity;     /* of the first item; the others follow */
    struct taca_mat context, mod, places; /* [n * T, width], [n, mod_width], of one item */
    int64_t text_rows;
    struct seq_loras loras;
};

static struct taca_chw chw_at(struct taca_chw m, int i) {
    if (m.data) m.data += i * m.c * m.h * m.w;
    return m;
}

/* Scratch for admission and for a forward of all items. */
static enum taca_code reserve(struct verify_case *c, const struct batch *in, struct taca_err *err) {
    struct memplan plan;
    size_t bytes;
    const struct memplan_want want = {in->latent.h, in->latent.w, in->text_rows, 1,
                                      in->n,        &in->loras};
    enum taca_code rc = memplan_run(c->e, &want, &plan, err);
    if (rc) return rc;
    if (!taca_mul(&bytes, plan.step_bytes, (size_t)in->n))
        return taca_fail(err, TACA_ENOMEM, "scratch of %d items", in->n);
    return taca_scratch_reserve(&c->e->scratch, bytes, err);
}

static enum taca_code prepare(struct verify_case *c, struct batch *in, const float *text,
                              const float *pooled, const float *t, const float *guidance,
                              struct taca_err *err) {
    const struct dit_info *d = dit_get_info(c->e->dit);
    int64_t rows = in->n * in->text_rows, joint = d->joint_width, width = d->width;
    float *context, *mod, *text_device, *pooled_device;
    enum taca_code rc = case_upload(c, &context, NULL, rows * width, err);
    if (!rc) rc = case_upload(c, &mod, NULL, in->n * d->mod_width, err);
    if (!rc) rc = case_upload(c, &text_device, text, rows * joint, err);
    if (!rc) rc = case_upload(c, &pooled_device, pooled, in->n * d->pooled_width, err);
    if (!rc) rc = reserve(c, in, err);
    if (rc) return rc;
    in->context = (struct taca_mat){context, TACA_F32, rows, width, width};
    in->mod = (struct taca_mat){mod, TACA_F32, in->n, d->mod_width, d->mod_width};
    struct taca_mat all = {text_device, TACA_F32, rows, joint, joint};
    for (int i = 0; i < in->n; i++) {
        const struct taca_mat row = {pooled_device + i * d->pooled_width, TACA_F32, 1,
                                     d->pooled_width, d->pooled_width};
        const struct dit_condition cond = {
            .t = &t[i], .guidance = guidance ? guidance[i] : 0, .pooled = row};
        dit_context(c->e->dit, c->e->b, &c->e->scratch,
                    taca_mat_rows(in->context, i * in->text_rows, in->text_rows),
                    taca_mat_rows(all, i * in->text_rows, in->text_rows), NULL);
        dit_modulation(c->e->dit, c->e->b, &c->e->scratch, taca_mat_rows(in->mod, i, 1), &cond);
    }
    return taca_sync(c->e->b, err);
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

static enum taca_code load_latents(struct verify_case *c, struct batch *in, int64_t x[4],
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
static enum taca_code load_tokens(struct verify_case *c, struct batch *in, int64_t x[4],
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

/* The places of image rows, then of text rows, which all items share. */
static enum taca_code load_places(struct verify_case *c, struct batch *in, struct taca_err *err) {
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

static enum taca_code load_batch(struct verify_case *c, struct batch *in, struct taca_err *err) {
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
    return rc ? rc : prepare(c, in, text, pooled, t, guidance, err);
}

/* The velocities as the reference has them, in host memory. */
static enum taca_code read_velocities(struct verify_case *c, const struct batch *in, float *got,
                                      struct taca_err *err) {
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

/* One forward of the whole batch under gamma, compared with `output`. */
static enum taca_code run_batch(struct verify_case *c, const struct batch *in, float gamma,
                                const bool *skip, const char *output, struct taca_err *err) {
    int64_t n = in->n * in->latent.c * in->latent.h * in->latent.w;
    struct dit_item *items = calloc((size_t)in->n, sizeof *items);
    struct taca_seg *segs = calloc((size_t)in->n, sizeof *segs);
    float *got = calloc((size_t)n, sizeof *got);
    struct taca_layout layout = {0};
    enum taca_code rc = TACA_OK;
    if (!items || !segs || !got) {
        rc = taca_fail(err, TACA_ENOMEM, "a forward of %d items", in->n);
        goto out;
    }
    for (int i = 0; i < in->n; i++)
        items[i] = (struct dit_item){
            .latent = chw_at(in->latent, i),
            .velocity = chw_at(in->velocity, i),
            .context = taca_mat_rows(in->context, i * in->text_rows, in->text_rows),
            .places = in->places,
            .mod = taca_mat_rows(in->mod, i, 1),
            .gamma = gamma};
    dit_segments(c->e->dit, items, in->n, segs);
    rc = taca_layout_init(&layout, c->e->b, segs, in->n, err);
    if (rc) goto out;
    dit_run(
        c->e->dit, c->e->b, &c->e->scratch,
        &(struct dit_forward){.items = items, .n_items = in->n, .layout = &layout, .skip = skip});
    rc = read_velocities(c, in, got, err);
    taca_layout_finish(&layout);
    if (!rc) rc = case_compare(c, output, got, n, err);
out:
    free(items);
    free(segs);
    free(got);
    return rc;
}

/* The blocks that `list` (of `key`) names; *skip is NULL when it names none. Free it. */
static enum taca_code skip_list(const struct verify_case *c, const json_t *json, const char *key,
                                bool **skip, struct taca_err *err) {
    enum { MAX_SKIPPED = 256 };
    int64_t layer[MAX_SKIPPED], depth = dit_get_info(c->e->dit)->depth;
    int n;
    *skip = NULL;
    enum taca_code rc = taca_cfg_ints(json, key, layer, MAX_SKIPPED, &n, err);
    if (rc || n == 0) return rc;
    bool *on = calloc((size_t)depth, sizeof *on);
    if (!on) return taca_fail(err, TACA_ENOMEM, "%s", key);
    for (int i = 0; i < n && !rc; i++) {
        if (layer[i] < 0 || layer[i] >= depth)
            rc = taca_fail(err, TACA_EFORMAT, "%s has layer %lld, wanted 0..%lld", key,
                           (long long)layer[i], (long long)depth - 1);
        else
            on[layer[i]] = true;
    }
    if (rc)
        free(on);
    else
        *skip = on;
    return rc;
}

/* ---- sets ------------------------------------------------------------------------------------ */

static enum taca_code compare_transformer(struct verify_case *c, const json_t *config,
                                          struct taca_err *err) {
    struct batch in = {0};
    bool *skip = NULL;
    enum taca_code rc = load_batch(c, &in, err);
    if (!rc && case_has(c, "out")) rc = run_batch(c, &in, 1, NULL, "out", err);
    if (!rc) rc = skip_list(c, config, "skip_layers_case", &skip, err);
    if (!rc && skip) rc = run_batch(c, &in, 1, skip, "out.skip_layers", err);
    free(skip);
    return rc;
}

enum taca_code verify_model_set(struct verify_case *c, struct taca_err *err) {
    enum set_type type;
    json_t *config = NULL;
    enum taca_code rc = set_open(c, c->name, &type, &config, err);
    if (!rc) rc = type == SET_VAE ? verify_vae(c, err) : compare_transformer(c, config, err);
    json_decref(config);
    return rc;
}

enum taca_code verify_taca_set(struct verify_case *c, struct taca_err *err) {
    const char *model = json_string_value(json_object_get(c->entry, "model"));
    const json_t *gammas = json_object_get(c->entry, "gammas"), *g;
    struct batch in = {0};
    enum set_type type;
    bool *skip = NULL;
    size_t i;
    if (!model || json_array_size(gammas) == 0)
        return taca_fail(err, TACA_EFORMAT, "%s.json: wanted a \"model\" and an array \"gammas\"",
                         c->name);
    enum taca_code rc = set_open(c, model, &type, NULL, err);
    if (!rc && type == SET_VAE)
        rc = taca_fail(err, TACA_EFORMAT, "%s.json: model %s is no transformer", c->name, model);
    if (!rc) rc = load_batch(c, &in, err);
    if (!rc) rc = skip_list(c, c->entry, "skip_layers", &skip, err);
    json_array_foreach(gammas, i, g) {
        double gamma = json_number_value(g);
        char output[64];
        if (!rc && (!json_is_number(g) || !(gamma >= 0 && gamma <= 1000)))
            rc = taca_fail(err, TACA_EFORMAT, "%s.json: gammas[%zu] is not a number in 0..1000",
                           c->name, i);
        snprintf(output, sizeof output, "out.gamma_%g", gamma);
        if (!rc && case_has(c, output)) rc = run_batch(c, &in, (float)gamma, NULL, output, err);
        snprintf(output, sizeof output, "out.skip_layers.gamma_%g", gamma);
        if (!rc && skip && case_has(c, output))
            rc = run_batch(c, &in, (float)gamma, skip, output, err);
    }
    free(skip);
    return rc;
}
