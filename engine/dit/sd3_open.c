/* sd3_open.c - an SD3 checkpoint to a struct dit: structure from the config, weights by their
 * diffusers names, and an error for whatever the two disagree on. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/dit/load.h"
#include "engine/dit/model.h"

/* A transformer/config.json; absent fields have the reference's defaults. */
struct config {
    int64_t sample_size, patch, in_channels, out_channels;
    int64_t depth, heads, head_dim, width;
    int64_t joint_width, pooled_width, side;
    bool qk_norm;
    bool dual[DIT_MAX_DEPTH];
};

/* ---- config ---------------------------------------------------------------------------------- */

static enum taca_code read_dual(struct config *c, const json_t *json, struct taca_err *err) {
    int64_t layer[DIT_MAX_DEPTH];
    int n;
    enum taca_code rc = taca_cfg_ints(json, "dual_attention_layers", layer, DIT_MAX_DEPTH, &n, err);
    if (rc) return rc;
    for (int i = 0; i < n; i++) {
        if (layer[i] < 0 || layer[i] >= c->depth)
            return taca_fail(err, TACA_EFORMAT,
                             "dual_attention_layers has %" PRId64 ", wanted 0..%" PRId64, layer[i],
                             c->depth - 1);
        c->dual[layer[i]] = true;
    }
    return TACA_OK;
}

static enum taca_code read_qk_norm(struct config *c, const json_t *json, struct taca_err *err) {
    const char *norm;
    enum taca_code rc = taca_cfg_string(json, "qk_norm", NULL, &norm, err);
    if (rc) return rc;
    if (norm && strcmp(norm, "rms_norm") != 0)
        return taca_fail(err, TACA_EUNSUPPORTED, "qk_norm is \"%s\", wanted \"rms_norm\" or null",
                         norm);
    c->qk_norm = norm != NULL;
    return TACA_OK;
}

static enum taca_code read_config(struct config *c, const json_t *json, struct taca_err *err) {
    const struct {
        const char *key;
        int64_t fallback, max;
        int64_t *out;
    } field[] = {
        {"sample_size", 128, 8192, &c->sample_size},
        {"patch_size", 2, 16, &c->patch},
        {"in_channels", 16, 1024, &c->in_channels},
        {"num_layers", 18, DIT_MAX_DEPTH, &c->depth},
        {"num_attention_heads", 18, 1024, &c->heads},
        {"attention_head_dim", 64, 1024, &c->head_dim},
        {"joint_attention_dim", 4096, 65536, &c->joint_width},
        {"caption_projection_dim", 1152, 1048576, &c->width},
        {"pooled_projection_dim", 2048, 65536, &c->pooled_width},
        {"pos_embed_max_size", 96, 4096, &c->side},
    };
    enum taca_code rc = TACA_OK;
    for (size_t i = 0; i < sizeof field / sizeof *field && !rc; i++)
        rc =
            taca_cfg_int(json, field[i].key, field[i].fallback, 1, field[i].max, field[i].out, err);
    /* the reference's own default is 16, whatever in_channels is; only null means "the same" */
    const json_t *out_channels = json_object_get(json, "out_channels");
    if (!rc)
        rc = taca_cfg_int(json, "out_channels", out_channels ? c->in_channels : 16, 1, 1024,
                          &c->out_channels, err);
    if (!rc) rc = read_dual(c, json, err);
    if (!rc) rc = read_qk_norm(c, json, err);
    if (rc) return rc;
    if (c->width != c->heads * c->head_dim)
        return taca_fail(err, TACA_EFORMAT,
                         "caption_projection_dim is %" PRId64 ", wanted num_attention_heads * "
                         "attention_head_dim = %" PRId64,
                         c->width, c->heads * c->head_dim);
    if (c->out_channels != c->in_channels)
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "out_channels is %" PRId64 ", wanted in_channels = %" PRId64,
                         c->out_channels, c->in_channels);
    return TACA_OK;
}

/* ---- weights --------------------------------------------------------------------------------- */

struct loader {
    struct dit_loader l;
    const struct config *c;
};

/* Without qk norm in the config there must be none in the file. */
static struct taca_vec head_gain(struct loader *l, const char *name) {
    char tensor[64];
    if (l->c->qk_norm) return dit_load_gain(&l->l, name);
    snprintf(tensor, sizeof tensor, "%s.weight", name);
    dit_load_refuse(&l->l, tensor, "the config has no qk_norm");
    return (struct taca_vec){0};
}

