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
        api_image_parameters(&out, &r.params, &flux);
        CHECK(memmem(out.data, out.len, ", Distilled CFG Scale: ", 23) != NULL);
        taca_buf_finish(&out);
        api_request_finish(&r);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(parse_guided(&r, &e, bad[i]), 400);
        CHECK_STR(e.code, "invalid_guidance_scale");
    }
}

/* Only where the text has T5 rows; their usual number is the default. */
static void test_max_sequence_length_is_for_models_with_t5(void) {
    static const struct {
        const char *value;
        int status, want;
    } all[] = {{"null", 0, 256}, {"1", 0, 1},    {"512", 0, 512}, {"77.0", 0, 77},  {"0", 400, 0},
               {"513", 400, 0},  {"-1", 400, 0}, {"1.5", 400, 0}, {"\"9\"", 400, 0}};
    struct taca_model_info t5 = demo;
    struct api_limits limits;
    t5.t5_tokens = 256;
    api_limits_init(&limits);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_request r = {0};
        struct api_error e = {0};
        char body[128];
        snprintf(body, sizeof body, "{\"prompt\":\"x\",\"max_sequence_length\":%s}", all[i].value);
        CHECK_INT(api_request_parse(&r, body, strlen(body), &t5, &limits, RANDOM_SEED, &e),
                  all[i].status);
        if (all[i].status == 0) {
            char echo[64];
            snprintf(echo, sizeof echo, "\"max_sequence_length\":%d", all[i].want);
            CHECK_INT(r.params.max_sequence_length, all[i].want);
            CHECK_HAS(r.json, echo);
            api_request_finish(&r);
        } else {
            CHECK_STR(e.code, "invalid_max_sequence_length");
        }
    }
}

/* ---- several models -------------------------------------------------------------------------- */

static struct taca_model_info other;

/* "demo", then one of other defaults that takes guidance, one that loads, one that is away. */
static int read_offered(struct api_request *r, struct api_error *e, const char *more) {
    static struct api_limits limits;
    const struct api_offer offer = {.limits = &limits,
                                    .n_models = 4,
                                    .models = {{"demo", &demo, false},
                                               {"other", &other, false},
                                               {"soon", NULL, true},
                                               {"away", NULL, false}}};
    char body[160];
    other = demo;
    snprintf(other.id, sizeof other.id, "other");
    other.default_steps = 7;
    other.guidance_embeds = true;
    other.default_guidance_scale = 3.5;
    api_limits_init(&limits);
    *r = (struct api_request){0};
    *e = (struct api_error){0};
    snprintf(body, sizeof body, "{\"prompt\":\"x\"%s}", more);
    const struct api_source from = {.dialect = API_NATIVE, .body = body, .len = strlen(body)};
    return api_request_read(r, &from, &offer, RANDOM_SEED, e);
}

static void test_a_request_is_read_as_the_model_has_it_that_it_names(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(read_offered(&r, &e, ""), 0);
    CHECK_INT(r.model, 0);
    CHECK_INT(r.params.steps, 28);
    api_request_finish(&r);
    CHECK_INT(read_offered(&r, &e, ",\"guidance_scale\":2,\"model\":\"other\""), 0);
    CHECK_INT(r.model, 1);
    CHECK_INT(r.params.steps, 7);
    CHECK_NEAR(r.params.guidance_scale, 2, 0);
    CHECK_HAS(r.json, "\"model\":\"other\"");
    api_request_finish(&r);
    CHECK_INT(read_offered(&r, &e, ",\"guidance_scale\":2"), 400); /* the first has none */
    CHECK_INT(read_offered(&r, &e, ",\"model\":null"), 0);
    CHECK_INT(r.model, 0);
    api_request_finish(&r);
}

static void test_a_model_that_is_not_there_says_how_it_stands(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(read_offered(&r, &e, ",\"model\":\"soon\""), 503);
    CHECK_STR(e.code, "loading");
    CHECK(e.retry_after_s > 0);
    CHECK_INT(read_offered(&r, &e, ",\"model\":\"away\""), 404);
    CHECK_STR(e.message, "model \"away\" is not loaded");
    CHECK_INT(read_offered(&r, &e, ",\"model\":\"none\""), 404);
    CHECK_STR(e.code, "model_not_found");
    CHECK_STR(e.param, "model");
    CHECK_STR(e.message, "no model \"none\" here; this server has \"demo\", \"other\", \"soon\", "
                         "\"away\"");
    CHECK_INT(read_offered(&r, &e, ",\"model\":7"), 400);
    CHECK_STR(e.message, "model must be a string, got an integer");
}

int main(void) {
    TEST(test_a_request_is_read_as_the_model_has_it_that_it_names);
    TEST(test_a_model_that_is_not_there_says_how_it_stands);
    TEST(test_guidance_scale_is_for_models_that_embed_it);
    TEST(test_max_sequence_length_is_for_models_with_t5);
    return TEST_END();
}
