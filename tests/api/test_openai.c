/* test_openai.c - OpenAI's fields to ours, and results in OpenAI's words. */
#include <jansson.h>

#include "tests/api/common.h"

static int parse_openai(struct api_request *r, struct api_error *e, const char *members) {
    char body[4096];
    struct api_limits limits;
    api_limits_init(&limits);
    *r = (struct api_request){0};
    *e = (struct api_error){0};
    snprintf(body, sizeof body, "{\"prompt\":\"a cat\"%s}", members);
    return api_request_parse_openai(r, body, strlen(body), &demo, &limits, RANDOM_SEED, e);
}

static void test_fields_mean_what_they_mean_there(void) {
    struct api_request r;
    struct api_error e;
    enum api_reply reply;
    CHECK_INT(parse_openai(&r, &e, ""), 0);
    CHECK(r.openai && r.n == 1 && r.params.steps == 28 && !r.ignored && !r.stream);
    CHECK_STR(r.quality, "auto");
    CHECK_INT(api_negotiate(&reply, "image/png", &r, &e), 0);
    CHECK_INT(reply, API_REPLY_JSON); /* whatever Accept says */
    api_request_finish(&r);
    CHECK_INT(parse_openai(&r, &e,
                           ",\"size\":\"auto\",\"quality\":\"low\",\"background\":\"auto\","
                           "\"style\":\"vivid\",\"moderation\":\"low\",\"x_y\":[1],\"user\":\"u\","
                           "\"output_compression\":50,\"stream\":true,\"partial_images\":3,"
                           "\"seed\":7,\"taca\":true,\"negative_prompt\":\"no\",\"model\":null"),
              0);
    CHECK(r.params.steps == 14 && r.previews == 3 && r.params.seed == 7 && r.stream);
    CHECK_STR(r.ignored, "style, moderation, x_y, output_compression");
    CHECK_STR(r.user, "u");
    CHECK_STR(r.params.negative_prompt, "no");
    CHECK_INT(api_negotiate(&reply, "image/jpeg", &r, &e), 0);
    CHECK_INT(reply, API_REPLY_EVENTS);
    CHECK_INT(r.file.format, API_PNG);
    api_request_finish(&r);
    CHECK_INT(parse_openai(&r, &e, ",\"output_compression\":50,\"output_format\":\"jpeg\""), 0);
    CHECK_INT(api_negotiate(&reply, "application/json", &r, &e), 0);
    CHECK(r.file.format == API_JPEG && r.file.quality == 50 && !r.ignored);
    api_request_finish(&r);
    CHECK_INT(parse_openai(&r, &e, ",\"quality\":\"hd\",\"size\":\"64x96\""), 0);
    CHECK(r.params.steps == 42 && r.params.width_px == 64 && r.params.height_px == 96);
    api_request_finish(&r);
    CHECK_INT(parse_openai(&r, &e, ",\"quality\":\"hd\",\"num_inference_steps\":3"), 0);
    CHECK(r.params.steps == 3);
    api_request_finish(&r);
}

static void test_names_that_cannot_stand_in_a_header_are_left_out(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(parse_openai(&r, &e, ",\"a b\":1,\"x\\r\\nSet-Cookie: a\":1,\"ok\":1,\"\":2"), 0);
    CHECK_STR(r.ignored, "ok");
    api_request_finish(&r);
    char many[4000] = "";
    for (int i = 0; i < 100; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), ",\"unknown_field_%d\":1", i);
    CHECK_INT(parse_openai(&r, &e, many), 0);
    CHECK(r.ignored && strlen(r.ignored) < 256);
    api_request_finish(&r);
}

