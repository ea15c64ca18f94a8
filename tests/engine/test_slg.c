/* test_slg.c - skip-layer guidance end to end: every step of a sequence against one composed by
 * hand from three forwards of the transformer, in double. */
#include "engine/core.h"
#include "tests/test.h"

enum { LAYERS = 0x12 }; /* blocks 1 and 4 */

static struct taca_engine *open_engine(void) {
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    const struct taca_engine_opts opts = {.model_path = TACA_SOURCE_DIR "/models/demo",
                                          .precision = TACA_PRECISION_F32};
    CHECK_OK(taca_engine_open(&e, &opts, &err), err);
    return e;
}

static struct taca_gen_params guided(const struct taca_engine *e) {
    struct taca_gen_params p;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = "a red cube";
    p.negative_prompt = "two green cones";
    p.width_px = p.height_px = 64;
    p.steps = 10;
    p.slg.layers = LAYERS;
    p.slg.stop = 0.45;
    return p;
}

/* One velocity of the sequence's next step into v (host). */
static void velocity(struct taca_engine *e, const struct taca_seq *s, int branch, const bool *skip,
                     float *v) {
    struct taca_err err = {0};
    const size_t n = (size_t)(s->latent.c * s->latent.h * s->latent.w);
    struct dit_item item = {.latent = s->latent,
                            .velocity = s->latent,
                            .context = s->context[branch],
                            .places = s->places,
                            .mod = taca_mat_rows(s->mod[branch], s->walk.step, 1),
                            .gamma = 1};
    struct taca_seg seg;
    struct taca_layout layout;
    item.velocity.data = taca_alloc(e->b, n * sizeof *v, &err);
    dit_segments(e->dit, &item, 1, &seg);
    CHECK_OK(taca_layout_init(&layout, e->b, &seg, 1, &err), err);
    dit_run(e->dit, e->b, &e->scratch,
            &(struct dit_forward){.items = &item, .n_items = 1, .layout = &layout, .skip = skip});
    taca_download(e->b, v, item.velocity.data, n * sizeof *v);
    CHECK_OK(taca_sync(e->b, &err), err);
    taca_layout_finish(&layout);
    taca_free(e->b, item.velocity.data);
}

static void test_each_step_is_the_composition_by_hand(void) {
    struct taca_engine *e = open_engine();
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    if (!e) return;
    const struct taca_gen_params p = guided(e);
    const bool skip[64] = {[1] = true, [4] = true};
    CHECK_OK(taca_seq_open(e, &p, &s, NULL, &err), err);
    if (!s) return;
    const size_t n = (size_t)(s->latent.c * s->latent.h * s->latent.w);
    float *x = malloc(6 * n * sizeof *x);
    if (!x) abort();
    float *cond = x + n, *uncond = x + 2 * n, *skipped = x + 3 * n, *got = x + 4 * n;
    float *want = x + 5 * n;
    for (int i = 0; i < p.steps; i++) {
        const bool on = i >= 1 && i <= 4; /* i > 0.1 and i < 4.5 */
        const double dt = (double)s->schedule.sigma[i + 1] - (double)s->schedule.sigma[i];
        CHECK_OK(seq_latent_read(e, s, x, &err), err);
        velocity(e, s, SEQ_COND, NULL, cond);
        velocity(e, s, SEQ_UNCOND, NULL, uncond);
        velocity(e, s, SEQ_COND, skip, skipped);
        double moved = 0;
        for (size_t k = 0; k < n; k++) {
            const double c = (double)cond[k], u = (double)uncond[k], away = c - (double)skipped[k];
            const double v = u + p.cfg_scale * (c - u) + (on ? p.slg.scale * away : 0);
            want[k] = (float)((double)x[k] + dt * v);
            moved = fmax(moved, fabs(dt * away));
        }
        CHECK(moved > 1e-3); /* else the test could not tell */
        CHECK_OK(taca_step(e, &s, 1, &err), err);
        CHECK_OK(seq_latent_read(e, s, got, &err), err);
        test_floats(on ? "with" : "without", got, want, n, 5e-5, __FILE__, __LINE__);
    }
    taca_seq_close(e, s);
    free(x);
    taca_engine_close(e);
}

/* A neighbour that has it changes nothing for one that has not, and costs are seen before. */
static void test_only_the_sequence_that_asks_has_it(void) {
    struct taca_engine *e = open_engine();
    struct taca_err err = {0};
    struct taca_seq *s[3] = {0};
    struct taca_cost plain, more;
    if (!e) return;
    struct taca_gen_params p = guided(e);
    CHECK_OK(taca_engine_cost(e, &p, &more, &err), err);
    CHECK_OK(taca_seq_open(e, &p, &s[0], NULL, &err), err);
    p.slg.layers = 0;
    CHECK_OK(taca_engine_cost(e, &p, &plain, &err), err);
    CHECK(more.seq_bytes > plain.seq_bytes);
    CHECK_NEAR((more.total_flops - plain.total_flops) / plain.step_flops, 2, 1e-9);
    for (int i = 1; i < 3; i++) CHECK_OK(taca_seq_open(e, &p, &s[i], NULL, &err), err);
    while (!err.code && !taca_seq_done(s[0])) {
        CHECK_OK(taca_step(e, s, 2, &err), err);
        CHECK_OK(taca_step(e, &s[2], 1, &err), err);
    }
    const size_t n = (size_t)(s[1]->latent.c * s[1]->latent.h * s[1]->latent.w);
    float *a = malloc(3 * n * sizeof *a);
    if (!a) abort();
    for (int i = 0; i < 3; i++) CHECK_OK(seq_latent_read(e, s[i], a + (size_t)i * n, &err), err);
    test_floats("beside one with it", a + n, a + 2 * n, n, 2e-4, __FILE__, __LINE__);
    double differ = 0;
    for (size_t k = 0; k < n; k++) differ = fmax(differ, fabs((double)(a[k] - a[n + k])));
    CHECK(differ > 0.01);
    free(a);
    for (int i = 0; i < 3; i++) taca_seq_close(e, s[i]);
    taca_engine_close(e);
}

static void test_requests_that_cannot_have_it_are_refused(void) {
    struct taca_engine *e = open_engine();
    struct taca_err err = {0};
    struct taca_cost cost;
    if (!e) return;
    struct taca_gen_params p = guided(e);
    p.slg.layers = UINT64_C(1) << taca_engine_info(e)->joint_blocks;
    CHECK(taca_engine_cost(e, &p, &cost, &err) == TACA_EINVAL);
    CHECK_HAS(err.text, "skip_layer_guidance.layers must be in 0..");
    err = (struct taca_err){0};
    p.slg.layers >>= 1;
    CHECK_OK(taca_engine_cost(e, &p, &cost, &err), err);
    p.cfg_scale = 1;
    CHECK(taca_engine_cost(e, &p, &cost, &err) == TACA_EINVAL);
    CHECK_HAS(err.text, "skip_layer_guidance needs cfg_scale above 1");
    taca_engine_close(e);
}

int main(void) {
    TEST(test_each_step_is_the_composition_by_hand);
    TEST(test_only_the_sequence_that_asks_has_it);
    TEST(test_requests_that_cannot_have_it_are_refused);
    return TEST_END();
}
