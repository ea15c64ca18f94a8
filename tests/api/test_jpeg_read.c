/* test_jpeg_read.c - JPEG files of every kind that is read, written here by libjpeg's encoder; how
 * the camera was held, for PNG too; then files that are cut, changed or built to hurt. */
#include <stdio.h> /* jpeglib.h does not know FILE by itself */

#include <jpeglib.h>

#include "api/exif.h"
#include "api/image_file.h"
#include "api/jpeg.h"
#include "tests/api/strangers.h"

enum { W = 45, H = 27, MAX_SIDE = 64 };

struct kind {
    const char *name;
    J_COLOR_SPACE in, stored;
    int halved; /* colours at half the places */
    bool progressive, arithmetic;
    int restart, scans; /* MCU rows between markers; above 0: a scan for each coefficient */
    int orientation;
    double most; /* off by: Y, Cb and Cr are rounded twice each, and Cb weighs 1.77 */
};

static const struct kind kinds[] = {
    {"colours in full", JCS_RGB, JCS_YCbCr, 1, false, false, 0, 0, 0, 4},
    {"colours at half", JCS_RGB, JCS_YCbCr, 2, false, false, 0, 0, 0, 6},
    {"progressive", JCS_RGB, JCS_YCbCr, 2, true, false, 0, 0, 0, 6},
    {"grey", JCS_GRAYSCALE, JCS_GRAYSCALE, 1, false, false, 0, 0, 0, 2},
    {"RGB as it is", JCS_RGB, JCS_RGB, 1, false, false, 0, 0, 0, 2},
    {"with restarts", JCS_RGB, JCS_YCbCr, 2, false, false, 1, 0, 0, 6},
    {"arithmetic", JCS_RGB, JCS_YCbCr, 1, false, true, 0, 0, 0, 4},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

/* A smooth picture, in which all corners differ. */
static double wanted(const struct kind *k, int x, int y, int c) {
    const double u = x / (W - 1.0), v = y / (H - 1.0);
    const double rgb[] = {40 + 150 * u, 220 - 180 * v, 60 + 70 * u + 80 * v};
    return rgb[k->in == JCS_GRAYSCALE ? 0 : c];
}

/* A TIFF of one entry, behind the name of the marker. Returns its length. */
static size_t put_exif(unsigned char *out, int orientation, bool little) {
    static const unsigned char big[] = {'E', 'x', 'i', 'f', 0, 0, 'M',  'M', 0, 42, 0,
                                        0,   0,   8,   0,   1, 1, 0x12, 0,   3, 0,  0,
                                        0,   1,   0,   0,   0, 0, 0,    0,   0, 0};
    static const unsigned char small[] = {'E', 'x', 'i', 'f', 0, 0,    'I', 'I', 42, 0, 8,
                                          0,   0,   0,   1,   0, 0x12, 1,   3,   0,  1, 0,
                                          0,   0,   0,   0,   0, 0,    0,   0,   0,  0};
    memcpy(out, little ? small : big, sizeof big);
    out[little ? 24 : 25] = (unsigned char)orientation;
    return sizeof big;
}

/* DC of all, then each AC coefficient of each component alone. */
static int script(jpeg_scan_info *s) {
    int n = 0;
    s[n++] = (jpeg_scan_info){3, {0, 1, 2}, 0, 0, 0, 0};
    for (int c = 0; c < 3; c++)
        for (int k = 1; k < 64; k++) s[n++] = (jpeg_scan_info){1, {c}, k, k, 0, 0};
    return n;
}

static unsigned char *write_jpeg(unsigned long *len, const struct kind *k) {
    struct jpeg_compress_struct j;
    struct jpeg_error_mgr errors;
    static jpeg_scan_info scans[200];
    unsigned char *out = NULL, exif[64], row[W * 4];
    j.err = jpeg_std_error(&errors);
    jpeg_create_compress(&j);
    jpeg_mem_dest(&j, &out, len);
    j.image_width = W;
    j.image_height = H;
    j.in_color_space = k->in;
    j.input_components = k->in == JCS_GRAYSCALE ? 1 : k->in == JCS_CMYK ? 4 : 3;
    jpeg_set_defaults(&j);
    jpeg_set_colorspace(&j, k->stored);
    jpeg_set_quality(&j, 100, TRUE);
    j.comp_info[0].h_samp_factor = j.comp_info[0].v_samp_factor = k->halved;
    if (k->progressive) jpeg_simple_progression(&j);
    j.arith_code = k->arithmetic;
    j.restart_in_rows = k->restart;
    if (k->scans) {
        j.num_scans = script(scans);
        j.scan_info = scans;
    }
    jpeg_start_compress(&j, TRUE);
    if (k->orientation)
        jpeg_write_marker(&j, JPEG_APP0 + 1, exif,
                          (unsigned)put_exif(exif, k->orientation, k->orientation % 2));
    for (int y = 0; y < H; y++) {
        JSAMPROW at = row;
        const int n = j.input_components;
        for (int x = 0; x < W; x++)
            for (int c = 0; c < n; c++) row[x * n + c] = (uint8_t)lround(wanted(k, x, y, c % 3));
        jpeg_write_scanlines(&j, &at, 1);
    }
    jpeg_finish_compress(&j);
    jpeg_destroy_compress(&j);
    return out;
}

static void test_every_kind_is_read(void) {
    for (int n = 0; n < N_KINDS; n++) {
        unsigned long len = 0;
        unsigned char *jpeg = write_jpeg(&len, &kinds[n]);
        struct taca_image img = {0};
        struct taca_err err = {0};
        double worst = 0;
        int w = 0, h = 0;
        CHECK_OK(api_image_size(&w, &h, jpeg, len, &err), err);
        CHECK(w == W && h == H);
        CHECK_OK(api_image_read(&img, jpeg, len, MAX_SIDE, &err), err);
        CHECK(img.width_px == W && img.height_px == H);
        for (int i = 0; img.rgb && i < W * H * 3; i++)
            worst = fmax(worst, fabs(img.rgb[i] - wanted(&kinds[n], i / 3 % W, i / 3 / W, i % 3)));
        printf("    %-36s off by %.2f\n", kinds[n].name, worst);
        CHECK(worst <= kinds[n].most);
        taca_image_finish(&img);
        free(jpeg);
    }
}

/* ---- how the camera was held ----------------------------------------------------------------- */

/* Where the stored picture's top left and top right corners are shown, from the table of EXIF 2.3:
 * "the 0th row is the visual ..., the 0th column the visual ...". */
static const struct {
    int left_x, left_y, right_x, right_y; /* 0 or 1: of the shown sides */
} corners[] = {{0, 0, 0, 0}, {0, 0, 1, 0}, {1, 0, 0, 0}, {1, 1, 0, 1}, {0, 1, 1, 1},
               {0, 0, 0, 1}, {1, 0, 1, 1}, {1, 1, 1, 0}, {0, 1, 0, 0}};

static void test_pictures_are_turned_as_exif_says(void) {
    for (int o = 1; o <= EXIF_LAST; o++) {
        struct kind k = kinds[0];
        unsigned long len = 0;
        struct taca_image img = {0};
        struct taca_err err = {0};
        const int sw = o < 5 ? W : H, sh = o < 5 ? H : W;
        int w = 0, h = 0;
        k.orientation = o;
        unsigned char *jpeg = write_jpeg(&len, &k);
        CHECK_OK(api_image_size(&w, &h, jpeg, len, &err), err);
        CHECK(w == sw && h == sh);
        CHECK_OK(api_image_read(&img, jpeg, len, MAX_SIDE, &err), err);
        CHECK(img.width_px == sw && img.height_px == sh);
        for (int c = 0; img.rgb && c < 3; c++) {
            const uint8_t *left =
                img.rgb + 3 * (corners[o].left_y * (sh - 1) * sw + corners[o].left_x * (sw - 1));
            const uint8_t *right =
                img.rgb + 3 * (corners[o].right_y * (sh - 1) * sw + corners[o].right_x * (sw - 1));
            CHECK_NEAR(left[c], wanted(&k, 0, 0, c), 4);
            CHECK_NEAR(right[c], wanted(&k, W - 1, 0, c), 4);
        }
        taca_image_finish(&img);
        free(jpeg);
    }
}

static uint32_t crc(const unsigned char *p, size_t n) {
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int b = 0; b < 8; b++) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
    }
    return ~c;
}

