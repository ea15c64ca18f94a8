/* test_sampling.c - noise, schedule, TACA window, transformer, guidance and Euler together: whole
 * reference runs from given text embeddings to the latent, every step compared. */
#include "engine/sample/noise.h"
#include "engine/sample/schedule.h"
#include "engine/sample/taca.h"
#include "tests/dit/fixture.h"

struct reference {
    const char *io; /* under the golden folder */
    uint64_t seed;
    int steps;
    float guidance;
    struct taca_window window;
    double tol; /* latents have a spread of 4.5 to 5.2 */
};

/* The two branches of guidance share the latent; branch 0 is the prompt. */
struct run {
    struct model *m;
    struct taca_schedule schedule;
    struct dit_item item[2];
    struct taca_mat mod[2]; /* [steps, mod_width] */
};

static void open_branch(struct run *r, int i, struct taca_ckpt *io, const char *text_name,
                        const char *pooled_name) {
    struct model *m = r->m;
    const struct dit_info *info = dit_get_info(m->dit);
    const int n = r->schedule.steps;
    int64_t dim[3];
    float *text = golden(io, text_name, 3, dim), *pooled = golden(io, pooled_name, 2, NULL);
    if (CHECK(text && pooled)) {
        struct dit_item *item = &r->item[i];
        item->latent = r->item[0].latent;
        item->velocity = item->latent;
        item->velocity.data = put(m, NULL, item->latent.c * item->latent.h * item->latent.w);
        item->context = put_mat(m, NULL, dim[1], info->width);
        dit_context(m->dit, m->b, &m->scratch, item->context, put_mat(m, text, dim[1], dim[2]));
        r->mod[i] = put_mat(m, NULL, n, info->mod_width);
        CHECK_OK(taca_scratch_reserve(&m->scratch, count_modulation(m, n, 1), &m->err), m->err);
        dit_modulation(m->dit, m->b, &m->scratch, r->mod[i], r->schedule.timestep,
                       put_mat(m, pooled, 1, info->pooled_width));
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
    for (int k = 0; k < 2; k++) {
        r->item[k].mod = taca_mat_rows(r->mod[k], i, 1);
        r->item[k].gamma = (float)taca_gamma(&ref->window, i, ref->steps, (double)sigma[i]);
    }
    dit_segments(m->dit, r->item, 2, segs);
    CHECK_OK(taca_layout_init(&layout, m->b, segs, 2, &m->err), m->err);
    struct dit_forward f = {.items = r->item, .n_items = 2, .layout = &layout};
    size_t bytes = count_forward(m, &f).scratch_bytes;
    CHECK_OK(taca_scratch_reserve(&m->scratch, bytes, &m->err), m->err);
    dit_run(m->dit, m->b, &m->scratch, &f);
    taca_cfg_euler(m->b, r->item[0].latent, r->item[0].velocity, r->item[1].velocity, ref->guidance,
                   sigma[i + 1] - sigma[i]);
    CHECK_OK(taca_sync(m->b, &m->err), m->err);
    taca_layout_finish(&layout);
}

static void walk(struct run *r, const struct reference *ref, struct taca_ckpt *io) {
    int64_t dim[5];
    float *want = golden(io, "steps", 5, dim);
    if (!CHECK(want && dim[0] == ref->steps)) return;
    const size_t n = (size_t)(dim[2] * dim[3] * dim[4]);
    float *noise = malloc(n * sizeof *noise), *got = malloc(n * sizeof *got);
    struct taca_rng rng;
    if (!noise || !got) abort();
    taca_rng_seed(&rng, ref->seed);
    taca_rng_randn(&rng, noise, n);
    r->item[0].latent = (struct taca_chw){put(r->m, noise, (int64_t)n), dim[2], dim[3], dim[4]};
    open_branch(r, 0, io, "in.prompt_embeds", "in.pooled_prompt_embeds");
    open_branch(r, 1, io, "in.negative_prompt_embeds", "in.negative_pooled_prompt_embeds");
    double worst = 0;
    for (int i = 0; i < ref->steps; i++) {
        step(r, ref, i);
        taca_download(r->m->b, got, r->item[0].latent.data, n * sizeof *got);
        CHECK_OK(taca_sync(r->m->b, &r->m->err), r->m->err);
        double d = worst_diff(got, want + (size_t)i * n, n);
        if (!(d <= worst)) worst = d;
    }
    printf("    %-40s %d steps, worst %.2g\n", ref->io, ref->steps, worst);
    CHECK(worst <= ref->tol);
    drop(r->m);
    free(want);
    free(noise);
    free(got);
}

static void check(const struct reference *ref) {
    static const struct taca_scheduler scheduler = {.shift = 3, .train_steps = 1000};
    struct taca_backend_opts opts = {.threads = 2, .precision = TACA_F32};
    struct model m;
    struct taca_ckpt *io = NULL;
    char path[PATH_LEN];
    snprintf(path, sizeof path, "%s/%s", TACA_GOLDEN_DIR, ref->io);
    if (model_open(&m, TACA_GOLDEN_DIR "/models/pipe_sd3.transformer.config.json",
                   TACA_GOLDEN_DIR "/models/pipe_sd3.transformer.diffusers.safetensors", &opts)) {
        struct run r = {.m = &m};
        CHECK_OK(taca_ckpt_open(&io, path, &m.err), m.err);
        CHECK_OK(taca_schedule_init(&r.schedule, &scheduler, ref->steps, 0, &m.err), m.err);
        if (io) walk(&r, ref, io);
        taca_ckpt_close(io);
    }
    model_close(&m);
}

static void test_a_guided_run_is_the_references(void) {
    check(&(struct reference){.io = "models/pipe_sd3_t2i.io.safetensors",
                              .seed = 47,
                              .steps = 4,
                              .guidance = 7,
                              .window = {.rule = TACA_WINDOW_OFF},
                              .tol = 5e-4});
}

static void test_a_run_with_taca_is_the_references(void) {
    /* gamma 1.2 while sigma >= 0.9: steps 0, 1 and 2, on both branches; one step more or one
     * branch alone moves the latent by 0.2 and more */
    struct reference ref = {
        .io = "taca/pipe_sd3_taca.io.safetensors",
        .seed = 52,
        .steps = 10,
        .guidance = 7,
        .window = {.rule = TACA_WINDOW_SIGMA, .gamma = 1.2, .sigma_min = 0.9, .sigma_max = 1},
        .tol = 5e-4};
    check(&ref);
    ref.window = (struct taca_window){.rule = TACA_WINDOW_FRACTION, .gamma = 1.2, .fraction = 0.3};
    check(&ref);
    ref.window = (struct taca_window){.rule = TACA_WINDOW_STEPS, .gamma = 1.2, .end_step = 3};
    check(&ref);
}

int main(void) {
    TEST(test_a_guided_run_is_the_references);
    TEST(test_a_run_with_taca_is_the_references);
    return TEST_END();
}
