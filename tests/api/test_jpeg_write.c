/* test_jpeg_write.c - JPEG files read back: pixels by our reader within what their tables allow,
 * segments by a walk of our own, texts whole, broken and as others write them. */
#include <math.h>

#include "api/exif.h"
#include "api/image_file.h"
#include "api/jpeg.h"
#include "base/utf8.h"
#include "tests/api/common.h"

enum { MAX_SIDE = 4096, SOF0 = 0xC0, APP0 = 0xE0, APP1 = 0xE1, COM = 0xFE };

/* Colours that go up and down by 150 from side to side; with noise, what is new in every pixel. */
static struct taca_image picture(int w, int h, int noise) {
    struct taca_image img = {.width_px = w, .height_px = h, .rgb = malloc((size_t)w * h * 3)};
    unsigned r = 7;
    if (!img.rgb) abort();
    for (int i = 0; i < w * h; i++) {
        const double u = i % w / (double)w, v = i / w / (double)h;
        const double rgb[] = {40 + 150 * u, 200 - 130 * v, 60 + 70 * u + 80 * v};
        for (int c = 0; c < 3; c++) {
            r = r * 1664525u + 1013904223u;
            img.rgb[3 * i + c] = (uint8_t)lround(rgb[c] + (noise ? (int)(r >> 16) % noise : 0));
        }
    }
    return img;
}

static void encode(struct taca_buf *out, const struct taca_image *img, int quality) {
    struct taca_err err = {0};
    taca_buf_init(out, 1 << 24);
    CHECK_OK(api_jpeg_write(out, img, quality, NULL, 0, &err), err);
}

/* The bytes of the first segment with this marker behind its length; NULL = none before the pixels.
 */
static const unsigned char *segment(const struct taca_buf *jpeg, int marker, size_t *len) {
    const unsigned char *p = (const unsigned char *)jpeg->data + 2,
                        *end = (const unsigned char *)jpeg->data + jpeg->len;
    while (end - p >= 4 && p[0] == 0xFF && p[1] != 0xDA) {
        *len = (size_t)(p[2] << 8 | p[3]) - 2;
        if (p[1] == marker) return p + 4;
        p += 4 + *len;
    }
    return NULL;
}

/* ---- pixels ---------------------------------------------------------------------------------- */

/* Tables K.1 and K.2 of ITU T.81. */
static const int steps_y[64] = {16,  11,  10,  16,  24, 40, 51,  61,  12,  12,  14,  19,  26,
                                58,  60,  55,  14,  13, 16, 24,  40,  57,  69,  56,  14,  17,
                                22,  29,  51,  87,  80, 62, 18,  22,  37,  56,  68,  109, 103,
                                77,  24,  35,  55,  64, 81, 104, 113, 92,  49,  64,  78,  87,
                                103, 121, 120, 101, 72, 92, 95,  98,  112, 100, 103, 99};
static const int steps_c[64] = {17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
                                24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99};

/* Root mean square of what rounding to the table's multiples may change, at most: half a step in
 * each coefficient, and the transform keeps squares. As libjpeg scales the tables by quality. */
static double rounding(const int steps[64], int quality) {
    const int q = quality < 1 ? 1 : quality, scale = q < 50 ? 5000 / q : 200 - 2 * q;
    double sum = 0;
    for (int i = 0; i < 64; i++) {
        const int base = steps[i] ? steps[i] : 99, step = (base * scale + 50) / 100;
        const double s = step < 1 ? 1 : step > 255 ? 255 : step;
        sum += s * s / 4;
    }
    return sqrt(sum / 64);
}

/* The PSNR that cannot be missed. `extra`: what else may change a stored colour. */
static double least_psnr(int quality, double extra) {
    const double bytes = 1; /* colours are rounded when they are turned and turned back */
    const double y = rounding(steps_y, quality) + bytes,
                 c = rounding(steps_c, quality) + bytes + extra;
    const double r = y + 1.402 * c + 0.5, g = y + (0.344 + 0.714) * c + 0.5,
                 b = y + 1.772 * c + 0.5;
    return 10 * log10(255 * 255 / ((r * r + g * g + b * b) / 3));
}

