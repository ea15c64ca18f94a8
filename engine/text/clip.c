/* clip.c - see clip.h. Pre-norm transformer over causal attention; every prompt of a call is one
 * segment of the image stream. */
#include "engine/text/clip.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/table.h"

enum { MAX_LAYERS = 256, MAX_WIDTH = 1 << 16, MAX_VOCAB = 1 << 24, MAX_POSITIONS = 1 << 16 };

struct norm {
    struct taca_vec gain, bias;
};

struct layer {
    struct norm norm1, norm2;
    struct taca_linear *qkv, *out, *fc1, *fc2;
};

struct clip {
    int64_t width, mlp, vocab, positions, n_layers, heads;
    double eps;
    enum taca_act act;
    struct text_table token;
    struct taca_mat position;
    struct layer *layer;
    struct norm last;
    struct taca_linear *projection; /* NULL: pooled is not projected */
    int64_t weight_bytes;
};

/* ---- config ---------------------------------------------------------------------------------- */

static enum taca_code read_act(struct clip *c, const json_t *config, struct taca_err *err) {
    const char *name;
    enum taca_code rc = taca_cfg_string(config, "hidden_act", "quick_gelu", &name, err);
    if (rc != TACA_OK) return rc;
    if (strcmp(name, "quick_gelu") == 0)
        c->act = TACA_ACT_QUICK_GELU;
    else if (strcmp(name, "gelu") == 0)
        c->act = TACA_ACT_GELU_ERF;
    else
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "hidden_act \"%.32s\", supported: quick_gelu, gelu", name);
    return TACA_OK;
}

static enum taca_code read_config(struct clip *c, const json_t *config, struct taca_err *err) {
    const struct {
        const char *key;
        int64_t fallback, max, *out; /* fallbacks are those of the format */
    } ints[] = {
        {"hidden_size", 512, MAX_WIDTH, &c->width},
        {"intermediate_size", 2048, 8 * MAX_WIDTH, &c->mlp},
        {"vocab_size", 49408, MAX_VOCAB, &c->vocab},
        {"max_position_embeddings", 77, MAX_POSITIONS, &c->positions},
        {"num_hidden_layers", 12, MAX_LAYERS, &c->n_layers},
        {"num_attention_heads", 8, MAX_WIDTH, &c->heads},
    };
    enum taca_code rc = TACA_OK;
    for (size_t i = 0; i < sizeof ints / sizeof *ints && rc == TACA_OK; i++)
        rc = taca_cfg_int(config, ints[i].key, ints[i].fallback, 1, ints[i].max, ints[i].out, err);
    if (rc == TACA_OK) rc = taca_cfg_number(config, "layer_norm_eps", 1e-5, 0, 1, &c->eps, err);
    if (rc == TACA_OK) rc = read_act(c, config, err);
    if (rc == TACA_OK && c->width % c->heads != 0)
        rc = taca_fail(err, TACA_EFORMAT,
                       "hidden_size %" PRId64 " is no multiple of num_attention_heads %" PRId64,
                       c->width, c->heads);
    return rc;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Loading stops at the first failure and passes over the rest. */
struct loader {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    struct clip *c;
    const char *prefix; /* "text_model." or "" */
    enum taca_code rc;
    struct taca_err *err;
};

enum { NAME_BYTES = 128 };

/* Tensor "<prefix><part>.<leaf>" with exactly that shape. */
static struct taca_tensor get(struct loader *l, const char *part, const char *leaf, int rank,
                              const int64_t *dim) {
    struct taca_tensor t = {0};
    char name[NAME_BYTES];
    if (l->rc != TACA_OK) return t;
    snprintf(name, sizeof name, "%s%s.%s", l->prefix, part, leaf);
    l->rc = taca_ckpt_get(l->ckpt, &t, name, rank, dim, l->err);
    return t;
}

static void load_token(struct loader *l) {
    const int64_t dim[] = {l->c->vocab, l->c->width};
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%sembeddings.token_embedding.weight", l->prefix);
    l->rc = text_table_open(&l->c->token, l->b, l->ckpt, name, dim, l->err);
    l->c->weight_bytes += (int64_t)text_table_kept(&l->c->token);
    taca_ckpt_drop(l->ckpt);
}

static void load_position(struct loader *l) {
    struct clip *c = l->c;
    struct taca_tensor t =
        get(l, "embeddings.position_embedding", "weight", 2, (int64_t[]){c->positions, c->width});
    if (l->rc == TACA_OK) l->rc = taca_table_open(l->b, &c->position, &t, l->err);
    taca_ckpt_drop(l->ckpt);
    c->weight_bytes += c->position.rows * c->position.cols * (int64_t)sizeof(float);
}

static void load_norm(struct loader *l, struct norm *n, const char *part) {
    struct taca_tensor gain = get(l, part, "weight", 1, &l->c->width);
    struct taca_tensor bias = get(l, part, "bias", 1, &l->c->width);
    if (l->rc == TACA_OK) l->rc = taca_vec_open(l->b, &n->gain, &gain, l->err);
    if (l->rc == TACA_OK) l->rc = taca_vec_open(l->b, &n->bias, &bias, l->err);
    l->c->weight_bytes += (n->gain.n + n->bias.n) * (int64_t)sizeof(float);
}

static void count_linear(struct clip *c, const struct taca_linear *w) {
    if (w) c->weight_bytes += w->in * w->out * (int64_t)taca_dtype_bytes(w->dtype);
    if (w && w->has_bias) c->weight_bytes += w->out * (int64_t)sizeof(float);
}

/* One linear of n stored ones with their rows stacked; part names are layer-relative. */
static struct taca_linear *load_linear(struct loader *l, int64_t layer, const char *const *part,
                                       int n, const int64_t dim[2]) {
    enum { MAX_PARTS = 3 };
    struct taca_tensor weight[MAX_PARTS], bias[MAX_PARTS];
    struct taca_linear *w = NULL;
    for (int i = 0; i < n; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "encoder.layers.%" PRId64 ".%s", layer, part[i]);
        weight[i] = get(l, name, "weight", 2, dim);
        bias[i] = get(l, name, "bias", 1, dim);
    }
    if (l->rc == TACA_OK) l->rc = taca_linear_open(l->b, &w, weight, bias, n, l->err);
    taca_ckpt_drop(l->ckpt);
    count_linear(l->c, w);
    return w;
}

