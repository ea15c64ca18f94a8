/* ops.c - single ops at the shapes that SD3.5, FLUX and their VAE give them. */
#include <math.h>
#include <stdio.h>

#include "engine/bench/measure.h"
#include "engine/io/checkpoint.h"

/* What an op works on. */
struct op {
    struct taca_backend *b;
    struct taca_scratch s;
    struct taca_linear *linear;
    struct taca_conv *conv;
    enum taca_act act;
    struct taca_mat x, y, z, sum, mod, table;
    struct taca_map in, out;
    struct taca_qkv qkv[2];
    struct taca_mat o[2];
    struct taca_layout layout;
    struct taca_attn attn;
    struct taca_vec gain, bias;
};

static void run_linear(void *ctx) {
    const struct op *o = ctx;
    taca_linear(o->b, o->y, o->x, o->linear, o->act);
}
static void run_conv(void *ctx) {
    const struct op *o = ctx;
    taca_conv2d(o->b, o->out, o->in, o->conv);
}
static void run_attention(void *ctx) {
    const struct op *o = ctx;
    taca_attention(o->b, o->o[0], o->o[1], o->qkv[0], o->qkv[1], &o->layout, &o->attn);
}
static void run_modulate(void *ctx) {
    const struct op *o = ctx;
    taca_norm_modulate(o->b, o->y, o->x, o->mod, 0, o->x.cols, &o->layout, TACA_IMG, 1e-6f);
}
static void run_gate(void *ctx) {
    const struct op *o = ctx;
    taca_gate_add(o->b, o->x, o->y, o->mod, 0, &o->layout, TACA_IMG);
}
static void run_gate_norm(void *ctx) {
    const struct op *o = ctx;
    const struct taca_adaln m = {o->mod, 0, 0, o->x.cols, &o->layout, TACA_IMG, 1e-6f};
    taca_gate_norm(o->b, o->y, o->x, o->sum, &m);
}
static void run_qk_norm(void *ctx) {
    const struct op *o = ctx;
    const struct taca_qk w = {.gain_q = &o->gain, .gain_k = &o->gain, .eps = 1e-6f};
    taca_qk_norm_rope(o->b, o->y, o->z, &w);
}
static void run_qk_norm_rope(void *ctx) {
    const struct op *o = ctx;
    const struct taca_qk w = {&o->gain, &o->gain, o->table, 1e-6f};
    taca_qk_norm_rope(o->b, o->y, o->z, &w);
}
static void run_group_norm(void *ctx) {
    const struct op *o = ctx;
    taca_group_norm(o->b, o->out, o->in, &o->gain, &o->bias, 32, 1e-6f, TACA_ACT_SILU);
}

/* The bench, and weights that live as long as the backend of one case. */
struct ops {
    const struct taca_bench *bench;
    struct taca_ckpt *ckpt;
    struct taca_err *err;
    bool device; /* no CPU computes */
};

static struct taca_mat normal_mat(struct op *o, enum taca_dtype t, int64_t rows, int64_t cols) {
    struct taca_mat m = taca_scratch_mat(&o->s, t, rows, cols);
    if (m.data) bench_fill(o->b, m.data, t, rows * cols);
    return m;
}

static struct taca_map normal_map(struct op *o, enum taca_dtype t, int64_t side, int64_t c) {
    struct taca_map m = taca_scratch_map(&o->s, t, 1, side, side, c);
    if (m.data) bench_fill(o->b, m.data, t, side * side * c);
    return m;
}

/* A backend and scratch of its own for each case: nothing of an earlier one is in the way. */
static enum taca_code begin(struct ops *w, struct op *o, double mbyte) {
    *o = (struct op){0};
    enum taca_code rc = bench_open_backend(&o->b, w->bench, w->err);
    if (rc) return rc;
    o->s = (struct taca_scratch){.b = o->b};
    return taca_scratch_reserve(&o->s, (size_t)(mbyte * 1e6), w->err);
}