static double psnr_of(const struct taca_buf *jpeg, const struct taca_image *img) {
    struct taca_image got = {0};
    struct taca_err err = {0};
    const size_t n = (size_t)img->width_px * (size_t)img->height_px * 3;
    double sum = 0;
    CHECK_OK(api_jpeg_read(&got, jpeg->data, jpeg->len, MAX_SIDE, &err), err);
    CHECK(got.width_px == img->width_px && got.height_px == img->height_px);
    for (size_t i = 0; got.rgb && i < n; i++) sum += pow(got.rgb[i] - img->rgb[i], 2);
    taca_image_finish(&got);
    return sum > 0 ? 10 * log10(255 * 255 * (double)n / sum) : 99;
}

static void test_pixels_come_back_within_what_the_tables_allow(void) {
    static const int sizes[][2] = {{1, 1}, {17, 9}, {251, 187}, {256, 192}},
                     qualities[] = {0, 1, 10, 30, 50, 75, 89, 90, 95, 100};
    for (int s = 0; s < 4; s++)
        for (size_t i = 0; i < sizeof qualities / sizeof *qualities; i++) {
            const int q = qualities[i], noise = q < 90 ? 0 : 40;
            struct taca_image img = picture(sizes[s][0], sizes[s][1], noise);
            struct taca_buf jpeg;
            encode(&jpeg, &img, q);
            /* halved colours, of at most 150 * 0.7, are off by a pixel's slope where they end */
            const double want = least_psnr(q, q < 90 ? 105.0 / img.width_px + 105.0 / img.height_px
                                                     : 0),
                         got = psnr_of(&jpeg, &img);
            if (!CHECK(got >= want))
                printf("    %d x %d, quality %d: %.1f dB, wanted %.1f\n", img.width_px,
                       img.height_px, q, got, want);
            taca_buf_finish(&jpeg);
            taca_image_finish(&img);
        }
}

/* Every step is 1 then: what is left is rounding, and each rounding of something busy is off by
 * 1/12 in the mean square. Y, Cb and Cr have two (their own, and that of their coefficients), and
 * what comes out one more: (1 + 1.402^2) / 6 + 1/12 in red, and so on; 50.6 dB in all. */
static void test_the_best_quality_leaves_rounding_alone(void) {
    const double r = (1 + 1.402 * 1.402) / 6, g = (1 + 0.344 * 0.344 + 0.714 * 0.714) / 6,
                 b = (1 + 1.772 * 1.772) / 6,
                 want = 10 * log10(255 * 255 / ((r + g + b) / 3 + 1 / 12.));
    struct taca_image img = picture(256, 192, 40);
    struct taca_buf jpeg;
    encode(&jpeg, &img, 100);
    CHECK_NEAR(psnr_of(&jpeg, &img), want, 0.5);
    taca_buf_finish(&jpeg);
    taca_image_finish(&img);
}

static void test_less_quality_is_less_bytes_and_the_same_twice(void) {
    static const int falling[] = {100, 95, 90, 89, 75, 50, 25, 10, 1};
    struct taca_image img = picture(256, 192, 40);
    size_t before = SIZE_MAX;
    for (size_t i = 0; i < sizeof falling / sizeof *falling; i++) {
        struct taca_buf a, b;
        struct taca_err err = {0};
        encode(&a, &img, falling[i]);
        taca_buf_init(&b, 1 << 24);
        taca_buf_puts(&b, "before"); /* it appends */
        CHECK_OK(api_jpeg_write(&b, &img, falling[i], NULL, 0, &err), err);
        CHECK(a.len + 6 == b.len && memcmp(b.data, "before", 6) == 0);
        CHECK(memcmp(a.data, b.data + 6, a.len) == 0 && b.data[b.len] == 0);
        CHECK(a.len < before);
        before = a.len;
        taca_buf_finish(&a);
        taca_buf_finish(&b);
    }
    struct taca_buf none, one;
    encode(&none, &img, 0);
    encode(&one, &img, 1);
    CHECK(none.len == one.len && memcmp(none.data, one.data, one.len) == 0);
    taca_buf_finish(&none);
    taca_buf_finish(&one);
    taca_image_finish(&img);
}

