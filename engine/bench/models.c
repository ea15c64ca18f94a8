/* models.c - whole forwards: SD3.5-medium with a CFG pair, a share of FLUX, the decoder of their
 * VAE, at 256 x 256 pixels, weights drawn on the spot. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "engine/bench/measure.h"
#include "engine/dit/dit.h"
#include "engine/io/checkpoint.h"
#include "engine/vae/vae.h"

/* SD3.5-medium. Its position table is 384 wide; one of 96 serves small pictures as well and takes
 * no time to draw up. */
static const char sd35_medium[] =
    "{\"_class_name\":\"SD3Transformer2DModel\",\"sample_size\":128,\"patch_size\":2,"
    "\"in_channels\":16,\"out_channels\":16,\"num_layers\":24,\"num_attention_heads\":24,"
    "\"attention_head_dim\":64,\"joint_attention_dim\":4096,\"caption_projection_dim\":1536,"
    "\"pooled_projection_dim\":2048,\"pos_embed_max_size\":96,\"qk_norm\":\"rms_norm\","
    "\"dual_attention_layers\":[0,1,2,3,4,5,6,7,8,9,10,11,12]}";
/* FLUX has 19 blocks of two streams and 38 of one: a nineteenth of it is one and two. */
static const char flux_part[] =
    "{\"_class_name\":\"FluxTransformer2DModel\",\"in_channels\":64,\"num_layers\":1,"
    "\"num_single_layers\":2,\"num_attention_heads\":24,\"attention_head_dim\":128,"
    "\"joint_attention_dim\":4096,\"pooled_projection_dim\":768,\"guidance_embeds\":true,"
    "\"axes_dims_rope\":[16,56,56]}";
static const char sd3_vae[] =
    "{\"_class_name\":\"AutoencoderKL\",\"in_channels\":3,\"out_channels\":3,"
    "\"latent_channels\":16,\"block_out_channels\":[128,256,512,512],\"layers_per_block\":2,"
    "\"norm_num_groups\":32,\"scaling_factor\":1.5305,\"shift_factor\":0.0609,"
    "\"use_quant_conv\":false,\"use_post_quant_conv\":false}";

enum { SIDE = 32, CHANNELS = 16, MAX_ITEMS = 2 };

struct model_case {
    const char *name, *taca_name;
    const char *config; /* NULL: that of the directory `path`, which holds the weights, too */
    const char *path;
    int items;
    int64_t side, text; /* of the latent; tokens */
};
static const struct model_case models[] = {
    {"SD3.5-medium, CFG pair, 256 x 256, 333 text tokens",
     "SD3.5-medium, CFG pair, TACA on against off", sd35_medium, NULL, 2, SIDE, 333},
    {"FLUX, 1 of 19 parts, 256 x 256, 512 text tokens", "FLUX, 1 of 19 parts, TACA on against off",
     flux_part, NULL, 1, SIDE, 512},
};

struct forward {
    struct taca_backend *b;
    struct taca_scratch s, fixed; /* of a step; of what stays */
    struct dit *dit;
    struct vae *vae;
    struct dit_item items[MAX_ITEMS];
    struct taca_layout layout[2]; /* without and with TACA */
    int n_items, with;
    struct taca_map image;
};

static void run_forward(void *ctx) {
    struct forward *f = ctx;
    const struct dit_forward run = {
        .items = f->items, .n_items = f->n_items, .layout = &f->layout[f->with]};
    dit_run(f->dit, f->b, &f->s, &run);
}

static void run_decode(void *ctx) {
    struct forward *f = ctx;
    vae_decode(f->vae, f->b, &f->s, f->image, f->items[0].latent, false);
}

static struct taca_mat normal_mat(struct forward *f, int64_t rows, int64_t cols) {
    struct taca_mat m = taca_scratch_mat(&f->fixed, TACA_F32, rows, cols);
    if (m.data) bench_fill(m.data, TACA_F32, rows * cols);
    return m;
}

static struct taca_chw latent(struct forward *f, int64_t channels, int64_t side) {
    return (struct taca_chw){normal_mat(f, channels, side * side).data, channels, side, side};
}