static void load_layer(struct loader *l, struct layer *layer, int64_t i) {
    static const char *const qkv[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
    static const char *const out = "self_attn.out_proj", *const fc1 = "mlp.fc1",
                             *const fc2 = "mlp.fc2";
    const int64_t w = l->c->width, mlp = l->c->mlp;
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "encoder.layers.%" PRId64 ".layer_norm1", i);
    load_norm(l, &layer->norm1, name);
    snprintf(name, sizeof name, "encoder.layers.%" PRId64 ".layer_norm2", i);
    load_norm(l, &layer->norm2, name);
    layer->qkv = load_linear(l, i, qkv, 3, (int64_t[]){w, w});
    layer->out = load_linear(l, i, &out, 1, (int64_t[]){w, w});
    layer->fc1 = load_linear(l, i, &fc1, 1, (int64_t[]){mlp, w});
    layer->fc2 = load_linear(l, i, &fc2, 1, (int64_t[]){w, mlp});
}

static void load_projection(struct loader *l) {
    static const char name[] = "text_projection.weight"; /* never prefixed */
    struct taca_tensor t = {0};
    if (l->rc != TACA_OK || !taca_ckpt_has(l->ckpt, name)) return;
    l->rc = taca_ckpt_get(l->ckpt, &t, name, 2, (int64_t[]){-1, l->c->width}, l->err);
    if (l->rc == TACA_OK) l->rc = taca_linear_open(l->b, &l->c->projection, &t, NULL, 1, l->err);
    count_linear(l->c, l->c->projection);
}

static enum taca_code load_weights(struct clip *c, struct taca_backend *b, struct taca_ckpt *ckpt,
                                   struct taca_err *err) {
    struct loader l = {.b = b, .ckpt = ckpt, .c = c, .prefix = "", .err = err};
    if (taca_ckpt_has(ckpt, "text_model.final_layer_norm.weight")) l.prefix = "text_model.";
    c->layer = calloc((size_t)c->n_layers, sizeof *c->layer);
    if (!c->layer) return taca_fail(err, TACA_ENOMEM, "%" PRId64 " layers", c->n_layers);
    load_token(&l);
    load_position(&l);
    for (int64_t i = 0; i < c->n_layers && l.rc == TACA_OK; i++) load_layer(&l, &c->layer[i], i);
    load_norm(&l, &c->last, "final_layer_norm");
    load_projection(&l);
    return l.rc;
}