static void test_what_is_wrong_is_refused(void) {
    static const struct {
        const char *members, *code, *param;
    } bad[] = {
        {",\"quality\":\"best\"", "invalid_quality", "quality"},
        {",\"quality\":1", "invalid_quality", "quality"},
        {",\"background\":\"transparent\"", "invalid_background", "background"},
        {",\"partial_images\":4", "invalid_partial_images", "partial_images"},
        {",\"partial_images\":{}", "invalid_partial_images", "partial_images"},
        {",\"response_format\":\"binary\"", "invalid_response_format", "response_format"},
        {",\"progress_events\":1", "invalid_progress_events", "progress_events"},
        {",\"size\":\"100x100\"", "size_not_multiple", "size"},
        {",\"output_compression\":101", "invalid_output_compression", "output_compression"},
        {",\"output_compression\":\"low\"", "invalid_output_compression", "output_compression"},
        {",\"output_format\":\"webp\"", "invalid_output_format", "output_format"},
        {",\"mask\":\"x\"", "invalid_mask", "mask"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct api_request r;
        struct api_error e;
        CHECK_INT(parse_openai(&r, &e, bad[i].members), 400);
        CHECK_STR(e.code, bad[i].code);
        CHECK_STR(e.param, bad[i].param);
    }
}

static json_t *data_of(const struct taca_buf *frame) {
    const char *data = strstr(frame->data, "data: ");
    json_error_t why;
    return data ? json_loads(data + 6, JSON_DISABLE_EOF_CHECK, &why) : NULL;
}

static const char *text(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "(none)";
}

static void test_results(void) {
    struct api_request r;
    struct api_error e;
    struct taca_buf b;
    json_error_t why;
    const struct api_result_image images[] = {
        {.index = 0, .seed = 7, .width_px = 128, .height_px = 128, .bytes = "PNG", .len = 3},
        {.index = 1, .seed = 8, .url_prefix = "http://h/v1/jobs/j/images/", .event_id = 12}};
    CHECK_INT(parse_openai(&r, &e, ",\"n\":2"), 0);
    taca_buf_init(&b, 1 << 16);
    api_openai_json(&b, 1785000000, &r, &demo, images);
    json_t *root = json_loads(b.data, 0, &why);
    json_t *data = json_object_get(root, "data"), *usage = json_object_get(root, "usage");
    CHECK_INT(json_array_size(data), 2);
    CHECK_STR(text(json_array_get(data, 0), "b64_json"), "UE5H");
    CHECK_STR(text(json_array_get(data, 1), "url"), "http://h/v1/jobs/j/images/1");
    CHECK_STR(text(root, "size"), "128x128");
    CHECK_INT(json_integer_value(json_object_get(usage, "input_tokens")), 32);
    CHECK_INT(json_integer_value(json_object_get(usage, "output_tokens")), 128); /* 2 of 8 x 8 */
    CHECK_INT(json_integer_value(json_object_get(usage, "total_tokens")), 160);
    json_decref(root);
    taca_buf_reset(&b);
    api_openai_completed(&b, 1785000003, &r, &demo, &images[1]);
    CHECK(strncmp(b.data, "event: image_generation.completed\ndata: {", 41) == 0);
    root = data_of(&b);
    CHECK_STR(text(root, "type"), "image_generation.completed");
    CHECK_INT(json_integer_value(json_object_get(json_object_get(root, "usage"), "output_tokens")),
              64);
    json_decref(root);
    taca_buf_reset(&b);
    api_openai_partial(&b, 1785000001, &r, 2, &images[0]);
    root = data_of(&b);
    CHECK_STR(text(root, "type"), "image_generation.partial_image");
    CHECK_INT(json_integer_value(json_object_get(root, "partial_image_index")), 2);
    CHECK_STR(text(root, "b64_json"), "UE5H");
    json_decref(root);
    taca_buf_finish(&b);
    api_request_finish(&r);
}

static void test_the_job_object(void) {
    struct taca_buf b;
    json_error_t why;
    struct api_error e = {0};
    const struct api_timings t = {.queue_ms = 1};
    const struct api_result_image image = {.seed = 7, .width_px = 8, .height_px = 8};
    struct api_job j = {.id = "j",
                        .status = "queued",
                        .base = "http://h",
                        .created_s = 5,
                        .position = 2,
                        .eta_ms = 10,
                        .n = 1,
                        .timings = &t};
    taca_buf_init(&b, 1 << 16);
    api_job_json(&b, &j);
    json_t *root = json_loads(b.data, 0, &why);
    CHECK_INT(json_object_size(root), 10);
    CHECK(json_is_null(json_object_get(root, "result")));
    CHECK(json_is_null(json_object_get(root, "error")));
    CHECK_STR(text(json_object_get(root, "urls"), "events"), "http://h/v1/jobs/j/events");
    json_decref(root);
    taca_buf_reset(&b);
    api_fail(&e, 504, "start_timeout", "start_timeout_ms", "not \"started\"");
    j.status = "failed";
    j.error = &e;
    j.images = &image;
    j.position = 0;
    j.eta_ms = -1;
    api_job_json(&b, &j);
    root = json_loads(b.data, 0, &why);
    CHECK_STR(text(json_object_get(root, "error"), "code"), "start_timeout");
    CHECK_STR(text(json_object_get(root, "error"), "message"), "not \"started\"");
    CHECK(json_is_null(json_object_get(root, "position")));
    CHECK(json_is_null(json_object_get(root, "eta_ms")));
    json_t *list = json_object_get(json_object_get(root, "result"), "images");
    CHECK_STR(text(json_array_get(list, 0), "url"), "http://h/v1/jobs/j/images/0");
    json_decref(root);
    taca_buf_finish(&b);
}

int main(void) {
    TEST(test_fields_mean_what_they_mean_there);
    TEST(test_names_that_cannot_stand_in_a_header_are_left_out);
    TEST(test_what_is_wrong_is_refused);
    TEST(test_results);
    TEST(test_the_job_object);
    return TEST_END();
}
