/* test_taca.c - what gamma must and must not do: identities of temperature-adjusted cross-modal
 * attention, and rows whose weights are known to nine digits. */
#include "tests/kernels/attn_fixture.h"

enum { D = 16, HEADS = 2, W = HEADS * D };

/* The identities hold for every kernel: a small head in f32, and those of matrix units. */
static const struct shape {
    int64_t d;
    enum taca_dtype in;
} shapes[] = {{D, TACA_F32}, {64, TACA_BF16}, {128, TACA_BF16}};
static const struct shape *shape = shapes;

static int64_t width(void) { return HEADS * shape->d; }
static void each_shape(void (*body)(void)) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        shape = &shapes[i];
        fx_each(body);
    }
    shape = shapes;
}
static const int64_t mixed[][2] = {{70, 24}, {33, 40}};

static float *fetch(const struct attn_case *c, int stream) {
    struct taca_err err = {0};
    CHECK_OK(taca_sync(fx, &err), err);
    size_t bytes = fx_bytes(c->o[stream].m);
    float *v = malloc(bytes);
    taca_download(fx, v, c->o[stream].m.data, bytes);
    return v;
}
static bool same(const struct attn_case *c, int stream, const float *a, const float *b) {
    return memcmp(a, b, fx_bytes(c->o[stream].m)) == 0;
}

/* The same inputs, each time, under other gammas. */
static void open_with(struct attn_case *c, const float *gamma) {
    fx_rng = 77;
    *c = (struct attn_case){.heads = HEADS, .d = shape->d, .aligned = shape->in == TACA_BF16};
    attn_open(c, 2, mixed, gamma, shape->in, TACA_F32);
}

/* Both outputs under `gamma`. */
static void outputs(const float *gamma, float *o[2]) {
    struct attn_case c;
    open_with(&c, gamma);
    attn_run(&c);
    o[0] = fetch(&c, 0), o[1] = fetch(&c, 1);
    attn_close(&c);
}

/* Plain attention = an op that never met a text key of another temperature: the same layout with
 * gamma exactly 1 must agree bit for bit with gamma = 1 next to a segment that has another. */
static void one_body(void) {
    struct attn_case c;
    float *plain[2], *beside[2];
    open_with(&c, NULL);
    outputs((const float[]){1, 1}, plain);
    outputs((const float[]){1, 1.5f}, beside);
    CHECK(memcmp(plain[0], beside[0], (size_t)(70 * c.o[0].m.ld) * 4) == 0);
    CHECK(memcmp(plain[0], beside[0], fx_bytes(c.o[0].m)) != 0);
    CHECK(same(&c, 1, plain[1], beside[1]));
    for (int s = 0; s < 2; s++) free(plain[s]), free(beside[s]);
    attn_close(&c);
}
static void test_gamma_1_is_the_plain_path_bit_for_bit(void) { each_shape(one_body); }

static void text_rows_body(void) {
    static const float gammas[] = {0, 0.5f, 1.2f, 2, 1e4f};
    float *plain[2], *o[2];
    outputs((const float[]){1, 1}, plain);
    struct attn_case c;
    open_with(&c, NULL);
    for (size_t i = 0; i < sizeof gammas / sizeof *gammas; i++) {
        outputs((const float[]){gammas[i], gammas[i]}, o);
        CHECK(same(&c, 1, plain[1], o[1]));
        CHECK(!same(&c, 0, plain[0], o[0]));
        free(o[0]), free(o[1]);
    }
    free(plain[0]), free(plain[1]);
    attn_close(&c);
}
static void test_text_rows_do_not_change_for_any_gamma(void) { each_shape(text_rows_body); }

static void reference_body(void) {
    static const float gammas[] = {0, 0.8f, 1.2f, 2, 50};
    for (size_t i = 0; i < sizeof gammas / sizeof *gammas; i++) {
        struct attn_case c;
        open_with(&c, (const float[]){gammas[i], gammas[(i + 1) % 5]});
        /* a score of the size of 10 gamma has that much more rounding */
        attn_check("attention with gamma", &c, 5e-6 * (gammas[i] > 2 || i == 3 ? 40 : 1));
        attn_close(&c);
    }
}
static void test_gamma_is_the_factor_of_the_definition(void) { each_shape(reference_body); }

