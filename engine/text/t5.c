/* t5.c - see t5.h. Pre-norm transformer; positions enter only through a bias by distance that block
 * 0 holds and all blocks share. Every prompt of a call is one segment of the image stream.
 *
 * Attention scores are not scaled by 1/sqrt(d). The residual stream is f32: in the published model
 * it passes what f16 can hold. */
#include "engine/text/t5.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/text/table.h"

enum {
    MAX_LAYERS = 256,
    MAX_WIDTH = 1 << 16,
    MAX_VOCAB = 1 << 24,
    MAX_BUCKETS = 1 << 12,
    MAX_DISTANCE = 1 << 20
};

struct layer {
    struct taca_vec norm1, norm2;
    struct taca_linear *qkv, *o, *wi_0, *wi_1, *wo;
};

struct t5 {
    int64_t width, d_kv, ff, vocab, n_layers, heads, buckets, max_distance;
    int max_tokens;
    double eps;
    struct text_table token;
    struct taca_mat bias; /* [heads, 2 max_tokens - 1] by query minus key */
    struct layer *layer;
    struct taca_vec last;
    int64_t weight_bytes;
};

/* ---- config ---------------------------------------------------------------------------------- */

/* Only the gated form with gelu_new exists in text encoders of image models. */
static enum taca_code check_act(const json_t *config, struct taca_err *err) {
    const char *act, *proj;
    bool gated;
    enum taca_code rc = taca_cfg_string(config, "feed_forward_proj", "", &proj, err);
    if (rc == TACA_OK) rc = taca_cfg_string(config, "dense_act_fn", "", &act, err);
    if (rc == TACA_OK) rc = taca_cfg_bool(config, "is_gated_act", false, &gated, err);
    if (rc != TACA_OK) return rc;
    const bool tanh_gelu = strcmp(act, "gelu_new") == 0 || strcmp(act, "gelu_pytorch_tanh") == 0;
    if (strcmp(proj, "gated-gelu") == 0 || (!*proj && gated && tanh_gelu)) return TACA_OK;
    return taca_fail(err, TACA_EUNSUPPORTED,
                     "feed_forward_proj \"%.32s\", dense_act_fn \"%.32s\"; supported: gated-gelu",
                     proj, act);
}

static enum taca_code read_config(struct t5 *t, const json_t *config, struct taca_err *err) {
    const struct {
        const char *key;
        int64_t fallback, max, *out; /* fallbacks are those of the format */
    } ints[] = {
        {"d_model", 512, MAX_WIDTH, &t->width},
        {"d_kv", 64, MAX_WIDTH, &t->d_kv},
        {"d_ff", 2048, 8 * MAX_WIDTH, &t->ff},
        {"vocab_size", 32128, MAX_VOCAB, &t->vocab},
        {"num_layers", 6, MAX_LAYERS, &t->n_layers},
        {"num_heads", 8, MAX_WIDTH, &t->heads},
        {"relative_attention_num_buckets", 32, MAX_BUCKETS, &t->buckets},
        {"relative_attention_max_distance", 128, MAX_DISTANCE, &t->max_distance},
    };
    enum taca_code rc = TACA_OK;
    for (size_t i = 0; i < sizeof ints / sizeof *ints && rc == TACA_OK; i++)
        rc = taca_cfg_int(config, ints[i].key, ints[i].fallback, 1, ints[i].max, ints[i].out, err);
    if (rc == TACA_OK) rc = taca_cfg_number(config, "layer_norm_epsilon", 1e-6, 0, 1, &t->eps, err);
    if (rc == TACA_OK) rc = check_act(config, err);
    if (rc == TACA_OK && (t->buckets % 4 != 0 || t->max_distance <= t->buckets / 4))
        rc = taca_fail(err, TACA_EFORMAT,
                       "relative_attention_num_buckets %" PRId64 " and _max_distance %" PRId64
                       "; wanted a multiple of 4 and more than a quarter of it",
                       t->buckets, t->max_distance);
    return rc;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Loading stops at the first failure and passes over the rest. */
struct loader {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    struct t5 *t;
    enum taca_code rc;
    struct taca_err *err;
};

enum { NAME_BYTES = 128 };

static struct taca_tensor get(struct loader *l, const char *name, int rank, const int64_t *dim) {
    struct taca_tensor t = {0};
    if (l->rc == TACA_OK) l->rc = taca_ckpt_get(l->ckpt, &t, name, rank, dim, l->err);
    return t;
}

static void load_norm(struct loader *l, struct taca_vec *gain, const char *name) {
    struct taca_tensor t = get(l, name, 1, &l->t->width);
    if (l->rc == TACA_OK) l->rc = taca_vec_open(l->b, gain, &t, l->err);
    l->t->weight_bytes += gain->n * (int64_t)sizeof(float);
}

/* Block `layer`'s linear of n stored ones with their rows stacked, each [out, in]. */
static struct taca_linear *load_linear(struct loader *l, int64_t layer, const char *const *part,
                                       int n, const int64_t dim[2]) {
    enum { MAX_PARTS = 3 };
    struct taca_tensor weight[MAX_PARTS];
    struct taca_linear *w = NULL;
    for (int i = 0; i < n; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "encoder.block.%" PRId64 ".layer.%s.weight", layer, part[i]);
        weight[i] = get(l, name, 2, dim);
    }
    if (l->rc == TACA_OK) l->rc = taca_linear_open(l->b, &w, weight, NULL, n, l->err);
    if (w) l->t->weight_bytes += w->in * w->out * (int64_t)taca_dtype_bytes(w->dtype);
    return w;
}

