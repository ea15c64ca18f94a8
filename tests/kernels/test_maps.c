/* test_maps.c - every op on latents and feature maps, and the small ops at the transformer's two
 * ends, against their equations in double precision. */
#include "tests/kernels/fixture.h"

static const enum taca_dtype floats[] = {TACA_F32, TACA_BF16};

static double *doubles(int64_t n) { return calloc((size_t)n + 1, sizeof(double)); }

/* A matrix used as a map or a latent: dense by definition. */
static struct fx_mat new_dense(enum taca_dtype t, int64_t n, double scale) {
    return fx_new(t, 1, n, 0, scale);
}
static struct taca_map as_map(const struct fx_mat *m, int64_t n, int64_t h, int64_t w, int64_t c) {
    return (struct taca_map){m->m.data, m->m.dtype, n, h, w, c};
}
static struct taca_chw as_chw(const struct fx_mat *m, int64_t c, int64_t h, int64_t w) {
    return (struct taca_chw){m->m.data, c, h, w};
}

/* ---- ends of the transformer ------------------------------------------------------------------
 */

static void embed_body(void) {
    struct taca_err err = {0};
    static const int32_t ids[] = {4, 0, 4, 2, 6};
    for (int i = 0; i < 4; i++) {
        struct fx_tensor t = fx_tensor("table", 1, 3, (int64_t[]){1, 7, 33});
        struct taca_mat table = {0};
        t.t.rank = i & 1 ? 2 : 3;
        if (i & 1) t.t.dim[0] = 7, t.t.dim[1] = 33;
        CHECK_OK(taca_table_open(fx, &table, &t.t, &err), err);
        CHECK(table.rows == 7 && table.cols == 33);
        struct fx_mat y = fx_new(floats[i >> 1], 5, 33, 2, 1);
        double want[5 * 33];
        for (int k = 0; k < 5 * 33; k++) want[k] = (double)t.f[ids[k / 33] * 33 + k % 33];
        taca_embed(fx, y.m, table, ids);
        fx_check("embed", &y, want, 0);
        fx_free(&y);
        free(t.f);
    }
}
static void test_embed_copies_table_rows(void) { fx_each(embed_body); }

/* Each step of the argument is rounded to float; cos and sin of that argument in double. */
static void time_body(void) {
    static const float t[] = {0, 1, 987.38f, 1000};
    static const int64_t width[] = {2, 10, 256};
    for (int w = 0; w < 3; w++) {
        const int64_t half = width[w] / 2;
        struct fx_mat y = fx_new(TACA_F32, 4, width[w], 3, 1);
        double *want = doubles(4 * width[w]);
        for (int64_t k = 0; k < half; k++) {
            volatile float e = (float)-log(10000) * (float)k;
            e = e / (float)half;
            volatile float f = (float)exp((double)e);
            for (int r = 0; r < 4; r++) {
                volatile float angle = t[r] * f;
                want[r * width[w] + k] = cos((double)angle);
                want[r * width[w] + half + k] = sin((double)angle);
            }
        }
        taca_time_features(fx, y.m, t);
        /* expf may be one ulp from the rounded exp: at angle 1000, half an ulp of it is 3e-5 */
        fx_check("time_features", &y, want, 7e-5);
        free(want);
        fx_free(&y);
    }
}
static void test_time_features_are_cosines_then_sines(void) { fx_each(time_body); }

static void patch_body(void) {
    static const int64_t shape[][4] = {{1, 1, 1, 1}, {4, 6, 10, 2}, {3, 4, 4, 1}, {16, 8, 12, 4}};
    for (int i = 0; i < 16; i++) {
        const int64_t c = shape[i / 4][0], h = shape[i / 4][1], w = shape[i / 4][2];
        const int64_t p = shape[i / 4][3], cols = c * p * p, rows = h / p * (w / p);
        const enum taca_patch order = (enum taca_patch)(i & 1);
        struct fx_mat x = new_dense(TACA_F32, c * h * w, 1),
                      back = new_dense(TACA_F32, c * h * w, 1);
        struct fx_mat y = fx_new(floats[i >> 1 & 1], rows, cols, 3, 1);
        double *want = doubles(rows * cols);
        for (int64_t k = 0; k < c * h * w; k++) {
            int64_t ch = k / (h * w), r = k / w % h, s = k % w, dy = r % p, dx = s % p;
            int64_t col =
                order == TACA_PATCH_CHANNEL_MAJOR ? (ch * p + dy) * p + dx : (dy * p + dx) * c + ch;
            want[(r / p * (w / p) + s / p) * cols + col] = x.v[k];
        }
        taca_patchify(fx, y.m, as_chw(&x, c, h, w), (int)p, order);
        fx_check("patchify", &y, want, 0);
        taca_unpatchify(fx, as_chw(&back, c, h, w), y.m, (int)p, order);
        for (int64_t k = 0; k < c * h * w; k++) x.v[k] = fx_round(x.v[k], y.m.dtype);
        fx_check("unpatchify brings it back", &back, x.v, 0);
        free(want);
        fx_free(&x), fx_free(&y), fx_free(&back);
    }
}
static void test_patches_are_tokens_in_both_orders(void) { fx_each(patch_body); }

