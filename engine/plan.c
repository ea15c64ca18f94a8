/* plan.c - what pictures will take before anything of the model is in memory: see taca_engine_plan
 * in engine.h. The engine's backend counts for a real one (kernels/count.c), which knows what its
 * weights and ops would take, and on which a few products are timed. */
#include <stdlib.h>
#include <time.h>

#include "engine/core.h"
#include "kernels/probe.h"

/* What one picture's forwards count, apart. */
struct work {
    struct memplan plan;
    struct taca_counts text; /* of all its prompts */
    size_t text_scratch;
};

static enum taca_code only_for_plans(const struct taca_engine *e, struct taca_err *err) {
    if (taca_count_real(e->b)) return TACA_OK;
    return taca_fail(err, TACA_EINTERNAL, "this engine was not opened for plans");
}

static int branches_of(const struct taca_gen_params *p) { return p->cfg_scale > 1 ? 2 : 1; }

static enum taca_code count_text(struct taca_engine *e, const struct taca_gen_params *p,
                                 struct work *w, struct taca_err *err) {
    struct taca_backend *count;
    enum taca_code rc = taca_count_open_beside(&count, e->b, err);
    if (rc) return rc;
    const enum taca_lane last = taca_lane(count, TACA_LANE_SIDE);
    for (int i = 0; i < branches_of(p) && !rc; i++)
        rc = text_count(e->text, count, p->max_sequence_length, &w->text_scratch, err);
    (void)taca_lane(count, last);
    w->text = taca_count_read(count);
    taca_backend_close(count);
    return rc;
}

static enum taca_code count_work(struct taca_engine *e, const struct taca_gen_params *p,
                                 struct work *w, struct taca_err *err) {
    const int factor = vae_get_info(e->vae)->factor;
    struct seq_loras loras;
    enum taca_code rc = taca_gen_params_check(p, &e->info, err);
    if (!rc) rc = seq_loras_take(e, p, &loras, err);
    if (rc) return rc;
    const struct memplan_want want = {.h = p->height_px / factor,
                                      .w = p->width_px / factor,
                                      .text_rows = text_rows(e->text, p->max_sequence_length),
                                      .n_branches = branches_of(p),
                                      .steps = p->steps,
                                      .sampler = p->sampler,
                                      .skips = p->slg.layers != 0,
                                      .encodes = p->image != NULL,
                                      .masked = p->mask != NULL,
                                      .loras = &loras};
    rc = memplan_run(e, &want, &w->plan, err);
    if (!rc) rc = count_text(e, p, w, err);
    seq_loras_drop(&loras);
    return rc;
}

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* In the host's memory: what a picture is read from and written to. */
static size_t picture_bytes(const struct taca_gen_params *p) {
    const size_t rgb = (size_t)p->width_px * (size_t)p->height_px * 3;
    const size_t written = rgb + rgb / 2 + (1 << 20); /* with a PNG that hardly shrinks, and zlib */
    if (!p->image) return written;
    return rgb + max_size(written, rgb * sizeof(float)); /* its values are encoded as floats */
}

enum taca_code taca_engine_plan(struct taca_engine *e, const struct taca_gen_params *p, int n,
                                struct taca_plan *out, struct taca_err *err) {
    struct work w = {0};
    struct taca_plan plan = {0};
    enum taca_code rc = only_for_plans(e, err);
    if (!rc) rc = taca_engine_cost(e, p, &plan.cost, err);
    if (!rc) rc = count_work(e, p, &w, err);
    if (rc) return rc;
    const struct taca_foreseen f = taca_count_foreseen(e->b);
    const size_t all = (size_t)n, prompts = (size_t)branches_of(p);
    plan.text_flops = w.text.flops;
    plan.encode_flops = w.plan.encode.flops;
    plan.admission_flops = w.plan.admission.flops;
    plan.step_flops = w.plan.step.flops * n;
    plan.decode_flops = w.plan.decode.flops;
    plan.transformer_bytes = e->kept.transformer;
    plan.vae_bytes = e->kept.vae;
    plan.text_bytes = e->kept.text;
    plan.taesd_bytes = e->kept.taesd;
    plan.adapter_bytes = e->kept.adapters;
    plan.sequence_bytes =
        all * w.plan.seq_bytes + prompts * text_cond_bytes(e->text, p->max_sequence_length);
    plan.scratch_bytes =
        engine_scratch_bytes(e, max_size(all * w.plan.step_bytes, w.plan.preview_bytes),
                             max_size(w.text_scratch, w.plan.side_bytes));
    plan.work_bytes = f.work_bytes;
    plan.picture_bytes = picture_bytes(p);
    plan.mapped_bytes = text_mapped_bytes(e->text);
    plan.opening_bytes = e->kept.opening;
    const size_t making = f.kept_bytes + plan.sequence_bytes + plan.scratch_bytes +
                          plan.work_bytes + plan.picture_bytes;
    plan.peak_bytes = max_size(making, plan.opening_bytes);
    *out = plan;
    return TACA_OK;
}