static void test_the_head_says_baseline_the_size_and_how_colours_are_stored(void) {
    struct taca_image img = picture(40, 30, 0);
    for (int q = 89; q <= 90; q++) {
        struct taca_buf jpeg;
        size_t len;
        int w = 0, h = 0;
        encode(&jpeg, &img, q);
        const unsigned char *app = segment(&jpeg, APP0, &len);
        CHECK(app == (const unsigned char *)jpeg.data + 6 && memcmp(app, "JFIF", 5) == 0);
        const unsigned char *sof = segment(&jpeg, SOF0, &len);
        if (CHECK(sof && len == 15)) {
            CHECK(sof[0] == 8 && sof[2] == 30 && sof[4] == 40 && sof[5] == 3);
            CHECK_INT(sof[7], q < 90 ? 0x22 : 0x11);
            CHECK(sof[10] == 0x11 && sof[13] == 0x11);
        }
        CHECK(!segment(&jpeg, APP1, &len) && !segment(&jpeg, COM, &len));
        CHECK_OK(api_image_size(&w, &h, jpeg.data, jpeg.len, NULL), (struct taca_err){0});
        CHECK(w == 40 && h == 30);
        taca_buf_finish(&jpeg);
    }
    taca_image_finish(&img);
}

static void test_a_full_buffer_is_an_error_and_leaves_no_half_file(void) {
    struct taca_image img = picture(256, 256, 200);
    struct taca_buf whole;
    encode(&whole, &img, 100);
    CHECK(whole.len > 100000);
    for (size_t max = 0; max < whole.len; max += 9973) {
        struct taca_buf jpeg;
        struct taca_err err = {0};
        taca_buf_init(&jpeg, max);
        if (max >= 6) taca_buf_puts(&jpeg, "before");
        const size_t before = jpeg.len;
        CHECK_INT(api_jpeg_write(&jpeg, &img, 100, NULL, 0, &err), TACA_EINTERNAL);
        CHECK_HAS(err.text, "256x256");
        CHECK(jpeg.len == before && (before == 0 || jpeg.data[before] == 0));
        taca_buf_finish(&jpeg);
    }
    taca_buf_finish(&whole);
    taca_image_finish(&img);
}

