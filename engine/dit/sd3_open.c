/* sd3_open.c - an SD3 checkpoint to a struct dit: structure from the config, weights by their
 * diffusers names, and an error for whatever the two disagree on. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/dit/sd3.h"

enum { MAX_DEPTH = 256 };

/* A transformer/config.json; absent fields have the reference's defaults. */
struct config {
    int64_t sample_size, patch, in_channels, out_channels;
    int64_t depth, heads, head_dim, width;
    int64_t joint_width, pooled_width, side;
    bool qk_norm;
    bool dual[MAX_DEPTH];
};

/* ---- config ---------------------------------------------------------------------------------- */

static enum taca_code read_dual(struct config *c, const json_t *json, struct taca_err *err) {
    int64_t layer[MAX_DEPTH];
    int n;
    enum taca_code rc = taca_cfg_ints(json, "dual_attention_layers", layer, MAX_DEPTH, &n, err);
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
        {"num_layers", 18, MAX_DEPTH, &c->depth},
        {"num_attention_heads", 18, 1024, &c->heads},
        {"attention_head_dim", 64, 1024, &c->head_dim},
        {"joint_attention_dim", 4096, 65536, &c->joint_width},
        {"caption_projection_dim", 1152, 1048576, &c->width},
        {"pooled_projection_dim", 2048, 65536, &c->pooled_width},
        {"pos_embed_max_size", 96, 4096, &c->side},
    };
    const char *class_name;
    enum taca_code rc =
        taca_cfg_string(json, "_class_name", "SD3Transformer2DModel", &class_name, err);
    if (rc) return rc;
    if (strcmp(class_name, "SD3Transformer2DModel") != 0)
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "transformer class is %s, wanted SD3Transformer2DModel", class_name);
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

/* The first failure stays in rc and turns the rest into no-ops, so that loading reads as a list. */
struct loader {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    struct taca_err *err;
    enum taca_code rc;
    const struct config *c;
    char prefix[40]; /* "transformer_blocks.3." */
};

static void get(struct loader *l, struct taca_tensor *t, int rank, const int64_t *dim,
                const char *fmt, ...) __attribute__((format(printf, 5, 6)));
static void get(struct loader *l, struct taca_tensor *t, int rank, const int64_t *dim,
                const char *fmt, ...) {
    char name[160];
    va_list ap;
    int n = snprintf(name, sizeof name, "%s", l->prefix);
    va_start(ap, fmt);
    vsnprintf(name + n, sizeof name - (size_t)n, fmt, ap);
    va_end(ap);
    if (!l->rc) l->rc = taca_ckpt_get(l->ckpt, t, name, rank, dim, l->err);
}

static struct taca_linear *stacked(struct loader *l, const char *const *names, int n, int64_t out,
                                   int64_t in) {
    struct taca_tensor weight[3], bias[3];
    struct taca_linear *w = NULL;
    for (int i = 0; i < n; i++) {
        get(l, &weight[i], 2, (int64_t[]){out, in}, "%s.weight", names[i]);
        get(l, &bias[i], 1, (int64_t[]){out}, "%s.bias", names[i]);
    }
    if (!l->rc) l->rc = taca_linear_open(l->b, &w, weight, bias, n, l->err);
    taca_ckpt_drop(l->ckpt);
    return w;
}

static struct taca_linear *linear(struct loader *l, const char *name, int64_t out, int64_t in) {
    return stacked(l, &name, 1, out, in);
}

static struct taca_vec head_gain(struct loader *l, const char *name) {
    struct taca_tensor t;
    struct taca_vec v = {0};
    if (!l->c->qk_norm) {
        if (!l->rc && taca_ckpt_has(l->ckpt, "%s%s.weight", l->prefix, name))
            l->rc = taca_fail(l->err, TACA_EFORMAT,
                              "tensor %s%s.weight is there, but the config has no qk_norm",
                              l->prefix, name);
        return v;
    }
    get(l, &t, 1, (int64_t[]){l->c->head_dim}, "%s.weight", name);
    if (!l->rc) l->rc = taca_vec_open(l->b, &v, &t, l->err);
    return v;
}

static void load_mlp(struct loader *l, struct dit_mlp *w, const char *up, const char *down) {
    const int64_t d = l->c->width;
    w->up = linear(l, up, 4 * d, d);
    w->down = linear(l, down, d, 4 * d);
}