/* Multiplies text keys by gamma (a power of two: exact) and asks for gamma = 1. */
static void scaled_keys(struct attn_case *c, double gamma) {
    for (int64_t r = 0; r < attn_rows(c, 1); r++)
        for (int64_t i = 0; i < width(); i++) c->qkv[1].v[(3 * r + 1) * width() + i] *= gamma;
    fx_send(&c->qkv[1]);
}
static void split_body(void) {
    struct attn_case c;
    float *o[2];
    outputs((const float[]){2, 2}, o);
    open_with(&c, NULL);
    scaled_keys(&c, 2);
    attn_run(&c);
    float *image = fetch(&c, 0), *text = fetch(&c, 1);
    CHECK(same(&c, 0, o[0], image)); /* query split: image rows agree */
    CHECK(!same(&c, 1, o[1], text)); /* and the naive form changes text rows: not the method */
    const int64_t ld = c.o[1].m.ld;
    double worst = 0;
    for (int64_t r = 0; r < 64; r++)
        for (int64_t i = 0; i < width(); i++)
            worst = fmax(worst, fabs((double)(o[1][r * ld + i] - text[r * ld + i])));
    CHECK(worst > 0.1);
    free(image), free(text), free(o[0]), free(o[1]);
    attn_close(&c);
}
static void test_scaling_text_keys_fits_image_rows_and_fails_on_text_rows(void) {
    each_shape(split_body);
}

/* gamma = 0: every text key weighs exp(0), which is not removal. */
static void zero_body(void) {
    struct attn_case c;
    open_with(&c, (const float[]){0, 0});
    for (int64_t r = 0; r < 64; r++) /* another set of text keys */
        for (int64_t i = 0; i < width(); i++) c.qkv[1].v[(3 * r + 1) * width() + i] = fx_normal();
    fx_send(&c.qkv[1]);
    attn_run(&c);
    float *other = fetch(&c, 0), *o[2];
    outputs((const float[]){0, 0}, o);
    CHECK(same(&c, 0, o[0], other)); /* text keys are without effect, text values are not */
    free(other), free(o[0]), free(o[1]);
    attn_close(&c);
}
static void test_gamma_0_makes_text_keys_equal(void) { each_shape(zero_body); }

/* ---- one query, keys with given scores ---------------------------------------------------------
 */

/* q = (1, 0..), key j = (score_j, 0..), value j = unit vector j: the output row is the weights. */
static void given_scores(struct attn_case *c, const double *txt, const double *img, float gamma) {
    static const int64_t rows[][2] = {{2, 2}};
    *c = (struct attn_case){.heads = 1, .d = 8, .scale = 1};
    attn_open(c, 1, rows, &gamma, TACA_F32, TACA_F32);
    for (int s = 0; s < 2; s++) {
        memset(c->qkv[s].v, 0, 2 * 24 * sizeof(double));
        for (int j = 0; j < 2; j++) {
            double *row = c->qkv[s].v + j * 24;
            row[0] = 1;
            row[8] = s ? txt[j] : img[j];
            row[16 + 2 * !s + j] = 1; /* columns t1 t2 i1 i2 */
        }
        fx_send(&c->qkv[s]);
    }
}

static void golden_body(void) {
    static const struct {
        float gamma;
        double p[4];
    } row[] = {
        {1, {.461032511, .102870258, .228941970, .207155261}},
        {1.2f, {.515530886, .085216682, .209599217, .189653214}},
        {0, {.218757992, .218757992, .295292402, .267191615}},
        {2, {.715425550, .035618941, .130696461, .118259048}},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct attn_case c;
        given_scores(&c, (const double[]){1, -0.5}, (const double[]){0.3, 0.2}, row[i].gamma);
        attn_run(&c);
        double want[16] = {0};
        for (int r = 0; r < 2; r++) memcpy(want + 8 * r, row[i].p, sizeof row[i].p);
        fx_check("weights of an image query", &c.o[0], want, 2e-7);
        for (int r = 0; r < 2; r++) memcpy(want + 8 * r, row[0].p, sizeof row[0].p);
        fx_check("weights of a text query", &c.o[1], want, 2e-7);
        attn_close(&c);
    }
}
static void test_weights_match_known_rows(void) { fx_each(golden_body); }