static void test_bad_arguments_are_named(void) {
    struct taca_image img = picture(8, 8, 0), none = {0}, wide = {70000, 1, NULL};
    struct taca_buf jpeg;
    struct taca_err err = {0};
    taca_buf_init(&jpeg, 1 << 20);
    CHECK_INT(api_jpeg_write(&jpeg, &none, 90, NULL, 0, &err), TACA_EINVAL);
    err = (struct taca_err){0};
    CHECK_INT(api_jpeg_write(&jpeg, &img, 101, NULL, 0, &err), TACA_EINVAL);
    CHECK_HAS(err.text, "0..100");
    CHECK_STR(err.param, "output_compression");
    CHECK_INT(api_jpeg_write(&jpeg, &img, -1, NULL, 0, NULL), TACA_EINVAL);
    wide.rgb = calloc(70000, 3); /* more than the format can say */
    if (!wide.rgb) abort();
    err = (struct taca_err){0};
    CHECK_INT(api_jpeg_write(&jpeg, &wide, 90, NULL, 0, &err), TACA_EINTERNAL);
    CHECK_HAS(err.text, "65500");
    CHECK_INT(jpeg.len, 0);
    taca_buf_finish(&jpeg);
    taca_image_finish(&img);
    taca_image_finish(&wide);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static enum taca_code text_of(struct taca_buf *out, const char *keyword,
                              const struct taca_buf *jpeg) {
    taca_buf_reset(out);
    return api_image_text(out, keyword, jpeg->data, jpeg->len, NULL);
}

static void test_texts_stand_where_other_programs_look(void) {
    static const struct api_image_text texts[] = {{"parameters", "\u00e9\U0001F431\nx"},
                                                  {"taca", "{\"prompt\":\"\u732b\"}"}};
    /* EXIF 2.3: big endian, a directory that points to a second, whose one entry is the comment */
    static const char exif[] = "Exif\0\0MM\0*\0\0\0\x08"
                               "\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1A\0\0\0\0"
                               "\0\x01\x92\x86\0\x07\0\0\0\x12\0\0\0\x2C\0\0\0\0"
                               "UNICODE\0\0\xE9\xD8\x3D\xDC\x31\0\x0A\0x";
    struct taca_image img = picture(40, 30, 0);
    struct taca_buf jpeg, text;
    struct taca_err err = {0};
    size_t len = 0;
    taca_buf_init(&jpeg, 1 << 20);
    taca_buf_init(&text, 1 << 20);
    CHECK_OK(api_jpeg_write(&jpeg, &img, 90, texts, 2, &err), err);
    const unsigned char *s = segment(&jpeg, APP1, &len);
    CHECK(s && len == sizeof exif - 1 && memcmp(s, exif, len) == 0);
    s = segment(&jpeg, COM, &len);
    CHECK(s && len == 22 && memcmp(s, "taca: {\"prompt\":\"\xE7\x8C\xAB\"}", 22) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(text_of(&text, texts[i].keyword, &jpeg), TACA_OK);
        CHECK_STR(text.data, texts[i].text);
    }
    CHECK_INT(text_of(&text, "tac", &jpeg), TACA_ENOTFOUND);
    CHECK(psnr_of(&jpeg, &img) > 40);
    taca_buf_finish(&jpeg);
    taca_buf_finish(&text);
    taca_image_finish(&img);
}

/* A segment has 64 KiB. The JSON needs as many as it needs, cut inside of a character too; what
 * viewers show goes into one or is left out. */
static void test_long_texts_take_several_segments(void) {
    static const size_t lengths[] = {0, 1, 32737, 32738, 65527, 65528, 300000};
    struct taca_image img = picture(8, 8, 0);
    char *long_text = malloc(300000 + 1);
    if (!long_text) abort();
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const size_t n = lengths[i];
        memset(long_text, 'a', n);
        long_text[n] = 0;
        if (n > 65528) memcpy(long_text + 65526, "\xE7\x8C\xAB", 3); /* over the end of the first */
        const struct api_image_text texts[] = {{"parameters", long_text}, {"taca", long_text}};
        struct taca_buf jpeg, text;
        struct taca_err err = {0};
        taca_buf_init(&jpeg, 1 << 20);
        taca_buf_init(&text, 1 << 20);
        CHECK_OK(api_jpeg_write(&jpeg, &img, 90, texts, 2, &err), err);
        CHECK_INT(text_of(&text, "taca", &jpeg), n ? TACA_OK : TACA_ENOTFOUND);
        CHECK(text.len == n && (n == 0 || memcmp(text.data, long_text, n) == 0));
        /* 65533 - 6 for its name - 44 before the comment - 8 of its code, two bytes a character */
        CHECK_INT(text_of(&text, "parameters", &jpeg),
                  n > 0 && n <= 32737 ? TACA_OK : TACA_ENOTFOUND);
        CHECK(psnr_of(&jpeg, &img) > 30);
        taca_buf_finish(&jpeg);
        taca_buf_finish(&text);
    }
    free(long_text);
    taca_image_finish(&img);
}