static enum taca_code end(struct ops *w, struct op *o, enum taca_code rc) {
    if (!o->b) return rc;
    if (!rc) rc = taca_sync(o->b, w->err);
    taca_layout_finish(&o->layout);
    taca_scratch_finish(&o->s);
    taca_backend_close(o->b);
    taca_ckpt_drop(w->ckpt);
    return rc;
}

static enum taca_code measure(struct ops *w, struct op *o, const char *group, const char *name,
                              const double cost[2], void (*fn)(void *ctx)) {
    static struct bench_sample s;
    struct taca_bench_row row = {.group = group,
                                 .name = name,
                                 .dtype = o->linear && o->linear->dtype == TACA_U8
                                              ? precision_name(o->b)
                                              : taca_dtype_name(taca_backend_precision(o->b)),
                                 .threads = bench_threads(w->bench),
                                 .gflop = cost[0] * 1e-9,
                                 .mbyte = cost[1] * 1e-6};
    row.device = bench_on_device(o->b);
    bench_repeat(&s, w->bench, 5, &(struct bench_work){o->b, fn, o});
    if (s.err.code) return taca_fail(w->err, s.err.code, "%s", s.err.text);
    bench_send(w->bench, &row, &s);
    return TACA_OK;
}

/* ---- linear maps ----------------------------------------------------------------------------- */

struct linear_case {
    const char *name;
    int64_t rows, in, out;
    enum taca_act act;
};
static const struct linear_case linears[] = {
    {"SD3.5-medium qkv, 512 rows", 512, 1536, 4608, TACA_ACT_NONE},
    {"SD3.5-medium qkv, 666 rows", 666, 1536, 4608, TACA_ACT_NONE},
    {"SD3.5-medium out, 512 rows", 512, 1536, 1536, TACA_ACT_NONE},
    {"SD3.5-medium up + GELU, 256 rows", 256, 1536, 6144, TACA_ACT_GELU_TANH},
    {"SD3.5-medium up + GELU, 2048 rows", 2048, 1536, 6144, TACA_ACT_GELU_TANH},
    {"SD3.5-medium down, 512 rows", 512, 6144, 1536, TACA_ACT_NONE},
    {"SD3.5-medium modulation, 1 row", 1, 1536, 23040, TACA_ACT_NONE},
    {"SD3.5-large qkv, 512 rows", 512, 2432, 7296, TACA_ACT_NONE},
    {"SD3.5-large down, 2048 rows", 2048, 9728, 2432, TACA_ACT_NONE},
    {"FLUX qkv, 768 rows", 768, 3072, 9216, TACA_ACT_NONE},
    {"FLUX up + GELU, 768 rows", 768, 3072, 12288, TACA_ACT_GELU_TANH},
    {"FLUX single down, 768 rows", 768, 15360, 3072, TACA_ACT_NONE},
    {"FLUX out, 4096 rows", 4096, 3072, 3072, TACA_ACT_NONE},
    {"demo qkv, 128 rows", 128, 256, 768, TACA_ACT_NONE},
    {"a cube of 8192", 8192, 8192, 8192, TACA_ACT_NONE},
    {"FLUX qkv, 4608 rows", 4608, 3072, 9216, TACA_ACT_NONE},
    {"FLUX up + GELU, 4096 rows", 4096, 3072, 12288, TACA_ACT_GELU_TANH},
    {"FLUX single in, 4608 rows", 4608, 3072, 21504, TACA_ACT_NONE},
    {"FLUX single down, 4608 rows", 4608, 15360, 3072, TACA_ACT_NONE},
    {"SD3.5-large up + GELU, 8192 rows", 8192, 2432, 9728, TACA_ACT_GELU_TANH},
};

