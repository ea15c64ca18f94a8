/* test_request_models.c - fields that only some models take. */
#include "api/png.h"
#include "tests/api/common.h"

/* Status of a body with this member, for a model whose guidance is an input. */
static int parse_guided(struct api_request *r, struct api_error *e, const char *value) {
    struct taca_model_info flux = demo;
    struct api_limits limits;
    char body[128];
    flux.guidance_embeds = true;
    flux.default_guidance_scale = 3.5;
    api_limits_init(&limits);
    *r = (struct api_request){0};
    *e = (struct api_error){0};
    snprintf(body, sizeof body, "{\"prompt\":\"x\"%s%s}", *value ? ",\"guidance_scale\":" : "",
             value);
    return api_request_parse(r, body, strlen(body), &flux, &limits, RANDOM_SEED, e);
}

static void test_guidance_scale_is_for_models_that_embed_it(void) {
    static const struct {
        const char *value;
        double want;
    } good[] = {{"", 3.5}, {"null", 3.5}, {"0", 0}, {"1", 1}, {"30.5", 30.5}, {"100", 100}};
    static const char *const bad[] = {"-0.1", "100.1", "1e300", "\"3\"", "true", "[]"};
    struct api_request r;
    struct api_error e;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct taca_buf out;
        struct taca_model_info flux = demo;
        taca_buf_init(&out, 4096);
        flux.guidance_embeds = true;
        CHECK_INT(parse_guided(&r, &e, good[i].value), 0);
        CHECK(r.params.guidance_scale == good[i].want);
        api_png_parameters(&out, &r.params, &flux);
        CHECK(memmem(out.data, out.len, ", Distilled CFG Scale: ", 23) != NULL);
        taca_buf_finish(&out);
        api_request_finish(&r);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(parse_guided(&r, &e, bad[i]), 400);
        CHECK_STR(e.code, "invalid_guidance_scale");
    }
}

int main(void) {
    TEST(test_guidance_scale_is_for_models_that_embed_it);
    return TEST_END();
}
