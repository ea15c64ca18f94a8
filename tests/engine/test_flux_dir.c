/* test_flux_dir.c - a FluxPipeline directory from opening to pictures: what it says of itself, its
 * defaults, its refusals. */
#include "engine/engine.h"

#include "tests/engine/flux_dir.h"

static struct taca_engine *open_engine(const char *name) {
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    const struct taca_engine_opts opts = {
        .model_path = tmp_path(name), .precision = TACA_PRECISION_F32, .deterministic = true};
    CHECK_OK(taca_engine_open(&e, &opts, &err), err);
    return e;
}

/* One picture; false when it was refused. */
static bool draw(struct taca_engine *e, const struct taca_gen_params *p, struct taca_image *out) {
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    *out = (struct taca_image){0};
    CHECK_OK(taca_seq_open(e, p, &s, NULL, &err), err);
    while (s && !taca_seq_done(s) && !err.code) CHECK_OK(taca_step(e, &s, 1, &err), err);
    if (s && !err.code) CHECK_OK(taca_decode(e, &s, 1, out, &err), err);
    taca_seq_close(e, s);
    return out->rgb != NULL;
}

static void test_dev_has_its_defaults_and_draws(void) {
    struct taca_engine *e = open_engine("dev");
    struct taca_image plain, guided;
    struct taca_gen_params p;
    if (!e) return;
    const struct taca_model_info *m = taca_engine_info(e);
    CHECK_STR(m->family, "flux-dev");
    CHECK(m->guidance_embeds && m->default_guidance_scale == 3.5 && m->default_cfg_scale == 1);
    CHECK_INT(m->default_steps, 28);
    CHECK_INT(m->default_width_px, 1024);
    CHECK_INT(m->side_multiple_px, 16);
    CHECK_INT(m->t5_tokens, 512);
    taca_gen_params_init(&p, m);
    CHECK(p.guidance_scale == 3.5);
    p.prompt = "a red cube";
    p.width_px = p.height_px = m->min_side_px;
    p.steps = 2;
    if (draw(e, &p, &plain)) {
        CHECK_INT(plain.width_px, m->min_side_px);
        p.guidance_scale = 9;
        if (draw(e, &p, &guided))
            CHECK(memcmp(plain.rgb, guided.rgb, (size_t)(3 * p.width_px * p.height_px)) != 0);
        taca_image_finish(&guided);
    }
    taca_image_finish(&plain);
    taca_engine_close(e);
}

static void test_schnell_takes_no_guidance(void) {
    struct taca_engine *e = open_engine("schnell");
    struct taca_seq *s = NULL;
    struct taca_err err = {0};
    struct taca_image image;
    struct taca_gen_params p;
    if (!e) return;
    const struct taca_model_info *m = taca_engine_info(e);
    CHECK_STR(m->family, "flux-schnell");
    CHECK(!m->guidance_embeds && m->default_guidance_scale == 0 && m->default_cfg_scale == 1);
    CHECK_INT(m->default_steps, 4);
    CHECK_INT(m->t5_tokens, 256);
    taca_gen_params_init(&p, m);
    p.width_px = p.height_px = m->min_side_px;
    p.steps = 1;
    CHECK(draw(e, &p, &image));
    taca_image_finish(&image);
    p.guidance_scale = 3.5;
    CHECK_INT(taca_seq_open(e, &p, &s, NULL, &err), TACA_EINVAL);
    CHECK_STR(err.param, "guidance_scale");
    CHECK_HAS(err.text, "flux-schnell");
    taca_engine_close(e);
}

int main(void) {
    tmp_begin();
    make_model("dev", true);
    make_model("schnell", false);
    TEST(test_dev_has_its_defaults_and_draws);
    TEST(test_schnell_takes_no_guidance);
    tmp_end();
    return TEST_END();
}
