/* test_api_nomem.c - every allocation of ours and of jansson fails once, in turn: the answer is an
 * error with words, nothing leaks (the sanitizer build looks), and the last round succeeds. The
 * linker sends malloc, calloc and realloc of this program through the counter below. */
#include <jansson.h>

#include "api/jpeg.h"
#include "api/png.h"
#include "tests/api/pictures.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

enum { NEVER = 1 << 30 };
static int left = NEVER, refusals;
static bool once; /* one allocation fails, those behind it do not */

static bool spend(void) {
    bool fine = once ? left != 0 : left > 0;
    left--;
    refusals += !fine;
    return fine;
}
void *__wrap_malloc(size_t n) { return spend() ? __real_malloc(n) : NULL; }
void *__wrap_calloc(size_t n, size_t size) { return spend() ? __real_calloc(n, size) : NULL; }
void *__wrap_realloc(void *p, size_t n) { return spend() ? __real_realloc(p, n) : NULL; }

static void give(int allocations) {
    left = allocations;
    refusals = 0;
}
/* How many were refused since give(); allocation works again. */
static int taken(void) {
    left = NEVER;
    return refusals;
}

static void test_parsing_answers_503(void) {
    static const char body[] =
        "{\"prompt\":\"a \\u00e9 cat\",\"negative_prompt\":\"no\",\"user\":\"u\",\"seed\":7,"
        "\"taca\":{\"scale\":1.2,\"steps\":[0,3]},\"previews\":{\"every\":5},\"steps\":2.5e1}";
    int n, rc = -1;
    json_set_alloc_funcs(malloc, free);
    for (n = 0; rc != 0 && n < 500; n++) {
        struct api_request r;
        struct api_error e;
        give(n);
        rc = parse(&r, &e, body);
        int refused = taken();
        /* jansson reports a failed allocation in the middle of a value as bad JSON at worst */
        CHECK(rc == 0 ? refused == 0 : refused > 0 && (rc == 503 || rc == 400));
        CHECK(rc == 0 || e.message[0]);
        api_request_finish(&r);
    }
    CHECK(rc == 0 && n > 20);
}

static void test_adapters_answer_503(void) {
    static const char body[] = "{\"prompt\":\"x\",\"loras\":[{\"id\":\"style\",\"scale\":0.5}],"
                               "\"taca\":{\"lora\":\"hand\"}}";
    struct taca_model_info m = demo;
    struct api_limits limits;
    int n, rc = -1;
    m.n_loras = 2;
    memcpy(m.loras[0].id, "style", 6);
    memcpy(m.loras[1].id, "hand", 5);
    api_limits_init(&limits);
    for (n = 0; rc != 0 && n < 500; n++) {
        struct api_request r = {0};
        struct api_error e = {0};
        give(n);
        rc = api_request_parse(&r, body, sizeof body - 1, &m, &limits, 1, &e);
        int refused = taken();
        CHECK(rc == 0 ? refused == 0 && r.params.n_loras == 2
                      : refused > 0 && (rc == 503 || rc == 400));
        api_request_finish(&r);
    }
    CHECK(rc == 0 && n > 10);
}

static void test_pictures_answer_503(void) {
    struct taca_buf body;
    int n, rc = -1;
    picture_body(&body, 20, 20, "\"size\":\"64x64\",");
    for (n = 0; rc != 0 && n < 500; n++) {
        struct api_request r;
        struct api_error e;
        give(n);
        rc = parse_bytes(&r, &e, body.data, body.len);
        int refused = taken();
        CHECK(rc == 0 ? refused == 0 && r.params.image : refused > 0 && (rc == 503 || rc == 400));
        api_request_finish(&r);
    }
    CHECK(rc == 0 && n > 20);
    taca_buf_finish(&body);
}

/* One failure in the middle must not leave a request that is another one. */
static void sweep(const struct api_source *from, int n_loras, const char *notes) {
    struct api_limits limits;
    const struct api_offer offer = {
        .limits = &limits, .n_models = 1, .models = {{demo.id, &demo, false}}};
    int rc = -1, n;
    api_limits_init(&limits);
    once = true;
    for (n = 0; n < 2000; n++) {
        struct api_request r = {0};
        struct api_error e = {0};
        give(n);
        rc = api_request_read(&r, from, &offer, 1, &e);
        int refused = taken();
        CHECK(rc == 0 || (refused > 0 && (rc == 503 || rc == 400) && e.message[0]));
        CHECK(rc || (r.params.n_loras == n_loras && (!notes || strcmp(r.notes, notes) == 0)));
        if (!rc) api_request_finish(&r);
        if (!rc && refused == 0) break;
    }
    CHECK(rc == 0 && n > 20);
    once = false;
}