static void position_body(void) {
    struct taca_err err = {0};
    static const int64_t shape[][3] = {{1, 1, 1}, {6, 2, 5}, {7, 7, 7}, {9, 4, 1}};
    for (int i = 0; i < 8; i++) {
        const int64_t side = shape[i / 2][0], h = shape[i / 2][1], w = shape[i / 2][2], d = 19;
        struct fx_tensor t = fx_tensor("pos", 1, 3, (int64_t[]){1, side * side, d});
        struct taca_mat table = {0};
        CHECK_OK(taca_table_open(fx, &table, &t.t, &err), err);
        struct fx_mat x = fx_new(floats[i & 1], h * w, d, 5, 1);
        double *want = doubles(h * w * d);
        for (int64_t k = 0; k < h * w * d; k++) {
            int64_t r = k / d / w + (side - h) / 2, c = k / d % w + (side - w) / 2;
            want[k] = x.v[k] + (double)t.f[(r * side + c) * d + k % d];
        }
        taca_add_position(fx, x.m, table, side, h, w);
        fx_check("add_position", &x, want, 1e-6);
        free(want), free(t.f);
        fx_free(&x);
    }
}
static void test_the_position_window_is_centred(void) { fx_each(position_body); }

static void euler_body(void) {
    for (int i = 0; i < 6; i++) {
        const int64_t c = 1 + i % 3, h = 1 + 2 * i, w = 3, n = c * h * w;
        struct fx_mat x = new_dense(TACA_F32, n, 1), v = new_dense(TACA_F32, n, 1);
        struct fx_mat u = new_dense(TACA_F32, n, 1);
        double *wx = doubles(n), *wv = doubles(n);
        for (int64_t k = 0; k < n; k++) {
            wv[k] = i & 1 ? v.v[k] : u.v[k] + 4.5 * (v.v[k] - u.v[k]);
            wx[k] = x.v[k] - 0.03 * wv[k];
        }
        struct taca_chw none = {NULL, 0, 0, 0};
        taca_cfg_euler(fx, as_chw(&x, c, h, w), as_chw(&v, c, h, w),
                       i & 1 ? none : as_chw(&u, c, h, w), 4.5f, -0.03f);
        fx_check("cfg_euler", &x, wx, 1e-6);
        fx_check("cfg_euler keeps the velocity", &v, wv, 1e-6);
        for (int64_t k = 0; k < n; k++) wx[k] = 1.5 * x.v[k] - 0.25, wv[k] = 1.5 * wx[k] - 0.25;
        taca_axpb(fx, as_chw(&u, c, h, w), as_chw(&x, c, h, w), 1.5f, -0.25f);
        fx_check("axpb", &u, wx, 1e-6);
        taca_axpb(fx, as_chw(&u, c, h, w), as_chw(&u, c, h, w), 1.5f, -0.25f);
        fx_check("axpb in place", &u, wv, 1e-6);
        free(wx), free(wv);
        fx_free(&x), fx_free(&v), fx_free(&u);
    }
}
static void test_euler_steps_along_the_guided_velocity(void) { fx_each(euler_body); }

static void mix_body(void) {
    for (int i = 0; i < 6; i++) {
        const int64_t c = 1 + i % 3, h = 1 + 2 * i, w = 3, plane = h * w, n = c * plane;
        struct fx_mat x = new_dense(TACA_F32, n, 1), y = new_dense(TACA_F32, n, 1);
        struct fx_mat m = new_dense(TACA_F32, plane, 1);
        double *want = doubles(n);
        for (int64_t k = 0; k < n; k++)
            want[k] = m.v[k % plane] * y.v[k] + (1 - m.v[k % plane]) * x.v[k];
        taca_blend(fx, as_chw(&y, c, h, w), as_chw(&x, c, h, w), as_chw(&m, 1, h, w));
        fx_check("blend", &y, want, 1e-6);
        for (int64_t k = 0; k < n; k++) want[k] = -0.75 * x.v[k] + 1.5 * want[k];
        taca_axpby(fx, as_chw(&y, c, h, w), as_chw(&x, c, h, w), -0.75f, 1.5f);
        fx_check("axpby", &y, want, 1e-6);
        free(want);
        fx_free(&x), fx_free(&y), fx_free(&m);
    }
}
static void test_latents_are_mixed_and_blended(void) { fx_each(mix_body); }