static void load_layer(struct loader *l, struct layer *layer, int64_t i) {
    static const char *const qkv[] = {"0.SelfAttention.q", "0.SelfAttention.k",
                                      "0.SelfAttention.v"};
    static const char *const o = "0.SelfAttention.o", *const wi_0 = "1.DenseReluDense.wi_0",
                             *const wi_1 = "1.DenseReluDense.wi_1",
                             *const wo = "1.DenseReluDense.wo";
    const struct t5 *t = l->t;
    const int64_t w = t->width, inner = t->heads * t->d_kv, ff = t->ff;
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "encoder.block.%" PRId64 ".layer.0.layer_norm.weight", i);
    load_norm(l, &layer->norm1, name);
    snprintf(name, sizeof name, "encoder.block.%" PRId64 ".layer.1.layer_norm.weight", i);
    load_norm(l, &layer->norm2, name);
    layer->qkv = load_linear(l, i, qkv, 3, (int64_t[]){inner, w});
    layer->o = load_linear(l, i, &o, 1, (int64_t[]){w, inner});
    layer->wi_0 = load_linear(l, i, &wi_0, 1, (int64_t[]){ff, w});
    layer->wi_1 = load_linear(l, i, &wi_1, 1, (int64_t[]){ff, w});
    layer->wo = load_linear(l, i, &wo, 1, (int64_t[]){w, ff});
}

/* Files hold the embedding under one of two names, or under both with the same values. */
static void load_token(struct loader *l) {
    static const char shared[] = "shared.weight", own[] = "encoder.embed_tokens.weight";
    struct t5 *t = l->t;
    const bool only_own = taca_ckpt_has(l->ckpt, own) && !taca_ckpt_has(l->ckpt, shared);
    const int64_t dim[] = {t->vocab, t->width};
    if (l->rc == TACA_OK)
        l->rc = text_table_open(&t->token, l->b, l->ckpt, only_own ? own : shared, dim, l->err);
    t->weight_bytes += (int64_t)text_table_kept(&t->token);
}

int64_t t5_bucket(int64_t distance, int64_t buckets, int64_t max_distance) {
    const int64_t half = buckets / 2, exact = half / 2, a = distance < 0 ? -distance : distance;
    int64_t f = a;
    if (a >= exact) {
        /* float, as the reference computes it */
        const float ratio =
            logf((float)a / (float)exact) / (float)log((double)max_distance / (double)exact);
        f = exact + (int64_t)(ratio * (float)(half - exact));
        if (f > half - 1) f = half - 1;
    }
    return (distance > 0 ? half : 0) + f;
}

