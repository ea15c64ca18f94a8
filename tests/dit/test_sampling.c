/* test_sampling.c - noise, schedule, TACA window, transformer, guidance and Euler together: whole
 * reference runs from given text embeddings to the latent, every step compared. */
#include "engine/sample/noise.h"
#include "engine/sample/schedule.h"
#include "engine/sample/taca.h"
#include "tests/dit/fixture.h"

struct reference {
    const char *io;    /* under the golden folder */
    const char *model; /* set under models/ */
    struct taca_scheduler scheduler;
    uint64_t seed;
    int steps;
    float cfg;      /* 0 = one branch */
    float embedded; /* FLUX's own guidance */
    struct taca_window window;
    double tol; /* latents have a spread of 4.5 to 5.2 (SD3), 1.5 to 1.9 (FLUX) */
};
enum { H = 8, W = 12 }; /* latents of every run */

static const struct taca_scheduler sd3 = {.shift = 3, .train_steps = 1000};
static const struct taca_scheduler flux_dev = {.spacing = TACA_SPACING_EVEN,
                                               .dynamic = TACA_DYNAMIC_EXPONENTIAL,
                                               .base_shift = 0.5,
                                               .max_shift = 1.15,
                                               .base_tokens = 256,
                                               .max_tokens = 4096,
                                               .train_steps = 1000};
static const struct taca_scheduler flux_schnell = {
    .spacing = TACA_SPACING_EVEN, .shift = 1, .train_steps = 1000};

/* The two branches of guidance share the latent; branch 0 is the prompt. */
struct run {
    struct model *m;
    struct taca_schedule schedule;
    struct dit_item item[2];
    int n_items;
    struct taca_mat mod[2]; /* [steps, mod_width] */
};

static void open_branch(struct run *r, const struct reference *ref, int i, struct taca_ckpt *io) {
    static const char *const names[][2] = {
        {"in.prompt_embeds", "in.pooled_prompt_embeds"},
        {"in.negative_prompt_embeds", "in.negative_pooled_prompt_embeds"}};
    struct model *m = r->m;
    const struct dit_info *info = dit_get_info(m->dit);
    const int n = r->schedule.steps;
    int64_t dim[3] = {0};
    float *text = golden(io, names[i][0], 3, dim), *pooled = golden(io, names[i][1], 2, NULL);
    if (CHECK(text && pooled)) {
        struct dit_item *item = &r->item[i];
        item->latent = r->item[0].latent;
        item->velocity = item->latent;
        item->velocity.data = put(m, NULL, item->latent.c * item->latent.h * item->latent.w);
        item->context = put_mat(m, NULL, dim[1], info->width);
        dit_context(m->dit, m->b, &m->scratch, item->context, put_mat(m, text, dim[1], dim[2]),
                    NULL);
        item->places = places_of(m, &(struct sample){.h = H, .w = W, .n_text = dim[1]});
        r->mod[i] = put_mat(m, NULL, n, info->mod_width);
        CHECK_OK(taca_scratch_reserve(&m->scratch, count_modulation(m, n, 1), &m->err), m->err);
        const struct dit_condition c = {.t = r->schedule.timestep,
                                        .guidance = ref->embedded,
                                        .pooled = put_mat(m, pooled, 1, info->pooled_width)};
        dit_modulation(m->dit, m->b, &m->scratch, r->mod[i], &c);
        CHECK_OK(taca_sync(m->b, &m->err), m->err);
    }
    free(text);
    free(pooled);
}

static void step(struct run *r, const struct reference *ref, int i) {
    struct model *m = r->m;
    struct taca_layout layout = {0};
    struct taca_seg segs[2];
    const float *sigma = r->schedule.sigma;
    for (int k = 0; k < r->n_items; k++) {
        r->item[k].mod = taca_mat_rows(r->mod[k], i, 1);
        r->item[k].gamma = (float)taca_gamma(&ref->window, i, ref->steps, (double)sigma[i]);
    }
    dit_segments(m->dit, r->item, r->n_items, segs);
    CHECK_OK(taca_layout_init(&layout, m->b, segs, r->n_items, &m->err), m->err);
    struct dit_forward f = {.items = r->item, .n_items = r->n_items, .layout = &layout};
    size_t bytes = count_forward(m, &f).scratch_bytes;
    CHECK_OK(taca_scratch_reserve(&m->scratch, bytes, &m->err), m->err);
    dit_run(m->dit, m->b, &m->scratch, &f);
    taca_cfg_euler(m->b, r->item[0].latent, r->item[0].velocity, r->item[1].velocity, ref->cfg,
                   sigma[i + 1] - sigma[i]);
    CHECK_OK(taca_sync(m->b, &m->err), m->err);
    taca_layout_finish(&layout);
}

/* The latents after a step, as the file has them: FLUX's as tokens. */
static void read_latents(struct run *r, float *got) {
    struct taca_chw x = r->item[0].latent;
    const float *from = x.data;
    if (dit_get_info(r->m->dit)->kind == DIT_FLUX) {
        struct taca_mat tokens = put_mat(r->m, NULL, x.h / 2 * (x.w / 2), 4 * x.c);
        taca_patchify(r->m->b, tokens, x, 2, TACA_PATCH_CHANNEL_MAJOR);
        from = tokens.data;
    }
    taca_download(r->m->b, got, from, (size_t)(x.c * x.h * x.w) * sizeof *got);
    CHECK_OK(taca_sync(r->m->b, &r->m->err), r->m->err);
}

