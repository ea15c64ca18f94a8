/* test_params.c - requests as plain data: defaults, ranges, copies, and the packed form that
 * crosses a pipe, whole and cut at every byte. */
#include "engine/params.h"
#include "tests/test.h"

static const struct taca_model_info demo = {.id = "demo",
                                            .default_width_px = 128,
                                            .default_height_px = 96,
                                            .default_steps = 28,
                                            .default_cfg_scale = 4.5,
                                            .t5_tokens = 256,
                                            .min_side_px = 64,
                                            .max_side_px = 2048,
                                            .side_multiple_px = 16,
                                            .takes_images = true,
                                            .joint_blocks = 16};

static const uint8_t pixels[64 * 80 * 3] = {1, 2, 3, [64 * 80 * 3 - 1] = 9};

static struct taca_gen_params example(void) {
    struct taca_gen_params p;
    taca_gen_params_init(&p, &demo);
    p.prompt = "a cat \xF0\x9F\x90\xB1";
    p.prompt_2 = "";
    p.negative_prompt = "blurry";
    p.negative_prompt_3 = "x";
    p.sampler = TACA_LCM;
    p.schedule = TACA_LEVELS_BETA;
    p.rng = TACA_NOISE_PHILOX;
    p.width_px = 64;
    p.height_px = 80;
    p.image = pixels;
    p.mask = pixels + 64;
    p.strength = 0.125;
    p.slg = (struct taca_slg){.layers = 0x8001, .scale = 1.5, .start = 0.25, .stop = 0.75};
    p.shift = 1.0 / 3;
    p.clip_skip = 2;
    p.max_sequence_length = 77;
    p.seed = (UINT64_C(1) << 53) - 1;
    p.taca = (struct taca_window){.rule = TACA_WINDOW_STEPS,
                                  .gamma = 1.1,
                                  .fraction = 0.2,
                                  .first_step = 1,
                                  .end_step = 4,
                                  .sigma_min = 0.1,
                                  .sigma_max = 0.9};
    p.n_loras = 2;
    p.loras[0] = (struct taca_lora_use){"ink", -0.5, TACA_LORA_IN_WINDOW};
    p.loras[1] = (struct taca_lora_use){"wax", 1.25, TACA_LORA_ALWAYS};
    return p;
}

