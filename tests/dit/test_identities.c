/* test_identities.c - what must hold of a forward whatever the weights are: independence of batch
 * mates, of their order and of their gammas, and where TACA may and may not reach.
 *
 * Exact statements are tested bit for bit on a deterministic backend, scalar and vector. */
#include "engine/sample/noise.h"
#include "tests/dit/fixture.h"
#include "tests/dit/rewrite.h"

#define CONFIG(set)  TACA_GOLDEN_DIR "/models/" set ".config.json"
#define WEIGHTS(set) TACA_GOLDEN_DIR "/models/" set ".diffusers.safetensors"

/* ---- inputs ---------------------------------------------------------------------------------- */

enum { N = 5, MAX_OUT = 4 * 24 * 24, MAX_TEXT = 32 * 40, POOLED = 64 };

/* Five samples that share nothing but the first latent, which is there twice as a CFG pair. */
static struct inputs {
    float latent[N][MAX_OUT], text[N][MAX_TEXT], pooled[N][POOLED];
    struct sample sample[N];
    float out[N][MAX_OUT], other[N][MAX_OUT];
    int64_t channels; /* of the model under test, at most 4 */
} in;

static void make_inputs(void) {
    static const int64_t h[] = {8, 8, 20, 16, 2}, w[] = {12, 12, 12, 24, 2};
    static const int64_t n_text[] = {11, 3, 1, 17, 32};
    static const float gamma[] = {1.2f, 1.2f, 1, 2, 0.8f}, t[] = {1000, 1000, 857.69f, 8.9f, 500};
    struct taca_rng r;
    in.channels = 4;
    taca_rng_seed(&r, 2024);
    for (int i = 0; i < N; i++) {
        taca_rng_randn(&r, in.latent[i], MAX_OUT);
        taca_rng_randn(&r, in.text[i], MAX_TEXT);
        taca_rng_randn(&r, in.pooled[i], POOLED);
        in.sample[i] = (struct sample){.latent = in.latent[i == 1 ? 0 : i],
                                       .h = h[i],
                                       .w = w[i],
                                       .text = in.text[i],
                                       .n_text = n_text[i],
                                       .pooled = in.pooled[i],
                                       .t = t[i],
                                       .guidance = 1 + (float)i,
                                       .gamma = gamma[i]};
    }
}

static size_t out_bytes(int i) {
    return (size_t)(in.channels * in.sample[i].h * in.sample[i].w) * sizeof(float);
}

/* Sample i alone, with this gamma. */
static void alone(struct model *m, int i, float gamma, float *out) {
    struct sample s = in.sample[i];
    s.gamma = gamma;
    CHECK(forward(m, &(struct pass){.samples = &s, .n = 1}, &out));
}

static void all(struct model *m, float (*out)[MAX_OUT]) {
    float *p[N];
    for (int i = 0; i < N; i++) p[i] = out[i];
    CHECK(forward(m, &(struct pass){.samples = in.sample, .n = N}, p));
}

/* Calls fn on every kind of model, on scalar and vector code. */
static void on_models(void (*fn)(struct model *m), bool deterministic) {
    static const char *const path[][2] = {
        {CONFIG("sd3_tiny"), WEIGHTS("sd3_tiny")},
        {CONFIG("sd35m_tiny"), WEIGHTS("sd35m_tiny")},
        {CONFIG("flux_tiny_dev"), WEIGHTS("flux_tiny_dev")},
        {CONFIG("flux_tiny_schnell"), WEIGHTS("flux_tiny_schnell")},
    };
    enum { MODELS = sizeof path / sizeof *path };
    for (int k = 0; k < 2 * MODELS; k++) {
        struct taca_backend_opts opts = {.threads = 2,
                                         .precision = TACA_F32,
                                         .deterministic = deterministic,
                                         .scalar = k / MODELS == 1};
        struct model m;
        if (model_open(&m, path[k % MODELS][0], path[k % MODELS][1], &opts)) {
            in.channels = dit_get_info(m.dit)->in_channels;
            fn(&m);
        }
        model_close(&m);
    }
    in.channels = 4;
}