/* What the items of a case are made of; on a counting backend without memory. */
static enum taca_code lay_out(struct forward *f, const struct model_case *c, struct taca_err *err) {
    const struct dit_info *info = dit_get_info(f->dit);
    const int64_t rows = c->side * c->side / (info->patch * info->patch) + c->text;
    const struct taca_chw z = latent(f, info->in_channels, c->side);
    struct taca_seg segs[MAX_ITEMS];
    f->n_items = c->items;
    for (int i = 0; i < c->items; i++) {
        f->items[i] = (struct dit_item){.latent = z,
                                        .velocity = latent(f, z.c, z.h),
                                        .context = normal_mat(f, c->text, info->width),
                                        .mod = normal_mat(f, 1, info->mod_width),
                                        .gamma = 1};
        if (info->place_width) f->items[i].places = normal_mat(f, rows, info->place_width);
    }
    dit_segments(f->dit, f->items, c->items, segs);
    enum taca_code rc = taca_layout_init(&f->layout[0], f->b, segs, c->items, err);
    for (int i = 0; i < c->items; i++) segs[i].gamma = 1.2f;
    return rc ? rc : taca_layout_init(&f->layout[1], f->b, segs, c->items, err);
}

static void finish(struct forward *f) {
    for (int i = 0; i < 2; i++) taca_layout_finish(&f->layout[i]);
    taca_scratch_finish(&f->s);
    taca_scratch_finish(&f->fixed);
}

/* FLOP and scratch of the model, by running it on a backend that counts. */
static enum taca_code count_forward(const struct forward *f, const struct model_case *c,
                                    struct taca_counts *out, size_t *fixed_bytes,
                                    struct taca_err *err) {
    struct forward dry = {.dit = f->dit};
    enum taca_code rc = taca_count_open(&dry.b, taca_backend_precision(f->b), err);
    if (rc) return rc;
    dry.s.b = dry.fixed.b = dry.b;
    rc = lay_out(&dry, c, err);
    if (!rc) {
        run_forward(&dry);
        rc = taca_sync(dry.b, err);
    }
    *out = taca_count_read(dry.b);
    out->scratch_bytes = dry.s.peak;
    *fixed_bytes = dry.fixed.peak;
    finish(&dry);
    taca_backend_close(dry.b);
    return rc;
}

/* Plain and TACA runs take turns, so that both meet the same machine. */
static enum taca_code measure_forward(struct taca_bench *b, struct forward *f,
                                      const struct model_case *c, const struct taca_counts *counts,
                                      struct taca_err *err) {
    static struct bench_sample s[2];
    struct taca_bench_row row = {.group = "model",
                                 .name = c->name,
                                 .dtype = bench_dtype(f->b),
                                 .threads = bench_threads(b),
                                 .gflop = counts->flops * 1e-9,
                                 .mbyte = counts->weight_bytes * 1e-6};
    s[0].n = s[1].n = 0;
    run_forward(f);
    const int runs = 5 + (int)(b->budget_ms / 250);
    for (int i = 0; i < 2 * runs; i++) {
        f->with = i % 2;
        bench_once(&s[f->with], run_forward, f);
    }
    enum taca_code rc = taca_sync(f->b, err);
    if (rc) return rc;
    const double ratio = bench_ratio(&s[1], &s[0]);
    bench_send(b, &row, &s[0]);
    row.name = c->taca_name;
    row.ratio = ratio;
    bench_send(b, &row, &s[1]);
    return TACA_OK;
}

/* The case's config and weights. */
static enum taca_code open_dit(struct forward *f, const struct model_case *c,
                               struct taca_err *err) {
    char path[4096];
    json_t *config = NULL;
    struct taca_ckpt *ckpt = NULL;
    enum taca_code rc = TACA_OK;
    if (c->config) {
        config = json_loads(c->config, 0, NULL);
        rc = config ? taca_ckpt_open_random(&ckpt, 1, err)
                    : taca_fail(err, TACA_ENOMEM, "%s", c->name);
    } else {
        snprintf(path, sizeof path, "%s/config.json", c->path);
        rc = taca_json_load(&config, path, err);
        if (!rc) rc = taca_ckpt_open(&ckpt, c->path, err);
    }
    if (!rc) rc = dit_open(&f->dit, f->b, config, ckpt, err);
    taca_ckpt_close(ckpt);
    json_decref(config);
    return rc;
}