static bool same_text(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

static void check_same(const struct taca_gen_params *a, const struct taca_gen_params *b) {
    CHECK(same_text(a->prompt, b->prompt) && same_text(a->prompt_2, b->prompt_2) &&
          same_text(a->prompt_3, b->prompt_3));
    CHECK(same_text(a->negative_prompt, b->negative_prompt) &&
          same_text(a->negative_prompt_2, b->negative_prompt_2) &&
          same_text(a->negative_prompt_3, b->negative_prompt_3));
    CHECK(a->width_px == b->width_px && a->height_px == b->height_px && a->steps == b->steps);
    CHECK(a->cfg_scale == b->cfg_scale && a->shift == b->shift && a->clip_skip == b->clip_skip);
    CHECK(a->guidance_scale == b->guidance_scale);
    CHECK(a->sampler == b->sampler && a->schedule == b->schedule && a->rng == b->rng);
    CHECK(a->strength == b->strength && !a->image == !b->image && !a->mask == !b->mask);
    if (a->image && b->image) CHECK(memcmp(a->image, b->image, sizeof pixels) == 0);
    if (a->mask && b->mask) CHECK(memcmp(a->mask, b->mask, 64 * 80) == 0);
    CHECK(a->slg.layers == b->slg.layers && a->slg.scale == b->slg.scale &&
          a->slg.start == b->slg.start && a->slg.stop == b->slg.stop);
    CHECK_INT(a->max_sequence_length, b->max_sequence_length);
    CHECK(a->seed == b->seed);
    CHECK(a->taca.rule == b->taca.rule && a->taca.gamma == b->taca.gamma &&
          a->taca.fraction == b->taca.fraction && a->taca.first_step == b->taca.first_step &&
          a->taca.end_step == b->taca.end_step && a->taca.sigma_min == b->taca.sigma_min &&
          a->taca.sigma_max == b->taca.sigma_max);
    CHECK_INT(a->n_loras, b->n_loras);
    for (int i = 0; i < a->n_loras; i++)
        CHECK(same_text(a->loras[i].id, b->loras[i].id) && a->loras[i].scale == b->loras[i].scale &&
              a->loras[i].when == b->loras[i].when);
}

static void test_defaults_are_the_models_with_taca_off(void) {
    struct taca_gen_params p;
    struct taca_err err = {0};
    taca_gen_params_init(&p, &demo);
    CHECK_STR(p.prompt, "");
    CHECK(p.width_px == 128 && p.height_px == 96 && p.steps == 28 && p.cfg_scale == 4.5);
    CHECK(p.seed == 0 && p.shift == 0 && p.clip_skip == 0 && p.max_sequence_length == 256);
    CHECK_INT(p.taca.rule, TACA_WINDOW_OFF);
    CHECK(p.taca.gamma == 1.2 && p.taca.fraction == 0.1);
    CHECK_OK(taca_gen_params_check(&p, &demo, &err), err);
}

static void refused(const struct taca_gen_params *p, const char *param, const char *says) {
    struct taca_err err = {0};
    CHECK_INT(taca_gen_params_check(p, &demo, &err), TACA_EINVAL);
    CHECK_STR(err.param, param);
    CHECK_HAS(err.text, says);
}

#define REFUSED(member, value, param, says)                                                        \
    do {                                                                                           \
        struct taca_gen_params p_ = example();                                                     \
        p_.member = (value);                                                                       \
        refused(&p_, param, says);                                                                 \
    } while (0)

static void test_guidance_scale_is_for_models_that_embed_it(void) {
    struct taca_model_info flux = demo;
    struct taca_gen_params p;
    struct taca_err err = {0};
    taca_gen_params_init(&p, &demo);
    CHECK(p.guidance_scale == 0);
    REFUSED(guidance_scale, 3.5, "guidance_scale", "use cfg_scale");
    REFUSED(guidance_scale, (double)NAN, "guidance_scale", "use cfg_scale");

    flux.guidance_embeds = true;
    flux.default_guidance_scale = 3.5;
    flux.default_cfg_scale = 1;
    taca_gen_params_init(&p, &flux);
    CHECK(p.guidance_scale == 3.5 && p.cfg_scale == 1);
    CHECK_OK(taca_gen_params_check(&p, &flux, &err), err);
    p.guidance_scale = 100.1;
    CHECK_INT(taca_gen_params_check(&p, &flux, &err), TACA_EINVAL);
    CHECK_STR(err.param, "guidance_scale");
    CHECK_HAS(err.text, "0..100");
}

static void test_every_range_is_checked_and_named(void) {
    REFUSED(prompt, NULL, "prompt", "required");
    REFUSED(width_px, 48, "width", "64..2048");
    REFUSED(width_px, 2064, "width", "64..2048");
    REFUSED(width_px, 72, "width", "multiple of 16");
    REFUSED(width_px, -16, "width", "-16");
    REFUSED(height_px, 100, "height", "multiple of 16");
    REFUSED(steps, 0, "steps", "1..200");
    REFUSED(steps, 201, "steps", "1..200");
    REFUSED(cfg_scale, -0.1, "cfg_scale", "0..30");
    REFUSED(cfg_scale, 30.1, "cfg_scale", "0..30");
    REFUSED(cfg_scale, (double)NAN, "cfg_scale", "nan");
    REFUSED(shift, 0.001, "shift", "0.01..100");
    REFUSED(shift, (double)NAN, "shift", "nan");
    REFUSED(shift, (double)INFINITY, "shift", "inf");
    REFUSED(clip_skip, -1, "clip_skip", "0..12");
    REFUSED(clip_skip, 13, "clip_skip", "0..12");
    REFUSED(max_sequence_length, -1, "max_sequence_length", "1..512");
    REFUSED(max_sequence_length, 513, "max_sequence_length", "1..512");
    REFUSED(seed, UINT64_C(1) << 53, "seed", "2^53-1");
    REFUSED(taca.rule, (enum taca_window_rule)4, "taca", "rule 4");
    REFUSED(taca.gamma, -1, "taca.scale", "0..10");
    REFUSED(taca.gamma, (double)NAN, "taca.scale", "nan");
    REFUSED(taca.fraction, 1.5, "taca.fraction", "0..1");
    REFUSED(taca.first_step, -1, "taca.steps", "0..200");
    REFUSED(taca.first_step, 5, "taca.steps", "5..4");
    REFUSED(taca.end_step, 201, "taca.steps", "201");
    REFUSED(taca.sigma_min, 0.95, "taca.timestep_low", "950..900");
    REFUSED(taca.sigma_max, 1.1, "taca.timestep_low", "1100");
    REFUSED(taca.sigma_min, (double)NAN, "taca.timestep_low", "nan");
    REFUSED(n_loras, TACA_MAX_LORAS + 1, "loras", "at most 8, got 9");
    REFUSED(n_loras, -1, "loras", "at most 8");
    REFUSED(n_loras, 3, "loras", "loras[2] has no id");
    REFUSED(loras[0].id, "", "loras", "loras[0] has no id");
    REFUSED(loras[1].id, "ink", "loras", "ink is named twice");
    REFUSED(loras[1].scale, 20.5, "loras.scale", "-20..20");
    REFUSED(loras[1].scale, (double)NAN, "loras.scale", "nan");
    REFUSED(loras[0].when, (enum taca_lora_when)2, "loras", "rule 2");
    REFUSED(taca.rule, TACA_WINDOW_OFF, "loras", "follows the TACA window, which is off");
}

static void test_ends_of_ranges_are_inside(void) {
    struct taca_err err = {0};
    struct taca_model_info none = demo;
    struct taca_gen_params p = example();
    p.width_px = 64;
    p.height_px = 2048;
    p.steps = 200;
    p.cfg_scale = 30;
    p.shift = 100;
    p.clip_skip = 12;
    p.max_sequence_length = 512;
    p.taca.gamma = 10;
    p.taca.fraction = 1;
    p.taca.first_step = p.taca.end_step = 200;
    p.taca.sigma_min = p.taca.sigma_max = 1;
    CHECK_OK(taca_gen_params_check(&p, &demo, &err), err);
    p.steps = 1;
    p.max_sequence_length = 1;
    none.t5_tokens = 0; /* a model without T5 rows has none to be fewer */
    CHECK_INT(taca_gen_params_check(&p, &none, &err), TACA_EINVAL);
    CHECK_STR(err.param, "max_sequence_length");
    p.max_sequence_length = 0;
    err = (struct taca_err){0};
    CHECK_OK(taca_gen_params_check(&p, &none, &err), err);
    p.slg.layers = 0; /* it needs guidance */
    p.cfg_scale = p.shift = p.taca.gamma = p.taca.fraction = 0;
    p.taca.first_step = p.taca.end_step = 0;
    p.taca.sigma_min = p.taca.sigma_max = 0;
    CHECK_OK(taca_gen_params_check(&p, &demo, &err), err);
}

static void test_a_copy_owns_its_strings(void) {
    struct taca_gen_params p = example(), copy;
    struct taca_arena a = {0};
    struct taca_err err = {0};
    char prompt[] = "will change";
    p.prompt = prompt;
    CHECK_OK(taca_gen_params_copy(&copy, &p, &a, &err), err);
    check_same(&p, &copy);
    prompt[0] = 'X';
    CHECK_STR(copy.prompt, "will change");
    CHECK(copy.prompt_3 == NULL && copy.prompt_2 && copy.prompt_2[0] == 0);
    taca_arena_finish(&a);
}

static void test_packing_and_unpacking_changes_nothing(void) {
    struct taca_gen_params p = example(), back;
    struct taca_arena a = {0};
    struct taca_err err = {0};
    struct taca_buf b, again;
    taca_buf_init(&b, 1 << 16);
    taca_buf_init(&again, 1 << 16);
    taca_gen_params_pack(&b, &p);
    CHECK(!b.failed);
    CHECK_OK(taca_gen_params_unpack(&back, b.data, b.len, &a, &err), err);
    check_same(&p, &back);
    /* the same bytes from the copy: no pointer or padding is on the wire */
    taca_gen_params_pack(&again, &back);
    CHECK(again.len == b.len && memcmp(again.data, b.data, b.len) == 0);
    taca_buf_finish(&b);
    taca_buf_finish(&again);
    taca_arena_finish(&a);
}

/* A block of exactly len bytes, so that a sanitizer sees a read beyond it. */
static enum taca_code unpack_exactly(struct taca_gen_params *out, const char *bytes, size_t len,
                                     struct taca_err *err) {
    struct taca_arena a = {0};
    char *copy = malloc(len ? len : 1);
    if (!copy) return TACA_ENOMEM;
    memcpy(copy, bytes, len);
    enum taca_code rc = taca_gen_params_unpack(out, copy, len, &a, err);
    free(copy);
    taca_arena_finish(&a);
    return rc;
}

static void test_bytes_cut_anywhere_or_too_many_are_refused(void) {
    struct taca_gen_params p = example(), out;
    struct taca_buf b;
    taca_buf_init(&b, 1 << 16);
    taca_gen_params_pack(&b, &p);
    for (size_t len = 0; len < b.len; len++) {
        struct taca_err err = {0};
        memset(&out, 0x5A, sizeof out);
        CHECK_INT(unpack_exactly(&out, b.data, len, &err), TACA_EPROTO);
        CHECK(err.text[0] != 0);
        CHECK_INT(out.width_px, 0x5A5A5A5A); /* untouched on failure */
    }
    taca_buf_puts(&b, "x");
    struct taca_err err = {0};
    CHECK_INT(unpack_exactly(&out, b.data, b.len, &err), TACA_EPROTO);
    CHECK_HAS(err.text, "1 bytes too many");
    taca_buf_finish(&b);
}

static void test_any_byte_changed_is_read_without_harm(void) {
    struct taca_gen_params p = example(), out;
    struct taca_buf b;
    taca_buf_init(&b, 1 << 16);
    taca_gen_params_pack(&b, &p);
    for (size_t at = 0; at < b.len; at++) {
        char was = b.data[at];
        for (int flip = 0; flip < 256; flip += 15) {
            struct taca_err err = {0};
            b.data[at] = (char)(was ^ flip);
            enum taca_code rc = unpack_exactly(&out, b.data, b.len, &err);
            CHECK(rc == TACA_OK || rc == TACA_EPROTO);
            if (at < 8 && flip) CHECK_INT(rc, TACA_EPROTO); /* version and size */
        }
        b.data[at] = was;
    }
    taca_buf_finish(&b);
}

int main(void) {
    TEST(test_defaults_are_the_models_with_taca_off);
    TEST(test_guidance_scale_is_for_models_that_embed_it);
    TEST(test_every_range_is_checked_and_named);
    TEST(test_ends_of_ranges_are_inside);
    TEST(test_a_copy_owns_its_strings);
    TEST(test_packing_and_unpacking_changes_nothing);
    TEST(test_bytes_cut_anywhere_or_too_many_are_refused);
    TEST(test_any_byte_changed_is_read_without_harm);
    return TEST_END();
}