static void load_dual(struct loader *l, struct dit_block *w, int64_t i) {
    static const char *const qkv[] = {"attn2.to_q", "attn2.to_k", "attn2.to_v"};
    if (l->c->dual[i])
        w->dual = (struct dit_attn){
            .qkv = dit_load_qkv(&l->l, qkv),
            .norm_q = head_gain(l, "attn2.norm_q"),
            .norm_k = head_gain(l, "attn2.norm_k"),
            .out = dit_load_linear(&l->l, "attn2.to_out.0", l->l.width, l->l.width)};
    else
        dit_load_refuse(&l->l, "attn2.to_q.weight", "%" PRId64 " is not in dual_attention_layers",
                        i);
}

/* Where the ranges of a block begin in a row of modulations that is filled up to `at`; sets the
 * widths of the image and the text projection. The halves of the two-part projections come as
 * scale, shift; everywhere else shift comes first. */
static void place_block(struct dit_block *w, int64_t at, int64_t d, int64_t widths[2]) {
    w->mod.at = at;
    w->img.shift = at, w->img.scale = at + d, w->img.gate = at + 2 * d;
    w->img_mlp.shift = at + 3 * d, w->img_mlp.scale = at + 4 * d, w->img_mlp.gate = at + 5 * d;
    widths[0] = 6 * d;
    if (w->dual.qkv) {
        w->dual.shift = at + 6 * d, w->dual.scale = at + 7 * d, w->dual.gate = at + 8 * d;
        widths[0] = 9 * d;
    }
    at += widths[0];
    if (!w->txt.out) {
        w->txt.scale = at, w->txt.shift = at + d;
        widths[1] = 2 * d;
        return;
    }
    w->txt.shift = at, w->txt.scale = at + d, w->txt.gate = at + 2 * d;
    w->txt_mlp.shift = at + 3 * d, w->txt_mlp.scale = at + 4 * d, w->txt_mlp.gate = at + 5 * d;
    widths[1] = 6 * d;
}

