/* test_pictures.c - pictures inside requests: every way to write base64, sizes, masks, and what is
 * refused before it costs anything. */
#include "api/resize.h"
#include "tests/api/pictures.h"

/* Status; `members` end with a comma. r needs a finish when 0. */
static int parse_picture(struct api_request *r, struct api_error *e, int w, int h,
                         const char *members) {
    struct taca_buf body;
    picture_body(&body, w, h, members);
    int rc = parse_bytes(r, e, body.data, body.len);
    taca_buf_finish(&body);
    return rc;
}

static bool same_pixels(const uint8_t *rgb, int n) {
    for (int i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            if (rgb[3 * i + c] != painted(i, c)) return false;
    return true;
}

static void test_base64_reads_what_rfc_4648_writes(void) {
    static const struct {
        const char *text, *bytes;
        int len;
    } all[] = {{"", "", 0},
               {"Zg==", "f", 1},
               {"Zm8=", "fo", 2},
               {"Zm9v", "foo", 3},
               {"Zm9vYg==", "foob", 4},
               {"Zm9vYmE=", "fooba", 5},
               {"Zm9vYmFy", "foobar", 6},
               {"Zm9vYg", "foob", 4},
               {"Zm9v\r\nYmFy\r\n", "foobar", 6},
               {" Zm 9v\tYmE = \n", "fooba", 5},
               {"+/+/", "\xFB\xFF\xBF", 3},
               {"-_-_", "\xFB\xFF\xBF", 3},
               {"Z", NULL, -1},
               {"Zm9vY", NULL, -1},
               {"Zm9v*mFy", NULL, -1},
               {"Zg===", NULL, -1},
               {"Zg==Zg==", NULL, -1},
               {"=", "", 0},
               {"Zm\xC3\xA9v", NULL, -1}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        size_t n = 99, len = strlen(all[i].text);
        uint8_t *out = malloc(len / 4 * 3 + 2); /* a sanitizer sees the end */
        if (!out) return;
        bool ok = api_base64_read(out, &n, all[i].text, len);
        CHECK(ok == (all[i].len >= 0));
        CHECK(!ok || ((int)n == all[i].len && memcmp(out, all[i].bytes, n) == 0));
        free(out);
    }
}

static void test_a_picture_becomes_pixels_and_gives_the_size(void) {
    struct api_request r;
    struct api_error e;
    if (!CHECK(parse_picture(&r, &e, 80, 64, "\"strength\":0.25,") == 0)) {
        printf("    %s\n", e.message);
        return;
    }
    CHECK_INT(r.params.width_px, 80);
    CHECK_INT(r.params.height_px, 64);
    CHECK(r.params.strength == 0.25);
    CHECK(r.params.image && same_pixels(r.params.image, 80 * 64));
    CHECK(!r.params.mask && r.warnings == 0);
    api_request_drop_pixels(&r);
    CHECK(!r.params.image && r.pixels.total_bytes == 0);
    api_request_finish(&r);
    CHECK(parse_picture(&r, &e, 80, 64, "\"size\":\"80x64\",") == 0 && r.params.strength == 0.6);
    api_request_finish(&r);
}

static void test_data_urls_and_the_other_alphabet_are_read(void) {
    struct taca_buf plain, url;
    struct api_request r;
    struct api_error e;
    picture_body(&plain, 64, 64, "");
    taca_buf_init(&url, 1 << 24);
    taca_buf_puts(&url, "{\"prompt\":\"a cat\",\"image\":\"data:image/png;base64,");
    const char *from = strstr(plain.data, "\"image\":\"") + strlen("\"image\":\"");
    for (int i = 0; *from; from++, i++) {
        char c = *from == '+' ? '-' : *from == '/' ? '_' : *from;
        if (c != '=') taca_buf_put(&url, &c, 1);
        if (i % 76 == 75 && from[1] != '"' && from[1] != '}') taca_buf_puts(&url, "\\r\\n");
    }
    CHECK_INT(parse_bytes(&r, &e, url.data, url.len), 0);
    CHECK(r.params.image && same_pixels(r.params.image, 64 * 64));
    api_request_finish(&r);
    taca_buf_finish(&plain);
    taca_buf_finish(&url);
}

static void test_another_size_is_scaled_and_said(void) {
    static const struct {
        int w, h;
        const char *members;
        int to_w, to_h;
    } all[] = {{80, 64, "\"width\":128,\"height\":96,", 128, 96},
               {200, 100, "\"size\":\"64x64\",", 64, 64},
               {100, 70, "", 96, 64},    /* the nearest multiples of 16 */
               {30, 200, "", 64, 208},   /* not below the least side */
               {3000, 90, "", 2048, 64}, /* nor above the longest, which keeps the shape */
               {80, 64, "\"width\":160,", 160, 64}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_request r;
        struct api_error e;
        if (!CHECK(parse_picture(&r, &e, all[i].w, all[i].h, all[i].members) == 0)) {
            printf("    %s\n", e.message);
            continue;
        }
        CHECK_INT(r.params.width_px, all[i].to_w);
        CHECK_INT(r.params.height_px, all[i].to_h);
        CHECK_INT(r.warnings, TACA_WARN_IMAGE_SCALED);
        CHECK_INT(r.pixels.total_bytes, (intmax_t)all[i].to_w * all[i].to_h * 3);
        api_request_finish(&r);
    }
}

static void test_a_mask_repaints_where_it_is_white(void) {
    struct taca_buf png, body;
    struct taca_err err = {0};
    struct api_request r;
    struct api_error e;
    uint8_t rgb[64 * 64 * 3];
    for (int i = 0; i < 64 * 64; i++) memset(rgb + 3 * i, i % 64 < 20 ? 255 : 0, 3);
    picture_body(&body, 64, 64, "");
    taca_buf_init(&png, 1 << 20);
    CHECK_OK(api_png_write(&png, &(struct taca_image){64, 64, rgb}, 1, NULL, 0, &err), err);
    body.len--;
    taca_buf_puts(&body, ",\"mask\":\"");
    api_base64(&body, png.data, png.len);
    taca_buf_puts(&body, "\",\"strength\":1}");
    if (CHECK(parse_bytes(&r, &e, body.data, body.len) == 0)) {
        int white = 0;
        for (int i = 0; i < 64 * 64; i++) white += r.params.mask[i] == 255 && i % 64 < 20;
        CHECK_INT(white, 64 * 20);
        CHECK_INT(r.params.mask[20], 0);
    }
    api_request_finish(&r);
    taca_buf_finish(&body);

    picture_body(&body, 80, 64, ""); /* the mask is of another picture */
    body.len--;
    taca_buf_puts(&body, ",\"mask\":\"");
    api_base64(&body, png.data, png.len);
    taca_buf_puts(&body, "\"}");
    CHECK_INT(parse_bytes(&r, &e, body.data, body.len), 400);
    CHECK_STR(e.param, "mask");
    CHECK_HAS(e.message, "mask has 64 x 64 pixels, its image 80 x 64");
    taca_buf_finish(&body);
    taca_buf_finish(&png);
}

static void test_what_is_no_picture_is_refused_by_name(void) {
    static const struct {
        const char *members;
        int status;
        const char *code, *param, *says;
    } all[] = {
        {"\"image\":7", 400, "invalid_image", "image", "got an integer"},
        {"\"image\":\"\"", 400, "invalid_image", "image", "must not be empty"},
        {"\"image\":\"data:image/png;base64,\"", 400, "invalid_image", "image", "not be empty"},
        {"\"image\":\"data:image/png,abc\"", 400, "invalid_image", "image", "data URL such as"},
        {"\"image\":\"https://example.org/a.png\"", 400, "url_not_allowed", "image", "an address"},
        {"\"image\":\"!!!!\"", 400, "invalid_image", "image", "not base64"},
        {"\"image\":\"aGVsbG8=\"", 400, "invalid_image", "image",
         "must be a PNG or JPEG file, and these 5 bytes are no known kind of file"},
        {"\"image\":\"/9j/4AAQSkZJRg==\"", 400, "invalid_image", "image",
         "image: a broken JPEG file: the file is cut short"},
        {"\"image\":\"UklGRiQAAABXRUJQVlA4\"", 400, "invalid_image", "image", "a WebP file"},
        {"\"image\":\"iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAYAAAAAAAAA\"", 400, "invalid_image",
         "image", "a broken PNG file"},
        {"\"mask\":\"aGVsbG8=\"", 400, "invalid_mask", "mask", "needs an image"},
        {"\"strength\":0.5", 400, "invalid_strength", "strength", "needs an image"},
        {"\"strength\":1.5", 400, "invalid_strength", "strength", "in 0..1"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_request r;
        struct api_error e;
        check_refused(all[i].members, all[i].status, all[i].code, all[i].param);
        (void)parse_with(&r, &e, all[i].members);
        CHECK_HAS(e.message, all[i].says);
    }
    check_accepted("\"image\":null,\"mask\":null,\"strength\":null");
}

/* A head that promises 30000 x 30000: 3.6 GB of pixels in a file of a few bytes. */
static void test_a_bomb_is_refused_by_its_head(void) {
    struct api_request r;
    struct api_error e;
    check_refused("\"image\":\"iVBORw0KGgoAAAANSUhEUgAAdTAAAHUwCAAAAAAAAAAA\"", 413,
                  "image_too_large", "image");
    (void)parse_with(&r, &e, "\"image\":\"iVBORw0KGgoAAAANSUhEUgAAdTAAAHUwCAAAAAAAAAAA\"");
    CHECK_STR(e.message,
              "image has 30000 x 30000 pixels, and width x height must be at most 16777216");
    check_refused("\"image\":\"iVBORw0KGgoAAAANSUhEUv////8AAAABCAAAAAAAAAAA\"", 413,
                  "image_too_large", "image");
    check_refused("\"image\":\"iVBORw0KGgoAAAANSUhEUgAAAAAAAAABCAAAAAAAAAAA\"", 400,
                  "invalid_image", "image");
}

static void test_models_without_an_encoder_take_none(void) {
    struct taca_model_info m = demo;
    struct api_limits limits;
    static const char *const bodies[] = {"{\"prompt\":\"x\",\"image\":\"aGVsbG8=\"}",
                                         "{\"prompt\":\"x\",\"strength\":1}"};
    m.takes_images = false;
    api_limits_init(&limits);
    for (int i = 0; i < 2; i++) {
        struct api_request r = {0};
        struct api_error e = {0};
        CHECK_INT(api_request_parse(&r, bodies[i], strlen(bodies[i]), &m, &limits, 1, &e), 400);
        CHECK_HAS(e.message, "no encoder");
    }
}

/* The sum as resize.h writes it, in double precision and in two dimensions at once. */
static double kernel(double x, double stretch) {
    x = fabs(x / stretch);
    if (x < 1e-12) return 1;
    return x < 3 ? 3 * sin(M_PI * x) * sin(M_PI * x / 3) / (M_PI * M_PI * x * x) : 0;
}

static double direct(const uint8_t *in, struct api_size f, struct api_size t, int x, int y) {
    const double rx = (double)f.w / t.w, ry = (double)f.h / t.h;
    const double sx = rx > 1 ? rx : 1, sy = ry > 1 ? ry : 1;
    double sum = 0, weights = 0;
    for (int j = 0; j < f.h; j++)
        for (int i = 0; i < f.w; i++) {
            double k = kernel(j + 0.5 - (y + 0.5) * ry, sy) * kernel(i + 0.5 - (x + 0.5) * rx, sx);
            sum += k * in[j * f.w + i];
            weights += k;
        }
    double v = sum / weights;
    return v < 0 ? 0 : v > 255 ? 255 : v;
}

static void test_scaling_is_the_sum_in_double_precision(void) {
    static const struct api_size cases[][2] = {{{13, 9}, {26, 7}},
                                               {{40, 31}, {5, 3}},
                                               {{7, 7}, {7, 7}},
                                               {{1, 1}, {4, 3}},
                                               {{5, 60}, {16, 16}}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const struct api_size f = cases[k][0], t = cases[k][1];
        uint8_t *in = malloc((size_t)(f.w * f.h));
        for (int i = 0; in && i < f.w * f.h; i++) in[i] = painted(i, 0);
        uint8_t *out = api_resize(in, 1, f, t);
        double worst = 0;
        for (int i = 0; out && i < t.w * t.h; i++) {
            double d = fabs(out[i] - direct(in, f, t, i % t.w, i / t.w));
            if (d > worst) worst = d;
        }
        CHECK(out && worst <= 0.501);
        free(in);
        free(out);
    }
}

static void test_a_plain_picture_stays_plain(void) {
    uint8_t in[20 * 10 * 3];
    memset(in, 200, sizeof in);
    uint8_t *out = api_resize(in, 3, (struct api_size){20, 10}, (struct api_size){33, 47});
    int wrong = 0;
    for (int i = 0; out && i < 33 * 47 * 3; i++) wrong += out[i] != 200;
    CHECK(out && wrong == 0);
    free(out);
}

int main(void) {
    TEST(test_base64_reads_what_rfc_4648_writes);
    TEST(test_a_picture_becomes_pixels_and_gives_the_size);
    TEST(test_data_urls_and_the_other_alphabet_are_read);
    TEST(test_another_size_is_scaled_and_said);
    TEST(test_a_mask_repaints_where_it_is_white);
    TEST(test_what_is_no_picture_is_refused_by_name);
    TEST(test_a_bomb_is_refused_by_its_head);
    TEST(test_models_without_an_encoder_take_none);
    TEST(test_scaling_is_the_sum_in_double_precision);
    TEST(test_a_plain_picture_stays_plain);
    return TEST_END();
}