/* ---- batches --------------------------------------------------------------------------------- */

static void mates_change_no_bit(struct model *m) {
    all(m, in.out);
    for (int i = 0; i < N; i++) {
        alone(m, i, in.sample[i].gamma, in.other[0]);
        CHECK(memcmp(in.out[i], in.other[0], out_bytes(i)) == 0);
    }
}
static void test_a_ragged_batch_equals_its_items_alone_to_the_bit(void) {
    on_models(mates_change_no_bit, true);
}

static void mates_change_little(struct model *m) {
    double worst = 0;
    all(m, in.out);
    for (int i = 0; i < N; i++) {
        alone(m, i, in.sample[i].gamma, in.other[0]);
        double d = worst_diff(in.out[i], in.other[0], out_bytes(i) / sizeof(float));
        if (!(d <= worst)) worst = d;
    }
    printf("    worst %.2g\n", worst);
    CHECK(worst <= 1e-5);
}
static void test_a_ragged_batch_is_close_to_its_items_alone_when_not_deterministic(void) {
    on_models(mates_change_little, false);
}

static void order_changes_no_bit(struct model *m) {
    struct sample turned[N];
    float *p[N];
    all(m, in.out);
    for (int i = 0; i < N; i++) turned[i] = in.sample[N - 1 - i], p[i] = in.other[N - 1 - i];
    CHECK(forward(m, &(struct pass){.samples = turned, .n = N}, p));
    for (int i = 0; i < N; i++) CHECK(memcmp(in.out[i], in.other[i], out_bytes(i)) == 0);
}
static void test_order_of_items_is_irrelevant(void) { on_models(order_changes_no_bit, true); }

static void repeats_are_equal(struct model *m) {
    all(m, in.out);
    all(m, in.other);
    for (int i = 0; i < N; i++) CHECK(memcmp(in.out[i], in.other[i], out_bytes(i)) == 0);
}
static void test_two_runs_are_equal(void) { on_models(repeats_are_equal, true); }

/* ---- TACA ------------------------------------------------------------------------------------ */

static void mates_gamma_stays_out(struct model *m) {
    struct sample pair[2] = {in.sample[3], in.sample[2]};
    float *p[2] = {in.out[0], in.out[1]};
    pair[1].gamma = 1;
    for (int k = 0; k < 3; k++) {
        pair[0].gamma = (float[]){1, 1.2f, 5}[k];
        CHECK(forward(m, &(struct pass){.samples = pair, .n = 2}, p));
        if (k == 0)
            memcpy(in.other[1], in.out[1], out_bytes(2));
        else
            CHECK(memcmp(in.other[1], in.out[1], out_bytes(2)) == 0);
    }
}
static void test_an_item_with_gamma_one_is_plain_beside_any_other(void) {
    on_models(mates_gamma_stays_out, true);
}

static void without_text_gamma_is_idle(struct model *m) {
    struct sample s = in.sample[2];
    float *p[2] = {in.out[0], in.other[0]};
    s.n_text = 0;
    for (int k = 0; k < 2; k++) {
        s.gamma = k ? 3 : 1;
        CHECK(forward(m, &(struct pass){.samples = &s, .n = 1}, &p[k]));
    }
    CHECK(memcmp(in.out[0], in.other[0], out_bytes(2)) == 0);
    all(m, in.out); /* and it is not what text gives */
    CHECK(worst_diff(in.out[2], in.other[0], out_bytes(2) / sizeof(float)) > 1e-3);
}
static void test_without_text_gamma_has_nothing_to_scale(void) {
    on_models(without_text_gamma_is_idle, true);
}

struct rows {
    struct model *m;
    const char *name;
    float value[MAX_OUT * 8];
    int64_t n;
};
static void keep_rows(void *ctx, const char *name, struct taca_mat value) {
    struct rows *r = ctx;
    if (strcmp(name, r->name) != 0) return;
    r->n = value.rows * value.cols;
    CHECK((size_t)r->n <= sizeof r->value / sizeof *r->value);
    fetch(r->m, r->value, value);
}

