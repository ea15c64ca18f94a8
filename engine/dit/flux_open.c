/* flux_open.c - a FLUX.1 checkpoint (dev, schnell, Krea) to a struct dit: structure from the
 * config, weights by their diffusers names, and an error for whatever the two disagree on. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "engine/dit/load.h"

enum {
    PATCH = 2,        /* the pipeline packs 2 x 2 latents into a token; the config says 1 */
    MAX_PATCHES = 256 /* rotary places have no end: as large as pictures get */
};

/* A transformer/config.json; absent fields have the reference's defaults. */
struct config {
    int64_t token_channels, out_channels;
    int64_t depth, singles, heads, head_dim, width;
    int64_t joint_width, pooled_width;
    int64_t axis[DIT_AXES];
    bool guidance_embeds;
};

/* ---- config ---------------------------------------------------------------------------------- */

static enum taca_code read_axes(struct config *c, const json_t *json, struct taca_err *err) {
    static const char key[] = "axes_dims_rope";
    static const int64_t usual[DIT_AXES] = {16, 56, 56};
    int64_t sum = 0;
    int n;
    enum taca_code rc = taca_cfg_ints(json, key, c->axis, DIT_AXES, &n, err);
    if (rc) return rc;
    if (n == 0)
        for (; n < DIT_AXES; n++) c->axis[n] = usual[n];
    if (n != DIT_AXES)
        return taca_fail(err, TACA_EFORMAT, "%s has %d numbers, wanted %d", key, n, DIT_AXES);
    for (int i = 0; i < DIT_AXES; i++) {
        if (c->axis[i] < 0 || c->axis[i] > c->head_dim || c->axis[i] % 2)
            return taca_fail(err, TACA_EFORMAT,
                             "%s has %" PRId64 ", wanted even numbers of 0..%" PRId64, key,
                             c->axis[i], c->head_dim);
        sum += c->axis[i];
    }
    if (sum != c->head_dim)
        return taca_fail(err, TACA_EFORMAT,
                         "%s sums to %" PRId64 ", wanted attention_head_dim = %" PRId64, key, sum,
                         c->head_dim);
    return TACA_OK;
}

/* The variants that take more than the latent share the class and differ in these two. */
static enum taca_code check_channels(const struct config *c, struct taca_err *err) {
    if (c->token_channels % (PATCH * PATCH))
        return taca_fail(err, TACA_EFORMAT, "in_channels is %" PRId64 ", wanted a multiple of %d",
                         c->token_channels, PATCH * PATCH);
    if (c->out_channels == c->token_channels) return TACA_OK;
    return taca_fail(err, TACA_EUNSUPPORTED,
                     "in_channels is %" PRId64 ", out_channels %" PRId64
                     ": this is a FLUX.1 that is given pictures (Fill, Canny, Depth), wanted one "
                     "from text alone (dev, schnell, Krea)",
                     c->token_channels, c->out_channels);
}