static void walk(struct run *r, const struct reference *ref, struct taca_ckpt *io) {
    const int64_t channels = dit_get_info(r->m->dit)->in_channels;
    const bool flux = dit_get_info(r->m->dit)->kind == DIT_FLUX;
    const size_t n = (size_t)(channels * H * W);
    int64_t dim[5];
    float *want = golden(io, "steps", flux ? 4 : 5, dim);
    if (!CHECK(want && dim[0] == ref->steps)) return;
    float *noise = malloc(n * sizeof *noise), *got = malloc(n * sizeof *got);
    struct taca_rng rng;
    if (!noise || !got) abort();
    taca_rng_seed(&rng, ref->seed);
    taca_rng_randn(&rng, noise, n);
    r->item[0].latent = (struct taca_chw){put(r->m, noise, (int64_t)n), channels, H, W};
    for (int i = 0; i < r->n_items; i++) open_branch(r, ref, i, io);
    double worst = 0;
    for (int i = 0; i < ref->steps; i++) {
        step(r, ref, i);
        read_latents(r, got);
        double d = worst_diff(got, want + (size_t)i * n, n);
        if (!(d <= worst)) worst = d;
    }
    printf("    %-44s %d steps, worst %.2g\n", ref->io, ref->steps, worst);
    CHECK(worst <= ref->tol);
    drop(r->m);
    free(want);
    free(noise);
    free(got);
}

static void check(const struct reference *ref) {
    struct taca_backend_opts opts = {.threads = 2, .precision = TACA_F32};
    struct model m;
    struct taca_ckpt *io = NULL;
    char path[3][PATH_LEN];
    static const char models[] = TACA_GOLDEN_DIR "/models";
    snprintf(path[0], PATH_LEN, "%s/%s", TACA_GOLDEN_DIR, ref->io);
    snprintf(path[1], PATH_LEN, "%s/%s.transformer.config.json", models, ref->model);
    snprintf(path[2], PATH_LEN, "%s/%s.transformer.diffusers.safetensors", models, ref->model);
    if (model_open(&m, path[1], path[2], &opts)) {
        struct run r = {.m = &m, .n_items = ref->cfg != 0 ? 2 : 1};
        CHECK_OK(taca_ckpt_open(&io, path[0], &m.err), m.err);
        CHECK_OK(taca_schedule_init(&r.schedule, &ref->scheduler, ref->steps, H / 2 * (W / 2), 0,
                                    &m.err),
                 m.err);
        if (io) walk(&r, ref, io);
        taca_ckpt_close(io);
    }
    model_close(&m);
}

static void test_a_guided_run_is_the_references(void) {
    check(&(struct reference){.io = "models/pipe_sd3_t2i.io.safetensors",
                              .model = "pipe_sd3",
                              .scheduler = sd3,
                              .seed = 47,
                              .steps = 4,
                              .cfg = 7,
                              .window = {.rule = TACA_WINDOW_OFF},
                              .tol = 5e-4});
}

static void test_a_run_with_taca_is_the_references(void) {
    /* gamma 1.2 while sigma >= 0.9: steps 0, 1 and 2, on both branches; one step more or one
     * branch alone moves the latent by 0.2 and more */
    struct reference ref = {
        .io = "taca/pipe_sd3_taca.io.safetensors",
        .model = "pipe_sd3",
        .scheduler = sd3,
        .seed = 52,
        .steps = 10,
        .cfg = 7,
        .window = {.rule = TACA_WINDOW_SIGMA, .gamma = 1.2, .sigma_min = 0.9, .sigma_max = 1},
        .tol = 5e-4};
    check(&ref);
    ref.window = (struct taca_window){.rule = TACA_WINDOW_FRACTION, .gamma = 1.2, .fraction = 0.3};
    check(&ref);
    ref.window = (struct taca_window){.rule = TACA_WINDOW_STEPS, .gamma = 1.2, .end_step = 3};
    check(&ref);
}

static void test_flux_runs_are_the_references(void) {
    struct reference ref = {.io = "models/pipe_flux_dev_t2i.io.safetensors",
                            .model = "pipe_flux_dev",
                            .scheduler = flux_dev,
                            .seed = 42,
                            .steps = 4,
                            .embedded = 3.5f,
                            .tol = 1e-4};
    check(&ref);
    ref.io = "models/pipe_flux_dev_truecfg.io.safetensors";
    ref.seed = 43, ref.steps = 3, ref.cfg = 2.5f;
    check(&ref);
    check(&(struct reference){.io = "models/pipe_flux_schnell_t2i.io.safetensors",
                              .model = "pipe_flux_schnell",
                              .scheduler = flux_schnell,
                              .seed = 44,
                              .steps = 4,
                              .tol = 1e-4});
}

static void test_flux_runs_with_taca_are_the_references(void) {
    struct reference ref = {.io = "taca/pipe_flux_dev_taca.io.safetensors",
                            .model = "pipe_flux_dev",
                            .scheduler = flux_dev,
                            .seed = 51,
                            .steps = 10,
                            .embedded = 3.5f,
                            .window = {.rule = TACA_WINDOW_STEPS, .gamma = 1.2, .end_step = 3},
                            .tol = 1e-4};
    check(&ref);
    ref.window = (struct taca_window){.rule = TACA_WINDOW_FRACTION, .gamma = 1.2, .fraction = 0.3};
    check(&ref);
    ref.io = "taca/pipe_flux_dev_taca_truecfg.io.safetensors";
    ref.seed = 53, ref.steps = 6, ref.cfg = 2.5f;
    ref.window = (struct taca_window){
        .rule = TACA_WINDOW_SIGMA, .gamma = 1.2, .sigma_min = 0.75, .sigma_max = 1};
    check(&ref);
}

int main(void) {
    TEST(test_a_guided_run_is_the_references);
    TEST(test_a_run_with_taca_is_the_references);
    TEST(test_flux_runs_are_the_references);
    TEST(test_flux_runs_with_taca_are_the_references);
    return TEST_END();
}
