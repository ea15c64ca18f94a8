/* test_openai_edit.c - OpenAI's edits: a form or JSON becomes a request that starts from a picture
 * and paints where its mask is clear. */
#include <png.h>

#include "tests/api/pictures.h"

#define TYPE "multipart/form-data; boundary=Y"

static void add(struct taca_buf *b, const char *name, const void *bytes, size_t len, bool file) {
    taca_buf_printf(b, "--Y\r\nContent-Disposition: form-data; name=\"%s\"%s\r\n\r\n", name,
                    file ? "; filename=\"a.png\"\r\nContent-Type: image/png" : "");
    taca_buf_put(b, bytes, len);
    taca_buf_puts(b, "\r\n");
}
static void text(struct taca_buf *b, const char *name, const char *value) {
    add(b, name, value, strlen(value), false);
}

/* A picture with a hole: clear where x < w / 4. */
static void paint_hole(struct taca_buf *out, int w, int h) {
    png_image img = {.version = PNG_IMAGE_VERSION,
                     .width = (png_uint_32)w,
                     .height = (png_uint_32)h,
                     .format = PNG_FORMAT_GA};
    uint8_t *px = calloc((size_t)w * (size_t)h, 2);
    png_alloc_size_t len = 1 << 20;
    taca_buf_init(out, 1 << 20);
    for (int i = 0; px && i < w * h; i++) px[2 * i + 1] = i % w < w / 4 ? 0 : 255;
    char *to = taca_buf_reserve(out, len);
    if (px && to && png_image_write_to_memory(&img, to, &len, 0, px, 0, NULL)) out->len = len;
    CHECK(out->len > 0);
    free(px);
}

static int edit(struct api_request *r, struct api_error *e, const char *type,
                const struct taca_buf *body) {
    struct api_limits limits;
    const struct api_source from = {API_OPENAI_EDIT, type, body->data, body->len, false};
    api_limits_init(&limits);
    *r = (struct api_request){0};
    *e = (struct api_error){0};
    const struct api_offer offer = {
        .limits = &limits, .n_models = 1, .models = {{demo.id, &demo, false}}};
    return api_request_read(r, &from, &offer, RANDOM_SEED, e);
}

/* A form with prompt and picture, `more` text fields by twos, and a mask if one is given. */
static int edit_form(struct api_request *r, struct api_error *e, const char *const *more,
                     const struct taca_buf *mask) {
    struct taca_buf png, body;
    paint_png(&png, 80, 64);
    taca_buf_init(&body, 1 << 22);
    text(&body, "prompt", "a cat");
    add(&body, "image", png.data, png.len, true);
    for (; more && *more; more += 2) text(&body, more[0], more[1]);
    if (mask) add(&body, "mask", mask->data, mask->len, true);
    taca_buf_puts(&body, "--Y--\r\n");
    int rc = edit(r, e, TYPE, &body);
    if (rc && rc != e->status) CHECK_INT(rc, e->status);
    taca_buf_finish(&png);
    taca_buf_finish(&body);
    return rc;
}

static void test_a_form_is_the_request_that_json_would_be(void) {
    static const char *const more[] = {"n",
                                       "2",
                                       "size",
                                       "96x64",
                                       "quality",
                                       "low",
                                       "stream",
                                       "true",
                                       "taca[scale]",
                                       "1.5",
                                       "seed",
                                       "7",
                                       "user",
                                       "12",
                                       "model",
                                       "demo",
                                       "cfg_scale",
                                       "2.5e0",
                                       "strength",
                                       "1",
                                       "loras",
                                       "[{\"id\":\"style\"}]",
                                       "x_y[]",
                                       "1",
                                       "x_y[]",
                                       "b",
                                       "style",
                                       "vivid",
                                       "partial_images",
                                       "3",
                                       "negative_prompt",
                                       "17",
                                       NULL};
    struct api_request r;
    struct api_error e;
    if (!CHECK(edit_form(&r, &e, more, NULL) == 0)) {
        printf("    %s\n", e.message);
        return;
    }
    CHECK(r.openai && r.edit && r.stream && r.n == 2 && r.previews == 3);
    CHECK(r.params.width_px == 96 && r.params.height_px == 64 && r.params.steps == 14);
    CHECK(r.params.taca.gamma == 1.5 && r.params.seed == 7 && r.params.cfg_scale == 2.5);
    CHECK(r.params.strength == 1 && r.params.n_loras == 1 && r.params.image && !r.params.mask);
    CHECK_STR(r.user, "12"); /* text stays text */
    CHECK_STR(r.params.negative_prompt, "17");
    CHECK_STR(r.ignored, "x_y, style");
    CHECK_INT(r.warnings, TACA_WARN_IMAGE_SCALED);
    api_request_finish(&r);
    static const char *const bare[] = {"size", "auto", NULL};
    CHECK_INT(edit_form(&r, &e, bare, NULL), 0);
    CHECK(r.params.width_px == 80 && r.params.height_px == 64 && r.warnings == 0);
    api_request_finish(&r);
}