static enum taca_code read_config(struct config *c, const json_t *json, struct taca_err *err) {
    int64_t patch;
    const struct {
        const char *key;
        int64_t fallback, max;
        int64_t *out;
    } field[] = {
        {"patch_size", 1, 1, &patch},
        {"in_channels", 64, 4096, &c->token_channels},
        {"num_layers", 19, DIT_MAX_DEPTH, &c->depth},
        {"num_single_layers", 38, DIT_MAX_DEPTH, &c->singles},
        {"num_attention_heads", 24, 1024, &c->heads},
        {"attention_head_dim", 128, 1024, &c->head_dim},
        {"joint_attention_dim", 4096, 65536, &c->joint_width},
        {"pooled_projection_dim", 768, 65536, &c->pooled_width},
    };
    enum taca_code rc = TACA_OK;
    for (size_t i = 0; i < sizeof field / sizeof *field && !rc; i++)
        rc =
            taca_cfg_int(json, field[i].key, field[i].fallback, 1, field[i].max, field[i].out, err);
    if (!rc)
        rc = taca_cfg_int(json, "out_channels", c->token_channels, 1, 4096, &c->out_channels, err);
    if (!rc) rc = taca_cfg_bool(json, "guidance_embeds", false, &c->guidance_embeds, err);
    if (!rc) rc = read_axes(c, json, err);
    if (!rc) rc = check_channels(c, err);
    c->width = c->heads * c->head_dim;
    return rc;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* The six ranges of one stream of a joint block, of which the first begins at `at`. */
static void place_stream(struct dit_attn *a, struct dit_mlp *m, int64_t at, int64_t d) {
    a->shift = at, a->scale = at + d, a->gate = at + 2 * d;
    m->shift = at + 3 * d, m->scale = at + 4 * d, m->gate = at + 5 * d;
}

/* Both return the end of the block's modulations, which begin at `at`. */
static int64_t load_block(struct dit_loader *l, struct dit_block *w, int64_t i, int64_t at) {
    static const char *const img[] = {"attn.to_q", "attn.to_k", "attn.to_v"};
    static const char *const txt[] = {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"};
    static const char *const mod[] = {"norm1.linear", "norm1_context.linear"};
    const int64_t d = l->width, six = 6 * d;
    dit_load_prefix(l, "transformer_blocks", i);
    w->img = (struct dit_attn){.qkv = dit_load_qkv(l, img),
                               .norm_q = dit_load_gain(l, "attn.norm_q"),
                               .norm_k = dit_load_gain(l, "attn.norm_k"),
                               .out = dit_load_linear(l, "attn.to_out.0", d, d)};
    w->txt = (struct dit_attn){.qkv = dit_load_qkv(l, txt),
                               .norm_q = dit_load_gain(l, "attn.norm_added_q"),
                               .norm_k = dit_load_gain(l, "attn.norm_added_k"),
                               .out = dit_load_linear(l, "attn.to_add_out", d, d)};
    dit_load_mlp(l, &w->img_mlp, "ff.net.0.proj", "ff.net.2");
    dit_load_mlp(l, &w->txt_mlp, "ff_context.net.0.proj", "ff_context.net.2");
    place_stream(&w->img, &w->img_mlp, at, d);
    place_stream(&w->txt, &w->txt_mlp, at + six, d);
    w->mod.at = at;
    w->mod.w = dit_load_mod(l, mod, 2, (int64_t[]){six, six});
    dit_load_prefix(l, NULL, 0);
    return at + 2 * six;
}

static int64_t load_single(struct dit_loader *l, struct dit_single *w, int64_t i, int64_t at) {
    static const char *const qkv[] = {"attn.to_q", "attn.to_k", "attn.to_v"};
    static const char *const mod[] = {"norm.linear"};
    const int64_t d = l->width, three = 3 * d;
    dit_load_prefix(l, "single_transformer_blocks", i);
    w->attn = (struct dit_attn){.qkv = dit_load_qkv(l, qkv),
                                .norm_q = dit_load_gain(l, "attn.norm_q"),
                                .norm_k = dit_load_gain(l, "attn.norm_k"),
                                .shift = at,
                                .scale = at + d,
                                .gate = at + 2 * d};
    w->up = dit_load_linear(l, "proj_mlp", 4 * d, d);
    w->down = dit_load_linear(l, "proj_out", d, 5 * d);
    w->mod.at = at;
    w->mod.w = dit_load_mod(l, mod, 1, &three);
    dit_load_prefix(l, NULL, 0);
    return at + 3 * d;
}

static void load_embedders(struct dit_loader *l, struct dit *d) {
    static const char guidance[] = "time_text_embed.guidance_embedder";
    dit_load_embedder(l, &d->time, "time_text_embed.timestep_embedder", DIT_TIME_FEATURES);
    dit_load_embedder(l, &d->pooled, "time_text_embed.text_embedder", d->info.pooled_width);
    if (d->info.guidance_embeds)
        dit_load_embedder(l, &d->guidance, guidance, DIT_TIME_FEATURES);
    else
        dit_load_refuse(l, "time_text_embed.guidance_embedder.linear_1.weight",
                        "guidance_embeds is false");
}

static void load(struct dit_loader *l, struct dit *d, const struct config *c) {
    const int64_t width = c->width;
    int64_t at = 0;
    dit_load_end(l, "transformer_blocks", "num_layers", c->depth);
    dit_load_end(l, "single_transformer_blocks", "num_single_layers", c->singles);
    d->patch = dit_load_linear(l, "x_embedder", width, c->token_channels);
    d->context = dit_load_linear(l, "context_embedder", width, c->joint_width);
    load_embedders(l, d);
    for (int64_t i = 0; i < c->depth && !l->rc; i++) at = load_block(l, &d->blocks[i], i, at);
    for (int64_t i = 0; i < c->singles && !l->rc; i++) at = load_single(l, &d->singles[i], i, at);
    dit_load_final(l, d, at);
    d->proj = dit_load_linear(l, "proj_out", c->token_channels, width);
    d->out_order = TACA_PATCH_CHANNEL_MAJOR;
}

static void fill_info(struct dit_info *info, const struct config *c) {
    *info = (struct dit_info){.kind = DIT_FLUX,
                              .in_channels = c->token_channels / (PATCH * PATCH),
                              .patch = PATCH,
                              .width = c->width,
                              .heads = c->heads,
                              .depth = c->depth,
                              .singles = c->singles,
                              .joint_width = c->joint_width,
                              .pooled_width = c->pooled_width,
                              .max_patches = MAX_PATCHES,
                              .place_width = c->head_dim,
                              .guidance_embeds = c->guidance_embeds};
    snprintf(info->family, sizeof info->family, "%s",
             c->guidance_embeds ? "flux-dev" : "flux-schnell");
}

enum taca_code dit_flux_open(struct dit **out, struct taca_backend *b, const json_t *json,
                             struct taca_ckpt *ckpt, struct taca_err *err) {
    struct config c = {0};
    struct dit *d = NULL;
    enum taca_code rc = read_config(&c, json, err);
    if (!rc) rc = dit_alloc(&d, c.depth, c.singles, err);
    if (rc) return rc;
    fill_info(&d->info, &c);
    d->attn = (struct taca_attn){.heads = (int)c.heads,
                                 .scale = (float)(1.0 / sqrt((double)c.head_dim)),
                                 .mask = TACA_MASK_NONE};
    for (int i = 0; i < DIT_AXES; i++) d->axis[i] = c.axis[i];
    struct dit_loader l = {b, ckpt, err, TACA_OK, c.width, c.head_dim, ""};
    load(&l, d, &c);
    if (l.rc)
        dit_close(d);
    else
        *out = d;
    return l.rc;
}