static void load_block(struct loader *l, struct dit_block *w, int64_t i) {
    static const char *const img[] = {"attn.to_q", "attn.to_k", "attn.to_v"};
    static const char *const txt[] = {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"};
    static const char *const dual[] = {"attn2.to_q", "attn2.to_k", "attn2.to_v"};
    const int64_t d = l->c->width;
    snprintf(l->prefix, sizeof l->prefix, "transformer_blocks.%" PRId64 ".", i);
    w->img = (struct dit_attn){.qkv = stacked(l, img, 3, d, d),
                               .norm_q = head_gain(l, "attn.norm_q"),
                               .norm_k = head_gain(l, "attn.norm_k"),
                               .out = linear(l, "attn.to_out.0", d, d)};
    w->txt = (struct dit_attn){.qkv = stacked(l, txt, 3, d, d),
                               .norm_q = head_gain(l, "attn.norm_added_q"),
                               .norm_k = head_gain(l, "attn.norm_added_k")};
    load_mlp(l, &w->img_mlp, "ff.net.0.proj", "ff.net.2");
    if (i + 1 < l->c->depth) { /* nobody reads the text after the last block */
        w->txt.out = linear(l, "attn.to_add_out", d, d);
        load_mlp(l, &w->txt_mlp, "ff_context.net.0.proj", "ff_context.net.2");
    }
    if (l->c->dual[i])
        w->dual = (struct dit_attn){.qkv = stacked(l, dual, 3, d, d),
                                    .norm_q = head_gain(l, "attn2.norm_q"),
                                    .norm_k = head_gain(l, "attn2.norm_k"),
                                    .out = linear(l, "attn2.to_out.0", d, d)};
    else if (!l->rc && taca_ckpt_has(l->ckpt, "%sattn2.to_q.weight", l->prefix))
        l->rc = taca_fail(l->err, TACA_EFORMAT,
                          "tensor %sattn2.to_q.weight is there, but %" PRId64
                          " is not in dual_attention_layers",
                          l->prefix, i);
    l->prefix[0] = '\0';
}

/* ---- modulations: all adaLN projections as one matrix ---------------------------------------- */

/* Where the ranges of block i begin in a row that is filled up to `at`; returns its new end. The
 * halves of the two-part projections come as scale, shift; everywhere else shift comes first. */
static int64_t place_block(struct dit_block *w, int64_t at, int64_t d) {
    w->img.shift = at, w->img.scale = at + d, w->img.gate = at + 2 * d;
    w->img_mlp.shift = at + 3 * d, w->img_mlp.scale = at + 4 * d, w->img_mlp.gate = at + 5 * d;
    at += 6 * d;
    if (w->dual.qkv) {
        w->dual.shift = at, w->dual.scale = at + d, w->dual.gate = at + 2 * d;
        at += 3 * d;
    }
    if (!w->txt.out) {
        w->txt.scale = at, w->txt.shift = at + d;
        return at + 2 * d;
    }
    w->txt.shift = at, w->txt.scale = at + d, w->txt.gate = at + 2 * d;
    w->txt_mlp.shift = at + 3 * d, w->txt_mlp.scale = at + 4 * d, w->txt_mlp.gate = at + 5 * d;
    return at + 6 * d;
}

static void load_modulation(struct loader *l, struct dit *d) {
    const int64_t width = l->c->width, depth = l->c->depth, n = 2 * depth + 1;
    struct taca_tensor *weight = calloc((size_t)n, sizeof *weight);
    struct taca_tensor *bias = calloc((size_t)n, sizeof *bias);
    if (!weight || !bias) {
        if (!l->rc)
            l->rc = taca_fail(l->err, TACA_ENOMEM, "modulation of %" PRId64 " layers", depth);
        goto out;
    }
    int64_t at = 0;
    for (int64_t i = 0; i < depth; i++) {
        struct taca_tensor *w = weight + 2 * i, *v = bias + 2 * i;
        const int64_t img = (d->blocks[i].dual.qkv ? 9 : 6) * width;
        const int64_t txt = (d->blocks[i].txt.out ? 6 : 2) * width;
        snprintf(l->prefix, sizeof l->prefix, "transformer_blocks.%" PRId64 ".", i);
        get(l, &w[0], 2, (int64_t[]){img, width}, "norm1.linear.weight");
        get(l, &v[0], 1, (int64_t[]){img}, "norm1.linear.bias");
        get(l, &w[1], 2, (int64_t[]){txt, width}, "norm1_context.linear.weight");
        get(l, &v[1], 1, (int64_t[]){txt}, "norm1_context.linear.bias");
        at = place_block(&d->blocks[i], at, width);
    }
    l->prefix[0] = '\0';
    get(l, &weight[n - 1], 2, (int64_t[]){2 * width, width}, "norm_out.linear.weight");
    get(l, &bias[n - 1], 1, (int64_t[]){2 * width}, "norm_out.linear.bias");
    d->final_scale = at;
    d->final_shift = at + width;
    d->info.mod_width = at + 2 * width;
    if (!l->rc) l->rc = taca_linear_open(l->b, &d->mod, weight, bias, (int)n, l->err);
    taca_ckpt_drop(l->ckpt);
out:
    free(weight);
    free(bias);
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
    const struct config *c = l->c;
    const int64_t base = c->sample_size / c->patch;
    size_t bytes;
    if (base < 1 || c->width % 4)
        return taca_fail(l->err, TACA_EFORMAT,
                         "pos_embed.pos_embed is missing and cannot be made: sample_size %" PRId64
                         ", patch_size %" PRId64 ", width %" PRId64 " (wanted a multiple of 4)",
                         c->sample_size, c->patch, c->width);
    float *table = NULL;
    if (taca_mul(&bytes, (size_t)(c->side * c->side), sizeof *table) &&
        taca_mul(&bytes, bytes, (size_t)c->width))
        table = malloc(bytes);
    if (!table)
        return taca_fail(l->err, TACA_ENOMEM, "position table of %" PRId64 " x %" PRId64, c->side,
                         c->side);
    dit_sd3_position(table, c->side, base, c->width);
    enum taca_code rc = taca_table_open(l->b, out,
                                        &(struct taca_tensor){.name = "pos_embed.pos_embed",
                                                              .data = table,
                                                              .dtype = TACA_F32,
                                                              .rank = 2,
                                                              .dim = {c->side * c->side, c->width}},
                                        l->err);
    free(table);
    return rc;
}

/* The released tables are not what the formula gives: it is only for files without one. */
static void load_position(struct loader *l, struct dit *d) {
    struct taca_tensor t;
    if (taca_ckpt_has(l->ckpt, "pos_embed.pos_embed")) {
        get(l, &t, 3, (int64_t[]){1, l->c->side * l->c->side, l->c->width}, "pos_embed.pos_embed");
        if (!l->rc) l->rc = taca_table_open(l->b, &d->position, &t, l->err);
    } else if (!l->rc) {
        l->rc = make_position(l, &d->position);
    }
}

static void load_patch(struct loader *l, struct dit *d) {
    const struct config *c = l->c;
    struct taca_tensor weight, bias;
    get(l, &weight, 4, (int64_t[]){c->width, c->in_channels, c->patch, c->patch},
        "pos_embed.proj.weight");
    get(l, &bias, 1, (int64_t[]){c->width}, "pos_embed.proj.bias");
    if (!l->rc) l->rc = taca_linear_open(l->b, &d->patch, &weight, &bias, 1, l->err);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void fill_info(struct dit_info *info, const struct config *c) {
    *info = (struct dit_info){.in_channels = c->in_channels,
                              .patch = (int)c->patch,
                              .width = c->width,
                              .depth = c->depth,
                              .heads = c->heads,
                              .joint_width = c->joint_width,
                              .pooled_width = c->pooled_width,
                              .max_patches = c->side};
    snprintf(info->family, sizeof info->family, "%s", c->qk_norm ? "sd3.5" : "sd3");
}

static void load(struct loader *l, struct dit *d) {
    const struct config *c = l->c;
    const int64_t width = c->width;
    load_patch(l, d);
    load_position(l, d);
    d->context = linear(l, "context_embedder", width, c->joint_width);
    d->time_1 = linear(l, "time_text_embed.timestep_embedder.linear_1", width, DIT_TIME_FEATURES);
    d->time_2 = linear(l, "time_text_embed.timestep_embedder.linear_2", width, width);
    d->pooled_1 = linear(l, "time_text_embed.text_embedder.linear_1", width, c->pooled_width);
    d->pooled_2 = linear(l, "time_text_embed.text_embedder.linear_2", width, width);
    for (int64_t i = 0; i < c->depth && !l->rc; i++) load_block(l, &d->blocks[i], i);
    if (!l->rc &&
        taca_ckpt_has(l->ckpt, "transformer_blocks.%" PRId64 ".attn.to_q.weight", c->depth))
        l->rc = taca_fail(l->err, TACA_EFORMAT,
                          "tensor transformer_blocks.%" PRId64
                          ".attn.to_q.weight is there, but num_layers is %" PRId64,
                          c->depth, c->depth);
    if (!l->rc) load_modulation(l, d);
    d->proj = linear(l, "proj_out", c->patch * c->patch * c->in_channels, width);
}

enum taca_code dit_sd3_open(struct dit **out, struct taca_backend *b, const json_t *json,
                            struct taca_ckpt *ckpt, struct taca_err *err) {
    struct config c = {0};
    enum taca_code rc = read_config(&c, json, err);
    if (rc) return rc;
    struct dit *d = calloc(1, sizeof *d);
    if (d) d->blocks = calloc((size_t)c.depth, sizeof *d->blocks);
    if (!d || !d->blocks) {
        rc = taca_fail(err, TACA_ENOMEM, "transformer of %" PRId64 " layers", c.depth);
        goto out;
    }
    fill_info(&d->info, &c);
    d->attn = (struct taca_attn){.heads = (int)c.heads,
                                 .scale = (float)(1.0 / sqrt((double)c.head_dim)),
                                 .mask = TACA_MASK_NONE};
    struct loader l = {.b = b, .ckpt = ckpt, .err = err, .c = &c};
    load(&l, d);
    rc = l.rc;
    if (rc) goto out;
    *out = d;
    d = NULL; /* the caller owns it now */
out:
    dit_close(d);
    return rc;
}
