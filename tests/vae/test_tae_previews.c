/* test_tae_previews.c - previews by the tiny decoder in an engine that has one: their size, that
 * plain ones beside them stay as they are, and how its file or its absence is refused. */
#include <unistd.h>

#include "engine/engine.h"
#include "tests/vae/tae_file.h"

static char path[] = "/tmp/taca_taesd_XXXXXX.safetensors";

static enum taca_code open_demo(struct taca_engine **e, const char *taesd, struct taca_err *err) {
    const struct taca_engine_opts opts = {.model_path = TACA_SOURCE_DIR "/models/demo",
                                          .taesd = taesd,
                                          .threads = 1,
                                          .precision = TACA_PRECISION_F32};
    return taca_engine_open(e, &opts, err);
}

static void look(struct taca_engine *e, enum taca_preview how, struct taca_image *out) {
    struct taca_gen_params p;
    struct taca_seq *s = NULL;
    struct taca_err err = {0};
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = "a red circle";
    p.width_px = 96;
    p.height_px = 64;
    p.steps = 2;
    p.seed = 3;
    p.preview = how;
    CHECK_OK(taca_seq_open(e, &p, &s, NULL, &err), err);
    CHECK_OK(taca_step(e, &s, 1, &err), err);
    CHECK_OK(taca_seq_preview(e, s, out, &err), err);
    taca_seq_close(e, s);
}

static void test_a_decoder_gives_large_previews_and_leaves_small_ones_alone(void) {
    struct taca_engine *plain = NULL, *with = NULL;
    struct taca_err err = {0};
    struct taca_image small = {0}, same = {0}, large = {0};
    CHECK_OK(open_demo(&plain, NULL, &err), err);
    CHECK_OK(open_demo(&with, path, &err), err);
    if (!plain || !with) return;
    CHECK(!taca_engine_info(plain)->has_taesd && taca_engine_info(with)->has_taesd);
    look(plain, TACA_PREVIEW_RGB, &small);
    look(with, TACA_PREVIEW_RGB, &same);
    look(with, TACA_PREVIEW_TAESD, &large);
    const size_t bytes = (size_t)small.width_px * (size_t)small.height_px * 3;
    CHECK_INT(same.width_px, small.width_px);
    CHECK_INT(memcmp(small.rgb, same.rgb, bytes), 0);
    CHECK_INT(large.width_px, 8 * small.width_px);
    CHECK_INT(large.height_px, 8 * small.height_px);
    int seen[256] = {0}, values = 0;
    for (size_t i = 0; i < 64 * bytes; i++) seen[large.rgb[i]] = 1;
    for (int i = 0; i < 256; i++) values += seen[i];
    CHECK(values > 16); /* something is on it */
    taca_image_finish(&small);
    taca_image_finish(&same);
    taca_image_finish(&large);
    taca_engine_close(plain);
    taca_engine_close(with);
}

static void test_without_a_decoder_the_method_is_refused_by_name(void) {
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    struct taca_gen_params p;
    CHECK_OK(open_demo(&e, NULL, &err), err);
    if (!e) return;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = "a";
    p.preview = TACA_PREVIEW_TAESD;
    CHECK_INT(taca_gen_params_check(&p, taca_engine_info(e), &err), TACA_EINVAL);
    CHECK_STR(err.param, "previews.method");
    CHECK_HAS(err.text, "taesd");
    taca_engine_close(e);
}

static void test_another_file_is_refused(void) {
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    CHECK_INT(open_demo(&e, TACA_GOLDEN_DIR "/models/vae_tiny_sd3.diffusers.safetensors", &err),
              TACA_EFORMAT);
    CHECK_HAS(err.text, "TAESD3");
    CHECK(e == NULL);
    err = (struct taca_err){0};
    CHECK(open_demo(&e, "/nowhere/taesd.safetensors", &err) != TACA_OK);
    CHECK_HAS(err.text, "/nowhere/taesd.safetensors");
}

int main(void) {
    static struct tae_file f = {.prefix = "decoder.layers.", .shift = -1};
    int fd = mkstemps(path, 12);
    if (fd < 0) return 1;
    close(fd);
    tae_file_write(&f, path);
    TEST(test_a_decoder_gives_large_previews_and_leaves_small_ones_alone);
    TEST(test_without_a_decoder_the_method_is_refused_by_name);
    TEST(test_another_file_is_refused);
    unlink(path);
    return TEST_END();
}
