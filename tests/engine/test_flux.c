/* test_flux.c - FLUX at the step border, with conditioning given: ragged batches against each
 * sequence alone, guidance as an input, the schedule that follows the size. */
#include "engine/core.h"
#include "tests/test.h"

#define MODELS TACA_GOLDEN_DIR "/models/"

enum { N = 6, JOINT = 32, POOLED = 24, MAX_TEXT = 16 };

static const struct taca_scheduler dev = {.spacing = TACA_SPACING_EVEN,
                                          .dynamic = TACA_DYNAMIC_EXPONENTIAL,
                                          .base_shift = 0.5,
                                          .max_shift = 1.15,
                                          .base_tokens = 256,
                                          .max_tokens = 4096,
                                          .train_steps = 1000};

/* An engine with nothing but a transformer. */
static struct taca_engine *open_engine(enum taca_dtype precision) {
    struct taca_engine *e = calloc(1, sizeof *e);
    struct taca_err err = {0};
    struct taca_ckpt *ckpt = NULL;
    json_t *config = NULL;
    const struct taca_backend_opts opts = {
        .threads = 2, .precision = precision, .deterministic = true};
    if (!e) abort();
    enum taca_code rc = taca_cpu_open(&e->b, &opts, &err);
    if (!rc) rc = taca_json_load(&config, MODELS "pipe_flux_dev.transformer.config.json", &err);
    if (!rc)
        rc = taca_ckpt_open(&ckpt, MODELS "pipe_flux_dev.transformer.diffusers.safetensors", &err);
    if (!rc) rc = dit_open(&e->dit, e->b, config, ckpt, &err);
    CHECK_OK(rc, err);
    taca_ckpt_close(ckpt);
    json_decref(config);
    e->scratch.b = e->b;
    e->scheduler = dev;
    return e;
}

/* Text of its own length for each k; both branches of one picture have the same. */
static void make_text(struct taca_engine *e, int k, struct seq_text text[SEQ_BRANCHES]) {
    const int64_t rows = 3 + 2 * k;
    struct taca_err err = {0};
    struct taca_rng rng;
    float host[MAX_TEXT * JOINT + POOLED];
    taca_rng_seed(&rng, (uint64_t)k);
    for (int i = 0; i < SEQ_BRANCHES; i++) {
        float *p = taca_alloc(e->b, sizeof host, &err);
        if (!p) abort();
        taca_rng_randn(&rng, host, sizeof host / sizeof *host);
        taca_upload(e->b, p, host, sizeof host);
        text[i].context = (struct taca_mat){p, TACA_F32, rows, JOINT, JOINT};
        text[i].pooled = (struct taca_mat){p + MAX_TEXT * JOINT, TACA_F32, 1, POOLED, POOLED};
    }
}

/* Size, steps, both kinds of guidance, window and noise all differ. */
static struct taca_gen_params mixed(int k) {
    return (struct taca_gen_params){.width_px = 64 + 16 * (k % 5),
                                    .height_px = 128 - 16 * (k % 3),
                                    .steps = 2 + k % 4,
                                    .cfg_scale = k % 3 == 1 ? 2.5 : 1,
                                    .guidance_scale = 1 + 1.5 * k,
                                    .taca = {.rule = k % 2 ? TACA_WINDOW_FRACTION : TACA_WINDOW_OFF,
                                             .gamma = 1 + 0.2 * k,
                                             .fraction = 0.5}};
}

static struct taca_seq *open_seq(struct taca_engine *e, const struct taca_gen_params *p, int k) {
    struct seq_text text[SEQ_BRANCHES];
    struct taca_seq *s = NULL;
    struct taca_err err = {0};
    struct taca_rng rng;
    make_text(e, k, text);
    taca_rng_seed(&rng, (uint64_t)(100 + k));
    const struct seq_given given = {
        .cond = &text[0], .uncond = p->cfg_scale > 1 ? &text[1] : NULL, .rng = &rng};
    CHECK_OK(seq_open_with(e, p, &given, &s, &err), err);
    for (int i = 0; i < SEQ_BRANCHES; i++) taca_free(e->b, text[i].context.data);
    if (!s) abort();
    return s;
}

static float *latent_of(struct taca_engine *e, const struct taca_seq *s, size_t *n) {
    struct taca_err err = {0};
    *n = (size_t)(s->latent.c * s->latent.h * s->latent.w);
    float *x = malloc(*n * sizeof *x);
    if (!x) abort();
    CHECK_OK(seq_latent_read(e, s, x, &err), err);
    return x;
}

