/* test_preview.c - latent to RGB, with numbers worked out by hand. */
#include "engine/io/checkpoint.h"
#include "engine/vae/preview.h"
#include "tests/test.h"

static void test_one_pixel_is_the_weighted_sum(void) {
    /* r = 0.5*1 - 0.25*2 + 0.1 = 0.1, g = 1*1 + 0*2 + 0 = 1, b = -1*1 - 0.5*2 + 0 = -2 */
    struct preview_factors f = {
        .channels = 2, .factor = {{0.5f, 1, -1}, {-0.25f, 0, -0.5f}}, .bias = {0.1f, 0, 0}};
    const float x0[2] = {1, 2};
    uint8_t rgb[3];
    preview_render(&f, x0, 1, 1, rgb);
    CHECK_INT(rgb[0], 140); /* 255 * 1.1 / 2 = 140.25, cut */
    CHECK_INT(rgb[1], 255);
    CHECK_INT(rgb[2], 0); /* clamped */
}

static void test_channels_are_planes_and_rows_run_down(void) {
    struct preview_factors f = {.channels = 2, .factor = {{1, 0, 0}, {0, 1, 0}}};
    const float x0[2 * 2 * 3] = {-1, 0, 1, -0.5f, 0.5f, 0.25f, 1, 1, 1, -1, -1, 0};
    static const uint8_t want[] = {0,  255, 127, 127, 255, 127, 255, 255, 127,
                                   63, 0,   127, 191, 0,   127, 159, 127, 127};
    uint8_t rgb[18];
    preview_render(&f, x0, 2, 3, rgb);
    for (int i = 0; i < 18; i++) CHECK_INT(rgb[i], want[i]);
}

static void test_what_is_not_a_number_is_black(void) {
    struct preview_factors f = {.channels = 1, .factor = {{1, 1, 1}}, .bias = {0.9f, 0.9f, 0.9f}};
    const float x0[3] = {NAN, INFINITY, -INFINITY};
    uint8_t rgb[9];
    preview_render(&f, x0, 1, 3, rgb);
    CHECK_INT(rgb[0], 0);
    CHECK_INT(rgb[3], 255);
    CHECK_INT(rgb[6], 0);
}

static void test_factors_come_from_the_model(void) {
    struct preview_factors f;
    struct taca_err err = {0};
    json_t *taca = json_pack("{s:{s:[[f,f,i],[f,f,f]],s:[f,f,f]}}", "latent_rgb", "factors", 0.5,
                             0.25, 2, -1.0, 0.0, 1.5, "bias", 0.1, 0.2, 0.3);
    CHECK_OK(preview_factors_load(&f, taca, PREVIEW_SD3, 2, &err), err);
    CHECK_INT(f.channels, 2);
    CHECK_NEAR(f.factor[0][1], 0.25, 0);
    CHECK_NEAR(f.factor[0][2], 2, 0);
    CHECK_NEAR(f.factor[1][2], 1.5, 0);
    CHECK_NEAR(f.bias[2], 0.3f, 0);
    json_decref(taca);
}

static void test_the_demo_model_has_its_own_fit(void) {
    struct preview_factors f;
    struct taca_err err = {0};
    json_t *taca = NULL;
    CHECK_OK(taca_json_load(&taca, TACA_SOURCE_DIR "/models/demo/taca.json", &err), err);
    CHECK(json_object_get(taca, "latent_rgb") != NULL);
    CHECK_OK(preview_factors_load(&f, taca, PREVIEW_SD3, 16, &err), err);
    CHECK_INT(f.channels, 16);
    json_decref(taca);
}

static void test_without_a_fit_sixteen_channels_are_those_of_sd3(void) {
    struct preview_factors f;
    struct taca_err err = {0};
    CHECK_OK(preview_factors_load(&f, NULL, PREVIEW_SD3, 16, &err), err);
    CHECK_NEAR(f.factor[0][0], -0.0922f, 0);
    CHECK_NEAR(f.factor[7][2], 0.1358f, 0);
    CHECK_NEAR(f.factor[15][1], -0.1463f, 0);
    CHECK_NEAR(f.bias[0], 0.2394f, 0);
}

static void test_those_of_flux_are_their_own(void) {
    struct preview_factors f;
    struct taca_err err = {0};
    CHECK_OK(preview_factors_load(&f, NULL, PREVIEW_FLUX, 16, &err), err);
    CHECK_NEAR(f.factor[0][0], -0.0346f, 0);
    CHECK_NEAR(f.factor[9][0], 0.1008f, 0);
    CHECK_NEAR(f.factor[15][2], -0.0778f, 0);
    CHECK_NEAR(f.bias[1], -0.0718f, 0);
}

static void test_other_channel_counts_become_grey(void) {
    struct preview_factors f;
    struct taca_err err = {0};
    CHECK_OK(preview_factors_load(&f, NULL, PREVIEW_SD3, 4, &err), err);
    const float x0[4] = {0.3f, 0.6f, -0.3f, 9}; /* mean of the first three: 0.2 */
    uint8_t rgb[3];
    preview_render(&f, x0, 1, 1, rgb);
    for (int i = 0; i < 3; i++) CHECK_INT(rgb[i], 153); /* 255 * 1.2 / 2 = 153 */
}

static void test_bad_factors_are_refused(void) {
    struct preview_factors f = {.channels = 77};
    static const struct {
        const char *json, *says;
    } bad[] = {
        {"{\"latent_rgb\": 3}", "latent_rgb.factors: found 0 rows"},
        {"{\"latent_rgb\": {\"factors\": [[1,2,3]]}}", "found 1 rows"},
        {"{\"latent_rgb\": {\"factors\": [[1,2,3],[1,2]]}}",
         "latent_rgb.factors[1]: wanted an array of three numbers"},
        {"{\"latent_rgb\": {\"factors\": [[1,2,3],[1,2,\"x\"]]}}", "latent_rgb.factors[1][2]"},
        {"{\"latent_rgb\": {\"factors\": [[1,2,3],[1,2,1e9]]}}", "within 1e6"},
        {"{\"latent_rgb\": {\"factors\": [[1,2,3],[1,2,3]], \"bias\": 1}}", "latent_rgb.bias"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct taca_err err = {0};
        json_t *taca = json_loads(bad[i].json, 0, NULL);
        CHECK(preview_factors_load(&f, taca, PREVIEW_SD3, 2, &err) == TACA_EFORMAT);
        CHECK_HAS(err.text, bad[i].says);
        json_decref(taca);
    }
    struct taca_err err = {0};
    CHECK(preview_factors_load(&f, NULL, PREVIEW_SD3, 65, &err) == TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "1..64");
    CHECK_INT(f.channels, 77); /* untouched on failure */
}

int main(void) {
    TEST(test_one_pixel_is_the_weighted_sum);
    TEST(test_channels_are_planes_and_rows_run_down);
    TEST(test_what_is_not_a_number_is_black);
    TEST(test_factors_come_from_the_model);
    TEST(test_the_demo_model_has_its_own_fit);
    TEST(test_without_a_fit_sixteen_channels_are_those_of_sd3);
    TEST(test_those_of_flux_are_their_own);
    TEST(test_other_channel_counts_become_grey);
    TEST(test_bad_factors_are_refused);
    return TEST_END();
}