static void test_what_is_clear_in_the_mask_is_painted(void) {
    struct taca_buf mask, png, body;
    struct api_request r;
    struct api_error e;
    paint_hole(&mask, 80, 64);
    if (CHECK(edit_form(&r, &e, NULL, &mask) == 0)) {
        int wrong = 0;
        for (int i = 0; i < 80 * 64; i++) wrong += r.params.mask[i] != (i % 80 < 20 ? 255 : 0);
        CHECK_INT(wrong, 0);
        api_request_finish(&r);
    }
    taca_buf_finish(&mask);
    paint_png(&png, 80, 64); /* nothing is clear, and nothing can be */
    CHECK_INT(edit_form(&r, &e, NULL, &png), 400);
    CHECK_STR(e.param, "mask");
    CHECK_HAS(e.message, "without transparency");
    taca_buf_finish(&png);
    paint_hole(&mask, 64, 64);
    CHECK_INT(edit_form(&r, &e, NULL, &mask), 400);
    CHECK_HAS(e.message, "mask has 64 x 64 pixels, its image 80 x 64");
    /* the same in JSON, as the API's other form has it */
    picture_body(&body, 64, 64, "");
    body.len--;
    taca_buf_puts(&body, ",\"mask\":{\"image_url\":\"data:image/png;base64,");
    api_base64(&body, mask.data, mask.len);
    taca_buf_puts(&body, "\"}}");
    if (CHECK(edit(&r, &e, "application/json", &body) == 0)) {
        CHECK(r.params.mask[15] == 255 && r.params.mask[16] == 0);
        api_request_finish(&r);
    }
    taca_buf_finish(&body);
    taca_buf_finish(&mask);
}