/* Rows that leave block 0 in the named stream, for sample 0 at this gamma. */
static void block_rows(struct model *m, const char *name, float gamma, struct rows *r) {
    struct sample s = in.sample[0];
    float *out = in.out[0];
    *r = (struct rows){.m = m, .name = name};
    s.gamma = gamma;
    CHECK(forward(m, &(struct pass){.samples = &s, .n = 1, .tap = keep_rows, .tap_ctx = r}, &out));
    CHECK(r->n > 0);
}

static void text_of_block_0_stays(struct model *m) {
    static struct rows plain, now;
    static const float gammas[] = {1.2f, 2, 0.8f, 0};
    block_rows(m, "transformer_blocks.0.0", 1, &plain);
    for (int k = 0; k < 4; k++) {
        block_rows(m, "transformer_blocks.0.0", gammas[k], &now);
        CHECK(memcmp(plain.value, now.value, (size_t)now.n * sizeof(float)) == 0);
    }
    block_rows(m, "transformer_blocks.0.1", 1, &plain); /* and the image rows do not */
    for (int k = 0; k < 4; k++) {
        block_rows(m, "transformer_blocks.0.1", gammas[k], &now);
        CHECK(worst_diff(plain.value, now.value, (size_t)now.n) > 1e-3);
    }
}
static void test_text_rows_of_the_first_block_ignore_gamma(void) {
    on_models(text_of_block_0_stays, true);
}

/* Scaling the text keys themselves is the same for image rows and wrong for text rows. The keys are
 * scaled through the weights: of their norm, or of their projection where there is no norm. */
static void naive_scaling(const char *config, const char *weights, const char *keys, double least) {
    struct taca_backend_opts opts = {.threads = 2, .precision = TACA_F32};
    struct model right, naive;
    static struct rows a, b;
    char path[256];
    struct rewrite r = {.match = keys, .factor = (double)1.2f};
    if (!rewrite(path, weights, &r)) return;
    if (model_open(&right, config, weights, &opts) && model_open(&naive, config, path, &opts)) {
        block_rows(&right, "transformer_blocks.0.1", 1.2f, &a);
        block_rows(&naive, "transformer_blocks.0.1", 1, &b);
        CHECK(worst_diff(a.value, b.value, (size_t)a.n) <= 1e-5);
        block_rows(&right, "transformer_blocks.0.0", 1.2f, &a);
        block_rows(&naive, "transformer_blocks.0.0", 1, &b);
        CHECK(worst_diff(a.value, b.value, (size_t)a.n) > 1e-3);
        alone(&right, 0, 1.2f, in.out[0]);
        alone(&naive, 0, 1, in.other[0]);
        double d = worst_diff(in.out[0], in.other[0], out_bytes(0) / sizeof(float));
        printf("    outputs differ by %.2g\n", d);
        CHECK(d > least);
        model_close(&naive);
    }
    model_close(&right);
    unlink(path);
}
static void test_scaled_text_keys_are_not_taca(void) {
    naive_scaling(CONFIG("sd3_tiny"), WEIGHTS("sd3_tiny"), "attn.add_k_proj.", 1e-3);
    naive_scaling(CONFIG("sd35m_tiny"), WEIGHTS("sd35m_tiny"), "attn.norm_added_k.", 1e-3);
    in.channels = 2;
    naive_scaling(CONFIG("flux_tiny_dev"), WEIGHTS("flux_tiny_dev"), "attn.norm_added_k.", 1e-3);
    in.channels = 4;
}

/* With the joint attention's way into the image cut off, only the second attention mixes image
 * rows: any gamma that reached it would show. */