/* Text scores below zero lose mass as gamma grows: .163675, .132261, 0. */
static void negative_body(void) {
    static const struct {
        float gamma;
        double text;
    } row[] = {{1, .163675}, {1.2f, .132261}, {50, 0}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct attn_case c;
        given_scores(&c, (const double[]){-1, -2}, (const double[]){0.3, 0.2}, row[i].gamma);
        attn_run(&c);
        fx_fetch(&c.o[0]);
        CHECK_NEAR(c.o[0].v[0] + c.o[0].v[1], row[i].text, 1e-6);
        attn_close(&c);
    }
}
static void test_text_with_negative_scores_loses_mass(void) { fx_each(negative_body); }

/* gamma = 1e4: one-hot on the best text key, or no text at all; no overflow either way. */
static void huge_body(void) {
    for (int sign = 0; sign < 2; sign++) {
        struct attn_case c;
        const double txt[][2] = {{1, 0.9}, {-1, -0.9}};
        given_scores(&c, txt[sign], (const double[]){0.3, 0.2}, 1e4f);
        attn_run(&c);
        const double plain = 1 / (1 + exp(-0.1));
        const double want[2][8] = {{1, 0, 0, 0}, {0, 0, plain, 1 - plain}};
        double both[16];
        for (int r = 0; r < 2; r++) memcpy(both + 8 * r, want[sign], sizeof want[sign]);
        fx_check("gamma 1e4", &c.o[0], both, 1e-6);
        attn_close(&c);
    }
}
static void test_a_huge_gamma_is_one_hot_and_finite(void) { fx_each(huge_body); }

/* dP_txt/dgamma = P_txt (1 - P_txt) E_txt[s], by central differences of step 2^-7. */
static void slope_body(void) {
    const double txt[] = {1, -0.5}, img[] = {0.3, 0.2}, h = 0x1p-7;
    double mass[3], p1 = 0, p2 = 0;
    for (int k = 0; k < 3; k++) {
        struct attn_case c;
        given_scores(&c, txt, img, (float)(1.25 + (k - 1) * h));
        attn_run(&c);
        fx_fetch(&c.o[0]);
        mass[k] = c.o[0].v[0] + c.o[0].v[1];
        if (k == 1) p1 = c.o[0].v[0], p2 = c.o[0].v[1];
        attn_close(&c);
    }
    double mean = (p1 * txt[0] + p2 * txt[1]) / (p1 + p2);
    /* float noise 1e-7 / (2 h) and the third derivative's h^2 / 6 */
    CHECK_NEAR((mass[2] - mass[0]) / (2 * h), mass[1] * (1 - mass[1]) * mean, 3e-5);
}
static void test_the_slope_of_the_text_mass_is_the_analytic_one(void) { fx_each(slope_body); }

/* ---- invariances --------------------------------------------------------------------------------
 */

/* One vector added to every key changes no plain weight; with gamma it does. */
static void shift_body(void) {
    for (int k = 0; k < 2; k++) {
        struct attn_case c;
        open_with(&c, (const float[]){k ? 2 : 1, k ? 2 : 1});
        double *before = attn_want(&c, 0), worst = 0;
        for (int s = 0; s < 2; s++) {
            for (int64_t r = 0; r < attn_rows(&c, s); r++)
                for (int64_t i = 0; i < width(); i++)
                    c.qkv[s].v[r * 3 * W + W + i] += 0.25 * (double)(i % 5);
            fx_send(&c.qkv[s]);
        }
        attn_run(&c);
        if (k == 0) fx_check("a shift of all keys", &c.o[0], before, 2e-5);
        fx_fetch(&c.o[0]);
        for (int64_t i = 0; i < 103 * W; i++) worst = fmax(worst, fabs(c.o[0].v[i] - before[i]));
        CHECK(k == 0 ? worst < 1e-4 : worst > 0.1);
        free(before);
        attn_close(&c);
    }
}
static void test_a_common_shift_of_keys_matters_only_with_gamma(void) { fx_each(shift_body); }

/* Every text key twice = ln 2 added to its score; equal scores s: text odds times exp((g - 1) s).
 */
