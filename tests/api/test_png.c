/* test_png.c - PNG files read back: pixels by libpng's decoder, chunks by a walk of our own. */
#include "api/png.h"

#include <png.h>

#include "tests/api/common.h"

/* Gradients with noise on them; a size that is no multiple of anything. */
static struct taca_image picture(int w, int h) {
    struct taca_image img = {.width_px = w, .height_px = h, .rgb = malloc((size_t)w * h * 3)};
    unsigned x = 7;
    for (int i = 0; img.rgb && i < w * h * 3; i++) {
        x = x * 1664525u + 1013904223u;
        img.rgb[i] = (uint8_t)(i / 3 % w * 255 / w + (int)(x >> 29));
    }
    return img;
}

static uint32_t u32(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The chunk's data with this type, `skip` of them passed over; NULL = none. */
static const unsigned char *find_chunk(const struct taca_buf *png, const char *type, int skip,
                                       size_t *len) {
    const unsigned char *p = (const unsigned char *)png->data + 8,
                        *end = (const unsigned char *)png->data + png->len;
    while (end - p >= 12) {
        *len = u32(p);
        if (memcmp(p + 4, type, 4) == 0 && skip-- == 0) return p + 8;
        p += 12 + *len;
    }
    CHECK(p == end); /* nothing behind the last chunk */
    return NULL;
}

static void check_pixels(const struct taca_buf *png, const struct taca_image *img) {
    png_image in = {.version = PNG_IMAGE_VERSION};
    size_t bytes = (size_t)img->width_px * (size_t)img->height_px * 3;
    uint8_t *rgb = malloc(bytes);
    if (!CHECK(rgb && png_image_begin_read_from_memory(&in, png->data, png->len))) {
        printf("    %s\n", in.message);
        free(rgb);
        return;
    }
    CHECK_INT(in.width, img->width_px);
    CHECK_INT(in.height, img->height_px);
    CHECK_INT(in.format, PNG_FORMAT_RGB);
    in.format = PNG_FORMAT_RGB;
    if (CHECK((size_t)in.width * in.height * 3 == bytes)) {
        CHECK(png_image_finish_read(&in, NULL, rgb, 0, NULL));
        CHECK(memcmp(rgb, img->rgb, bytes) == 0);
    }
    png_image_free(&in);
    free(rgb);
}

static void test_every_level_reads_back_and_is_the_same_twice(void) {
    static const int sizes[][2] = {{1, 1}, {37, 23}, {256, 192}};
    for (int s = 0; s < 3; s++) {
        struct taca_image img = picture(sizes[s][0], sizes[s][1]);
        for (int level = 0; level <= 9; level++) {
            struct taca_buf a, b;
            struct taca_err err = {0};
            taca_buf_init(&a, 1 << 20);
            taca_buf_init(&b, 1 << 20);
            taca_buf_puts(&b, "before"); /* it appends */
            CHECK_OK(api_png_write(&a, &img, level, NULL, 0, &err), err);
            CHECK_OK(api_png_write(&b, &img, level, NULL, 0, &err), err);
            check_pixels(&a, &img);
            CHECK(a.len + 6 == b.len && memcmp(a.data, b.data + 6, a.len) == 0);
            taca_buf_finish(&a);
            taca_buf_finish(&b);
        }
        taca_image_finish(&img);
    }
}

static void test_the_header_is_8_bit_rgb_and_there_is_no_time(void) {
    struct taca_image img = picture(40, 30);
    struct taca_buf png;
    struct taca_err err = {0};
    size_t len;
    taca_buf_init(&png, 1 << 20);
    CHECK_OK(api_png_write(&png, &img, 3, NULL, 0, &err), err);
    CHECK(memcmp(png.data, "\x89PNG\r\n\x1A\n", 8) == 0);
    const unsigned char *h = find_chunk(&png, "IHDR", 0, &len);
    if (CHECK(h && len == 13))
        CHECK(u32(h) == 40 && u32(h + 4) == 30 && memcmp(h + 8, "\x08\x02\0\0\0", 5) == 0);
    CHECK(find_chunk(&png, "IEND", 0, &len) != NULL);
    CHECK(find_chunk(&png, "tIME", 0, &len) == NULL);
    CHECK(find_chunk(&png, "tEXt", 0, &len) == NULL);
    taca_buf_finish(&png);
    taca_image_finish(&img);
}

static void test_latin1_texts_are_tEXt_and_others_iTXt(void) {
    static const struct api_image_text texts[] = {{"parameters", "a caf\xC3\xA9\nSteps: 3"},
                                                  {"taca", "{\"prompt\":\"\xE7\x8C\xAB\"}"},
                                                  {"control", "a\tb"},
                                                  {"empty", ""}};
    struct taca_image img = picture(8, 8);
    struct taca_buf png;
    struct taca_err err = {0};
    size_t len;
    taca_buf_init(&png, 1 << 20);
    CHECK_OK(api_png_write(&png, &img, 3, texts, 4, &err), err);
    const unsigned char *t = find_chunk(&png, "tEXt", 0, &len);
    CHECK(t && len == 26 && memcmp(t, "parameters\0a caf\xE9\nSteps: 3", 26) == 0);
    t = find_chunk(&png, "tEXt", 1, &len);
    CHECK(t && len == 6 && memcmp(t, "empty\0", 6) == 0);
    CHECK(find_chunk(&png, "tEXt", 2, &len) == NULL);
    t = find_chunk(&png, "iTXt", 0, &len); /* key, no compression, no language */
    CHECK(t && len == 25 && memcmp(t, "taca\0\0\0\0\0{\"prompt\":\"\xE7\x8C\xAB\"}", 25) == 0);
    t = find_chunk(&png, "iTXt", 1, &len);
    CHECK(t && len == 15 && memcmp(t, "control\0\0\0\0\0a\tb", 15) == 0);
    check_pixels(&png, &img);
    taca_buf_finish(&png);
    taca_image_finish(&img);
}

static void test_texts_stand_before_the_pixels(void) {
    static const struct api_image_text text = {"parameters", "x"};
    struct taca_image img = picture(8, 8);
    struct taca_buf png;
    struct taca_err err = {0};
    size_t len;
    taca_buf_init(&png, 1 << 20);
    CHECK_OK(api_png_write(&png, &img, 3, &text, 1, &err), err);
    CHECK(find_chunk(&png, "tEXt", 0, &len) < find_chunk(&png, "IDAT", 0, &len));
    taca_buf_finish(&png);
    taca_image_finish(&img);
}

static void test_a_full_buffer_is_an_error_and_leaves_no_half_file(void) {
    struct taca_image img = picture(64, 64);
    struct api_image_text text = {"parameters", "some text"};
    for (size_t max = 0; max < 12000; max += 97) {
        struct taca_buf png;
        struct taca_err err = {0};
        taca_buf_init(&png, max);
        if (max >= 6) taca_buf_puts(&png, "before");
        size_t before = png.len;
        enum taca_code rc = api_png_write(&png, &img, 0, &text, 1, &err);
        CHECK_INT(rc, TACA_EINTERNAL); /* 64 * 64 * 3 = 12288 bytes of pixels */
        CHECK_HAS(err.text, "64x64");
        CHECK_INT(png.len, before);
        taca_buf_finish(&png);
    }
    taca_image_finish(&img);
}

static void test_bad_arguments_are_named(void) {
    struct taca_image img = picture(8, 8), none = {0};
    struct taca_buf png;
    struct taca_err err = {0};
    struct api_image_text bad_key = {"", "x"}, bad_text = {"k", "\xFF"};
    taca_buf_init(&png, 1 << 20);
    CHECK_INT(api_png_write(&png, &none, 3, NULL, 0, &err), TACA_EINVAL);
    err = (struct taca_err){0};
    CHECK_INT(api_png_write(&png, &img, 10, NULL, 0, &err), TACA_EINVAL);
    CHECK_HAS(err.text, "0..9");
    CHECK_STR(err.param, "png_level");
    CHECK_INT(api_png_write(&png, &img, -1, NULL, 0, NULL), TACA_EINVAL);
    CHECK_INT(api_png_write(&png, &img, 3, NULL, 9, NULL), TACA_EINVAL);
    CHECK_INT(api_png_write(&png, &img, 3, &bad_key, 1, NULL), TACA_EINVAL);
    CHECK_INT(api_png_write(&png, &img, 3, &bad_text, 1, NULL), TACA_EINVAL);
    CHECK_INT(png.len, 0);
    taca_buf_finish(&png);
    taca_image_finish(&img);
}

static void test_the_parameters_text_is_what_viewers_parse(void) {
    struct api_request r;
    struct api_error e;
    struct taca_buf text;
    taca_buf_init(&text, 1 << 16);
    CHECK_INT(parse_with(&r, &e, "\"negative_prompt\":\"blurry\",\"seed\":7"), 0);
    api_image_parameters(&text, &r.params, &demo);
    CHECK_STR(text.data, "a cat\nNegative prompt: blurry\nSteps: 28, Sampler: Euler, CFG scale: "
                         "4.5, Seed: 7, Size: 128x128, Model: demo, Version: taca " TACA_VERSION);
    api_request_finish(&r);
    taca_buf_reset(&text);
    CHECK_INT(parse_with(&r, &e, "\"seed\":7,\"shift\":1.5,\"taca\":{\"steps\":[1,4]}"), 0);
    api_image_parameters(&text, &r.params, &demo);
    CHECK_STR(text.data, "a cat\nSteps: 28, Sampler: Euler, CFG scale: 4.5, Seed: 7, Size: "
                         "128x128, Model: demo, Shift: 1.5, TACA: 1.2, TACA window: steps 1-4, "
                         "Version: taca " TACA_VERSION);
    api_request_finish(&r);
    taca_buf_reset(&text);
    CHECK_INT(parse_with(&r, &e, "\"seed\":7,\"taca\":{\"threshold\":970}"), 0);
    api_image_parameters(&text, &r.params, &demo);
    CHECK_HAS(text.data, ", TACA: 1.2, TACA window: timestep 970-1000,");
    api_request_finish(&r);
    taca_buf_finish(&text);
}

static void test_the_json_of_an_image_makes_it_again(void) {
    struct api_request r, again;
    struct api_error e;
    struct taca_buf json;
    taca_buf_init(&json, 1 << 16);
    CHECK_INT(parse_with(&r, &e, "\"seed\":7,\"n\":3,\"taca\":{\"scale\":1.1,\"threshold\":970}"),
              0);
    struct taca_gen_params third = r.params;
    third.seed += 2;
    api_image_json(&json, &third, &demo);
    CHECK_INT(parse(&again, &e, json.data), 0);
    check_same_params(&third, &again.params);
    CHECK_INT(again.n, 1);
    api_request_finish(&r);
    api_request_finish(&again);
    taca_buf_finish(&json);
}

/* Pictures of strangers: no prefix of a file and no flipped byte reads beyond it. */
static void test_texts_are_read_back_from_whole_and_broken_files(void) {
    static const struct api_image_text texts[] = {{"parameters", "gr\u00fcn\nSteps: 3"},
                                                  {"taca", "{\"prompt\":\"\u6771\"}"}};
    struct taca_image img = picture(5, 4);
    struct taca_buf png, text;
    struct taca_err err = {0};
    taca_buf_init(&png, 1 << 16);
    taca_buf_init(&text, 1 << 16);
    CHECK_INT(api_png_write(&png, &img, 3, texts, 2, NULL), TACA_OK);
    for (int i = 0; i < 2; i++) {
        taca_buf_reset(&text);
        CHECK_INT(api_png_text(&text, texts[i].keyword, png.data, png.len, NULL), TACA_OK);
        CHECK_STR(text.data, texts[i].text);
    }
    CHECK_INT(api_png_text(&text, "tac", png.data, png.len, &err), TACA_ENOTFOUND);
    CHECK_STR(text.data, texts[1].text); /* nothing was added */
    for (size_t len = 0; len < png.len; len++) {
        char *cut = malloc(len ? len : 1); /* its end is watched by the sanitizer */
        if (!cut) break;
        memcpy(cut, png.data, len);
        taca_buf_reset(&text);
        enum taca_code rc = api_png_text(&text, "taca", cut, len, NULL);
        CHECK(rc == TACA_OK ? text.len == strlen(texts[1].text)
                            : rc == (len < 8 ? TACA_EFORMAT : TACA_ENOTFOUND) && !text.len);
        free(cut);
    }
    for (size_t at = 8; at < 160; at++) { /* the checksum stops what the lengths do not */
        png.data[at] ^= 0x55;
        taca_buf_reset(&text);
        enum taca_code rc = api_png_text(&text, "taca", png.data, png.len, NULL);
        CHECK(rc == TACA_ENOTFOUND || strcmp(text.data, texts[1].text) == 0);
        png.data[at] ^= 0x55;
    }
    taca_buf_finish(&png);
    taca_buf_finish(&text);
    free(img.rgb);
}

int main(void) {
    TEST(test_every_level_reads_back_and_is_the_same_twice);
    TEST(test_the_header_is_8_bit_rgb_and_there_is_no_time);
    TEST(test_latin1_texts_are_tEXt_and_others_iTXt);
    TEST(test_texts_stand_before_the_pixels);
    TEST(test_a_full_buffer_is_an_error_and_leaves_no_half_file);
    TEST(test_bad_arguments_are_named);
    TEST(test_the_parameters_text_is_what_viewers_parse);
    TEST(test_the_json_of_an_image_makes_it_again);
    TEST(test_texts_are_read_back_from_whole_and_broken_files);
    return TEST_END();
}