static enum taca_code bench_model(struct taca_bench *b, const struct model_case *c,
                                  struct taca_err *err) {
    struct forward f = {0};
    struct taca_counts counts;
    size_t fixed;
    enum taca_code rc = bench_open_backend(&f.b, b, err);
    f.s.b = f.fixed.b = f.b;
    if (!rc) rc = open_dit(&f, c, err);
    if (!rc) rc = count_forward(&f, c, &counts, &fixed, err);
    if (!rc) rc = taca_scratch_reserve(&f.fixed, fixed, err);
    if (!rc) rc = taca_scratch_reserve(&f.s, counts.scratch_bytes, err);
    if (!rc) rc = lay_out(&f, c, err);
    if (!rc) rc = measure_forward(b, &f, c, &counts, err);
    finish(&f);
    dit_close(f.dit);
    taca_backend_close(f.b);
    return rc;
}

/* ---- the decoder ----------------------------------------------------------------------------- */

static void lay_out_decode(struct forward *f) {
    f->items[0].latent = latent(f, CHANNELS, SIDE);
    const int64_t side = SIDE * vae_get_info(f->vae)->factor;
    f->image = taca_scratch_map(&f->fixed, TACA_F32, 1, side, side, 3);
}

static enum taca_code count_decode(const struct forward *f, struct taca_counts *out,
                                   size_t *fixed_bytes, struct taca_err *err) {
    struct forward dry = {.vae = f->vae};
    enum taca_code rc = taca_count_open(&dry.b, taca_backend_precision(f->b), err);
    if (rc) return rc;
    dry.s.b = dry.fixed.b = dry.b;
    lay_out_decode(&dry);
    run_decode(&dry);
    rc = taca_sync(dry.b, err);
    *out = taca_count_read(dry.b);
    out->scratch_bytes = dry.s.peak;
    *fixed_bytes = dry.fixed.peak;
    finish(&dry);
    taca_backend_close(dry.b);
    return rc;
}

static enum taca_code bench_decoder(struct taca_bench *b, const char *name, struct taca_err *err) {
    static struct bench_sample s;
    struct forward f = {0};
    struct taca_ckpt *ckpt = NULL;
    struct taca_counts counts;
    size_t fixed;
    json_t *config = json_loads(sd3_vae, 0, NULL);
    enum taca_code rc = config ? TACA_OK : taca_fail(err, TACA_ENOMEM, "%s", name);
    if (!rc) rc = bench_open_backend(&f.b, b, err);
    f.s.b = f.fixed.b = f.b;
    if (!rc) rc = taca_ckpt_open_random(&ckpt, 1, err);
    if (!rc) rc = vae_open(&f.vae, f.b, config, ckpt, err);
    if (!rc) rc = count_decode(&f, &counts, &fixed, err);
    if (!rc) rc = taca_scratch_reserve(&f.fixed, fixed, err);
    if (!rc) rc = taca_scratch_reserve(&f.s, counts.scratch_bytes, err);
    if (!rc) {
        lay_out_decode(&f);
        bench_repeat(&s, b, 5, run_decode, &f);
        rc = taca_sync(f.b, err);
    }
    if (!rc) {
        struct taca_bench_row row = {.group = "model",
                                     .name = name,
                                     .dtype = taca_dtype_name(taca_backend_precision(f.b)),
                                     .threads = bench_threads(b),
                                     .gflop = counts.flops * 1e-9};
        bench_send(b, &row, &s);
    }
    finish(&f);
    vae_close(f.vae);
    taca_ckpt_close(ckpt);
    taca_backend_close(f.b);
    json_decref(config);
    return rc;
}

enum taca_code taca_bench_models(struct taca_bench *b, struct taca_err *err) {
    static const char decoder[] = "VAE decode, 256 x 256";
    enum taca_code rc = TACA_OK;
    if (bench_wanted(b, "model", decoder)) rc = bench_decoder(b, decoder, err);
    for (size_t i = 0; i < sizeof models / sizeof *models && !rc; i++)
        if (bench_wanted(b, "model", models[i].name)) rc = bench_model(b, &models[i], err);
    return rc;
}

enum taca_code taca_bench_transformer(struct taca_bench *b, const struct taca_bench_shape *shape,
                                      struct taca_err *err) {
    const struct model_case c = {.name = "transformer",
                                 .taca_name = "transformer, TACA on against off",
                                 .path = shape->path,
                                 .items = shape->items > MAX_ITEMS ? MAX_ITEMS : shape->items,
                                 .side = shape->latent_side,
                                 .text = shape->text_tokens};
    return bench_model(b, &c, err);
}