/* ---- feature maps ------------------------------------------------------------------------------
 */

static void layout_body(void) {
    static const int64_t shape[][3] = {{1, 1, 1}, {4, 3, 5}, {16, 8, 9}, {33, 2, 7}};
    for (int i = 0; i < 8; i++) {
        const int64_t c = shape[i / 2][0], h = shape[i / 2][1], w = shape[i / 2][2], n = c * h * w;
        struct fx_mat x = new_dense(TACA_F32, n, 1), m = new_dense(floats[i & 1], n, 1);
        struct fx_mat back = new_dense(TACA_F32, n, 1);
        double *want = doubles(n);
        for (int64_t k = 0; k < n; k++) want[k % (h * w) * c + k / (h * w)] = x.v[k];
        taca_chw_to_map(fx, as_map(&m, 1, h, w, c), as_chw(&x, c, h, w));
        fx_check("chw_to_map", &m, want, 0);
        taca_map_to_chw(fx, as_chw(&back, c, h, w), as_map(&m, 1, h, w, c));
        for (int64_t k = 0; k < n; k++) x.v[k] = fx_round(x.v[k], m.m.dtype);
        fx_check("map_to_chw", &back, x.v, 0);
        free(want);
        fx_free(&x), fx_free(&m), fx_free(&back);
    }
}
static void test_latents_become_maps_and_come_back(void) { fx_each(layout_body); }

/* want of y = conv(x) in double, inputs rounded to the backend's precision */
static void conv_want(double *want, const double *x, const struct taca_conv *v, const float *wt,
                      const float *bias, const int64_t xs[3], const int64_t ys[3]) {
    const enum taca_dtype p = taca_backend_precision(fx);
    for (int64_t k = 0; k < ys[0] * ys[1] * ys[2] * v->c_out; k++) {
        int64_t o = k % v->c_out, j = k / v->c_out % ys[2], i = k / v->c_out / ys[2] % ys[1];
        int64_t n = k / v->c_out / ys[2] / ys[1];
        double sum = (double)bias[o];
        for (int64_t t = 0; t < v->kh * v->kw * v->c_in; t++) {
            int64_t c = t % v->c_in, dx = t / v->c_in % v->kw, dy = t / v->c_in / v->kw;
            int64_t r = i * v->stride + dy - v->pad_top, s = j * v->stride + dx - v->pad_left;
            if (r < 0 || s < 0 || r >= xs[1] || s >= xs[2]) continue;
            sum += fx_round(x[((n * xs[1] + r) * xs[2] + s) * v->c_in + c], p) *
                   fx_round((double)wt[((o * v->c_in + c) * v->kh + dy) * v->kw + dx], p);
        }
        want[k] = sum;
    }
}

static void one_conv(const int64_t xs[3], int64_t c_in, int64_t c_out, int64_t k,
                     struct taca_conv g, int dtypes) {
    struct taca_err err = {0};
    struct fx_tensor w =
        fx_tensor("w", 1 / sqrt((double)(c_in * k * k)), 4, (int64_t[]){c_out, c_in, k, k});
    struct fx_tensor bias = fx_tensor("b", 1, 1, &c_out);
    struct taca_conv *v = NULL;
    CHECK_OK(taca_conv_open(fx, &v, &w.t, &bias.t, &g, &err), err);
    CHECK(v->c_in == c_in && v->c_out == c_out && v->kh == k && v->kw == k);
    const int64_t ys[3] = {xs[0], (xs[1] + g.pad_top + g.pad_bottom - k) / g.stride + 1,
                           (xs[2] + g.pad_left + g.pad_right - k) / g.stride + 1};
    struct fx_mat x = new_dense(floats[dtypes & 1], xs[0] * xs[1] * xs[2] * c_in, 1);
    struct fx_mat y = new_dense(floats[dtypes >> 1], ys[0] * ys[1] * ys[2] * c_out, 1);
    double *want = doubles(ys[0] * ys[1] * ys[2] * c_out);
    conv_want(want, x.v, v, w.f, bias.f, xs, ys);
    taca_conv2d(fx, as_map(&y, ys[0], ys[1], ys[2], c_out), as_map(&x, xs[0], xs[1], xs[2], c_in),
                v);
    fx_check("conv2d", &y, want, 3e-6);
    for (int64_t i = 0; i < ys[0] * ys[1] * ys[2] * c_out; i++) want[i] += y.v[i]; /* as it is */
    taca_conv2d_add(fx, as_map(&y, ys[0], ys[1], ys[2], c_out),
                    as_map(&x, xs[0], xs[1], xs[2], c_in), v);
    fx_check("conv2d_add", &y, want, 3e-6);
    free(want), free(w.f), free(bias.f);
    fx_free(&x), fx_free(&y);
}

