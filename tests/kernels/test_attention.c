/* test_attention.c - the attention op against softmax(z) v in double precision: head sizes, ragged
 * segments, masks, absent outputs, packed views, on every backend. */
#include "tests/kernels/attn_fixture.h"

static const enum taca_dtype floats[] = {TACA_F32, TACA_BF16};

/* A score is a float sum of d products of size 1.5^2: rounding adds up like a random walk to
 * 2^-24 * 2.25 * sqrt(d) after the scale 1/sqrt(d). Four deviations of that, and a floor for exp
 * and the sum over keys. */
static double score_tol(int64_t d) { return 2e-6 + 4 * 0x1p-24 * 2.25 * sqrt((double)d); }

static void heads_body(void) {
    static const int64_t d[] = {1, 3, 8, 16, 17, 32, 33, 64, 65, 128, 200, 512};
    static const int64_t rows[][2] = {{37, 11}, {5, 33}};
    static const float gamma[] = {1.0f, 1.2f};
    for (size_t i = 0; i < sizeof d / sizeof *d; i++)
        for (int t = 0; t < 4; t++) {
            struct attn_case c = {.heads = d[i] > 64 ? 1 : 3, .d = d[i]};
            attn_open(&c, 2, rows, gamma, floats[t & 1], floats[t >> 1]);
            attn_check("attention", &c, score_tol(d[i]));
            attn_close(&c);
        }
}
static void test_any_head_size_is_right(void) { fx_each(heads_body); }

static void ragged_body(void) {
    static const int64_t rows[][2] = {{1, 0}, {64, 32}, {0, 9}, {33, 65}, {130, 1}, {1, 7}};
    static const float gamma[] = {1, 2, 0.5f, 1, 0, 1.2f};
    for (int t = 0; t < 4; t++) {
        struct attn_case c = {.heads = 2, .d = 24, .no_text_out = t >> 1};
        attn_open(&c, 6, rows, gamma, floats[t & 1], TACA_F32);
        attn_check("attention of ragged segments", &c, score_tol(c.d));
        if (c.no_text_out) { /* nothing was written there: still the values it was made with */
            double *before = calloc((size_t)(114 * 48), sizeof *before);
            memcpy(before, c.o[1].v, (size_t)(114 * 48) * sizeof *before);
            fx_check("text output left alone", &c.o[1], before, 0);
            free(before);
        }
        attn_close(&c);
    }
}
static void test_segments_do_not_see_each_other(void) { fx_each(ragged_body); }

static void one_stream_body(void) {
    static const int64_t img[][2] = {{77, 0}, {12, 0}}, txt[][2] = {{0, 40}};
    for (int t = 0; t < 4; t++) {
        struct attn_case c = {.heads = 4, .d = 16, .mask = (enum taca_mask)(t & 1)};
        attn_open(&c, 2, img, NULL, floats[t >> 1], TACA_F32);
        attn_check("attention of the image stream alone", &c, score_tol(c.d));
        attn_close(&c);
    }
    struct attn_case c = {.heads = 4, .d = 16};
    attn_open(&c, 1, txt, NULL, TACA_F32, TACA_F32);
    attn_check("attention of the text stream alone", &c, score_tol(c.d));
    attn_close(&c);
}
static void test_one_stream_may_be_empty(void) { fx_each(one_stream_body); }

/* Zeroed text views: image rows attend to image rows alone, though the layout has text. */
static void left_out_body(void) {
    static const int64_t both[][2] = {{33, 20}, {7, 5}}, image[][2] = {{33, 0}, {7, 0}};
    static const float gamma[] = {2, 1};
    struct attn_case c = {.heads = 2, .d = 16}, alone = {.heads = 2, .d = 16};
    struct taca_attn a = {.heads = 2, .scale = 0.25f};
    fx_rng = 5;
    attn_open(&alone, 2, image, NULL, TACA_F32, TACA_F32);
    double *want = attn_want(&alone, 0);
    fx_rng = 5;
    attn_open(&c, 2, both, gamma, TACA_F32, TACA_F32); /* image values are drawn first: the same */
    struct taca_qkv none = {0},
                    img = {taca_mat_cols(c.qkv[0].m, 0, 32), taca_mat_cols(c.qkv[0].m, 32, 32),
                           taca_mat_cols(c.qkv[0].m, 64, 32)};
    taca_attention(fx, c.o[0].m, c.o[1].m, img, none, &c.lay.l, &a);
    fx_check("attention without the text", &c.o[0], want, score_tol(16));
    free(want);
    attn_close(&c), attn_close(&alone);
}
static void test_zeroed_text_views_leave_the_text_out(void) { fx_each(left_out_body); }

static void causal_body(void) {
    static const int64_t len[] = {1, 2, 31, 32, 33, 63, 64, 65, 77, 150};
    for (size_t i = 0; i < sizeof len / sizeof *len; i++) {
        const int64_t rows[][2] = {{len[i], 0}, {3, 0}};
        struct attn_case c = {.heads = 2, .d = 20, .mask = TACA_MASK_CAUSAL};
        attn_open(&c, 2, rows, NULL, TACA_F32, TACA_F32);
        attn_check("causal attention", &c, score_tol(c.d));
        attn_close(&c);
    }
}
static void test_causal_queries_see_nothing_later(void) { fx_each(causal_body); }

/* Scores of a few hundred in both directions: the running maximum keeps exp in range. */
static void large_body(void) {
    static const int64_t rows[][2] = {{100, 70}};
    static const float gamma[] = {1.2f};
    struct attn_case c = {.heads = 1, .d = 32, .scale = 30};
    attn_open(&c, 1, rows, gamma, TACA_F32, TACA_F32);
    /* a score of 1000 carries an absolute error of 1e-4, a weight and its neighbour both do */
    attn_check("attention with large scores", &c, 2e-3);
    attn_close(&c);
}
static void test_large_scores_do_not_overflow(void) { fx_each(large_body); }

/* Heads and rows as models have them, where a device may use its matrix units: tiles of queries and
 * keys cut everywhere, segments of one row, without text, without image. */
static void aligned_body(void) {
    static const int64_t rows[][2] = {{130, 70}, {1, 0}, {0, 9}, {64, 64}, {129, 1}, {1, 130}};
    static const float gamma[] = {1.2f, 1, 1, 0, 2, 0.5f};
    static const int64_t d[] = {64, 128, 512};
    for (int t = 0; t < 6; t++) {
        struct attn_case c = {.heads = t < 2 ? 2 : 1, .d = d[t / 2], .aligned = true};
        attn_open(&c, 6, rows, gamma, TACA_BF16, floats[t & 1]);
        attn_check("attention of aligned rows", &c, score_tol(c.d));
        attn_close(&c);
    }
}
static void test_aligned_heads_of_64_128_and_512_are_right(void) { fx_each(aligned_body); }

int main(void) {
    TEST(test_any_head_size_is_right);
    TEST(test_segments_do_not_see_each_other);
    TEST(test_one_stream_may_be_empty);
    TEST(test_zeroed_text_views_leave_the_text_out);
    TEST(test_causal_queries_see_nothing_later);
    TEST(test_large_scores_do_not_overflow);
    TEST(test_aligned_heads_of_64_128_and_512_are_right);
    return TEST_END();
}
