/* fuzz_request.c - any bytes as a request body, ours, OpenAI's and A1111's, and as an Accept
 * header: a refusal is a client's error with words and valid JSON, an accepted request normalises
 * to a body that gives the same request again. For libFuzzer (preset fuzz). */
#include <jansson.h>
#include <stdlib.h>

#include "api/a1111.h"
#include "api/admin.h"
#include "tests/api/common.h"
#include "tests/fuzz/fuzz.h"

static void check_error(const struct api_error *e, int rc) {
    struct taca_buf b;
    taca_buf_init(&b, 1 << 16);
    demand(rc == e->status && (rc == 400 || rc == 404 || rc == 406 || rc == 413),
           "a client's error", e->code);
    demand(e->code[0] && e->message[0], "an error with words", e->message);
    api_error_json(&b, e);
    json_t *json = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, NULL);
    demand(json != NULL, "valid JSON", b.data);
    json_decref(json);
    taca_buf_finish(&b);
}

static void check_request(const struct api_request *r) {
    struct api_request again;
    struct api_error e;
    if (r->params.image) return; /* which the normal form is without */
    int rc = parse(&again, &e, r->json);
    demand(rc == 0, "the normalised request parses", e.message);
    demand(strcmp(again.json, r->json) == 0, "and gives itself", again.json);
    check_same_params(&r->params, &again.params);
    demand(test_failures == 0, "the same parameters", r->json);
    api_request_finish(&again);
}

static void check_parsed(struct api_request *r, const struct api_error *e, int rc) {
    if (rc)
        check_error(e, rc);
    else
        check_request(r);
    api_request_finish(r);
}

/* What is told back is JSON, whatever was asked. */
static void check_reply(const struct api_request *r) {
    struct taca_buf b;
    struct api_request shown = *r;
    struct api_result_image none[API_MAX_N] = {{0}};
    shown.send_images = false;
    taca_buf_init(&b, 1 << 26);
    api_a1111_json(&b, 1, &shown, &demo, none, 0);
    demand(!b.failed, "a reply", "");
    json_t *json = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, NULL);
    const char *info = json_string_value(json_object_get(json, "info"));
    json_t *inner = info ? json_loads(info, JSON_REJECT_DUPLICATES, NULL) : NULL;
    demand(json && inner, "JSON, and JSON inside", b.data);
    json_decref(inner);
    json_decref(json);
    taca_buf_finish(&b);
}

static void parse_a1111(enum api_dialect dialect, const unsigned char *data, size_t size) {
    struct api_request r = {0};
    struct api_error e = {0};
    struct api_limits limits;
    struct api_offer offer = {.limits = &limits, .n_models = 1};
    const struct api_source from = {dialect, NULL, (const char *)data, size, false};
    api_limits_init(&limits);
    offer.models[0].id = demo.id;
    offer.models[0].info = &demo;
    int rc = api_request_read(&r, &from, &offer, RANDOM_SEED, &e);
    if (!rc) check_reply(&r);
    check_parsed(&r, &e, rc);
}

static void parse_orders(const unsigned char *data, size_t size) {
    struct api_model_order order;
    struct api_error e = {0};
    int rc = api_read_load(&order, (const char *)data, size, &e);
    if (rc) check_error(&e, rc);
    e = (struct api_error){0};
    rc = api_read_unload(&order, (const char *)data, size, &e);
    if (rc) check_error(&e, rc);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct api_request r;
    struct api_error e;
    struct api_limits limits;
    enum api_reply reply;
    int rc = parse_bytes(&r, &e, (const char *)data, size);
    check_parsed(&r, &e, rc);
    api_limits_init(&limits);
    r = (struct api_request){0};
    e = (struct api_error){0};
    rc = api_request_parse_openai(&r, (const char *)data, size, &demo, &limits, RANDOM_SEED, &e);
    check_parsed(&r, &e, rc);

    parse_orders(data, size);
    parse_a1111(API_A1111, data, size);
    parse_a1111(API_A1111_IMAGE, data, size);
    char *accept = calloc(1, size + 1);
    if (!accept) return 0;
    memcpy(accept, data, size);
    r = (struct api_request){
        .n = 1 + (int)(size % 2),
        .file = {size % 3 ? API_FORMAT_ANY : API_JPEG, -1, (int)(size % 5) - 1}};
    e = (struct api_error){0};
    rc = api_negotiate(&reply, accept, &r, &e);
    if (rc) check_error(&e, rc);
    free(accept);
    return 0;
}