enum taca_code clip_open(struct clip **out, struct taca_backend *b, const json_t *config,
                         struct taca_ckpt *ckpt, struct taca_err *err) {
    struct clip *c = calloc(1, sizeof *c);
    if (!c) return taca_fail(err, TACA_ENOMEM, "out of memory");
    enum taca_code rc = read_config(c, config, err);
    if (rc == TACA_OK) rc = load_weights(c, b, ckpt, err);
    if (rc != TACA_OK) {
        clip_close(c);
        return rc;
    }
    *out = c;
    return TACA_OK;
}

void clip_close(struct clip *c) {
    if (!c) return;
    text_table_close(&c->token);
    free(c->layer);
    free(c);
}

int64_t clip_width(const struct clip *c) { return c->width; }
int64_t clip_pooled_width(const struct clip *c) {
    return c->projection ? c->projection->out : c->width;
}
int clip_max_positions(const struct clip *c) { return (int)c->positions; }
int clip_vocab(const struct clip *c) { return (int)c->vocab; }
int64_t clip_weight_bytes(const struct clip *c) { return c->weight_bytes; }
size_t clip_mapped_bytes(const struct clip *c) { return text_table_mapped(&c->token); }

/* ---- forward --------------------------------------------------------------------------------- */

struct forward {
    const struct clip *c;
    struct taca_backend *b;
    struct taca_layout layout;
    /* h only feeds linears and comes from attention: the backend's precision will do */
    struct taca_mat x, h, y, qkv, mlp;
};

/* x = token[ids] + position, per prompt */
static enum taca_code embed(struct forward *f, const struct clip_in *in, struct taca_err *err) {
    enum taca_code rc = text_table_embed(&f->c->token, f->b, f->x, in->ids, err);
    if (rc) return rc;
    struct taca_mat position = taca_mat_rows(f->c->position, 0, in->len);
    for (int i = 0; i < in->n_seq; i++) {
        struct taca_mat x = taca_mat_rows(f->x, (int64_t)i * in->len, in->len);
        taca_add(f->b, x, x, position);
    }
    return TACA_OK;
}

/* x += out(attention(norm1 x)); then mlp = fc2(act(fc1(norm2 x))) is left in y for the caller to
 * add. */
static void run_layer(struct forward *f, const struct layer *l) {
    const struct clip *c = f->c;
    struct taca_backend *b = f->b;
    const int64_t w = c->width;
    const float eps = (float)c->eps;
    const struct taca_attn attn = {.heads = (int)c->heads,
                                   .scale = 1.0f / sqrtf((float)(w / c->heads)),
                                   .mask = TACA_MASK_CAUSAL};
    taca_layer_norm(b, f->h, f->x, &l->norm1.gain, &l->norm1.bias, eps);
    taca_linear(b, f->qkv, f->h, l->qkv, TACA_ACT_NONE);
    const struct taca_qkv qkv = {taca_mat_cols(f->qkv, 0, w), taca_mat_cols(f->qkv, w, w),
                                 taca_mat_cols(f->qkv, 2 * w, w)};
    taca_attention(b, f->h, (struct taca_mat){0}, qkv, (struct taca_qkv){0}, &f->layout, &attn);
    taca_linear(b, f->y, f->h, l->out, TACA_ACT_NONE);
    taca_add(b, f->x, f->x, f->y);

    taca_layer_norm(b, f->h, f->x, &l->norm2.gain, &l->norm2.bias, eps);
    taca_linear(b, f->mlp, f->h, l->fc1, c->act);
    taca_linear(b, f->y, f->mlp, l->fc2, TACA_ACT_NONE);
}

/* Row of the first EOS; 0 when there is none, as in the reference. */
static int eos_row(const struct clip_in *in, int seq) {
    const int32_t *ids = in->ids ? in->ids + (size_t)seq * (size_t)in->len : NULL;
    for (int i = 0; ids && i < in->len; i++)
        if (ids[i] == in->eos) return i;
    return 0;
}