static float *run_alone(struct taca_engine *e, const struct taca_gen_params *p, int k, size_t *n) {
    struct taca_err err = {0};
    struct taca_seq *s = open_seq(e, p, k);
    while (!taca_seq_done(s) && !err.code) CHECK_OK(taca_step(e, &s, 1, &err), err);
    float *x = latent_of(e, s, n);
    taca_seq_close(e, s);
    return x;
}

static void batch_equals_alone(enum taca_dtype precision) {
    struct taca_engine *e = open_engine(precision);
    struct taca_seq *seqs[N], *batch[N];
    struct taca_err err = {0};
    for (int k = 0; k < N; k++) {
        const struct taca_gen_params p = mixed(k);
        seqs[k] = open_seq(e, &p, k);
    }
    for (int n = 1; n && !err.code;) {
        n = 0;
        for (int k = N - 1; k >= 0; k--)
            if (!taca_seq_done(seqs[k])) batch[n++] = seqs[k];
        if (n) CHECK_OK(taca_step(e, batch, n, &err), err);
    }
    for (int k = 0; k < N; k++) {
        const struct taca_gen_params p = mixed(k);
        size_t n, same;
        float *together = latent_of(e, seqs[k], &n), *alone = run_alone(e, &p, k, &same);
        CHECK(n == same && memcmp(together, alone, n * sizeof *alone) == 0);
        free(together);
        free(alone);
        taca_seq_close(e, seqs[k]);
    }
    taca_engine_close(e);
}
static void test_a_mixed_batch_is_bitwise_equal_to_its_pictures_alone(void) {
    batch_equals_alone(TACA_F32);
    batch_equals_alone(TACA_BF16);
}

static void test_guidance_and_gamma_change_the_picture(void) {
    struct taca_engine *e = open_engine(TACA_F32);
    struct taca_gen_params p = mixed(1);
    size_t n;
    float *base = run_alone(e, &p, 1, &n);
    for (int what = 0; what < 3; what++) {
        struct taca_gen_params q = p;
        if (what == 0) q.guidance_scale = 7;
        if (what == 1) q.cfg_scale = 1;
        if (what == 2) q.taca.rule = TACA_WINDOW_OFF;
        float *other = run_alone(e, &q, 1, &n);
        double worst = 0;
        for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)(base[i] - other[i])));
        CHECK(worst > 1e-3);
        free(other);
    }
    free(base);
    taca_engine_close(e);
}

static void test_the_schedule_follows_the_size(void) {
    struct taca_engine *e = open_engine(TACA_F32);
    struct taca_gen_params p = mixed(0);
    p.steps = 4;
    p.width_px = p.height_px = 256; /* 256 tokens: mu is the base shift */
    struct taca_seq *s = open_seq(e, &p, 0);
    const double shift = exp(0.5);
    for (int i = 0; i < 4; i++) {
        const double sigma = 1 - 0.25 * i;
        CHECK_NEAR(s->schedule.sigma[i], shift / (shift + 1 / sigma - 1), 1e-6);
    }
    CHECK_INT(taca_seq_tokens(e, s), 256 + 3);
    taca_seq_close(e, s);
    taca_engine_close(e);
}

static void test_the_plan_is_what_a_step_really_uses(void) {
    struct taca_engine *e = open_engine(TACA_F32);
    struct taca_seq *seqs[N];
    struct taca_err err = {0};
    for (int k = 0; k < N; k++) {
        const struct taca_gen_params p = mixed(k);
        seqs[k] = open_seq(e, &p, k);
    }
    e->scratch.peak = 0;
    CHECK_OK(taca_step(e, seqs, N, &err), err);
    printf("    planned %zu bytes, used %zu\n", e->step_bytes, e->scratch.peak);
    CHECK(e->scratch.peak <= e->step_bytes);
    CHECK(e->scratch.peak >= e->step_bytes / 2);
    for (int k = 0; k < N; k++) taca_seq_close(e, seqs[k]);
    taca_engine_close(e);
}

int main(void) {
    TEST(test_a_mixed_batch_is_bitwise_equal_to_its_pictures_alone);
    TEST(test_guidance_and_gamma_change_the_picture);
    TEST(test_the_schedule_follows_the_size);
    TEST(test_the_plan_is_what_a_step_really_uses);
    return TEST_END();
}
