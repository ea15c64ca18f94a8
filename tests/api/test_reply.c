/* test_reply.c - the exact text of replies, events and errors, and base64 by RFC 4648's vectors. */
#include <jansson.h>

#include "tests/api/common.h"

static struct taca_buf out;

static void begin(void) {
    taca_buf_finish(&out);
    taca_buf_init(&out, 1 << 20);
}

static void test_base64_vectors_of_the_rfc(void) {
    static const char *const all[][2] = {{"", ""},
                                         {"f", "Zg=="},
                                         {"fo", "Zm8="},
                                         {"foo", "Zm9v"},
                                         {"foob", "Zm9vYg=="},
                                         {"fooba", "Zm9vYmE="},
                                         {"foobar", "Zm9vYmFy"},
                                         {"\xFB\xFF\xFE", "+//+"},
                                         {"\xFF", "/w=="}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        begin();
        taca_buf_puts(&out, "<");
        api_base64(&out, all[i][0], strlen(all[i][0]));
        taca_buf_puts(&out, ">");
        char want[32];
        snprintf(want, sizeof want, "<%s>", all[i][1]);
        CHECK_STR(out.data, want);
    }
}

/* The inverse, written for the test. */
static size_t decode(uint8_t *to, const char *s) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    for (; s[0]; s += 4) {
        unsigned v = 0;
        int pad = (s[2] == '=') + (s[3] == '=');
        for (int i = 0; i < 4; i++)
            v = v << 6 | (s[i] == '=' ? 0 : (unsigned)(strchr(digit, s[i]) - digit));
        for (int i = 0; i < 3 - pad; i++) to[n++] = (uint8_t)(v >> (16 - 8 * i));
    }
    return n;
}

static void test_base64_of_every_length_and_byte_reads_back(void) {
    uint8_t bytes[512], back[512];
    for (int i = 0; i < 512; i++) bytes[i] = (uint8_t)(i * 7 + i / 256);
    for (size_t len = 0; len <= sizeof bytes; len++) {
        begin();
        api_base64(&out, bytes, len);
        CHECK_INT(out.len, (len + 2) / 3 * 4);
        if (len) CHECK_INT(decode(back, out.data), len);
        CHECK(len == 0 || memcmp(bytes, back, len) == 0);
    }
}

static void test_base64_over_the_buffers_limit_fails_it(void) {
    struct taca_buf small;
    taca_buf_init(&small, 7);
    api_base64(&small, "foobar", 6);
    CHECK(small.failed && small.len == 0);
    taca_buf_finish(&small);
}

static const struct api_timings timings = {.queue_ms = 1.5,
                                           .text_ms = 12,
                                           .denoise_ms = 345.6784,
                                           .vae_ms = 20.25,
                                           .encode_ms = 3,
                                           .total_ms = 382.4284};

static void test_a_reply_to_the_letter(void) {
    struct api_request r;
    struct api_error e;
    struct api_result_image images[2] = {
        {.index = 0, .seed = 7, .width_px = 128, .height_px = 64, .bytes = "foo", .len = 3},
        {.index = 1,
         .seed = 8,
         .width_px = 128,
         .height_px = 64,
         .bytes = "fo",
         .len = 2,
         .format = API_JPEG}};
    CHECK_INT(parse_with(&r, &e, "\"n\":2,\"seed\":7,\"taca\":true"), 0);
    begin();
    api_reply_json(&out, "00ff", 1785000000, &r, &demo, images, 2, &timings,
                   TACA_WARN_NEGATIVE_IGNORED);
    CHECK_STR(
        out.data,
        "{\"id\":\"00ff\",\"created\":1785000000,\"model\":\"demo\",\"images\":["
        "{\"index\":0,\"seed\":7,\"format\":\"png\",\"width\":128,\"height\":64,"
        "\"b64_json\":\"Zm9v\"},"
        "{\"index\":1,\"seed\":8,\"format\":\"jpeg\",\"width\":128,\"height\":64,"
        "\"b64_json\":\"Zm8=\"}],"
        "\"timings\":{\"queue_ms\":1.5,\"text_ms\":12,\"denoise_ms\":345.678,\"vae_ms\":20.25,"
        "\"encode_ms\":3,\"total_ms\":382.428},"
        "\"warnings\":[{\"code\":\"negative_ignored\",\"message\":\"the negative prompt was "
        "ignored: it acts only when cfg_scale is above 1\"}],"
        "\"taca\":{\"scale\":1.2,\"fraction\":0.1}}");
    api_request_finish(&r);
}