static void conv_body(void) {
    const struct taca_conv same = {
        .stride = 1, .pad_top = 1, .pad_left = 1, .pad_bottom = 1, .pad_right = 1};
    const struct taca_conv point = {.stride = 1},
                           down = {.stride = 2, .pad_bottom = 1, .pad_right = 1};
    for (int d = 0; d < 4; d++) {
        one_conv((int64_t[]){1, 1, 1}, 1, 1, 3, same, d);
        one_conv((int64_t[]){1, 9, 7}, 3, 5, 3, same, d);
        one_conv((int64_t[]){2, 8, 8}, 16, 32, 3, same, d);
        one_conv((int64_t[]){1, 5, 6}, 16, 8, 1, point, d);
        one_conv((int64_t[]){1, 8, 10}, 8, 8, 3, down, d); /* padded right and below only */
        one_conv((int64_t[]){1, 17, 33}, 4, 48, 3, same, d);
        one_conv((int64_t[]){1, 12, 12}, 32, 3, 3, same, d);
        one_conv((int64_t[]){2, 7, 11}, 8, 130, 3, same, d); /* tiles of 128 cut both ways */
        one_conv((int64_t[]){1, 9, 9}, 40, 70, 3, down, d);
        one_conv((int64_t[]){1, 6, 5}, 12, 33, 3, same, d);
    }
}
static void test_conv2d_follows_its_sum(void) { fx_each(conv_body); }

static void group_norm_body(void) {
    static const int64_t shape[][5] = {{1, 1, 1, 4, 2},     {1, 5, 7, 32, 32}, {2, 9, 3, 48, 4},
                                       {1, 33, 17, 64, 32}, {2, 4, 4, 6, 1},   {1, 2, 3, 300, 3}};
    for (int i = 0; i < 24; i++) {
        const int64_t *s = shape[i / 4], c = s[3], px = s[1] * s[2], width = c / s[4];
        struct fx_tensor g = fx_tensor("g", 1, 1, &c), h = fx_tensor("b", 1, 1, &c);
        struct taca_vec gain = fx_vec(&g), bias = fx_vec(&h);
        struct fx_mat x = new_dense(floats[i & 1], s[0] * px * c, 2);
        struct fx_mat y = new_dense(floats[i >> 1 & 1], s[0] * px * c, 1);
        double *want = doubles(s[0] * px * c);
        for (int64_t t = 0; t < s[0] * s[4]; t++) {
            const int64_t base = t / s[4] * px * c + t % s[4] * width;
            double mean = 0, var = 0, count = (double)(px * width);
            for (int64_t k = 0; k < px * width; k++)
                mean += x.v[base + k / width * c + k % width] / count;
            for (int64_t k = 0; k < px * width; k++)
                var += pow(x.v[base + k / width * c + k % width] - mean, 2) / count;
            for (int64_t k = 0; k < px * width; k++) {
                int64_t at = base + k / width * c + k % width, ch = t % s[4] * width + k % width;
                double v = (x.v[at] - mean) / sqrt(var + 1e-6) * (double)g.f[ch] + (double)h.f[ch];
                want[at] = fx_act(v, i & 1 ? TACA_ACT_SILU : TACA_ACT_NONE);
            }
        }
        struct taca_map xm = as_map(&x, s[0], s[1], s[2], c), ym = as_map(&y, s[0], s[1], s[2], c);
        enum taca_act act = i & 1 ? TACA_ACT_SILU : TACA_ACT_NONE;
        taca_group_norm(fx, ym, xm, &gain, &bias, (int)s[4], 1e-6f, act);
        fx_check("group_norm", &y, want, 5e-6);
        taca_group_norm(fx, xm, xm, &gain, &bias, (int)s[4], 1e-6f, act);
        fx_check("group_norm in place", &x, want, 5e-6);
        free(want), free(g.f), free(h.f);
        fx_free(&x), fx_free(&y);
    }
}
static void test_group_norm_is_per_image_and_group(void) { fx_each(group_norm_body); }