static void test_dual_attention_is_out_of_reach(void) {
    static const float gammas[] = {1.2f, 2, 0};
    char path[256];
    struct rewrite r = {.match = "attn.to_out.0.", .factor = 0};
    if (!rewrite(path, WEIGHTS("sd35m_tiny"), &r)) return;
    CHECK_INT(r.hits, 2 * 4); /* weight and bias of four blocks, not those of attn2 */
    for (int scalar = 0; scalar < 2; scalar++) {
        struct taca_backend_opts opts = {
            .threads = 2, .precision = TACA_F32, .deterministic = true, .scalar = scalar == 1};
        struct model m;
        if (model_open(&m, CONFIG("sd35m_tiny"), path, &opts)) {
            alone(&m, 0, 1, in.out[0]);
            for (int k = 0; k < 3; k++) {
                alone(&m, 0, gammas[k], in.other[0]);
                CHECK(memcmp(in.out[0], in.other[0], out_bytes(0)) == 0);
            }
        }
        model_close(&m);
    }
    unlink(path);
}

/* ---- modulations ----------------------------------------------------------------------------- */

static float *run_modulation(struct model *m, const float *t, int64_t n, const float *pooled,
                             int64_t pooled_rows) {
    const int64_t width = dit_get_info(m->dit)->mod_width;
    float *host = malloc((size_t)(n * width) * sizeof *host);
    if (!host) abort();
    size_t bytes = count_modulation(m, n, pooled_rows);
    CHECK_OK(taca_scratch_reserve(&m->scratch, bytes, &m->err), m->err);
    struct taca_mat mod = put_mat(m, NULL, n, width);
    const struct dit_condition c = {
        .t = t,
        .guidance = 3.5f,
        .pooled = put_mat(m, pooled, pooled_rows, dit_get_info(m->dit)->pooled_width)};
    dit_modulation(m->dit, m->b, &m->scratch, mod, &c);
    CHECK_INT(m->scratch.used, 0);
    fetch(m, host, mod);
    CHECK_OK(taca_sync(m->b, &m->err), m->err);
    drop(m);
    return host;
}

static void rows_are_independent(struct model *m) {
    static const float t[] = {1000, 987.38f, 500, 8.93f, 0};
    const int64_t width = dit_get_info(m->dit)->mod_width;
    const size_t bytes = (size_t)width * sizeof(float);
    float *shared = run_modulation(m, t, N, in.pooled[0], 1);
    float *own = run_modulation(m, t, N, in.pooled[0], N); /* five pooled texts in a row */
    for (int i = 0; i < N; i++) {
        float *one = run_modulation(m, &t[i], 1, in.pooled[0], 1);
        CHECK(memcmp(shared + i * width, one, bytes) == 0);
        free(one);
        one = run_modulation(m, &t[i], 1, &in.pooled[0][0] + i * dit_get_info(m->dit)->pooled_width,
                             1);
        CHECK(memcmp(own + i * width, one, bytes) == 0);
        free(one);
    }
    CHECK(worst_diff(shared, shared + width, (size_t)width) > 0);
    free(shared);
    free(own);
}
static void test_rows_of_modulations_are_independent(void) {
    on_models(rows_are_independent, true);
}

/* ---- precision ------------------------------------------------------------------------------- */

/* 8 bits of mantissa through a few layers: a few percent of the output's spread, not garbage. */
static void bf16_stays_near(const char *config, const char *weights) {
    struct model exact, coarse;
    struct taca_backend_opts opts = {.threads = 2, .precision = TACA_F32};
    if (!model_open(&exact, config, weights, &opts)) return;
    opts.precision = TACA_BF16;
    if (!model_open(&coarse, config, weights, &opts)) return;
    if (taca_backend_precision(coarse.b) != TACA_BF16) {
        SKIP("this processor multiplies no bf16");
    } else {
        double error = 0, power = 0;
        all(&exact, in.out);
        all(&coarse, in.other);
        for (int i = 0; i < N; i++)
            for (size_t k = 0; k < out_bytes(i) / sizeof(float); k++) {
                double d = (double)in.other[i][k] - (double)in.out[i][k];
                error += d * d;
                power += (double)in.out[i][k] * (double)in.out[i][k];
            }
        printf("    relative error %.2g\n", sqrt(error / power));
        CHECK(sqrt(error / power) < 0.03);
        CHECK(error > 0);
    }
    model_close(&exact);
    model_close(&coarse);
}
static void test_bf16_stays_near(void) {
    bf16_stays_near(CONFIG("sd35m_tiny"), WEIGHTS("sd35m_tiny"));
    in.channels = 2;
    bf16_stays_near(CONFIG("flux_tiny_dev"), WEIGHTS("flux_tiny_dev"));
    in.channels = 4;
}

