/* test_png_read.c - PNG files of every kind, written here by libpng's encoder, read back; then
 * files that are cut, changed or built to hurt. */
#include <png.h>
#include <setjmp.h>

#include "api/png.h"
#include "tests/api/strangers.h"

enum { W = 13, H = 9, MAX_SIDE = 64 };

struct kind {
    const char *name;
    int color, depth;
    bool adam7, trns;
};

static const struct kind kinds[] = {
    {"grey 1", PNG_COLOR_TYPE_GRAY, 1, false, false},
    {"grey 2", PNG_COLOR_TYPE_GRAY, 2, true, false},
    {"grey 4", PNG_COLOR_TYPE_GRAY, 4, false, true},
    {"grey 8", PNG_COLOR_TYPE_GRAY, 8, true, true},
    {"grey 16", PNG_COLOR_TYPE_GRAY, 16, false, false},
    {"grey alpha 8", PNG_COLOR_TYPE_GRAY_ALPHA, 8, false, false},
    {"grey alpha 16", PNG_COLOR_TYPE_GRAY_ALPHA, 16, true, false},
    {"palette 1", PNG_COLOR_TYPE_PALETTE, 1, false, false},
    {"palette 2", PNG_COLOR_TYPE_PALETTE, 2, false, true},
    {"palette 4", PNG_COLOR_TYPE_PALETTE, 4, true, false},
    {"palette 8", PNG_COLOR_TYPE_PALETTE, 8, true, true},
    {"rgb 8", PNG_COLOR_TYPE_RGB, 8, false, false},
    {"rgb 8 with a colour that is clear", PNG_COLOR_TYPE_RGB, 8, true, true},
    {"rgb 16", PNG_COLOR_TYPE_RGB, 16, true, false},
    {"rgba 8", PNG_COLOR_TYPE_RGB_ALPHA, 8, true, false},
    {"rgba 16", PNG_COLOR_TYPE_RGB_ALPHA, 16, false, false},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

/* Sample c of pixel i, at most 2^depth - 1; of a palette: the index. */
static unsigned sample(const struct kind *k, int i, int c) {
    const unsigned top = (1u << k->depth) - 1;
    return (unsigned)(i * 2654435761u >> 7) * (unsigned)(c + 3) % (top + 1);
}

static unsigned palette(int index, int c) { return (unsigned)(index * 37 + c * 91) & 255; }

static int channels(const struct kind *k) {
    return (k->color & PNG_COLOR_MASK_COLOR && k->color != PNG_COLOR_TYPE_PALETTE ? 3 : 1) +
           (k->color & PNG_COLOR_MASK_ALPHA ? 1 : 0);
}

static void on_write(png_structp png, png_bytep bytes, size_t n) {
    taca_buf_put(png_get_io_ptr(png), bytes, n);
}
static void on_flush(png_structp png) { (void)png; }

static void set_extras(png_structp png, png_infop info, const struct kind *k) {
    png_color colors[256];
    png_byte clear[2] = {0, 128};
    png_color_16 key = {.gray = 1, .red = 0, .green = 0, .blue = 0};
    for (int i = 0; i < 1 << k->depth && k->color == PNG_COLOR_TYPE_PALETTE; i++)
        colors[i] =
            (png_color){(png_byte)palette(i, 0), (png_byte)palette(i, 1), (png_byte)palette(i, 2)};
    if (k->color == PNG_COLOR_TYPE_PALETTE) png_set_PLTE(png, info, colors, 1 << k->depth);
    if (!k->trns) return;
    key.red = (png_uint_16)sample(k, 5, 0); /* pixel 5 is clear */
    key.green = (png_uint_16)sample(k, 5, 1);
    key.blue = (png_uint_16)sample(k, 5, 2);
    if (k->color == PNG_COLOR_TYPE_PALETTE)
        png_set_tRNS(png, info, clear, 2, NULL);
    else
        png_set_tRNS(png, info, NULL, 0, &key);
}

static void write_png(struct taca_buf *out, const struct kind *k) {
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    uint8_t rows[H][W * 8] = {{0}};
    png_bytep row[H];
    if (!info || setjmp(png_jmpbuf(png))) abort();
    for (int y = 0; y < H; y++) {
        row[y] = rows[y];
        for (int x = 0; x < W; x++)
            for (int c = 0; c < channels(k); c++) {
                const unsigned v = sample(k, y * W + x, c);
                const int at = x * channels(k) + c;
                if (k->depth == 16)
                    rows[y][2 * at] = (uint8_t)(v >> 8), rows[y][2 * at + 1] = (uint8_t)v;
                else if (k->depth == 8)
                    rows[y][at] = (uint8_t)v;
                else
                    rows[y][at * k->depth / 8] |=
                        (uint8_t)(v << (8 - k->depth - at * k->depth % 8));
            }
    }
    png_set_write_fn(png, out, on_write, on_flush);
    png_set_IHDR(png, info, W, H, k->depth, k->color,
                 k->adam7 ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    set_extras(png, info, k);
    png_set_gAMA(png, info, 0.3); /* passed over */
    png_write_info(png, info);
    png_write_image(png, row);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
}

/* The colour c of pixel i over white, in 0..255. */
static double wanted(const struct kind *k, int i, int c) {
    const double top = (1u << k->depth) - 1;
    const bool color = k->color & PNG_COLOR_MASK_COLOR;
    double v = sample(k, i, color ? c : 0) / top * 255, alpha = 1;
    if (k->color & PNG_COLOR_MASK_ALPHA) alpha = sample(k, i, color ? 3 : 1) / top;
    if (k->color == PNG_COLOR_TYPE_PALETTE) {
        const unsigned index = sample(k, i, 0);
        v = palette((int)index, c);
        if (k->trns) alpha = index == 0 ? 0 : index == 1 ? 128 / 255.0 : 1;
    } else if (k->trns && color) {
        bool clear = true;
        for (int a = 0; a < 3; a++) clear = clear && sample(k, i, a) == sample(k, 5, a);
        if (clear) alpha = 0;
    } else if (k->trns && sample(k, i, 0) == 1) {
        alpha = 0;
    }
    return v * alpha + 255 * (1 - alpha);
}

static void test_every_kind_is_read(void) {
    for (int n = 0; n < N_KINDS; n++) {
        struct taca_buf png;
        struct taca_image img = {0};
        struct taca_err err = {0};
        double worst = 0;
        taca_buf_init(&png, 1 << 20);
        write_png(&png, &kinds[n]);
        CHECK_OK(api_png_read(&img, png.data, png.len, MAX_SIDE, &err), err);
        CHECK(img.width_px == W && img.height_px == H);
        for (int i = 0; i < W * H * 3 && img.rgb; i++)
            worst = fmax(worst, fabs(img.rgb[i] - wanted(&kinds[n], i / 3, i % 3)));
        printf("    %-36s off by %.2f\n", kinds[n].name, worst);
        CHECK(worst <= 1);
        taca_image_finish(&img);
        taca_buf_finish(&png);
    }
}

static void test_what_we_write_is_read_and_masks_are_brightness(void) {
    uint8_t rgb[] = {0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 255, 0, 0, 0, 255, 128, 128, 128};
    const struct taca_image img = {3, 2, rgb};
    const uint8_t want[] = {0, 255, 76, 150, 29, 128};
    struct taca_image back = {0};
    struct taca_buf png;
    struct taca_err err = {0};
    uint8_t mask[6];
    taca_buf_init(&png, 1 << 20);
    CHECK_OK(api_png_write(&png, &img, 3, NULL, 0, &err), err);
    taca_buf_puts(&png, "behind the end"); /* as some programs leave it */
    CHECK_OK(api_png_read(&back, png.data, png.len, 3, &err), err);
    CHECK(back.rgb && memcmp(back.rgb, rgb, sizeof rgb) == 0);
    api_mask_from_image(mask, &img);
    CHECK(memcmp(mask, want, sizeof want) == 0);
    taca_image_finish(&back);
    taca_buf_finish(&png);
}

/* ---- hostile files --------------------------------------------------------------------------- */

static uint32_t crc(const unsigned char *p, size_t n) {
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int b = 0; b < 8; b++) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
    }
    return ~c;
}