static void test_dialects_of_others_answer_503(void) {
    static const char text[] =
        "{\"prompt\":\"a <lora:style:0.5> cat\",\"sampler_name\":\"DPM++ SDE\",\"styles\":[],"
        "\"n_iter\":2,\"foo\":1,\"override_settings\":{\"sd_model_checkpoint\":\"demo\"}}";
    struct taca_buf png, body;
    sweep(&(struct api_source){API_A1111, NULL, text, strlen(text), false}, 1,
          "\"sampler DPM++ SDE is not here: dpmpp_2m was used\"");
    paint_png(&png, 64, 64);
    taca_buf_init(&body, 1 << 20);
    taca_buf_puts(&body, "{\"prompt\":\"x\",\"init_images\":[\"");
    api_base64(&body, png.data, png.len);
    taca_buf_puts(&body, "\"]}");
    sweep(&(struct api_source){API_A1111_IMAGE, NULL, body.data, body.len, false}, 0, NULL);
    body.len = 0;
    taca_buf_puts(
        &body, "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nx\r\n--b\r\n"
               "Content-Disposition: form-data; name=\"loras\"\r\n\r\n[{\"id\":\"style\"}]\r\n"
               "--b\r\nContent-Disposition: form-data; name=\"taca[scale]\"\r\n\r\n1.5\r\n--b\r\n"
               "Content-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n");
    taca_buf_put(&body, png.data, png.len);
    taca_buf_puts(&body, "\r\n--b--");
    sweep(&(struct api_source){API_OPENAI_EDIT, "multipart/form-data; boundary=b", body.data,
                               body.len, false},
          1, NULL);
    taca_buf_finish(&body);
    taca_buf_finish(&png);
}

static void test_replies_set_the_buffers_flag(void) {
    struct api_request r = {.n = 1, .params = {.prompt = "x"}};
    struct api_result_image img = {.width_px = 8, .height_px = 8, .bytes = "foo", .len = 3};
    struct api_timings t = {.total_ms = 1};
    struct api_limits l;
    struct api_error e = {.status = 500, .code = "internal", .message = "m"};
    bool failed = true;
    api_limits_init(&l);
    for (int n = 0; failed && n < 100; n++) {
        struct taca_buf b;
        taca_buf_init(&b, 1 << 20);
        give(n);
        api_reply_json(&b, "id", 1, &r, &demo, &img, 1, &t, 7);
        api_event_error(&b, 1, "id", &e);
        api_event_image(&b, 2, "id", &img);
        api_capabilities_json(&b, &l, &demo, NULL, 0);
        failed = b.failed;
        CHECK(failed == (taken() > 0));
        taca_buf_finish(&b);
    }
    CHECK(!failed);
}

typedef enum taca_code image_writer(struct taca_buf *out, const struct taca_image *img, int how,
                                    const struct api_image_text *texts, int n_texts,
                                    struct taca_err *err);

/* A file of more than `least` bytes, or none. */
static void sweep_writer(image_writer *write, int how, size_t least) {
    static uint8_t px[64 * 64 * 3];
    struct taca_image img = {.width_px = 64, .height_px = 64, .rgb = px};
    struct api_image_text texts[] = {{"parameters", "x"}, {"taca", "\xE7\x8C\xAB"}};
    enum taca_code rc = TACA_ENOMEM;
    for (int n = 0; rc && n < 100; n++) {
        struct taca_buf b;
        struct taca_err err = {0};
        taca_buf_init(&b, 1 << 20);
        give(n);
        rc = write(&b, &img, how, texts, 2, &err);
        CHECK((rc != TACA_OK) == (taken() > 0));
        CHECK(rc == TACA_OK ? b.len > least : b.len == 0 && err.text[0]);
        taca_buf_finish(&b);
    }
    CHECK_INT(rc, TACA_OK);
}

static void test_a_png_is_whole_or_absent(void) { sweep_writer(api_png_write, 0, 64 * 64 * 3); }

/* libjpeg's own memory is not counted: what is ours are the buffers. */
static void test_a_jpeg_is_whole_or_absent(void) { sweep_writer(api_jpeg_write, 100, 200); }

int main(void) {
    TEST(test_parsing_answers_503);
    TEST(test_adapters_answer_503);
    TEST(test_pictures_answer_503);
    TEST(test_dialects_of_others_answer_503);
    TEST(test_replies_set_the_buffers_flag);
    TEST(test_a_png_is_whole_or_absent);
    TEST(test_a_jpeg_is_whole_or_absent);
    return TEST_END();
}