static void odds_body(void) {
    struct attn_case c;
    given_scores(&c, (const double[]){0.75, 0.75}, (const double[]){0.75, 0.75}, 1.5f);
    attn_run(&c);
    fx_fetch(&c.o[0]);
    double text = c.o[0].v[0] + c.o[0].v[1], image = c.o[0].v[2] + c.o[0].v[3];
    CHECK_NEAR(text / image, exp(0.5 * 0.75), 1e-6);
    attn_close(&c);

    static const int64_t rows[][2] = {{2, 4}};
    const float gamma = 1.5f;
    c = (struct attn_case){.heads = 1, .d = 8, .scale = 1};
    attn_open(&c, 1, rows, &gamma, TACA_F32, TACA_F32);
    memcpy(c.qkv[1].v + 2 * 24, c.qkv[1].v, 2 * 24 * sizeof(double));
    fx_send(&c.qkv[1]);
    attn_run(&c);
    fx_fetch(&c.o[0]);
    for (int64_t r = 0; r < 2; r++) {
        double p[6], sum = 0, want[8] = {0};
        attn_weights(&c, &c.lay.seg[0], 0, r, 0, p);
        for (int j = 0; j < 4; j++) sum += p[j] *= j < 2 ? 1 : 2; /* ln 2 on the two text keys */
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 8; i++)
                want[i] += p[j] / sum * attn_vec(&c, j > 1, 2, j > 1 ? j - 2 : j, 0)[i];
        for (int i = 0; i < 8; i++) CHECK_NEAR(c.o[0].v[r * 8 + i], want[i], 3e-6);
    }
    attn_close(&c);
}
static void test_doubled_text_keys_double_the_text_odds(void) { fx_each(odds_body); }

/* Text keys and values in reverse order: image outputs stay, to rounding. */
static void order_body(void) {
    struct attn_case c;
    open_with(&c, (const float[]){1.2f, 2});
    double *want = attn_want(&c, 0), row[3 * W];
    for (int s = 0; s < 2; s++) {
        const struct taca_seg *seg = &c.lay.seg[s];
        double *v = c.qkv[1].v + seg->txt * 3 * W;
        for (int64_t i = 0, j = seg->n_txt - 1; i < j; i++, j--) {
            memcpy(row, v + i * 3 * W, sizeof row);
            memcpy(v + i * 3 * W, v + j * 3 * W, sizeof row);
            memcpy(v + j * 3 * W, row, sizeof row);
        }
    }
    fx_send(&c.qkv[1]);
    attn_run(&c);
    fx_check("reversed text", &c.o[0], want, 1e-5);
    free(want);
    attn_close(&c);
}
static void test_the_order_of_text_tokens_is_nothing_to_image_rows(void) { fx_each(order_body); }

/* o is linear in the text values: o(v + w) - o(v) = o with w alone, image values 0. */
static void linear_body(void) {
    struct attn_case c;
    float *both[2];
    outputs((const float[]){1.2f, 1.2f}, both);
    double sum[103 * W] = {0};
    for (int k = 0; k < 2; k++) { /* k = 0: text values alone; 1: image values alone */
        open_with(&c, (const float[]){1.2f, 1.2f});
        for (int64_t r = 0; r < attn_rows(&c, k); r++)
            memset(c.qkv[k].v + r * 3 * W + 2 * W, 0, W * sizeof(double));
        fx_send(&c.qkv[k]);
        attn_run(&c);
        fx_fetch(&c.o[0]);
        for (int i = 0; i < 103 * W; i++) sum[i] += c.o[0].v[i];
        if (k == 0) attn_close(&c);
    }
    for (int i = 0; i < 103 * W; i++)
        CHECK_NEAR((double)both[0][i / W * c.o[0].m.ld + i % W], sum[i], 2e-6);
    free(both[0]), free(both[1]);
    attn_close(&c);
}
static void test_the_output_is_linear_in_the_values(void) { fx_each(linear_body); }

int main(void) {
    TEST(test_gamma_1_is_the_plain_path_bit_for_bit);
    TEST(test_text_rows_do_not_change_for_any_gamma);
    TEST(test_gamma_is_the_factor_of_the_definition);
    TEST(test_scaling_text_keys_fits_image_rows_and_fails_on_text_rows);
    TEST(test_gamma_0_makes_text_keys_equal);
    TEST(test_weights_match_known_rows);
    TEST(test_text_with_negative_scores_loses_mass);
    TEST(test_a_huge_gamma_is_one_hot_and_finite);
    TEST(test_the_slope_of_the_text_mass_is_the_analytic_one);
    TEST(test_a_common_shift_of_keys_matters_only_with_gamma);
    TEST(test_doubled_text_keys_double_the_text_odds);
    TEST(test_the_order_of_text_tokens_is_nothing_to_image_rows);
    TEST(test_the_output_is_linear_in_the_values);
    return TEST_END();
}