static void test_warnings(void) {
    begin();
    api_warnings_json(&out, 0);
    CHECK_STR(out.data, "[]");
    begin();
    api_warnings_json(&out, TACA_WARN_PROMPT_CUT | TACA_WARN_NEGATIVE_CUT);
    CHECK_STR(out.data, "[{\"code\":\"prompt_cut\",\"message\":\"the prompt has more tokens than "
                        "the text encoder takes; the rest was ignored\"},"
                        "{\"code\":\"negative_cut\",\"message\":\"the negative prompt has more "
                        "tokens than the text encoder takes; the rest was ignored\"}]");
    begin();
    api_warnings_json(&out, TACA_WARN_CLIP_CUT);
    CHECK_STR(out.data, "[{\"code\":\"clip_cut\",\"message\":\"the CLIP encoder takes only the "
                        "start of a prompt; T5 reads all of it\"}]");
}

static void test_every_event_to_the_letter(void) {
    struct api_result_image img = {
        .index = 1, .seed = 8, .width_px = 128, .height_px = 64, .bytes = "foo", .len = 3};
    struct api_progress p = {.index = 1,
                             .step = 3,
                             .steps = 28,
                             .elapsed_ms = 10.5,
                             .eta_ms = 90,
                             .batch = 4,
                             .batch_tokens = 1024};
    struct api_error e = {0};
    begin();
    api_event_queued(&out, 1, "ab", 1785000000, 2, 1234.5);
    CHECK_STR(out.data, "id: 1\nevent: queued\ndata: {\"type\":\"queued\",\"id\":\"ab\","
                        "\"created\":1785000000,\"position\":2,\"eta_ms\":1234.5}\n\n");
    begin();
    api_event_queued(&out, 1, "ab", 1785000000, 0, -1); /* not known yet */
    CHECK_HAS(out.data, "\"position\":0,\"eta_ms\":null}\n\n");
    begin();
    api_event_started(&out, 2, "ab", 0.25, "demo", 28);
    CHECK_STR(out.data, "id: 2\nevent: started\ndata: {\"type\":\"started\",\"id\":\"ab\","
                        "\"queue_ms\":0.25,\"model\":\"demo\",\"steps\":28}\n\n");
    begin();
    api_event_progress(&out, 3, "ab", &p);
    CHECK_STR(out.data, "id: 3\nevent: progress\ndata: {\"type\":\"progress\",\"id\":\"ab\","
                        "\"index\":1,\"step\":3,\"steps\":28,\"elapsed_ms\":10.5,\"eta_ms\":90,"
                        "\"batch\":4,\"batch_tokens\":1024}\n\n");
    begin();
    api_event_preview(&out, 4, "ab", 3, 0, &img);
    CHECK_STR(out.data, "id: 4\nevent: preview\ndata: {\"type\":\"preview\",\"id\":\"ab\","
                        "\"index\":1,\"step\":3,\"partial_image_index\":0,\"format\":\"png\","
                        "\"width\":128,\"height\":64,\"b64_json\":\"Zm9v\"}\n\n");
    begin();
    api_event_image(&out, 5, "ab", &img);
    CHECK_STR(out.data, "id: 5\nevent: image\ndata: {\"type\":\"image\",\"id\":\"ab\","
                        "\"index\":1,\"seed\":8,\"format\":\"png\",\"width\":128,\"height\":64,"
                        "\"b64_json\":\"Zm9v\"}\n\n");
    begin();
    api_event_completed(&out, 18446744073709551615u, "ab", 1785000001, &timings, 0, 2);
    CHECK_STR(out.data, "id: 18446744073709551615\nevent: completed\ndata: {\"type\":\"completed\","
                        "\"id\":\"ab\",\"created_at\":1785000001,\"timings\":{\"queue_ms\":1.5,"
                        "\"text_ms\":12,\"denoise_ms\":345.678,\"vae_ms\":20.25,\"encode_ms\":3,"
                        "\"total_ms\":382.428},\"warnings\":[],\"usage\":{\"images\":2}}\n\n");
    begin();
    api_event_cancelled(&out, 7, "ab", "disconnect");
    CHECK_STR(out.data, "id: 7\nevent: cancelled\ndata: {\"type\":\"cancelled\",\"id\":\"ab\","
                        "\"reason\":\"disconnect\"}\n\n");
    api_fail(&e, 503, "draining", NULL, "the server is going away");
    begin();
    api_event_error(&out, 8, "ab", &e);
    CHECK_STR(out.data, "id: 8\nevent: error\ndata: {\"type\":\"error\",\"id\":\"ab\",\"error\":"
                        "{\"message\":\"the server is going away\",\"type\":\"server_error\","
                        "\"param\":null,\"code\":\"draining\"}}\n\n");
    begin();
    api_event_retrying(&out, 9, "ab", 2, "worker_lost");
    CHECK_STR(out.data, "id: 9\nevent: retrying\ndata: {\"type\":\"retrying\",\"id\":\"ab\","
                        "\"attempt\":2,\"reason\":\"worker_lost\"}\n\n");
}