static void put_be32(unsigned char *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(v >> (24 - 8 * i));
}

/* A PNG of 3 x 2 pixels whose eXIf stands before the pixels. */
static void write_turned_png(struct taca_buf *out, const uint8_t *rgb, int orientation) {
    unsigned char exif[64], chunk[64] = {0};
    struct taca_buf plain;
    struct taca_err err = {0};
    const size_t n = put_exif(exif, orientation, true) - 6;
    taca_buf_init(&plain, 1 << 20);
    taca_buf_init(out, 1 << 20);
    CHECK_OK(api_png_write(&plain, &(struct taca_image){3, 2, (uint8_t *)(uintptr_t)rgb}, 3, NULL,
                           0, &err),
             err);
    put_be32(chunk, (uint32_t)n);
    memcpy(chunk + 4, "eXIf", 4);
    memcpy(chunk + 8, exif + 6, n);
    put_be32(chunk + 8 + n, crc(chunk + 4, n + 4));
    taca_buf_put(out, plain.data, 33); /* signature and IHDR */
    taca_buf_put(out, chunk, n + 12);
    taca_buf_put(out, plain.data + 33, plain.len - 33);
    taca_buf_finish(&plain);
}

static void test_a_png_and_its_mask_are_turned_too(void) {
    static const uint8_t rgb[] = {1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6};
    static const uint8_t want[] = {4, 1, 5, 2, 6, 3}; /* a quarter to the right */
    struct taca_buf png;
    struct taca_image img = {0};
    struct taca_err err = {0};
    uint8_t *mask = NULL;
    int w = 0, h = 0, wrong = 0;
    write_turned_png(&png, rgb, 6);
    CHECK_OK(api_image_size(&w, &h, png.data, png.len, &err), err);
    CHECK(w == 2 && h == 3);
    CHECK_OK(api_image_read(&img, png.data, png.len, MAX_SIDE, &err), err);
    CHECK(img.width_px == 2 && img.height_px == 3);
    w = h = 0;
    CHECK_OK(api_image_read_mask(&mask, &w, &h, png.data, png.len,
                                 &(struct api_mask_rule){false, MAX_SIDE}, &err),
             err);
    CHECK(w == 2 && h == 3);
    for (int i = 0; img.rgb && mask && i < 6; i++)
        wrong += img.rgb[3 * i] != want[i] || mask[i] != want[i];
    CHECK_INT(wrong, 0);
    free(mask);
    taca_image_finish(&img);
    taca_buf_finish(&png);
}

