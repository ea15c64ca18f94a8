/* tae.c - see tae.h. Residual blocks of three 3x3 convolutions with ReLU, nearest-neighbour
 * doubling between them, no norms and no attention. */
#include "engine/vae/tae.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 10, LEVELS = 4, CONVS = 3, NAME_BYTES = 96, IMAGE_CHANNELS = 3 };

/* Blocks before each doubling, the last ones after all of them. */
static const int blocks_of[LEVELS] = {3, 3, 3, 1};

struct block {
    struct taca_conv *conv[CONVS];
};

struct tae {
    int64_t channels, width;
    struct taca_conv *conv_in, *conv_out;
    struct block block[BLOCKS];
    struct taca_conv *up[LEVELS - 1]; /* behind a doubling, without bias */
};

/* ---- loading --------------------------------------------------------------------------------- */

/* Layers are numbered through, those without weights too: layer `at` of the original, which starts
 * with the clamp, is at + shift here. */
struct loader {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    const char *prefix;
    int shift;
    enum taca_code rc;
    struct taca_err *err;
};

static const struct {
    const char *prefix;
    int shift;
} spellings[] = {{"decoder.layers.", -1}, {"taesd_decoder.", 0}, {"decoder.", 0}, {"", 0}};

/* The first convolution's weight, whose shape says the rest; NULL: not such a file. */
static const struct taca_tensor *find_spelling(struct loader *l) {
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        char first[NAME_BYTES], last[NAME_BYTES];
        l->prefix = spellings[i].prefix;
        l->shift = spellings[i].shift;
        snprintf(first, sizeof first, "%s%d.weight", l->prefix, 1 + l->shift);
        snprintf(last, sizeof last, "%s%d.weight", l->prefix, 19 + l->shift);
        const struct taca_tensor *t = taca_ckpt_peek(l->ckpt, first);
        if (t && t->rank == 4 && taca_ckpt_peek(l->ckpt, last)) return t;
    }
    return NULL;
}

/* 3x3, the size stays. */
static struct taca_conv *load_conv(struct loader *l, const char *name, int64_t c_in, int64_t c_out,
                                   bool has_bias) {
    const struct taca_conv shape = {.c_in = c_in,
                                    .c_out = c_out,
                                    .kh = 3,
                                    .kw = 3,
                                    .stride = 1,
                                    .pad_top = 1,
                                    .pad_left = 1,
                                    .pad_bottom = 1,
                                    .pad_right = 1};
    struct taca_conv *conv = NULL;
    struct taca_tensor weight, bias = {"no bias", NULL, TACA_F32, 1, {c_out}};
    char full[NAME_BYTES];
    float *zeros = NULL;
    if (l->rc != TACA_OK) return NULL;
    snprintf(full, sizeof full, "%s.weight", name);
    l->rc = taca_ckpt_get(l->ckpt, &weight, full, 4, (int64_t[]){c_out, c_in, 3, 3}, l->err);
    if (l->rc == TACA_OK && has_bias) {
        snprintf(full, sizeof full, "%s.bias", name);
        l->rc = taca_ckpt_get(l->ckpt, &bias, full, 1, &c_out, l->err);
    } else if (l->rc == TACA_OK) {
        bias.data = zeros = calloc((size_t)c_out, sizeof *zeros);
        if (!zeros) l->rc = taca_fail(l->err, TACA_ENOMEM, "%s", name);
    }
    if (l->rc == TACA_OK) l->rc = taca_conv_open(l->b, &conv, &weight, &bias, &shape, l->err);
    free(zeros);
    taca_ckpt_drop(l->ckpt);
    return conv;
}

static const char *layer(const struct loader *l, char buf[NAME_BYTES], int at) {
    snprintf(buf, NAME_BYTES, "%s%d", l->prefix, at + l->shift);
    return buf;
}

static void load_block(struct loader *l, struct block *k, int at, int64_t width) {
    char name[NAME_BYTES];
    for (int i = 0; i < CONVS; i++) {
        snprintf(name, sizeof name, "%s%d.conv.%d", l->prefix, at + l->shift, 2 * i);
        k->conv[i] = load_conv(l, name, width, width, true);
    }
}

static void load(struct tae *t, struct loader *l) {
    char name[NAME_BYTES];
    int at = 1, n = 0;
    t->conv_in = load_conv(l, layer(l, name, at), t->channels, t->width, true);
    at += 2; /* and its ReLU */
    for (int i = 0; i < LEVELS; i++) {
        for (int k = 0; k < blocks_of[i]; k++) load_block(l, &t->block[n++], at++, t->width);
        if (i == LEVELS - 1) break;
        at++; /* the doubling */
        t->up[i] = load_conv(l, layer(l, name, at++), t->width, t->width, false);
    }
    t->conv_out = load_conv(l, layer(l, name, at), t->width, IMAGE_CHANNELS, true);
}