static void upsample_body(void) {
    for (int i = 0; i < 4; i++) {
        const int64_t n = 2, h = 3, w = 5, c = 19;
        struct fx_mat x = new_dense(floats[i & 1], n * h * w * c, 1);
        struct fx_mat y = new_dense(floats[i >> 1], 4 * n * h * w * c, 1);
        double *want = doubles(4 * n * h * w * c);
        for (int64_t k = 0; k < 4 * n * h * w * c; k++) {
            int64_t ch = k % c, s = k / c % (2 * w), r = k / c / (2 * w) % (2 * h);
            want[k] = x.v[((k / c / (4 * h * w) * h + r / 2) * w + s / 2) * c + ch];
        }
        taca_upsample2(fx, as_map(&y, n, 2 * h, 2 * w, c), as_map(&x, n, h, w, c));
        fx_check("upsample2", &y, want, 0);
        free(want);
        fx_free(&x), fx_free(&y);
    }
}
static void test_upsample2_repeats_pixels(void) { fx_each(upsample_body); }

static enum taca_code rgb8_of(uint8_t *got, struct taca_map x, struct taca_err *err) {
    void *pixels = taca_alloc(fx, taca_rgb8_bytes(x.h, x.w), err);
    if (!pixels) return TACA_ENOMEM;
    taca_map_to_rgb8(fx, pixels, x);
    taca_rgb8_read(fx, got, pixels, x.h, x.w);
    enum taca_code rc = taca_sync(fx, err);
    taca_free(fx, pixels);
    return rc;
}

/* 255 * (x/2 + 1/2) = k + 1/2 exactly when x = (2k + 1)/255 - 1; in float only some are exact, and
 * the ties that are must go to the even byte. */
static void rgb_body(void) {
    struct taca_err err = {0};
    uint8_t got[30];
    struct fx_mat x = new_dense(TACA_F32, 30, 1);
    for (int k = 0; k < 30; k++) x.v[k] = 2.6 * fx_uniform() - 1.3;
    x.v[0] = -1, x.v[1] = 1, x.v[2] = 0;              /* 0: 127.5 goes to 128 */
    x.v[3] = -1e30, x.v[4] = 3e38, x.v[5] = -1.0 / 3; /* 85 */
    x.v[6] = -0.8;                                    /* 25.5 but for float rounding */
    fx_send(&x);
    CHECK_OK(rgb8_of(got, as_map(&x, 1, 2, 5, 3), &err), err);
    static const int want[] = {0, 255, 128, 0, 255, 85};
    for (int k = 0; k < 6; k++) CHECK_INT(got[k], want[k]);
    for (int k = 0; k < 30; k++) {
        float f = (float)x.v[k] * 0.5f + 0.5f;
        f = 255.0f * (f < 0 ? 0 : f > 1 ? 1 : f);
        CHECK_INT(got[k], (int)nearbyint((double)f));
    }
    fx_free(&x);
}
static void test_rgb8_rounds_half_to_even(void) { fx_each(rgb_body); }

static void not_finite_body(void) {
    struct fx_mat x = new_dense(TACA_F32, 60, 1);
    uint8_t got[60];
    for (int k = 0; k < 3; k++) {
        struct taca_err err = {0};
        for (int i = 0; i < 60; i++) x.v[i] = 0.5;
        x.v[17 * k + 3] = k == 0 ? nan("") : k == 1 ? HUGE_VAL : -HUGE_VAL;
        fx_send(&x);
        memset(got, 7, sizeof got);
        CHECK(rgb8_of(got, as_map(&x, 1, 4, 5, 3), &err) == TACA_ENUMERIC);
        CHECK_HAS(err.text, "map_to_rgb8");
        for (int i = 0; i < 60; i++) CHECK_INT(got[i], i == 17 * k + 3 ? 0 : 191);
    }
    fx_free(&x);
}
static void test_rgb8_reports_values_that_are_not_finite(void) { fx_each(not_finite_body); }

int main(void) {
    TEST(test_embed_copies_table_rows);
    TEST(test_time_features_are_cosines_then_sines);
    TEST(test_patches_are_tokens_in_both_orders);
    TEST(test_the_position_window_is_centred);
    TEST(test_euler_steps_along_the_guided_velocity);
    TEST(test_latents_are_mixed_and_blended);
    TEST(test_latents_become_maps_and_come_back);
    TEST(test_conv2d_follows_its_sum);
    TEST(test_group_norm_is_per_image_and_group);
    TEST(test_upsample2_repeats_pixels);
    TEST(test_rgb8_rounds_half_to_even);
    TEST(test_rgb8_reports_values_that_are_not_finite);
    return TEST_END();
}