static void pool(struct forward *f, const struct clip_in *in, struct taca_mat pooled) {
    const struct clip *c = f->c;
    const struct taca_linear *projection = in->unprojected ? NULL : c->projection;
    for (int i = 0; i < in->n_seq; i++) {
        struct taca_mat x = taca_mat_rows(f->x, (int64_t)i * in->len + eos_row(in, i), 1);
        struct taca_mat out = taca_mat_rows(pooled, i, 1);
        struct taca_mat y = projection ? taca_mat_rows(f->y, i, 1) : out;
        taca_layer_norm(f->b, y, x, &c->last.gain, &c->last.bias, (float)c->eps);
        if (projection) taca_linear(f->b, out, y, projection, TACA_ACT_NONE);
    }
}

static enum taca_code run(struct forward *f, const struct clip_in *in, const struct clip_out *out,
                          struct taca_err *err) {
    const struct clip *c = f->c;
    const bool to_the_end = out->pooled.rows || out->last.rows;
    const int64_t hidden_at = c->n_layers - 1 - in->clip_skip; /* layers that hidden has seen */
    const int64_t layers = to_the_end ? c->n_layers : hidden_at;
    enum taca_code rc = embed(f, in, err);
    if (!rc && out->hidden.rows && hidden_at == 0) {
        /* no copy in the backend's table: rebuild the sum where it is wanted */
        struct taca_mat x = f->x;
        f->x = out->hidden;
        rc = embed(f, in, err);
        f->x = x;
    }
    if (rc) return rc;
    for (int64_t i = 0; i < layers; i++) {
        run_layer(f, &c->layer[i]);
        if (out->hidden.rows && i + 1 == hidden_at) taca_add(f->b, out->hidden, f->x, f->y);
        taca_add(f->b, f->x, f->x, f->y);
    }
    if (out->last.rows)
        taca_layer_norm(f->b, out->last, f->x, &c->last.gain, &c->last.bias, (float)c->eps);
    if (out->pooled.rows) pool(f, in, out->pooled);
    return TACA_OK;
}

static enum taca_code open_layout(struct forward *f, const struct clip_in *in,
                                  struct taca_err *err) {
    struct taca_seg *seg = calloc((size_t)in->n_seq, sizeof *seg);
    if (!seg) return taca_fail(err, TACA_ENOMEM, "%d prompts", in->n_seq);
    for (int i = 0; i < in->n_seq; i++)
        seg[i] = (struct taca_seg){.img = (int64_t)i * in->len, .n_img = in->len, .gamma = 1};
    enum taca_code rc = taca_layout_init(&f->layout, f->b, seg, in->n_seq, err);
    free(seg);
    return rc;
}

enum taca_code clip_encode(const struct clip *c, struct taca_backend *b, struct taca_scratch *s,
                           const struct clip_in *in, const struct clip_out *out,
                           struct taca_err *err) {
    if (in->n_seq < 1 || in->len < 1 || in->len > c->positions)
        return taca_fail(err, TACA_EINVAL, "%d prompts of %d tokens, the encoder takes 1..%" PRId64,
                         in->n_seq, in->len, c->positions);
    if (in->clip_skip < 0 || in->clip_skip >= c->n_layers)
        return taca_fail_param(err, "clip_skip",
                               "clip_skip must be in 0..%" PRId64 " for this encoder, got %d",
                               c->n_layers - 1, in->clip_skip);
    struct forward f = {.c = c, .b = b};
    enum taca_code rc = open_layout(&f, in, err);
    if (rc != TACA_OK) return rc;

    const size_t used = s->used;
    const int64_t rows = (int64_t)in->n_seq * in->len;
    const enum taca_dtype precision = taca_backend_precision(b);
    f.x = taca_scratch_mat(s, TACA_F32, rows, c->width);
    f.y = taca_scratch_mat(s, TACA_F32, rows, c->width);
    f.h = taca_scratch_mat(s, precision, rows, c->width);
    f.qkv = taca_scratch_mat(s, TACA_F32, rows, 3 * c->width);
    f.mlp = taca_scratch_mat(s, precision, rows, c->mlp);
    rc = run(&f, in, out, err);
    s->used = used;
    taca_layout_finish(&f.layout);
    return rc;
}