/* ---- what a forward costs and refuses ----------------------------------------------------------
 */

/* By hand, multiply-add = 2, for [n image, t text] rows of width d, f = 4d. */
static double flops_of(const struct dit_info *info, int64_t dual, double n, double t) {
    const double d = (double)info->width, c = 4.0 * (double)info->in_channels,
                 depth = (double)info->depth;
    const double last =
        6 * (n + t) * d * d /* q, k, v */ + 2 * n * d * d + 16 * n * d * d + 4 * n * (n + t) * d;
    const double full =
        6 * (n + t) * d * d + (n + t) * (2 + 16) * d * d + 4 * (n + t) * (n + t) * d;
    const double second = (6 + 2) * n * d * d + 4 * n * n * d; /* image rows alone */
    const double single = (6 + 8 + 10) * (n + t) * d * d + 4 * (n + t) * (n + t) * d;
    if (info->kind == DIT_FLUX)
        return 2 * n * c * d + depth * full + (double)info->singles * single + 2 * n * d * c;
    return 2 * n * c * d + (depth - 1) * full + last + (double)dual * second + 2 * n * d * c;
}

static void test_a_dry_run_counts_every_operation(void) {
    static const struct {
        const char *config, *weights;
        int64_t dual;
    } model[] = {{CONFIG("sd3_tiny"), WEIGHTS("sd3_tiny"), 0},
                 {CONFIG("sd35m_tiny"), WEIGHTS("sd35m_tiny"), 2},
                 {CONFIG("flux_tiny_dev"), WEIGHTS("flux_tiny_dev"), 0}};
    for (size_t k = 0; k < sizeof model / sizeof *model; k++) {
        struct taca_backend_opts opts = {.threads = 1, .precision = TACA_F32};
        struct model m;
        struct dit_item items[N];
        struct taca_seg segs[N];
        struct taca_layout layout = {0};
        double want = 0;
        if (!model_open(&m, model[k].config, model[k].weights, &opts)) continue;
        const struct dit_info *info = dit_get_info(m.dit);
        for (int i = 0; i < N; i++) {
            const struct sample *s = &in.sample[i];
            items[i] =
                (struct dit_item){.latent = {NULL, info->in_channels, s->h, s->w},
                                  .velocity = {NULL, info->in_channels, s->h, s->w},
                                  .context = {NULL, TACA_F32, s->n_text, info->width, info->width},
                                  .places = {NULL, TACA_F32, s->h * s->w / 4 + s->n_text,
                                             info->place_width, info->place_width},
                                  .mod = {NULL, TACA_F32, 1, info->mod_width, info->mod_width},
                                  .gamma = 1};
            want += flops_of(info, model[k].dual, (double)(s->h * s->w / 4), (double)s->n_text);
        }
        dit_segments(m.dit, items, N, segs);
        CHECK_OK(taca_layout_init(&layout, m.b, segs, N, &m.err), m.err);
        struct dit_forward f = {.items = items, .n_items = N, .layout = &layout};
        struct taca_counts got = count_forward(&m, &f);
        CHECK_NEAR(got.flops, want, 1e-9 * want);
        CHECK(got.scratch_bytes > 0 && got.weight_bytes > 0);
        taca_layout_finish(&layout);
        model_close(&m);
    }
}