/* As other programs write it: in the other byte order, and as ASCII. */
static void test_comments_of_other_programs_are_read(void) {
    static const char little[] = "II*\0\x08\0\0\0"
                                 "\x01\0\x69\x87\x04\0\x01\0\0\0\x1A\0\0\0\0\0\0\0"
                                 "\x02\0\0\x90\x07\0\x04\0\0\0"
                                 "0230"
                                 "\x86\x92\x07\0\x0C\0\0\0\x38\0\0\0\0\0\0\0"
                                 "UNICODE\0\xE9\0x\0";
    static const char ascii[] = "MM\0*\0\0\0\x08"
                                "\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1A\0\0\0\0"
                                "\0\x01\x92\x86\0\x07\0\0\0\x0C\0\0\0\x2C\0\0\0\0"
                                "ASCII\0\0\0abc";
    struct taca_buf text;
    taca_buf_init(&text, 1 << 10);
    CHECK(api_exif_comment(&text, little, sizeof little - 1));
    CHECK_STR(text.data, "\u00e9x");
    taca_buf_reset(&text);
    CHECK(api_exif_comment(&text, ascii, sizeof ascii)); /* with its NUL */
    CHECK_STR(text.data, "abc");
    /* half a pair, another half, a code that nobody knows, a comment that is not all there */
    static const struct {
        size_t at;
        const char *bytes;
        size_t len;
    } bad[] = {{52, "\xD8\x3D\0x", 4}, {52, "\xDC\x31\0x", 4}, {44, "EBCDIC", 6}, {35, "\xFF", 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char exif[56] = "";
        memcpy(exif, ascii, 44);
        memcpy(exif + 44, "UNICODE\0\0a\0b", 12);
        taca_buf_reset(&text);
        if (i == 0)
            CHECK(api_exif_comment(&text, exif, sizeof exif) && strcmp(text.data, "ab") == 0);
        memcpy(exif + bad[i].at, bad[i].bytes, bad[i].len);
        taca_buf_reset(&text);
        CHECK(!api_exif_comment(&text, exif, sizeof exif) && text.len == 0);
    }
    taca_buf_finish(&text);
}

/* Pictures of strangers: no prefix of a file and no changed byte reads beyond it. */
static void test_texts_are_read_back_from_whole_and_broken_files(void) {
    static const struct api_image_text texts[] = {{"parameters", "gr\u00fcn\nSteps: 3"},
                                                  {"taca", "{\"prompt\":\"\u6771\"}"}};
    struct taca_image img = picture(5, 4, 0);
    struct taca_buf jpeg, text;
    size_t exif_len = 0, com_len = 0;
    taca_buf_init(&jpeg, 1 << 16);
    taca_buf_init(&text, 1 << 16);
    CHECK_INT(api_jpeg_write(&jpeg, &img, 90, texts, 2, NULL), TACA_OK);
    const unsigned char *ends[] = {segment(&jpeg, APP1, &exif_len), segment(&jpeg, COM, &com_len)};
    if (!CHECK(ends[0] && ends[1])) return;
    ends[0] += exif_len;
    ends[1] += com_len;
    for (size_t len = 0; len <= jpeg.len; len++) {
        char *cut = malloc(len ? len : 1); /* its end is watched by the sanitizer */
        if (!cut) abort();
        memcpy(cut, jpeg.data, len);
        for (int i = 0; i < 2; i++) {
            const bool there = (const unsigned char *)jpeg.data + len >= ends[i];
            taca_buf_reset(&text);
            enum taca_code rc = api_jpeg_text(&text, texts[i].keyword, cut, len, NULL);
            CHECK_INT(rc, there ? TACA_OK : len < 3 ? TACA_EFORMAT : TACA_ENOTFOUND);
            CHECK(there ? strcmp(text.data, texts[i].text) == 0 : text.len == 0);
        }
        free(cut);
    }
    const size_t head = (size_t)(ends[1] - (const unsigned char *)jpeg.data);
    for (size_t at = 0; at < head; at++) /* whatever is found is text */
        for (int bit = 0; bit < 8; bit++) {
            jpeg.data[at] = (char)(jpeg.data[at] ^ 1 << bit);
            for (int i = 0; i < 2; i++) {
                const enum taca_code rc = text_of(&text, texts[i].keyword, &jpeg);
                CHECK(rc ? text.len == 0 : taca_utf8_valid(text.data, text.len));
            }
            jpeg.data[at] = (char)(jpeg.data[at] ^ 1 << bit);
        }
    taca_buf_finish(&jpeg);
    taca_buf_finish(&text);
    taca_image_finish(&img);
}

/* ---- any format ------------------------------------------------------------------------------ */

static void test_a_format_is_chosen_in_one_place(void) {
    static const struct {
        struct api_encoding how;
        const char *name, *type, *ending, *kind;
    } all[] = {{{API_FORMAT_ANY, -1, -1}, "png", "image/png", ".png", "a PNG"},
               {{API_PNG, 9, -1}, "png", "image/png", ".png", "a PNG"},
               {{API_JPEG, -1, -1}, "jpeg", "image/jpeg", ".jpg", "a JPEG"},
               {{API_JPEG, -1, 50}, "jpeg", "image/jpeg", ".jpg", "a JPEG"}};
    struct taca_image img = picture(64, 48, 40);
    struct api_request r;
    struct api_error e;
    size_t lens[4];
    CHECK_INT(parse_with(&r, &e, "\"seed\":7,\"steps\":3"), 0);
    const struct api_origin origin = {&r.params, &demo};
    for (int i = 0; i < 4; i++) {
        struct taca_buf file, bare, text;
        struct taca_err err = {0};
        taca_buf_init(&file, 1 << 20);
        taca_buf_init(&bare, 1 << 20);
        taca_buf_init(&text, 1 << 20);
        CHECK_OK(api_image_write(&file, &img, &all[i].how, &origin, &err), err);
        CHECK_OK(api_image_write(&bare, &img, &all[i].how, NULL, &err), err);
        CHECK_STR(api_image_kind(file.data, file.len), all[i].kind);
        CHECK_STR(api_format_name(all[i].how.format), all[i].name);
        CHECK_STR(api_format_type(all[i].how.format), all[i].type);
        CHECK_STR(api_format_ending(all[i].how.format), all[i].ending);
        CHECK_INT(text_of(&text, "parameters", &file), TACA_OK);
        CHECK_HAS(text.data, "a cat\nSteps: 3");
        CHECK_INT(text_of(&text, "taca", &file), TACA_OK);
        struct api_request again;
        CHECK_INT(parse(&again, &e, text.data), 0);
        check_same_params(&r.params, &again.params);
        api_request_finish(&again);
        CHECK_INT(text_of(&text, "taca", &bare), TACA_ENOTFOUND);
        CHECK_INT(text_of(&text, "parameters", &bare), TACA_ENOTFOUND);
        lens[i] = bare.len;
        taca_buf_finish(&file);
        taca_buf_finish(&bare);
        taca_buf_finish(&text);
    }
    CHECK(lens[3] < lens[2]);
    struct taca_err err = {0};
    struct taca_buf text;
    taca_buf_init(&text, 1 << 10);
    CHECK_INT(api_image_text(&text, "taca", "GIF89a", 6, &err), TACA_EFORMAT);
    CHECK_HAS(err.text, "a GIF file, wanted a PNG or JPEG");
    taca_buf_finish(&text);
    api_request_finish(&r);
    taca_image_finish(&img);
}

int main(void) {
    TEST(test_pixels_come_back_within_what_the_tables_allow);
    TEST(test_the_best_quality_leaves_rounding_alone);
    TEST(test_less_quality_is_less_bytes_and_the_same_twice);
    TEST(test_the_head_says_baseline_the_size_and_how_colours_are_stored);
    TEST(test_a_full_buffer_is_an_error_and_leaves_no_half_file);
    TEST(test_bad_arguments_are_named);
    TEST(test_texts_stand_where_other_programs_look);
    TEST(test_long_texts_take_several_segments);
    TEST(test_comments_of_other_programs_are_read);
    TEST(test_texts_are_read_back_from_whole_and_broken_files);
    TEST(test_a_format_is_chosen_in_one_place);
    return TEST_END();
}
