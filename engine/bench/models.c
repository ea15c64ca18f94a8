/* models.c - whole forwards with weights drawn on the spot. On a CPU SD3.5-medium with a CFG pair,
 * a share of FLUX and the decoder of their VAE at 256 x 256 pixels; on a device SD3.5-medium and
 * -large and all of FLUX up to 1024 x 1024. */
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
static const char flux_dev[] =
    "{\"_class_name\":\"FluxTransformer2DModel\",\"in_channels\":64,\"num_layers\":19,"
    "\"num_single_layers\":38,\"num_attention_heads\":24,\"attention_head_dim\":128,"
    "\"joint_attention_dim\":4096,\"pooled_projection_dim\":768,\"guidance_embeds\":true,"
    "\"axes_dims_rope\":[16,56,56]}";
static const char sd35_large[] =
    "{\"_class_name\":\"SD3Transformer2DModel\",\"sample_size\":128,\"patch_size\":2,"
    "\"in_channels\":16,\"out_channels\":16,\"num_layers\":38,\"num_attention_heads\":38,"
    "\"attention_head_dim\":64,\"joint_attention_dim\":4096,\"caption_projection_dim\":2432,"
    "\"pooled_projection_dim\":2048,\"pos_embed_max_size\":96,\"qk_norm\":\"rms_norm\"}";
static const char sd3_vae[] =
    "{\"_class_name\":\"AutoencoderKL\",\"in_channels\":3,\"out_channels\":3,"
    "\"latent_channels\":16,\"block_out_channels\":[128,256,512,512],\"layers_per_block\":2,"
    "\"norm_num_groups\":32,\"scaling_factor\":1.5305,\"shift_factor\":0.0609,"
    "\"use_quant_conv\":false,\"use_post_quant_conv\":false}";

enum { CHANNELS = 16, MAX_ITEMS = 2 };

struct model_case {
    const char *name, *taca_name;
    const char *config; /* NULL: that of the directory `path`, which holds the weights, too */
    const char *path;
    int items;
    int64_t side, text; /* of the latent; tokens */
};
/* Cases of one config that stand together share its weights. */
static const struct model_case cpu_models[] = {
    {"SD3.5-medium, CFG pair, 256 x 256, 333 text tokens",
     "SD3.5-medium, CFG pair, TACA on against off", sd35_medium, NULL, 2, 32, 333},
    {"FLUX, 1 of 19 parts, 256 x 256, 512 text tokens", "FLUX, 1 of 19 parts, TACA on against off",
     flux_part, NULL, 1, 32, 512},
};
static const struct model_case device_models[] = {
    {"FLUX.1-dev, 1024 x 1024", "FLUX.1-dev, 1024 x 1024, TACA on against off", flux_dev, NULL, 1,
     128, 512},
    {"FLUX.1-dev, 512 x 512", "FLUX.1-dev, 512 x 512, TACA on against off", flux_dev, NULL, 1, 64,
     512},
    {"FLUX.1-dev, 256 x 256", "FLUX.1-dev, 256 x 256, TACA on against off", flux_dev, NULL, 1, 32,
     512},
    {"SD3.5-large, CFG pair, 1024 x 1024", "SD3.5-large, CFG pair, TACA on against off", sd35_large,
     NULL, 2, 128, 333},
    {"SD3.5-medium, CFG pair, 1024 x 1024", "SD3.5-medium, CFG pair, TACA on against off",
     sd35_medium, NULL, 2, 128, 333},
};
static const struct decode_case {
    const char *name;
    int64_t side;
} cpu_decode = {"VAE decode, 256 x 256", 32}, device_decode = {"VAE decode, 1024 x 1024", 128};