/* The engine checks sizes; a forward that gets one anyway must fail, not read past the table. */
static void test_a_latent_larger_than_the_position_table_is_an_error(void) {
    struct taca_backend_opts opts = {.threads = 1, .precision = TACA_F32};
    static const int64_t size[][2] = {{2, 50}, {50, 2}};
    struct model m;
    if (!model_open(&m, CONFIG("sd35m_tiny"), WEIGHTS("sd35m_tiny"), &opts)) return;
    CHECK_INT(dit_get_info(m.dit)->max_patches, 24);
    CHECK_OK(taca_scratch_reserve(&m.scratch, 1 << 20, &m.err), m.err);
    for (int k = 0; k < 2; k++) {
        struct taca_layout layout = {0};
        struct taca_seg seg;
        struct sample s = in.sample[0];
        s.h = size[k][0];
        s.w = size[k][1];
        struct dit_item item = item_of(&m, &s);
        dit_segments(m.dit, &item, 1, &seg);
        CHECK_OK(taca_layout_init(&layout, m.b, &seg, 1, &m.err), m.err);
        dit_run(m.dit, m.b, &m.scratch,
                &(struct dit_forward){.items = &item, .n_items = 1, .layout = &layout});
        CHECK_INT(taca_sync(m.b, &m.err), TACA_EINTERNAL);
        CHECK_HAS(m.err.text, "add_position");
        m.err = (struct taca_err){0};
        taca_layout_finish(&layout);
        drop(&m);
    }
    alone(&m, 0, 1, in.out[0]); /* and the next forward is fine */
    model_close(&m);
}

/* Where FLUX's rows are: the usual grid is what explicit coordinates give, and text is at the
 * origin, where nothing turns. */
static void test_usual_places_are_a_grid(void) {
    enum { ROWS = 3, COLS = 5, TEXT = 2, ALL = ROWS * COLS + TEXT, WIDTH = 16 };
    struct taca_backend_opts opts = {.threads = 1, .precision = TACA_F32};
    struct model m;
    float at[ALL][3] = {{0}}, usual[ALL][WIDTH], explicit[ALL][WIDTH];
    if (model_open(&m, CONFIG("flux_tiny_dev"), WEIGHTS("flux_tiny_dev"), &opts)) {
        CHECK_INT(dit_get_info(m.dit)->place_width, WIDTH);
        for (int i = 0; i < ROWS * COLS; i++)
            at[i][1] = (float)(i / COLS), at[i][2] = (float)(i % COLS);
        dit_places(m.dit, usual[0], 2 * ROWS, 2 * COLS, TEXT);
        dit_places_at(m.dit, explicit[0], at[0], ALL);
        CHECK(memcmp(usual, explicit, sizeof usual) == 0);
        for (int k = 0; k < WIDTH; k++) CHECK(usual[ALL - 1][k] == (k < WIDTH / 2));
        /* axes of 4, 4 and 8 columns: pair 3 is the slow one of the rows, 7 of the columns */
        CHECK_NEAR(usual[COLS][3], cos(1e-2), 1e-7);
        CHECK_NEAR(usual[1][WIDTH / 2 + 7], sin(1e-3), 1e-9);
    }
    model_close(&m);
}

int main(void) {
    make_inputs();
    TEST(test_a_ragged_batch_equals_its_items_alone_to_the_bit);
    TEST(test_a_ragged_batch_is_close_to_its_items_alone_when_not_deterministic);
    TEST(test_order_of_items_is_irrelevant);
    TEST(test_two_runs_are_equal);
    TEST(test_an_item_with_gamma_one_is_plain_beside_any_other);
    TEST(test_without_text_gamma_has_nothing_to_scale);
    TEST(test_text_rows_of_the_first_block_ignore_gamma);
    TEST(test_scaled_text_keys_are_not_taca);
    TEST(test_dual_attention_is_out_of_reach);
    TEST(test_rows_of_modulations_are_independent);
    TEST(test_bf16_stays_near);
    TEST(test_a_dry_run_counts_every_operation);
    TEST(test_a_latent_larger_than_the_position_table_is_an_error);
    TEST(test_usual_places_are_a_grid);
    return TEST_END();
}