static void test_no_text_can_break_out_of_its_frame(void) {
    struct api_error e = {0};
    char evil[1024] = "";
    for (int i = 0; i < 100; i++) strncat(evil, "\n\r\xE2\x80\xA8\x01", 7);
    api_fail(&e, 500, "internal", NULL, "%s", evil);
    begin();
    api_event_error(&out, 1, "a\nb", &e);
    CHECK(!out.failed);
    CHECK_INT(strcspn(strstr(out.data, "data:"), "\n") + 2, strlen(strstr(out.data, "data:")));
    CHECK(!strchr(out.data, '\r') && !strstr(out.data, "\xE2\x80\xA8"));
    CHECK_HAS(out.data, "\"id\":\"a\\nb\"");
}

static void test_numbers_that_are_none_do_not_reach_json(void) {
    struct api_timings t = {.queue_ms = (double)NAN, .text_ms = (double)INFINITY, .total_ms = -1};
    begin();
    api_event_completed(&out, 1, "ab", 1, &t, 0, 1);
    CHECK_HAS(out.data, "\"queue_ms\":null,\"text_ms\":null,\"denoise_ms\":0,");
    CHECK_HAS(out.data, "\"total_ms\":null}");
}

static void test_errors_keep_the_first_message_and_all_four_keys(void) {
    struct api_error e = {0};
    CHECK_INT(api_fail(&e, 400, "invalid_width", "width", "width is \"%d\"", 7), 400);
    CHECK_INT(api_fail(&e, 500, "internal", NULL, "later"), 400);
    begin();
    api_error_json(&out, &e);
    CHECK_STR(out.data, "{\"error\":{\"message\":\"width is \\\"7\\\"\",\"type\":"
                        "\"invalid_request_error\",\"param\":\"width\",\"code\":"
                        "\"invalid_width\"}}");
}