static void test_an_exif_that_makes_no_sense_turns_nothing(void) {
    unsigned char exif[64], *copy;
    uint32_t r = 1;
    for (int little = 0; little < 2; little++) {
        const size_t n = put_exif(exif, 8, little) - 6;
        CHECK_INT(api_exif_orientation(exif + 6, n), 8);
        for (size_t len = 0; len < n; len++) { /* in a block of its size, for sanitizers */
            copy = malloc(len ? len : 1);
            if (!copy) abort();
            memcpy(copy, exif + 6, len);
            CHECK_INT(api_exif_orientation(copy, len), len < 22 ? 1 : 8);
            free(copy);
        }
    }
    for (int round = 0; round < 20000; round++) {
        const size_t n = put_exif(exif, 1 + round % 12, round % 2) - 6;
        copy = malloc(n);
        if (!copy) abort();
        memcpy(copy, exif + 6, n);
        for (int i = 0; i < 2; i++) {
            r = r * 1664525u + 1013904223u;
            copy[(r >> 8) % n] = (unsigned char)(r >> 24);
        }
        const int o = api_exif_orientation(copy, n);
        CHECK(o >= EXIF_UPRIGHT && o <= EXIF_LAST);
        free(copy);
    }
}

/* ---- hostile files --------------------------------------------------------------------------- */

static bool read_exactly(const void *bytes, size_t len, struct taca_err *err) {
    return read_whole(api_jpeg_read, bytes, len, MAX_SIDE, err);
}

static void test_files_cut_anywhere_are_refused(void) {
    for (int n = 0; n < N_KINDS; n++) {
        unsigned long len = 0;
        struct taca_err err;
        unsigned char *jpeg = write_jpeg(&len, &kinds[n]);
        for (size_t cut = 0; cut < len; cut++) CHECK(!read_exactly(jpeg, cut, &err));
        CHECK(read_exactly(jpeg, len, &err));
        free(jpeg);
    }
}

static void test_changed_files_are_read_or_refused(void) {
    uint32_t r = 12345;
    int good = 0, bad = 0;
    for (int n = 0; n < N_KINDS; n++) {
        unsigned long len = 0;
        unsigned char *jpeg = write_jpeg(&len, &kinds[n]);
        for (int round = 0; round < 1500; round++) {
            struct taca_err err;
            unsigned char was[3];
            size_t at[3];
            for (int i = 0; i < 3; i++) { /* the half of them in the head */
                r = r * 1664525u + 1013904223u;
                at[i] = 2 + (r >> 8) % ((round % 2 ? len : len / 3) - 2);
                was[i] = jpeg[at[i]];
                jpeg[at[i]] = (unsigned char)(r >> 24 ^ (r >> 3));
            }
            read_exactly(jpeg, len, &err) ? good++ : bad++;
            for (int i = 2; i >= 0; i--) jpeg[at[i]] = was[i];
        }
        free(jpeg);
    }
    printf("    %d read, %d refused\n", good, bad);
    CHECK(good > 100 && bad > 3000);
}

