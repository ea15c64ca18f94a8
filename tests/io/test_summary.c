/* test_summary.c - what `taca inspect` tells, against the configs and headers by other means. */
#include "engine/io/summary.h"
#include "tests/io/tmp.h"
#include "tests/test.h"

static enum taca_code read_at(struct taca_summary *s, const char *path, struct taca_err *err) {
    const struct taca_model_paths paths = {.model = path};
    return taca_summary_read(s, &paths, err);
}

static void test_the_demo_is_described(void) {
    struct taca_summary s;
    struct taca_err err = {0};
    CHECK_OK(read_at(&s, TACA_SOURCE_DIR "/models/demo", &err), err);
    if (err.code) return;
    CHECK_STR(s.id, "demo");
    CHECK_STR(s.class_name, "StableDiffusion3Pipeline");
    CHECK_STR(s.family, "sd3.5"); /* it has qk norm */
    CHECK(s.dit.layers == 8 && s.dit.heads == 3 && s.dit.head_dim == 64 && s.dit.qk_norm);
    CHECK(s.dit.n_dual == 2 && s.dit.dual[0] == 0 && s.dit.dual[1] == 1);
    CHECK(s.dit.joint_width == 256 && s.dit.pooled_width == 256 && s.dit.channels == 16);
    CHECK(s.vae.factor == 8 && s.vae.channels == 16 && s.vae.has_encoder);
    CHECK_NEAR(s.vae.scaling_factor, 0.7364761233329773, 1e-15);
    CHECK(s.clip[0].layers == 2 && s.clip[0].width == 128 && s.clip[0].vocabulary == 728);
    CHECK_STR(s.clip[0].activation, "quick_gelu");
    CHECK_STR(s.clip[1].activation, "gelu");
    CHECK(s.width_px == 128 && s.height_px == 128 && s.steps == 28 && s.max_side_px == 512);
    CHECK_NEAR(s.guidance, 4.5, 0);
    CHECK_NEAR(s.scheduler_shift, 1, 0);
    CHECK(!s.part[TACA_TEXT_ENCODER_3].there && !s.part[TACA_TEXT_ENCODER_3].left_out);
}

/* 11220544 parameters = 247360 f32 + 10973184 bf16, and the rest, counted from the headers by a
 * script */
static void test_parameters_and_memory_are_counted(void) {
    struct taca_summary s;
    struct taca_err err = {0};
    CHECK_OK(read_at(&s, TACA_SOURCE_DIR "/models/demo", &err), err);
    if (err.code) return;
    const struct taca_part *p = &s.part[TACA_TRANSFORMER];
    CHECK_INT(p->parameters, 11220544);
    CHECK_INT(p->bytes, 22935808);
    CHECK_INT(p->stats.tensors, 287);
    CHECK_INT(p->stats.elements[TACA_F32], 247360);
    CHECK_INT(p->stats.elements[TACA_BF16], 10973184);
    CHECK_INT(s.parameters, 11220544 + 998771 + 2 * 510464);
    CHECK_INT(s.f32_bytes, 4 * s.parameters);
    /* vectors, the position table and the embeddings keep four bytes */
    CHECK_INT(p->narrowed, 10973184);
    CHECK_INT(s.part[TACA_TEXT_ENCODER].narrowed, 409600);
    CHECK_INT(s.bf16_bytes, 27390988);
}

static void test_a_left_out_encoder_is_told_from_none(void) {
    struct taca_summary s;
    struct taca_err err = {0};
    CHECK_OK(read_at(&s, TACA_GOLDEN_DIR "/pipelines/sd35_tiny", &err), err);
    if (err.code) return;
    CHECK(s.part[TACA_TEXT_ENCODER_3].left_out);
    CHECK_NEAR(s.scheduler_shift, 3, 0);
    CHECK_INT(s.part[TACA_VAE].stats.elements[TACA_F16], s.part[TACA_VAE].parameters);
}

static void test_failures_pass_through_and_leave_the_output_alone(void) {
    struct taca_summary s = {.steps = -7};
    struct taca_err err = {0};
    CHECK_INT(read_at(&s, tmp_path("nowhere"), &err), TACA_ENOTFOUND);
    CHECK_HAS(err.text, "No such file");
    CHECK_INT(s.steps, -7);
}

int main(void) {
    tmp_begin();
    TEST(test_the_demo_is_described);
    TEST(test_parameters_and_memory_are_counted);
    TEST(test_a_left_out_encoder_is_told_from_none);
    TEST(test_failures_pass_through_and_leave_the_output_alone);
    tmp_end();
    return TEST_END();
}