static enum taca_code bench_linear(struct ops *w, const struct linear_case *c) {
    struct op o;
    struct taca_tensor weight, bias;
    const double n = (double)c->in * (double)c->out, rows = (double)c->rows;
    enum taca_code rc = begin(w, &o, rows * (double)(c->in + c->out) * 4e-6 + 1);
    if (!rc) rc = taca_ckpt_get(w->ckpt, &weight, "weight", 2, (int64_t[]){c->out, c->in}, w->err);
    if (!rc) rc = taca_ckpt_get(w->ckpt, &bias, "bias", 1, &c->out, w->err);
    if (!rc) taca_backend_narrow(o.b, true);
    if (!rc) rc = taca_linear_open(o.b, &o.linear, &weight, &bias, 1, w->err);
    if (!rc) {
        const enum taca_dtype t = taca_backend_precision(o.b);
        o.act = c->act;
        o.x = normal_mat(&o, t, c->rows, c->in);
        o.y = taca_scratch_mat(&o.s, t, c->rows, c->out);
        const double bytes = (double)taca_dtype_bytes(t);
        const double cost[] = {2 * rows * n, (n + rows * (double)(c->in + c->out)) * bytes};
        rc = measure(w, &o, "linear", c->name, cost, run_linear);
    }
    return end(w, &o, rc);
}

/* ---- attention ------------------------------------------------------------------------------- */

struct attention_case {
    const char *name;
    int segs;
    int64_t img, txt, heads, d;
    float gamma;
};
static const struct attention_case attentions[] = {
    {"SD3.5-medium, 2 x (256 + 333), head 64", 2, 256, 333, 24, 64, 1},
    {"SD3.5-medium, 2 x (256 + 333), head 64, TACA", 2, 256, 333, 24, 64, 1.2f},
    {"SD3.5-medium dual, 2 x 256, head 64", 2, 256, 0, 24, 64, 1},
    {"SD3.5-medium, 1024 + 333, head 64", 1, 1024, 333, 24, 64, 1},
    {"FLUX, 256 + 512, head 128", 1, 256, 512, 24, 128, 1},
    {"VAE middle, 1024 tokens, head 512", 1, 1024, 0, 1, 512, 1},
    {"FLUX, 4096 + 512, head 128", 1, 4096, 512, 24, 128, 1},
    {"FLUX, 4096 + 512, head 128, TACA", 1, 4096, 512, 24, 128, 1.2f},
    {"SD3.5-large, 2 x (4096 + 333), head 64", 2, 4096, 333, 38, 64, 1},
    {"VAE middle, 16384 tokens, head 512", 1, 16384, 0, 1, 512, 1},
};

static struct taca_qkv cut_qkv(struct taca_mat m, int64_t d) {
    return (struct taca_qkv){taca_mat_cols(m, 0, d), taca_mat_cols(m, d, d),
                             taca_mat_cols(m, 2 * d, d)};
}