enum taca_code tae_open(struct tae **out, struct taca_backend *b, struct taca_ckpt *ckpt,
                        int64_t channels, struct taca_err *err) {
    struct loader l = {.b = b, .ckpt = ckpt, .err = err};
    const struct taca_tensor *first = find_spelling(&l);
    if (!first) {
        const char *like = taca_ckpt_looks_like(ckpt);
        return taca_fail(err, TACA_EFORMAT, "this is %s, wanted the decoder of TAESD3 or TAEF1",
                         like ? like : "not known");
    }
    if (first->dim[1] != channels)
        return taca_fail(err, TACA_EFORMAT,
                         "a tiny decoder of %lld latent channels, the model has %lld",
                         (long long)first->dim[1], (long long)channels);
    if (first->dim[0] < 1 || first->dim[0] > 4096)
        return taca_fail(err, TACA_EFORMAT, "a tiny decoder of width %lld, wanted 1..4096",
                         (long long)first->dim[0]);
    struct tae *t = calloc(1, sizeof *t);
    if (!t) return taca_fail(err, TACA_ENOMEM, "opening a tiny decoder");
    t->channels = channels;
    t->width = first->dim[0];
    load(t, &l);
    if (l.rc != TACA_OK) {
        tae_close(t);
        return l.rc;
    }
    *out = t;
    return TACA_OK;
}

void tae_close(struct tae *t) { free(t); }

/* ---- decoding -------------------------------------------------------------------------------- */

/* Three blocks of memory, each as large as the largest map; x is the residual stream. */
struct pass {
    struct taca_backend *b;
    struct taca_map x, t, h;
};

static void resize(struct pass *p, int64_t h, int64_t w) {
    struct taca_map *maps[] = {&p->x, &p->t, &p->h};
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        maps[i]->h = h;
        maps[i]->w = w;
    }
}

static void relu(struct pass *p, struct taca_map m) {
    taca_activate(p->b, taca_map_rows(m), taca_map_rows(m), TACA_ACT_RELU);
}

/* x = relu(x + conv(relu(conv(relu(conv(x)))))) */
static void run_block(struct pass *p, const struct block *k) {
    taca_conv2d(p->b, p->t, p->x, k->conv[0]);
    relu(p, p->t);
    taca_conv2d(p->b, p->h, p->t, k->conv[1]);
    relu(p, p->h);
    taca_conv2d(p->b, p->t, p->h, k->conv[2]);
    taca_add(p->b, taca_map_rows(p->x), taca_map_rows(p->x), taca_map_rows(p->t));
    relu(p, p->x);
}

static void run_up(struct pass *p, const struct taca_conv *conv) {
    const struct taca_map small = p->x;
    resize(p, 2 * small.h, 2 * small.w);
    taca_upsample2(p->b, p->t, small);
    taca_conv2d(p->b, p->h, p->t, conv);
    const struct taca_map x = p->x;
    p->x = p->h;
    p->h = x;
}

/* 3 tanh(x / 3), and to the device. */
static void put_latent(const struct tae *t, struct pass *p, struct taca_scratch *s,
                       struct taca_map in, struct taca_chw x0) {
    const size_t n = (size_t)(t->channels * x0.h * x0.w);
    const struct taca_chw x = {taca_scratch_mat(s, TACA_F32, t->channels, x0.h * x0.w).data,
                               t->channels, x0.h, x0.w};
    if (x.data) {
        for (size_t i = 0; i < n; i++) x0.data[i] = 3.0f * tanhf(x0.data[i] / 3.0f);
        taca_upload(p->b, x.data, x0.data, n * sizeof(float));
    }
    taca_chw_to_map(p->b, in, x);
}

void tae_decode(const struct tae *t, struct taca_backend *b, struct taca_scratch *s,
                struct taca_map image, struct taca_chw x0) {
    const enum taca_dtype input = taca_backend_precision(b);
    const size_t mark = s->used;
    const int64_t h = x0.h * TAE_FACTOR, w = x0.w * TAE_FACTOR;
    struct pass p = {.b = b,
                     .x = taca_scratch_map(s, input, 1, h, w, t->width),
                     .t = taca_scratch_map(s, input, 1, h, w, t->width),
                     .h = taca_scratch_map(s, input, 1, h, w, t->width)};
    struct taca_map in = taca_scratch_map(s, input, 1, x0.h, x0.w, t->channels);
    put_latent(t, &p, s, in, x0);
    resize(&p, x0.h, x0.w);
    taca_conv2d(b, p.x, in, t->conv_in);
    relu(&p, p.x);
    const struct block *next = t->block;
    for (int i = 0; i < LEVELS; i++) {
        for (int k = 0; k < blocks_of[i]; k++) run_block(&p, next++);
        if (i < LEVELS - 1) run_up(&p, t->up[i]);
    }
    taca_conv2d(b, image, p.x, t->conv_out);
    /* the net speaks of 0..1 */
    const struct taca_chw flat = {image.data, IMAGE_CHANNELS, image.h, image.w};
    taca_axpb(b, flat, flat, 2.0f, -1.0f);
    s->used = mark;
}