static uint32_t be32(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_be32(unsigned char *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(v >> (24 - 8 * i));
}

/* Right checksums again in all chunks that are whole, so that changes reach the code behind them.
 */
static void mend(unsigned char *bytes, size_t len) {
    for (size_t at = 8; at + 12 <= len;) {
        const size_t n = be32(bytes + at);
        if (n > len - at - 12) return;
        put_be32(bytes + at + 8 + n, crc(bytes + at + 4, n + 4));
        at += 12 + n;
    }
}

static bool read_exactly(const void *bytes, size_t len, struct taca_err *err) {
    return read_whole(api_png_read, bytes, len, MAX_SIDE, err);
}

static void test_files_cut_anywhere_are_refused(void) {
    for (int n = 0; n < N_KINDS; n++) {
        struct taca_buf png;
        struct taca_err err;
        taca_buf_init(&png, 1 << 20);
        write_png(&png, &kinds[n]);
        for (size_t len = 0; len < png.len; len++) CHECK(!read_exactly(png.data, len, &err));
        taca_buf_finish(&png);
    }
}

static void test_changed_files_are_read_or_refused(void) {
    uint32_t r = 12345;
    int good = 0, bad = 0;
    for (int round = 0; round < 16000; round++) {
        struct taca_buf png;
        struct taca_err err;
        taca_buf_init(&png, 1 << 20);
        write_png(&png, &kinds[round % N_KINDS]);
        for (int k = 0; k < 1 + round / 16 % 4; k++) {
            r = r * 1664525u + 1013904223u;
            png.data[8 + (r >> 8) % (png.len - 8)] = (char)(r >> 24 ^ (r >> 3));
        }
        if (round % 8) mend((unsigned char *)png.data, png.len);
        read_exactly(png.data, png.len, &err) ? good++ : bad++;
        taca_buf_finish(&png);
    }
    printf("    %d read, %d refused\n", good, bad);
    CHECK(good > 500 && bad > 5000);
}

static void test_what_is_refused_is_said(void) {
    struct taca_buf png;
    struct taca_err err;
    taca_buf_init(&png, 1 << 20);
    write_png(&png, &kinds[11]);
    unsigned char *bytes = (unsigned char *)png.data;
    CHECK(!read_exactly("GIF89a", 6, &err));
    CHECK_HAS(err.text, "6 bytes that are not a PNG file");
    CHECK(!read_exactly(bytes, png.len - 1, &err));
    CHECK_HAS(err.text, "a broken PNG file: the file is cut short");
    put_be32(bytes + 16, 0x7FFFFFFF); /* a width of two thousand million */
    mend(bytes, png.len);
    CHECK(!read_exactly(bytes, png.len, &err));
    CHECK_HAS(err.text, "a PNG of 2147483647 x 9 pixels, wanted 1..64 each");
    put_be32(bytes + 16, 0);
    CHECK(!read_exactly(bytes, png.len, &err));
    put_be32(bytes + 16, W);
    mend(bytes, png.len);
    CHECK(read_exactly(bytes, png.len, &err));
    bytes[29] ^= 1; /* a wrong checksum */
    CHECK(!read_exactly(bytes, png.len, &err));
    CHECK_HAS(err.text, "a broken PNG file: ");
    taca_buf_finish(&png);
}

int main(void) {
    TEST(test_every_kind_is_read);
    TEST(test_what_we_write_is_read_and_masks_are_brightness);
    TEST(test_files_cut_anywhere_are_refused);
    TEST(test_changed_files_are_read_or_refused);
    TEST(test_what_is_refused_is_said);
    return TEST_END();
}