struct forward {
    struct taca_backend *b;
    struct taca_scratch s, fixed; /* of a step; of what stays */
    struct dit *dit;
    struct vae *vae;
    struct dit_item items[MAX_ITEMS];
    struct taca_layout layout[2]; /* without and with TACA */
    int n_items, with;
    struct taca_map image;
    int64_t side; /* of the latent to decode */
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
    if (m.data) bench_fill(f->b, m.data, TACA_F32, rows * cols);
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

/* Ways to run a forward. The last only where there are graphs to do without. */
enum { PLAIN, WITH_TACA, WITHOUT_GRAPHS, WAYS };

static void run_way(struct forward *f, int way, struct bench_sample *s) {
    const struct bench_work work = {f->b, run_forward, f};
    f->with = way == WITH_TACA;
    taca_backend_replay(f->b, way != WITHOUT_GRAPHS);
    bench_once(s, &work);
    taca_backend_replay(f->b, true);
}

/* The ways take turns, so that all meet the same machine. */
static enum taca_code measure_forward(struct taca_bench *b, struct forward *f,
                                      const struct model_case *c, const struct taca_counts *counts,
                                      struct taca_err *err) {
    static struct bench_sample s[WAYS];
    char bare[128];
    const int ways = taca_replays(f->b) ? WAYS : WITHOUT_GRAPHS;
    struct taca_bench_row row = {.group = "model",
                                 .name = c->name,
                                 .dtype = bench_dtype(f->b),
                                 .threads = bench_threads(b),
                                 .device = bench_on_device(f->b),
                                 .gflop = counts->flops * 1e-9,
                                 .mbyte = counts->weight_bytes * 1e-6};
    for (int i = 0; i < ways; i++) { /* unmeasured: once, and once more to be recorded */
        s[i].err = (struct taca_err){0};
        for (int k = 0; k < (ways == WAYS ? 2 : 1); k++) run_way(f, i, &s[i]);
        s[i].n = 0;
    }
    const int runs = 5 + (int)(b->budget_ms / 250);
    for (int i = 0; i < ways * runs; i++) run_way(f, i % ways, &s[i % ways]);
    for (int i = 0; i < ways; i++)
        if (s[i].err.code) return taca_fail(err, s[i].err.code, "%s", s[i].err.text);
    snprintf(bare, sizeof bare, "%s, without graphs", c->name);
    const char *const names[WAYS] = {c->name, c->taca_name, bare};
    for (int i = 0; i < ways; i++) {
        row.name = names[i];
        row.ratio = i ? bench_ratio(&s[i], &s[PLAIN], row.device) : 0;
        bench_send(b, &row, &s[i]);
    }
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

/* One size of an open model. */
static enum taca_code bench_size(struct taca_bench *b, struct forward *f,
                                 const struct model_case *c, struct taca_err *err) {
    struct taca_counts counts;
    size_t fixed;
    f->s = f->fixed = (struct taca_scratch){.b = f->b};
    enum taca_code rc = count_forward(f, c, &counts, &fixed, err);
    if (!rc) rc = taca_scratch_reserve(&f->fixed, fixed, err);
    if (!rc) rc = taca_scratch_reserve(&f->s, counts.scratch_bytes, err);
    if (!rc) rc = lay_out(f, c, err);
    if (!rc) rc = measure_forward(b, f, c, &counts, err);
    finish(f);
    return rc;
}

/* The first n cases are of one model. */
static enum taca_code bench_model(struct taca_bench *b, const struct model_case *c, int n,
                                  struct taca_err *err) {
    struct forward f = {0};
    enum taca_code rc = bench_open_backend(&f.b, b, err);
    if (!rc) rc = open_dit(&f, c, err);
    for (int i = 0; i < n && !rc; i++)
        if (!c[i].config || bench_wanted(b, "model", c[i].name)) rc = bench_size(b, &f, &c[i], err);
    dit_close(f.dit);
    taca_backend_close(f.b);
    return rc;
}

/* ---- the decoder ----------------------------------------------------------------------------- */

static void lay_out_decode(struct forward *f) {
    f->items[0].latent = latent(f, CHANNELS, f->side);
    const int64_t side = f->side * vae_get_info(f->vae)->factor;
    f->image = taca_scratch_map(&f->fixed, TACA_F32, 1, side, side, 3);
}

static enum taca_code count_decode(const struct forward *f, struct taca_counts *out,
                                   size_t *fixed_bytes, struct taca_err *err) {
    struct forward dry = {.vae = f->vae, .side = f->side};
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

static enum taca_code bench_decoder(struct taca_bench *b, const struct decode_case *d,
                                    struct taca_err *err) {
    static struct bench_sample s;
    struct forward f = {.side = d->side};
    struct taca_ckpt *ckpt = NULL;
    struct taca_counts counts;
    size_t fixed;
    json_t *config = json_loads(sd3_vae, 0, NULL);
    enum taca_code rc = config ? TACA_OK : taca_fail(err, TACA_ENOMEM, "%s", d->name);
    if (!rc) rc = bench_open_backend(&f.b, b, err);
    f.s.b = f.fixed.b = f.b;
    if (!rc) rc = taca_ckpt_open_random(&ckpt, 1, err);
    if (!rc) rc = vae_open(&f.vae, f.b, config, ckpt, err);
    if (!rc) rc = count_decode(&f, &counts, &fixed, err);
    if (!rc) rc = taca_scratch_reserve(&f.fixed, fixed, err);
    if (!rc) rc = taca_scratch_reserve(&f.s, counts.scratch_bytes, err);
    if (!rc) {
        lay_out_decode(&f);
        bench_repeat(&s, b, 5, &(struct bench_work){f.b, run_decode, &f});
        if (s.err.code) rc = taca_fail(err, s.err.code, "%s", s.err.text);
    }
    if (!rc) {
        struct taca_bench_row row = {.group = "model",
                                     .name = d->name,
                                     .device = bench_on_device(f.b),
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

static bool wanted_any(const struct taca_bench *b, const struct model_case *c, int n) {
    for (int i = 0; i < n; i++)
        if (bench_wanted(b, "model", c[i].name)) return true;
    return false;
}

enum taca_code taca_bench_models(struct taca_bench *b, struct taca_err *err) {
    bool device;
    enum taca_code rc = bench_finds_device(b, &device, err);
    if (rc) return rc;
    const struct decode_case *decode = device ? &device_decode : &cpu_decode;
    const struct model_case *c = device ? device_models : cpu_models;
    const int all =
        (int)(device ? sizeof device_models / sizeof *c : sizeof cpu_models / sizeof *c);
    if (bench_wanted(b, "model", decode->name)) rc = bench_decoder(b, decode, err);
    for (int i = 0, n; i < all && !rc; i += n) {
        for (n = 1; i + n < all && c[i + n].config == c[i].config;) n++;
        if (wanted_any(b, c + i, n)) rc = bench_model(b, c + i, n, err);
    }
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
    return bench_model(b, &c, 1, err);
}