static void test_what_is_refused_is_said(void) {
    static const struct kind cmyk = {.in = JCS_CMYK, .stored = JCS_CMYK, .halved = 1},
                             inks = {.in = JCS_CMYK, .stored = JCS_YCCK, .halved = 1},
                             scans = {.in = JCS_RGB, .stored = JCS_YCbCr, .halved = 1, .scans = 1};
    const struct {
        const struct kind *kind;
        const char *says;
    } all[] = {{&cmyk, "a JPEG file in CMYK, wanted one in RGB or grey"},
               {&inks, "a JPEG file in CMYK, wanted one in RGB or grey"},
               {&scans, "a broken JPEG file: it has too many scans"}};
    struct taca_err err;
    struct api_jpeg_head head = {.width_px = 7};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        unsigned long len = 0;
        unsigned char *jpeg = write_jpeg(&len, all[i].kind);
        CHECK(!read_exactly(jpeg, len, &err));
        CHECK_STR(err.text, all[i].says);
        free(jpeg);
    }
    struct taca_image img;
    err = (struct taca_err){0};
    CHECK(api_image_read(&img, "GIF89a", 6, MAX_SIDE, &err) == TACA_EFORMAT);
    CHECK_STR(err.text, "6 bytes of a GIF file, wanted a PNG or JPEG");
    CHECK(!read_exactly("GIF89a", 6, &err));
    CHECK_HAS(err.text, "a broken JPEG file: Not a JPEG file: starts with 0x47 0x49");
    err = (struct taca_err){0};
    CHECK(api_jpeg_head(&head, "\xFF\xD8\xFF", 3, &err) == TACA_EFORMAT && head.width_px == 7);
    CHECK_STR(err.text, "a broken JPEG file: the file is cut short");
}

/* 64000 x 64000 pixels announced in a file of some hundred bytes. */
static void test_a_large_picture_is_refused_by_its_head(void) {
    unsigned long len = 0;
    struct taca_err err = {0};
    int w = 0, h = 0;
    unsigned char *jpeg = write_jpeg(&len, &kinds[0]), *at = jpeg;
    while (at[0] != 0xFF || at[1] != 0xC0) at++;
    at[5] = at[7] = 0xFA;
    at[6] = at[8] = 0x00;
    CHECK_OK(api_image_size(&w, &h, jpeg, len, &err), err);
    CHECK(w == 64000 && h == 64000);
    CHECK(!read_exactly(jpeg, len, &err));
    CHECK_HAS(err.text, "a JPEG of 64000 x 64000 pixels, wanted 1..64 each");
    free(jpeg);
}

static void test_a_mask_may_be_a_jpeg_unless_holes_count(void) {
    unsigned long len = 0;
    struct taca_err err = {0};
    uint8_t *mask = NULL;
    int w = 0, h = 0;
    unsigned char *jpeg = write_jpeg(&len, &kinds[3]);
    struct api_mask_rule rule = {false, MAX_SIDE};
    CHECK_OK(api_image_read_mask(&mask, &w, &h, jpeg, len, &rule, &err), err);
    CHECK(w == W && h == H);
    for (int x = 0; mask && x < W; x++) CHECK_NEAR(mask[x], wanted(&kinds[3], x, 0, 0), 2);
    free(mask);
    rule.holes = true;
    CHECK(api_image_read_mask(&mask, &w, &h, jpeg, len, &rule, &err) == TACA_EFORMAT);
    CHECK_HAS(err.text, "clear nowhere");
    free(jpeg);
}

int main(void) {
    TEST(test_every_kind_is_read);
    TEST(test_pictures_are_turned_as_exif_says);
    TEST(test_a_png_and_its_mask_are_turned_too);
    TEST(test_an_exif_that_makes_no_sense_turns_nothing);
    TEST(test_files_cut_anywhere_are_refused);
    TEST(test_changed_files_are_read_or_refused);
    TEST(test_what_is_refused_is_said);
    TEST(test_a_large_picture_is_refused_by_its_head);
    TEST(test_a_mask_may_be_a_jpeg_unless_holes_count);
    return TEST_END();
}