/* ---- seconds --------------------------------------------------------------------------------- */

enum { RUNS = 5, MOST_ROWS = 512, MOST_TOKENS = 1024, CONV_SIDE = 128 };

/* FLOP/s of the real backend, bytes/s of the memory. */
struct rates {
    double linear, narrow, attention, conv, read;
};

/* Something to be timed: a product, an attention or a convolution on `real`. */
struct trial {
    struct taca_backend *b;
    void *memory;
    struct taca_linear *linear;
    struct taca_conv *conv;
    struct taca_mat x, y;
    struct taca_map in, out;
    struct taca_layout layout;
    struct taca_attn attn;
    double flops;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void run_trial(struct trial *t) {
    if (t->linear) {
        taca_linear(t->b, t->y, t->x, t->linear, TACA_ACT_NONE);
    } else if (t->conv) {
        taca_conv2d(t->b, t->out, t->in, t->conv);
    } else {
        const struct taca_qkv qkv = {t->x, t->x, t->x};
        taca_attention(t->b, t->y, (struct taca_mat){0}, qkv, (struct taca_qkv){0}, &t->layout,
                       &t->attn);
    }
}

/* FLOP/s at the fastest of some runs; 0 with *rc set. */
static double rate_of(struct trial *t, enum taca_code *rc, struct taca_err *err) {
    double best = 0;
    if (!*rc) run_trial(t);
    for (int i = 0; i < RUNS && !*rc; i++) {
        const double start = now();
        run_trial(t);
        const double rate = t->flops / (now() - start);
        if (best < rate) best = rate;
    }
    if (!*rc) *rc = taca_sync(t->b, err);
    taca_layout_finish(&t->layout);
    taca_linear_close(t->b, t->linear);
    taca_free(t->b, t->memory);
    return *rc ? 0 : best;
}

/* n values between -1 and 1, never zeros: those cost less power. */
static void fill(float *x, int64_t n) {
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (float)(int32_t)state * 0x1p-31f;
    }
}

/* Room for n values of the precision of inputs, filled. */
static void *inputs(struct taca_backend *b, enum taca_dtype t, int64_t n, enum taca_code *rc,
                    struct taca_err *err) {
    float *plain = malloc((size_t)n * sizeof *plain);
    char *p = *rc ? NULL : taca_alloc(b, (size_t)n * taca_dtype_bytes(t), err);
    if (!plain || !p) {
        free(plain);
        if (!*rc) *rc = taca_fail(err, TACA_ENOMEM, "timing %lld values", (long long)n);
        return p;
    }
    fill(plain, n);
    for (int64_t i = 0; t == TACA_BF16 && i < n; i++) { /* the write never passes the read */
        const uint16_t narrow = taca_f32_to_bf16(plain[i]);
        memcpy((char *)plain + (size_t)i * sizeof narrow, &narrow, sizeof narrow);
    }
    taca_upload(b, p, plain, (size_t)n * taca_dtype_bytes(t));
    free(plain);
    return p;
}

static double rate_linear(struct taca_backend *b, int64_t rows, int64_t width, bool narrow,
                          enum taca_code *rc, struct taca_err *err) {
    const enum taca_dtype type = taca_backend_precision(b);
    struct trial t = {.b = b, .flops = 2.0 * (double)(rows * width) * (double)width};
    float *plain = malloc((size_t)(width * width) * sizeof *plain);
    const struct taca_tensor w = {"a product", plain, TACA_F32, 2, {width, width}};
    if (!plain) *rc = taca_fail(err, TACA_ENOMEM, "timing a product");
    if (plain) fill(plain, width * width);
    taca_backend_narrow(b, narrow);
    if (!*rc) *rc = taca_linear_open(b, &t.linear, &w, NULL, 1, err);
    taca_backend_narrow(b, false);
    free(plain);
    t.memory = inputs(b, type, 2 * rows * width, rc, err);
    t.x = (struct taca_mat){t.memory, type, rows, width, width};
    t.y = t.x;
    if (t.memory) t.y.data = (char *)t.memory + (size_t)(rows * width) * taca_dtype_bytes(type);
    return rate_of(&t, rc, err);
}

static double rate_attention(struct taca_backend *b, int64_t rows, int64_t width, int heads,
                             enum taca_code *rc, struct taca_err *err) {
    const enum taca_dtype type = taca_backend_precision(b);
    const struct taca_seg seg = {.n_img = rows, .gamma = 1};
    struct trial t = {.b = b,
                      .attn = {.heads = heads, .scale = 0.01f},
                      .flops = 4.0 * (double)(rows * rows) * (double)width};
    if (!*rc) *rc = taca_layout_init(&t.layout, b, &seg, 1, err);
    t.memory = inputs(b, type, 2 * rows * width, rc, err);
    t.x = (struct taca_mat){t.memory, type, rows, width, width};
    t.y = t.x;
    if (t.memory) t.y.data = (char *)t.memory + (size_t)(rows * width) * taca_dtype_bytes(type);
    return rate_of(&t, rc, err);
}

