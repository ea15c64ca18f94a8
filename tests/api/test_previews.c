/* test_previews.c - previews.method: what a service with a tiny decoder takes, and what one without
 * says. */
#include "tests/api/common.h"

static int parse_for(struct api_request *r, struct api_error *e, bool has_taesd,
                     const char *method) {
    struct taca_model_info model = demo;
    struct api_limits limits;
    char body[160];
    model.has_taesd = has_taesd;
    api_limits_init(&limits);
    snprintf(body, sizeof body, "{\"prompt\":\"a\",\"previews\":{\"every\":2,\"method\":%s}}",
             method);
    *r = (struct api_request){0};
    *e = (struct api_error){0};
    return api_request_parse(r, body, strlen(body), &model, &limits, RANDOM_SEED, e);
}

static void test_a_decoder_is_used_where_there_is_one(void) {
    static const char *const methods[] = {"\"latent_rgb\"", "\"taesd\"", "null"};
    static const enum taca_preview want[] = {TACA_PREVIEW_RGB, TACA_PREVIEW_TAESD,
                                             TACA_PREVIEW_RGB};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct api_request r;
        struct api_error e;
        CHECK_INT(parse_for(&r, &e, true, methods[i]), 0);
        CHECK_INT(r.params.preview, want[i]);
        CHECK_INT(r.preview_every, 2);
        api_request_finish(&r);
    }
}

static void test_without_one_it_is_refused_by_name(void) {
    static const struct {
        bool has_taesd;
        const char *method, *says;
    } cases[] = {{false, "\"taesd\"", "not loaded"},
                 {false, "\"vae\"", "must be \"latent_rgb\", got \"vae\""},
                 {true, "\"vae\"", "must be \"latent_rgb\" or \"taesd\", got \"vae\""},
                 {true, "3", "or \"taesd\", a string"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_request r;
        struct api_error e;
        CHECK_INT(parse_for(&r, &e, cases[i].has_taesd, cases[i].method), 400);
        CHECK_STR(e.param, "previews.method");
        CHECK_HAS(e.message, cases[i].says);
    }
}

static void test_capabilities_list_the_methods(void) {
    for (int has = 0; has < 2; has++) {
        struct taca_model_info model = demo;
        struct api_limits limits;
        struct taca_buf out;
        model.has_taesd = has;
        api_limits_init(&limits);
        taca_buf_init(&out, 1 << 20);
        api_capabilities_json(&out, &limits, &model, NULL, 0);
        CHECK(!out.failed);
        CHECK_HAS(out.data,
                  has ? "\"methods\":[\"latent_rgb\",\"taesd\"]" : "\"methods\":[\"latent_rgb\"]");
        taca_buf_finish(&out);
    }
}

int main(void) {
    TEST(test_a_decoder_is_used_where_there_is_one);
    TEST(test_without_one_it_is_refused_by_name);
    TEST(test_capabilities_list_the_methods);
    return TEST_END();
}