/* The bias of every distance that a prompt can have, a row per head. */
static void load_bias(struct loader *l) {
    static const char name[] =
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    struct t5 *t = l->t;
    const int64_t n = t->max_tokens, cols = 2 * n - 1;
    struct taca_tensor stored = get(l, name, 2, (int64_t[]){t->buckets, t->heads});
    if (l->rc != TACA_OK) return;
    const size_t cells = (size_t)(t->buckets * t->heads);
    float *table = malloc(cells * sizeof *table);
    float *wide = malloc((size_t)(t->heads * cols) * sizeof *wide);
    if (table && wide) {
        taca_to_f32(table, stored.data, stored.dtype, cells);
        for (int64_t h = 0; h < t->heads; h++)
            for (int64_t c = 0; c < cols; c++) /* query minus key is c - (n - 1) */
                wide[h * cols + c] =
                    table[t5_bucket(n - 1 - c, t->buckets, t->max_distance) * t->heads + h];
        const struct taca_tensor all = {name, wide, TACA_F32, 2, {t->heads, cols}};
        l->rc = taca_table_open(l->b, &t->bias, &all, l->err);
        t->weight_bytes += t->heads * cols * (int64_t)sizeof(float);
    } else {
        l->rc = taca_fail(l->err, TACA_ENOMEM, "%s", name);
    }
    free(table);
    free(wide);
}

static enum taca_code load_weights(struct t5 *t, struct taca_backend *b, struct taca_ckpt *ckpt,
                                   struct taca_err *err) {
    struct loader l = {.b = b, .ckpt = ckpt, .t = t, .err = err};
    t->layer = calloc((size_t)t->n_layers, sizeof *t->layer);
    if (!t->layer) return taca_fail(err, TACA_ENOMEM, "%" PRId64 " layers", t->n_layers);
    load_token(&l);
    load_bias(&l);
    taca_ckpt_drop(ckpt);
    for (int64_t i = 0; i < t->n_layers && l.rc == TACA_OK; i++) {
        load_layer(&l, &t->layer[i], i);
        taca_ckpt_drop(ckpt);
    }
    load_norm(&l, &t->last, "encoder.final_layer_norm.weight");
    return l.rc;
}

enum taca_code t5_open(struct t5 **out, struct taca_backend *b, const json_t *config,
                       struct taca_ckpt *ckpt, int max_tokens, struct taca_err *err) {
    if (max_tokens < 1)
        return taca_fail(err, TACA_EINVAL, "a T5 encoder for %d tokens", max_tokens);
    struct t5 *t = calloc(1, sizeof *t);
    if (!t) return taca_fail(err, TACA_ENOMEM, "out of memory");
    t->max_tokens = max_tokens;
    enum taca_code rc = read_config(t, config, err);
    if (rc == TACA_OK) rc = load_weights(t, b, ckpt, err);
    if (rc != TACA_OK) {
        t5_close(t);
        return rc;
    }
    *out = t;
    return TACA_OK;
}

void t5_close(struct t5 *t) {
    if (!t) return;
    text_table_close(&t->token);
    free(t->layer);
    free(t);
}

int64_t t5_width(const struct t5 *t) { return t->width; }
int t5_vocab(const struct t5 *t) { return (int)t->vocab; }
int64_t t5_weight_bytes(const struct t5 *t) { return t->weight_bytes; }
size_t t5_mapped_bytes(const struct t5 *t) { return text_table_mapped(&t->token); }

/* ---- forward --------------------------------------------------------------------------------- */

struct forward {
    const struct t5 *t;
    struct taca_backend *b;
    struct taca_layout layout;
    /* h and a only feed linears: the backend's precision will do */
    struct taca_mat x, h, a, y, qkv, gate, up;
};