/* Returns the end of the block's modulations, which begin at `at`. */
static int64_t load_block(struct loader *l, struct dit_block *w, int64_t i, int64_t at) {
    static const char *const img[] = {"attn.to_q", "attn.to_k", "attn.to_v"};
    static const char *const txt[] = {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"};
    static const char *const mod[] = {"norm1.linear", "norm1_context.linear"};
    const int64_t d = l->c->width;
    int64_t widths[2];
    dit_load_prefix(&l->l, "transformer_blocks", i);
    w->img = (struct dit_attn){.qkv = dit_load_qkv(&l->l, img),
                               .norm_q = head_gain(l, "attn.norm_q"),
                               .norm_k = head_gain(l, "attn.norm_k"),
                               .out = dit_load_linear(&l->l, "attn.to_out.0", d, d)};
    w->txt = (struct dit_attn){.qkv = dit_load_qkv(&l->l, txt),
                               .norm_q = head_gain(l, "attn.norm_added_q"),
                               .norm_k = head_gain(l, "attn.norm_added_k")};
    dit_load_mlp(&l->l, &w->img_mlp, "ff.net.0.proj", "ff.net.2");
    if (i + 1 < l->c->depth) { /* nobody reads the text after the last block */
        w->txt.out = dit_load_linear(&l->l, "attn.to_add_out", d, d);
        dit_load_mlp(&l->l, &w->txt_mlp, "ff_context.net.0.proj", "ff_context.net.2");
    }
    load_dual(l, w, i);
    place_block(w, at, d, widths);
    w->mod.w = dit_load_mod(&l->l, mod, 2, widths);
    dit_load_prefix(&l->l, NULL, 0);
    return at + widths[0] + widths[1];
}

/* ---- patches and their places ---------------------------------------------------------------- */

void dit_sd3_position(float *table, int64_t side, int64_t base, int64_t d) {
    const int64_t quarter = d / 4;
    const float step = (float)((double)side / (double)base);
    for (int64_t r = 0; r < side; r++)
        for (int64_t c = 0; c < side; c++) {
            float *e = table + (r * side + c) * d;
            for (int64_t j = 0; j < quarter; j++) {
                double omega = 1.0 / pow(10000.0, (double)j / (double)quarter);
                double x = (double)((float)c / step) * omega, y = (double)((float)r / step) * omega;
                e[j] = (float)sin(x);
                e[quarter + j] = (float)cos(x);
                e[2 * quarter + j] = (float)sin(y);
                e[3 * quarter + j] = (float)cos(y);
            }
        }
}

static enum taca_code make_position(struct loader *l, struct taca_mat *out) {
    struct taca_err *err = l->l.err;
    const struct config *c = l->c;
    const int64_t base = c->sample_size / c->patch;
    size_t bytes;
    if (base < 1 || c->width % 4)
        return taca_fail(err, TACA_EFORMAT,
                         "pos_embed.pos_embed is missing and cannot be made: sample_size %" PRId64
                         ", patch_size %" PRId64 ", width %" PRId64 " (wanted a multiple of 4)",
                         c->sample_size, c->patch, c->width);
    float *table = NULL;
    if (taca_mul(&bytes, (size_t)(c->side * c->side), sizeof *table) &&
        taca_mul(&bytes, bytes, (size_t)c->width))
        table = malloc(bytes);
    if (!table)
        return taca_fail(err, TACA_ENOMEM, "position table of %" PRId64 " x %" PRId64, c->side,
                         c->side);
    dit_sd3_position(table, c->side, base, c->width);
    enum taca_code rc = taca_table_open(l->l.b, out,
                                        &(struct taca_tensor){.name = "pos_embed.pos_embed",
                                                              .data = table,
                                                              .dtype = TACA_F32,
                                                              .rank = 2,
                                                              .dim = {c->side * c->side, c->width}},
                                        err);
    free(table);
    return rc;
}

/* The released tables are not what the formula gives: it is only for files without one. */
static void load_position(struct loader *l, struct dit *d) {
    struct taca_tensor t;
    if (taca_ckpt_has(l->l.ckpt, "pos_embed.pos_embed")) {
        dit_load_tensor(&l->l, &t, 3, (int64_t[]){1, l->c->side * l->c->side, l->c->width},
                        "pos_embed.pos_embed");
        if (!l->l.rc) l->l.rc = taca_table_open(l->l.b, &d->position, &t, l->l.err);
    } else if (!l->l.rc) {
        l->l.rc = make_position(l, &d->position);
    }
}

static void load_patch(struct loader *l, struct dit *d) {
    const struct config *c = l->c;
    struct taca_tensor weight, bias;
    dit_load_tensor(&l->l, &weight, 4, (int64_t[]){c->width, c->in_channels, c->patch, c->patch},
                    "pos_embed.proj.weight");
    dit_load_tensor(&l->l, &bias, 1, (int64_t[]){c->width}, "pos_embed.proj.bias");
    if (!l->l.rc) l->l.rc = taca_linear_open(l->l.b, &d->patch, &weight, &bias, 1, l->l.err);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void fill_info(struct dit_info *info, const struct config *c) {
    *info = (struct dit_info){.kind = DIT_SD3,
                              .in_channels = c->in_channels,
                              .patch = (int)c->patch,
                              .width = c->width,
                              .depth = c->depth,
                              .heads = c->heads,
                              .joint_width = c->joint_width,
                              .pooled_width = c->pooled_width,
                              .max_patches = c->side};
    snprintf(info->family, sizeof info->family, "%s", c->qk_norm ? "sd3.5" : "sd3");
}

static void load(struct loader *loader, struct dit *d) {
    const struct config *c = loader->c;
    struct dit_loader *l = &loader->l;
    const int64_t width = c->width;
    int64_t at = 0;
    dit_load_end(l, "transformer_blocks", "num_layers", c->depth);
    load_patch(loader, d);
    load_position(loader, d);
    d->context = dit_load_linear(l, "context_embedder", width, c->joint_width);
    dit_load_embedder(l, &d->time, "time_text_embed.timestep_embedder", DIT_TIME_FEATURES);
    dit_load_embedder(l, &d->pooled, "time_text_embed.text_embedder", c->pooled_width);
    for (int64_t i = 0; i < c->depth && !l->rc; i++) at = load_block(loader, &d->blocks[i], i, at);
    dit_load_final(l, d, at);
    d->proj = dit_load_linear(l, "proj_out", c->patch * c->patch * c->in_channels, width);
    d->out_order = TACA_PATCH_CHANNEL_LAST;
}

enum taca_code dit_sd3_open(struct dit **out, struct taca_backend *b, const json_t *json,
                            struct taca_ckpt *ckpt, struct taca_err *err) {
    struct config c = {0};
    enum taca_code rc = read_config(&c, json, err);
    struct dit *d = NULL;
    if (!rc) rc = dit_alloc(&d, c.depth, 0, err);
    if (rc) return rc;
    fill_info(&d->info, &c);
    d->attn = (struct taca_attn){.heads = (int)c.heads,
                                 .scale = (float)(1.0 / sqrt((double)c.head_dim)),
                                 .mask = TACA_MASK_NONE};
    struct loader l = {{b, ckpt, err, TACA_OK, c.width, c.head_dim, ""}, &c};
    load(&l, d);
    if (l.l.rc)
        dit_close(d);
    else
        *out = d;
    return l.l.rc;
}