static enum taca_code bench_attention(struct ops *w, const struct attention_case *c) {
    struct op o;
    struct taca_seg segs[2];
    const int64_t d = c->heads * c->d, rows = c->segs * (c->img + c->txt);
    const double pairs = (double)c->segs * pow((double)(c->img + c->txt), 2);
    for (int i = 0; i < c->segs; i++)
        segs[i] = (struct taca_seg){i * c->img, c->img, i * c->txt, c->txt, c->gamma};
    enum taca_code rc = begin(w, &o, (double)(rows * d) * 16e-6 + 1);
    if (!rc) rc = taca_layout_init(&o.layout, o.b, segs, c->segs, w->err);
    if (!rc) {
        const enum taca_dtype t = taca_backend_precision(o.b);
        o.attn = (struct taca_attn){.heads = (int)c->heads, .scale = 1 / sqrtf((float)c->d)};
        o.qkv[0] = cut_qkv(normal_mat(&o, t, c->segs * c->img, 3 * d), d);
        o.o[0] = taca_scratch_mat(&o.s, t, c->segs * c->img, d);
        if (c->txt) {
            o.qkv[1] = cut_qkv(normal_mat(&o, t, c->segs * c->txt, 3 * d), d);
            o.o[1] = taca_scratch_mat(&o.s, t, c->segs * c->txt, d);
        }
        const double cost[] = {4 * pairs * (double)d, 0};
        rc = measure(w, &o, "attention", c->name, cost, run_attention);
    }
    return end(w, &o, rc);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static const struct row_case {
    const char *name;
    int64_t rows, cols;
    void (*fn)(void *ctx);
    double bytes[2]; /* per element: as f32, whatever the precision; and in the precision */
} row_cases[] = {
    {"norm + modulate, 1178 x 1536", 1178, 1536, run_modulate, {4, 1}},
    {"gate + add, 1178 x 1536", 1178, 1536, run_gate, {8, 1}},
    {"gate + add + norm + modulate, 1178 x 1536", 1178, 1536, run_gate_norm, {12, 1}},
    {"norms of q and k, 1178 x 1536", 1178, 1536, run_qk_norm, {0, 4}},
    {"norms and places of q and k, 768 x 3072", 768, 3072, run_qk_norm_rope, {0, 4}},
    {"norm + modulate, 4608 x 3072", 4608, 3072, run_modulate, {4, 1}},
    {"gate + add, 4608 x 3072", 4608, 3072, run_gate, {8, 1}},
    {"gate + add + norm + modulate, 4608 x 3072", 4608, 3072, run_gate_norm, {12, 1}},
    {"norms and places of q and k, 4608 x 3072", 4608, 3072, run_qk_norm_rope, {0, 4}},
};

static enum taca_code bench_rows(struct ops *w, const struct row_case *c) {
    struct op o;
    struct taca_tensor gain;
    const double n = (double)(c->rows * c->cols);
    const int64_t head = c->cols > 2048 ? 128 : 64;
    const struct taca_seg segs[] = {{0, c->rows / 2, 0, 0, 1}, {c->rows / 2, c->rows / 2, 0, 0, 1}};
    enum taca_code rc = begin(w, &o, n * 20e-6 + 1);
    if (!rc) rc = taca_layout_init(&o.layout, o.b, segs, 2, w->err);
    if (!rc) rc = taca_ckpt_get(w->ckpt, &gain, "weight", 1, &head, w->err);
    if (!rc) rc = taca_vec_open(o.b, &o.gain, &gain, w->err);
    if (!rc) {
        const enum taca_dtype t = taca_backend_precision(o.b);
        o.x = normal_mat(&o, TACA_F32, c->rows, c->cols);
        o.y = normal_mat(&o, t, c->rows, c->cols);
        o.z = normal_mat(&o, t, c->rows, c->cols);
        o.sum = normal_mat(&o, TACA_F32, c->rows, c->cols);
        o.mod = normal_mat(&o, TACA_F32, 2, 2 * c->cols);
        o.table = normal_mat(&o, TACA_F32, c->rows, head);
        const double cost[] = {0, n * (c->bytes[0] + c->bytes[1] * (double)taca_dtype_bytes(t))};
        rc = measure(w, &o, "by row", c->name, cost, c->fn);
    }
    return end(w, &o, rc);
}

/* ---- maps ------------------------------------------------------------------------------------ */

static const struct map_case {
    const char *name;
    int64_t side, c_in, c_out; /* c_out 0: group norm and SiLU */
} map_cases[] = {
    {"3 x 3, 512 -> 512 at 32 x 32", 32, 512, 512},
    {"3 x 3, 512 -> 512 at 128 x 128", 128, 512, 512},
    {"3 x 3, 256 -> 256 at 256 x 256", 256, 256, 256},
    {"3 x 3, 128 -> 128 at 256 x 256", 256, 128, 128},
    {"3 x 3, 128 -> 3 at 256 x 256", 256, 128, 3},
    {"group norm + SiLU, 256 at 256 x 256", 256, 256, 0},
    {"3 x 3, 512 -> 512 at 256 x 256", 256, 512, 512},
    {"3 x 3, 128 -> 128 at 1024 x 1024", 1024, 128, 128},
    {"group norm + SiLU, 128 at 1024 x 1024", 1024, 128, 0},
};

static enum taca_code open_map_weights(struct ops *w, struct op *o, const struct map_case *c) {
    struct taca_tensor weight, bias;
    const struct taca_conv shape = {
        .stride = 1, .pad_top = 1, .pad_left = 1, .pad_bottom = 1, .pad_right = 1};
    if (!c->c_out) {
        enum taca_code rc = taca_ckpt_get(w->ckpt, &weight, "weight", 1, &c->c_in, w->err);
        if (!rc) rc = taca_ckpt_get(w->ckpt, &bias, "bias", 1, &c->c_in, w->err);
        if (!rc) rc = taca_vec_open(o->b, &o->gain, &weight, w->err);
        return rc ? rc : taca_vec_open(o->b, &o->bias, &bias, w->err);
    }
    const int64_t dim[] = {c->c_out, c->c_in, 3, 3};
    enum taca_code rc = taca_ckpt_get(w->ckpt, &weight, "weight", 4, dim, w->err);
    if (!rc) rc = taca_ckpt_get(w->ckpt, &bias, "bias", 1, &c->c_out, w->err);
    return rc ? rc : taca_conv_open(o->b, &o->conv, &weight, &bias, &shape, w->err);
}

static enum taca_code bench_map(struct ops *w, const struct map_case *c) {
    struct op o;
    const double pixels = (double)(c->side * c->side), in = (double)c->c_in;
    const int64_t c_out = c->c_out ? c->c_out : c->c_in;
    enum taca_code rc = begin(w, &o, pixels * (in + (double)c_out) * 4e-6 + 1);
    if (!rc) rc = open_map_weights(w, &o, c);
    if (!rc) {
        const enum taca_dtype t = taca_backend_precision(o.b);
        o.in = normal_map(&o, c->c_out ? t : TACA_F32, c->side, c->c_in);
        o.out = taca_scratch_map(&o.s, c->c_out ? TACA_F32 : t, 1, c->side, c->side, c_out);
        const double cost[] = {18 * pixels * in * (double)c->c_out,
                               pixels * (in + (double)c_out) * 3};
        rc = measure(w, &o, "conv", c->name, cost, c->c_out ? run_conv : run_group_norm);
    }
    return end(w, &o, rc);
}

/* What would be seconds of a CPU is for devices alone. */
static bool wanted(const struct ops *w, const char *group, const char *name, double flops) {
    return (w->device || flops < 1.2e11) && bench_wanted(w->bench, group, name);
}

static double linear_flops(const struct linear_case *c) {
    return 2.0 * (double)(c->rows * c->in) * (double)c->out;
}
static double attention_flops(const struct attention_case *c) {
    return 4.0 * c->segs * pow((double)(c->img + c->txt), 2) * (double)(c->heads * c->d);
}
/* Of the 3 x 3 convolution that a norm stands before. */
static double map_flops(const struct map_case *c) {
    return 18.0 * (double)(c->side * c->side * c->c_in) * (double)(c->c_out ? c->c_out : c->c_in);
}

enum taca_code taca_bench_ops(struct taca_bench *b, struct taca_err *err) {
    struct ops w = {.bench = b, .err = err};
    enum taca_code rc = bench_finds_device(b, &w.device, err);
    if (!rc) rc = taca_ckpt_open_random(&w.ckpt, 1, err);
    for (size_t i = 0; i < sizeof linears / sizeof *linears && !rc; i++)
        if (wanted(&w, "linear", linears[i].name, linear_flops(&linears[i])))
            rc = bench_linear(&w, &linears[i]);
    for (size_t i = 0; i < sizeof attentions / sizeof *attentions && !rc; i++)
        if (wanted(&w, "attention", attentions[i].name, attention_flops(&attentions[i])))
            rc = bench_attention(&w, &attentions[i]);
    for (size_t i = 0; i < sizeof row_cases / sizeof *row_cases && !rc; i++)
        if (wanted(&w, "by row", row_cases[i].name, 0)) rc = bench_rows(&w, &row_cases[i]);
    for (size_t i = 0; i < sizeof map_cases / sizeof *map_cases && !rc; i++)
        if (wanted(&w, "conv", map_cases[i].name, map_flops(&map_cases[i])))
            rc = bench_map(&w, &map_cases[i]);
    taca_ckpt_close(w.ckpt);
    return rc;
}