/* 3 x 3, as many channels as at the picture's size, where most of the decoder's work is. */
static double rate_conv(struct taca_backend *b, int64_t c, enum taca_code *rc,
                        struct taca_err *err) {
    const enum taca_dtype type = taca_backend_precision(b);
    const int64_t values = CONV_SIDE * CONV_SIDE * c;
    const struct taca_conv shape = {
        .stride = 1, .pad_top = 1, .pad_left = 1, .pad_bottom = 1, .pad_right = 1};
    struct trial t = {.b = b, .flops = 2.0 * 9 * (double)values * (double)c};
    float *plain = malloc((size_t)(9 * c * c + c) * sizeof *plain);
    const struct taca_tensor w = {"a convolution", plain, TACA_F32, 4, {c, c, 3, 3}};
    const struct taca_tensor bias = {"a convolution", plain, TACA_F32, 1, {c}};
    if (!plain) *rc = taca_fail(err, TACA_ENOMEM, "timing a convolution");
    if (plain) fill(plain, 9 * c * c + c);
    if (!*rc) *rc = taca_conv_open(b, &t.conv, &w, &bias, &shape, err);
    free(plain);
    t.memory = inputs(b, type, 2 * values, rc, err);
    t.in = t.out = (struct taca_map){t.memory, type, 1, CONV_SIDE, CONV_SIDE, c};
    if (t.memory) t.out.data = (char *)t.memory + (size_t)values * taca_dtype_bytes(type);
    return rate_of(&t, rc, err);
}

static enum taca_code find_rates(struct taca_engine *e, int64_t tokens, struct rates *r,
                                 struct taca_err *err) {
    struct taca_backend *b = taca_count_real(e->b);
    const struct dit_info *d = dit_get_info(e->dit);
    const int64_t rows = tokens < MOST_ROWS ? tokens : MOST_ROWS;
    const int64_t keys = tokens < MOST_TOKENS ? tokens : MOST_TOKENS;
    enum taca_code rc = TACA_OK;
    r->linear = rate_linear(b, rows, d->width, false, &rc, err);
    r->narrow = taca_backend_narrow_type(b) ? rate_linear(b, rows, d->width, true, &rc, err) : 1;
    r->attention = rate_attention(b, keys, d->width, (int)d->heads, &rc, err);
    r->conv = rate_conv(b, vae_get_info(e->vae)->width, &rc, err);
    r->read = taca_probe_read((size_t)64 << 20, taca_probe_threads()) * 1e9;
    return rc;
}

/* Products, attention and convolutions at their rates, or what reading the weights takes; `more`
 * for all that is none of these. */
static double seconds_of(const struct taca_counts *c, const struct rates *r, double more) {
    const double linear = c->flops - c->narrow_flops - c->conv_flops - c->attention_flops;
    const double busy = linear / r->linear + c->narrow_flops / r->narrow + c->conv_flops / r->conv +
                        c->attention_flops / r->attention;
    const double reading = r->read > 0 ? c->weight_bytes / r->read : 0;
    return (busy > reading ? busy : reading) * more;
}

enum taca_code taca_engine_plan_seconds(struct taca_engine *e, const struct taca_gen_params *p,
                                        int n, struct taca_plan_seconds *out,
                                        struct taca_err *err) {
    /* norms, gates and rotary places; group norms and resizing: shares of the profiles in
     * docs/performance.md */
    const double rows = 1.05, maps = 1.1;
    struct work w = {0};
    struct rates r = {0};
    struct taca_cost cost;
    enum taca_code rc = only_for_plans(e, err);
    if (!rc) rc = taca_engine_cost(e, p, &cost, err);
    if (!rc) rc = count_work(e, p, &w, err);
    if (!rc) rc = find_rates(e, cost.tokens / branches_of(p), &r, err);
    if (rc) return rc;
    struct taca_counts step = w.plan.step;
    step.flops *= n;
    step.narrow_flops *= n;
    step.attention_flops *= n;
    const double runs = taca_gen_params_forwards(p);
    *out = (struct taca_plan_seconds){.text = seconds_of(&w.text, &r, rows),
                                      .encode = seconds_of(&w.plan.encode, &r, maps),
                                      .admission = seconds_of(&w.plan.admission, &r, 1),
                                      .step = seconds_of(&step, &r, rows),
                                      .decode = seconds_of(&w.plan.decode, &r, maps)};
    out->all = out->text + n * (out->encode + out->admission + out->decode) + runs * out->step;
    return TACA_OK;
}