static void test_refusals_name_the_part(void) {
    static const struct {
        const char *more[5];
        int status;
        const char *code, *param, *says;
    } all[] = {
        {{"n", "99"}, 400, "invalid_n", "n", "in 1..8"},
        {{"n", "two"}, 400, "invalid_n", "n", "got a string"},
        {{"stream", "yes"}, 400, "invalid_stream", "stream", "true or false"},
        {{"prompt", "again"}, 400, "invalid_form", "prompt", "twice"},
        {{"taca[scale]", "99"}, 400, "invalid_taca", "taca.scale", "0..10"},
        {{"taca", "true", "taca[scale]", "1"}, 400, "invalid_form", "taca[scale]", "another form"},
        {{"taca[a][b]", "1"}, 400, "invalid_form", "taca[a][b]", "no known form"},
        {{"seed", "1,\"v\":2"}, 400, "invalid_seed", "seed", "got a string"},
        {{"seed", "1}"}, 400, "invalid_seed", "seed", "got a string"},
        {{"background", "transparent"}, 400, "invalid_background", "background", "opaque"},
        {{"model", "dall-e-2"}, 404, "model_not_found", "model", "demo"},
        {{"user", "\xFF"}, 400, "invalid_form", "user", "UTF-8"},
        {{"images", "7"}, 400, "invalid_image", "images", "must be a list"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_request r;
        struct api_error e;
        int rc = edit_form(&r, &e, all[i].more, NULL);
        CHECK_INT(rc, all[i].status);
        CHECK_STR(e.code, all[i].code);
        CHECK_STR(e.param, all[i].param);
        CHECK_HAS(e.message, all[i].says);
        if (!rc) api_request_finish(&r);
    }
}

static int edit_json(struct api_error *e, const char *body) {
    struct api_request r;
    struct taca_buf b;
    taca_buf_init(&b, 1 << 16);
    taca_buf_puts(&b, body);
    int rc = edit(&r, e, NULL, &b);
    if (!rc) api_request_finish(&r);
    taca_buf_finish(&b);
    return rc;
}

static void test_one_picture_is_edited_and_there_must_be_one(void) {
    struct api_request r;
    struct api_error e;
    struct taca_buf png, body;
    CHECK_INT(edit_json(&e, "{\"prompt\":\"x\"}"), 400);
    CHECK_STR(e.message, "image is required");
    CHECK_INT(edit_json(&e, "{\"prompt\":\"x\",\"image\":[]}"), 400);
    CHECK_HAS(e.message, "one picture");
    CHECK_INT(edit_json(&e, "{\"prompt\":\"x\",\"images\":[{\"image_url\":\"https://a.org/b\"}]}"),
              400);
    CHECK_STR(e.code, "url_not_allowed");
    CHECK_INT(edit_json(&e, "{\"prompt\":\"x\",\"images\":[{\"file_id\":\"file-1\"}]}"), 400);
    CHECK_HAS(e.message, "got an object");
    paint_png(&png, 80, 64);
    taca_buf_init(&body, 1 << 22);
    text(&body, "prompt", "x");
    add(&body, "image[]", png.data, png.len, true);
    size_t one = body.len;
    taca_buf_puts(&body, "--Y--");
    CHECK_INT(edit(&r, &e, TYPE, &body), 0);
    api_request_finish(&r);
    body.len = one;
    add(&body, "image[]", png.data, png.len, true);
    taca_buf_puts(&body, "--Y--");
    CHECK_INT(edit(&r, &e, TYPE, &body), 400);
    CHECK_STR(e.param, "image");
    CHECK_STR(e.message, "there is more than one image: 2 came, and this server edits one picture");
    taca_buf_finish(&body);
    taca_buf_finish(&png);
}

static void test_replies_speak_of_edits(void) {
    struct taca_buf b;
    struct api_request r = {
        .n = 1, .edit = true, .openai = true, .params = {.width_px = 64, .height_px = 32}};
    struct api_result_image img = {.width_px = 64, .height_px = 32, .bytes = "foo", .len = 3};
    struct api_progress p = {.step = 1, .steps = 2};
    taca_buf_init(&b, 1 << 16);
    api_openai_partial(&b, 1, &r, 0, &img);
    api_openai_completed(&b, 1, &r, &demo, &img);
    api_openai_queued(&b, &r, 1, 2);
    api_openai_progress(&b, &r, &p);
    static const char *const kinds[] = {"partial_image", "completed", "queued", "progress"};
    for (int i = 0; i < 4; i++) {
        char want[128];
        snprintf(want, sizeof want, "event: image_edit.%s\ndata: {\"type\":\"image_edit.%s\",",
                 kinds[i], kinds[i]);
        CHECK_HAS(b.data, want);
    }
    CHECK(!strstr(b.data, "image_generation"));
    CHECK_HAS(b.data, "\"input_tokens\":40,\"output_tokens\":8,\"total_tokens\":48");
    CHECK_HAS(b.data, "{\"text_tokens\":32,\"image_tokens\":8}");
    taca_buf_finish(&b);
}

int main(void) {
    TEST(test_a_form_is_the_request_that_json_would_be);
    TEST(test_what_is_clear_in_the_mask_is_painted);
    TEST(test_refusals_name_the_part);
    TEST(test_one_picture_is_edited_and_there_must_be_one);
    TEST(test_replies_speak_of_edits);
    return TEST_END();
}
