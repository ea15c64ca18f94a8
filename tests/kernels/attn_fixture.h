/* attn_fixture.h - one joint attention with its inputs, its double-precision reference and the
 * packed q, k, v views that a model uses. */
#ifndef TACA_TESTS_KERNELS_ATTN_FIXTURE_H
#define TACA_TESTS_KERNELS_ATTN_FIXTURE_H

#include "tests/kernels/fixture.h"

/* Inputs and outputs of both streams; qkv is [rows, 3 * heads * d], packed. */
struct attn_case {
    struct fx_layout lay;
    int heads;
    int64_t d;
    float scale;
    enum taca_mask mask;
    struct fx_mat qkv[2], o[2]; /* by enum taca_stream */
    struct fx_mat bias;         /* [heads, 2 n - 1]; zeroed: none */
    bool no_text_out;
    bool aligned; /* rows begin on 16 bytes, as those of a model do */
};

MAYBE int64_t attn_rows(const struct attn_case *c, int stream) {
    return stream == TACA_IMG ? c->lay.l.img_rows : c->lay.l.txt_rows;
}

MAYBE void attn_open(struct attn_case *c, int n, const int64_t (*rows)[2], const float *gamma,
                     enum taca_dtype in, enum taca_dtype out) {
    const int64_t width = c->heads * c->d;
    fx_layout(&c->lay, n, rows, gamma);
    if (c->scale == 0) c->scale = 1 / sqrtf((float)c->d);
    for (int s = 0; s < 2; s++) {
        c->qkv[s] = fx_new(in, attn_rows(c, s), 3 * width, c->aligned ? 8 : 3, 1.5);
        c->o[s] = fx_new(out, attn_rows(c, s), width, c->aligned ? 8 : 5, 1);
    }
}

MAYBE void attn_close(struct attn_case *c) {
    for (int s = 0; s < 2; s++) fx_free(&c->qkv[s]), fx_free(&c->o[s]);
    taca_layout_finish(&c->lay.l);
}

MAYBE void attn_run(struct attn_case *c) {
    const int64_t w = c->heads * c->d;
    struct taca_qkv v[2] = {0};
    struct taca_mat o[2] = {0};
    for (int s = 0; s < 2; s++) {
        if (attn_rows(c, s) == 0) continue; /* a stream without rows has zeroed views */
        v[s] = (struct taca_qkv){taca_mat_cols(c->qkv[s].m, 0, w), taca_mat_cols(c->qkv[s].m, w, w),
                                 taca_mat_cols(c->qkv[s].m, 2 * w, w)};
        if (s == TACA_IMG || !c->no_text_out) o[s] = c->o[s].m;
    }
    const struct taca_attn a = {
        .heads = c->heads, .scale = c->scale, .mask = c->mask, .rel_bias = c->bias.m};
    taca_attention(fx, o[0], o[1], v[0], v[1], &c->lay.l, &a);
}

/* Row r of q (part 0), k (1) or v (2) of head h. */
MAYBE const double *attn_vec(const struct attn_case *c, int stream, int part, int64_t r, int h) {
    const int64_t w = c->heads * c->d;
    return c->qkv[stream].v + r * 3 * w + part * w + h * c->d;
}

/* Attention weights of query `row` of the stream over its segment's keys, image keys first. */
MAYBE void attn_weights(const struct attn_case *c, const struct taca_seg *s, int stream,
                        int64_t row, int h, double *p) {
    const double *q = attn_vec(c, stream, 0, row, h);
    double max = -HUGE_VAL, sum = 0;
    for (int64_t j = 0; j < s->n_img + s->n_txt; j++) {
        const bool text = j >= s->n_img;
        const double *k = attn_vec(c, text, 1, text ? s->txt + j - s->n_img : s->img + j, h);
        p[j] = 0;
        for (int64_t i = 0; i < c->d; i++) p[j] += (double)c->scale * q[i] * k[i];
        if (text && stream == TACA_IMG) p[j] *= (double)s->gamma;
        if (c->bias.v)
            p[j] += c->bias.v[h * c->bias.m.cols + c->bias.m.cols / 2 + row - s->img - j];
        if (c->mask == TACA_MASK_CAUSAL && s->img + j > row) p[j] = -HUGE_VAL;
        if (p[j] > max) max = p[j];
    }
    for (int64_t j = 0; j < s->n_img + s->n_txt; j++) sum += p[j] = exp(p[j] - max);
    for (int64_t j = 0; j < s->n_img + s->n_txt; j++) p[j] /= sum;
}

/* Sums over keys of weight * v, or weight * |v|, for one stream, [rows, heads * d]; the caller
 * frees it. */
MAYBE double *attn_sums(const struct attn_case *c, int stream, bool magnitude) {
    const int64_t w = c->heads * c->d;
    double *want = calloc((size_t)(attn_rows(c, stream) * w) + 1, sizeof *want);
    double *p = calloc((size_t)(attn_rows(c, 0) + attn_rows(c, 1)) + 1, sizeof *p);
    for (int g = 0; g < c->lay.n; g++) {
        const struct taca_seg *s = &c->lay.seg[g];
        const int64_t first = stream ? s->txt : s->img, n = stream ? s->n_txt : s->n_img;
        for (int64_t r = first; r < first + n; r++)
            for (int h = 0; h < c->heads; h++) {
                attn_weights(c, s, stream, r, h, p);
                for (int64_t j = 0; j < s->n_img + s->n_txt; j++) {
                    const bool text = j >= s->n_img;
                    const int64_t key = text ? s->txt + j - s->n_img : s->img + j;
                    for (int64_t i = 0; i < c->d; i++) {
                        const double v = attn_vec(c, text, 2, key, h)[i];
                        want[r * w + h * c->d + i] += p[j] * (magnitude ? fabs(v) : v);
                    }
                }
            }
    }
    free(p);
    return want;
}

/* What the whole op should give for one stream. */
MAYBE double *attn_want(const struct attn_case *c, int stream) {
    return attn_sums(c, stream, false);
}

/* On a bf16 backend the weights of bf16 values may be rounded to their 8 bits, which moves a sum by
 * at most 2^-9 of its magnitudes; 2^x in place of e^x adds 1e-5 of them at most. */
MAYBE double attn_rounding(const struct attn_case *c, int stream) {
    if (taca_backend_precision(fx) != TACA_BF16 || strncmp(fx_name, "scalar", 6) == 0 ||
        c->qkv[stream].m.dtype != TACA_BF16 || c->d % 32)
        return 0;
    double *sum = attn_sums(c, stream, true), most = 0;
    for (int64_t i = 0; i < attn_rows(c, stream) * c->heads * c->d; i++) most = fmax(most, sum[i]);
    free(sum);
    return (0x1p-9 + 1e-5) * most;
}

/* Runs the case and compares both streams with the reference. */
MAYBE void attn_check(const char *what, struct attn_case *c, double tol) {
    attn_run(c);
    for (int s = 0; s < 2; s++) {
        if (attn_rows(c, s) == 0 || (s == TACA_TXT && c->no_text_out)) continue;
        double *want = attn_want(c, s);
        fx_check(what, &c->o[s], want, tol + attn_rounding(c, s));
        free(want);
    }
}

#endif