/* x += o(attention(norm1 x)); x += wo(gelu(wi_0 norm2 x) o wi_1 norm2 x). */
static void run_layer(struct forward *f, const struct layer *l) {
    const struct t5 *t = f->t;
    struct taca_backend *b = f->b;
    const int64_t inner = t->heads * t->d_kv;
    const float eps = (float)t->eps;
    const struct taca_attn attn = {.heads = (int)t->heads, .scale = 1.0f, .rel_bias = t->bias};
    taca_rms_norm(b, f->h, f->x, &l->norm1, eps);
    taca_linear(b, f->qkv, f->h, l->qkv, TACA_ACT_NONE);
    const struct taca_qkv qkv = {taca_mat_cols(f->qkv, 0, inner),
                                 taca_mat_cols(f->qkv, inner, inner),
                                 taca_mat_cols(f->qkv, 2 * inner, inner)};
    taca_attention(b, f->a, (struct taca_mat){0}, qkv, (struct taca_qkv){0}, &f->layout, &attn);
    taca_linear(b, f->y, f->a, l->o, TACA_ACT_NONE);
    taca_add(b, f->x, f->x, f->y);

    taca_rms_norm(b, f->h, f->x, &l->norm2, eps);
    taca_linear(b, f->gate, f->h, l->wi_0, TACA_ACT_GELU_TANH);
    taca_linear(b, f->up, f->h, l->wi_1, TACA_ACT_NONE);
    taca_multiply(b, f->gate, f->gate, f->up);
    taca_linear(b, f->y, f->gate, l->wo, TACA_ACT_NONE);
    taca_add(b, f->x, f->x, f->y);
}

static enum taca_code open_layout(struct forward *f, int n_seq, int len, struct taca_err *err) {
    struct taca_seg *seg = calloc((size_t)n_seq, sizeof *seg);
    if (!seg) return taca_fail(err, TACA_ENOMEM, "%d prompts", n_seq);
    for (int i = 0; i < n_seq; i++)
        seg[i] = (struct taca_seg){.img = (int64_t)i * len, .n_img = len, .gamma = 1};
    enum taca_code rc = taca_layout_init(&f->layout, f->b, seg, n_seq, err);
    free(seg);
    return rc;
}

enum taca_code t5_encode(const struct t5 *t, struct taca_backend *b, struct taca_scratch *s,
                         const int32_t *ids, int n_seq, int len, struct taca_mat out,
                         struct taca_err *err) {
    if (n_seq < 1 || len < 1 || len > t->max_tokens)
        return taca_fail(err, TACA_EINVAL, "%d prompts of %d tokens, the encoder takes 1..%d",
                         n_seq, len, t->max_tokens);
    struct forward f = {.t = t, .b = b};
    enum taca_code rc = open_layout(&f, n_seq, len, err);
    if (rc != TACA_OK) return rc;

    const size_t used = s->used;
    const int64_t rows = (int64_t)n_seq * len, inner = t->heads * t->d_kv;
    const enum taca_dtype precision = taca_backend_precision(b);
    f.x = taca_scratch_mat(s, TACA_F32, rows, t->width);
    f.y = taca_scratch_mat(s, TACA_F32, rows, t->width);
    f.h = taca_scratch_mat(s, precision, rows, t->width);
    const size_t both = s->used; /* a block's halves do not overlap in time */
    f.qkv = taca_scratch_mat(s, TACA_F32, rows, 3 * inner);
    f.a = taca_scratch_mat(s, precision, rows, inner);
    s->used = both;
    f.gate = taca_scratch_mat(s, TACA_F32, rows, t->ff);
    f.up = taca_scratch_mat(s, TACA_F32, rows, t->ff);
    rc = text_table_embed(&t->token, b, f.x, ids, err);
    for (int64_t i = 0; i < t->n_layers && !rc; i++) run_layer(&f, &t->layer[i]);
    if (!rc) taca_rms_norm(b, out, f.x, &t->last, (float)t->eps);
    s->used = used;
    taca_layout_finish(&f.layout);
    return rc;
}