static void test_error_types_follow_the_status(void) {
    CHECK_STR(api_error_type(400), "invalid_request_error");
    CHECK_STR(api_error_type(401), "authentication_error");
    CHECK_STR(api_error_type(403), "invalid_request_error");
    CHECK_STR(api_error_type(406), "invalid_request_error");
    CHECK_STR(api_error_type(429), "rate_limit_error");
    CHECK_STR(api_error_type(500), "server_error");
    CHECK_STR(api_error_type(504), "server_error");
}

static void test_engine_failures_become_http_errors(void) {
    static const struct {
        enum taca_code code;
        int status;
        const char *name;
    } all[] = {{TACA_ENOMEM, 503, "gpu_oom"},       {TACA_ENUMERIC, 500, "numerical_error"},
               {TACA_EDEVICE, 500, "cuda_error"},   {TACA_EIO, 500, "internal"},
               {TACA_EINTERNAL, 500, "internal"},   {TACA_EFORMAT, 500, "internal"},
               {TACA_EUNSUPPORTED, 500, "internal"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct taca_err why = {0};
        struct api_error e = {0};
        taca_fail(&why, all[i].code, "/secret/path: broken");
        api_error_from(&e, &why);
        CHECK_INT(e.status, all[i].status);
        CHECK_STR(e.code, all[i].name);
        if (strcmp(e.code, "internal") == 0) CHECK(!strstr(e.message, "secret"));
        CHECK(e.status != 503 || e.retry_after_s > 0);
    }
    struct taca_err why = {0};
    struct api_error e = {0};
    taca_fail_param(&why, "taca.scale", "taca.scale must be in 0..10, got 11");
    api_error_from(&e, &why);
    CHECK_INT(e.status, 400);
    CHECK_STR(e.code, "invalid_taca");
    CHECK_STR(e.param, "taca.scale");
    CHECK_STR(e.message, "taca.scale must be in 0..10, got 11");
}

static void test_the_model_list(void) {
    const struct api_model list[] = {{"demo", "ready", NULL, &demo, 2, 1785000000},
                                     {"big", "failed", "no \"memory\"", NULL, 0, 0}};
    begin();
    api_models_json(&out, list, 1);
    CHECK_STR(out.data, "{\"object\":\"list\",\"data\":[{\"id\":\"demo\",\"object\":\"model\","
                        "\"created\":1785000000,\"owned_by\":\"taca\",\"state\":\"ready\","
                        "\"workers\":2,\"family\":\"sd3\",\"backend\":\"cpu\","
                        "\"precision\":\"f32\",\"parameters\":12345678}]}");
    begin();
    api_models_json(&out, list, 2);
    CHECK_HAS(out.data,
              "},{\"id\":\"big\",\"object\":\"model\",\"created\":0,\"owned_by\":\"taca\","
              "\"state\":\"failed\",\"workers\":0,\"error\":\"no \\\"memory\\\"\"}]}");
}

static json_t *at(json_t *o, const char *path) {
    char name[64];
    for (; o && *path; path += *path == '/') {
        size_t n = strcspn(path, "/");
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        o = json_object_get(o, name);
        path += n;
    }
    return o;
}

static void test_capabilities_show_the_limits_in_force(void) {
    struct api_limits l;
    api_limits_init(&l);
    l.max_steps = 50;
    l.max_side_px = 512;
    begin();
    api_capabilities_json(&out, &l, &demo, NULL, 0);
    json_t *root = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
    if (!CHECK(root != NULL)) return;
    CHECK_INT(json_integer_value(at(root, "limits/max_steps")), 50);
    CHECK_INT(json_integer_value(at(root, "limits/max_body_bytes")), 20971520);
    CHECK_INT(json_integer_value(at(root, "parameters/steps/max")), 50);
    CHECK_INT(json_integer_value(at(root, "parameters/steps/default")), 28);
    CHECK_STR(json_string_value(at(root, "parameters/steps/alias")), "num_inference_steps");
    CHECK_INT(json_integer_value(at(root, "parameters/width/min")), 64);
    CHECK_INT(json_integer_value(at(root, "parameters/width/max")), 512);
    CHECK_INT(json_integer_value(at(root, "parameters/prompt/max_bytes")), 8192);
    CHECK_INT(json_integer_value(at(root, "parameters/seed/max")), (INT64_C(1) << 53) - 1);
    CHECK(json_is_true(at(root, "parameters/metadata/default")));
    CHECK(json_is_null(at(root, "parameters/shift/default")));
    CHECK_INT(json_array_size(at(root, "parameters/output_format/values")), 2);
    CHECK(json_is_null(at(root, "parameters/output_format/default"))); /* Accept may say */
    CHECK_INT(json_integer_value(at(root, "parameters/output_compression/max")), 100);
    CHECK_INT(json_integer_value(at(root, "parameters/output_compression/default")), 100);
    CHECK_INT(json_integer_value(at(root, "parameters/png_level/default")), 3);
    CHECK_INT(json_array_size(at(root, "parameters/response_format/values")), 3);
    CHECK(at(root, "parameters/webhook") == NULL);
    CHECK_STR(json_string_value(at(root, "model/id")), "demo");
    CHECK(json_number_value(at(root, "taca/default/scale")) == 1.2);
    json_decref(root);
}

static void test_capabilities_tell_of_every_model(void) {
    struct api_limits l;
    struct taca_model_info flux = demo;
    const struct taca_model_info *all[] = {&demo, &flux};
    api_limits_init(&l);
    snprintf(flux.id, sizeof flux.id, "flux");
    flux.default_steps = 4;
    flux.default_cfg_scale = 1;
    flux.guidance_embeds = true;
    flux.default_guidance_scale = 3.5;
    flux.side_multiple_px = 32;
    flux.takes_images = false;
    begin();
    api_capabilities_json(&out, &l, &demo, all, 2);
    json_t *root = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
    if (!CHECK(root != NULL)) return;
    json_t *models = at(root, "models"), *first = json_array_get(models, 0),
           *second = json_array_get(models, 1);
    CHECK_INT(json_array_size(models), 2);
    const char *key;
    json_t *v;
    json_object_foreach(first, key, v) CHECK(json_equal(v, at(root, key)));
    CHECK(at(first, "replies") && at(first, "previews") && at(first, "loras/available"));
    CHECK(at(root, "parameters/guidance_scale") == NULL && at(first, "limits") == NULL);
    CHECK_STR(json_string_value(at(second, "model/id")), "flux");
    CHECK_INT(json_integer_value(at(second, "model/side_multiple_px")), 32);
    CHECK_INT(json_integer_value(at(second, "parameters/steps/default")), 4);
    CHECK(json_number_value(at(second, "parameters/cfg_scale/default")) == 1);
    CHECK(json_number_value(at(second, "parameters/guidance_scale/default")) == 3.5);
    CHECK(json_is_true(at(first, "images/inpaint")) && at(first, "parameters/mask"));
    CHECK(json_is_false(at(second, "images/inpaint")) && !at(second, "parameters/mask"));
    json_decref(root);
}

int main(void) {
    TEST(test_base64_vectors_of_the_rfc);
    TEST(test_base64_of_every_length_and_byte_reads_back);
    TEST(test_base64_over_the_buffers_limit_fails_it);
    TEST(test_a_reply_to_the_letter);
    TEST(test_warnings);
    TEST(test_every_event_to_the_letter);
    TEST(test_no_text_can_break_out_of_its_frame);
    TEST(test_numbers_that_are_none_do_not_reach_json);
    TEST(test_errors_keep_the_first_message_and_all_four_keys);
    TEST(test_error_types_follow_the_status);
    TEST(test_engine_failures_become_http_errors);
    TEST(test_the_model_list);
    TEST(test_capabilities_show_the_limits_in_force);
    TEST(test_capabilities_tell_of_every_model);
    taca_buf_finish(&out);
    return TEST_END();
}
