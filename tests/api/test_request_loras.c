/* test_request_loras.c - "loras" and "taca.lora": what is read, what is refused, and where adapters
 * are shown: normalised request, PNG, lists. */
#include "api/png.h"
#include "tests/api/common.h"

static struct taca_model_info adapted(int n) {
    static const char *const ids[] = {"style", "hand.v2", "a-b_c", "x"};
    struct taca_model_info m = demo;
    for (m.n_loras = 0; m.n_loras < n; m.n_loras++) {
        struct taca_lora_info *l = &m.loras[m.n_loras];
        *l = (struct taca_lora_info){.modules = 12, .rank = 4, .parameters = 3456};
        snprintf(l->id, sizeof l->id, "%s", ids[m.n_loras]);
        snprintf(l->naming, sizeof l->naming, "kohya");
    }
    return m;
}

static int read_for(struct api_request *r, struct api_error *e, const char *body, int n) {
    struct taca_model_info m = adapted(n);
    struct api_limits limits;
    api_limits_init(&limits);
    *r = (struct api_request){0};
    *e = (struct api_error){0};
    return api_request_parse(r, body, strlen(body), &m, &limits, RANDOM_SEED, e);
}

static int read_with(struct api_request *r, struct api_error *e, const char *members, int n) {
    char body[1024];
    snprintf(body, sizeof body, "{\"prompt\":\"a cat\",%s}", members);
    return read_for(r, e, body, n);
}

static void check_use(const struct api_request *r, int i, const char *id, double scale,
                      enum taca_lora_when when) {
    if (!CHECK(i < r->params.n_loras)) return;
    CHECK_STR(r->params.loras[i].id, id);
    CHECK(r->params.loras[i].scale == scale);
    CHECK_INT(r->params.loras[i].when, when);
}

static void test_each_member_has_its_default(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(read_with(&r, &e,
                        "\"taca\":true,\"loras\":[{\"id\":\"x\"},{\"scale\":-0.5,\"id\":\"style\"},"
                        "{\"id\":\"a-b_c\",\"scale\":null,\"window\":\"taca\"},"
                        "{\"id\":\"hand.v2\",\"scale\":2,\"window\":\"always\"}]",
                        4),
              0);
    CHECK_INT(r.params.n_loras, 4);
    check_use(&r, 0, "x", 1, TACA_LORA_ALWAYS);
    check_use(&r, 1, "style", -0.5, TACA_LORA_ALWAYS);
    check_use(&r, 2, "a-b_c", 1, TACA_LORA_IN_WINDOW);
    check_use(&r, 3, "hand.v2", 2, TACA_LORA_ALWAYS);
    api_request_finish(&r);
    CHECK_INT(read_with(&r, &e, "\"loras\":[]", 0), 0);
    CHECK_INT(r.params.n_loras, 0);
    CHECK(strstr(r.json, "lora") == NULL);
    api_request_finish(&r);
}

static void test_an_adapter_follows_the_window(void) {
    struct api_request r;
    struct api_error e;
    static const char *const on[] = {"\"taca\":{\"lora\":\"style\"}", "\"taca\":{\"lora\":true}",
                                     "\"taca\":{\"steps\":2,\"lora\":true},\"loras\":[]"};
    for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
        CHECK_INT(read_with(&r, &e, on[i], 1), 0);
        CHECK_INT(r.params.n_loras, 1);
        CHECK(r.params.taca.rule != TACA_WINDOW_OFF);
        check_use(&r, 0, "style", 1, TACA_LORA_IN_WINDOW);
        api_request_finish(&r);
    }
    static const char *const off[] = {"\"taca\":{\"lora\":false}", "\"taca\":{\"lora\":null}",
                                      "\"taca\":{\"lora\":true,\"enabled\":false}"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        CHECK_INT(read_with(&r, &e, off[i], 1), 0);
        CHECK_INT(r.params.n_loras, 0);
        api_request_finish(&r);
    }
    /* the order of members does not matter */
    CHECK_INT(read_with(&r, &e,
                        "\"taca\":{\"lora\":\"x\"},\"loras\":[{\"id\":\"style\",\"scale\":0.5}]",
                        4),
              0);
    check_use(&r, 0, "style", 0.5, TACA_LORA_ALWAYS);
    check_use(&r, 1, "x", 1, TACA_LORA_IN_WINDOW);
    api_request_finish(&r);
}

static void test_mistakes_are_named(void) {
    static const struct {
        const char *members;
        int status;
        const char *code, *param;
    } bad[] = {
        {"\"loras\":\"style\"", 400, "invalid_loras", "loras"},
        {"\"loras\":{\"id\":\"style\"}", 400, "invalid_loras", "loras"},
        {"\"loras\":[\"style\"]", 400, "invalid_loras", "loras[0]"},
        {"\"loras\":[null]", 400, "invalid_loras", "loras[0]"},
        {"\"loras\":[{\"id\":\"x\"},{}]", 400, "invalid_loras", "loras[1].id"},
        {"\"loras\":[{\"id\":7}]", 400, "invalid_loras", "loras[0].id"},
        {"\"loras\":[{\"id\":\"none\"}]", 404, "lora_not_found", "loras[0].id"},
        {"\"loras\":[{\"id\":\"\"}]", 404, "lora_not_found", "loras[0].id"},
        {"\"loras\":[{\"id\":\"../style\"}]", 404, "lora_not_found", "loras[0].id"},
        {"\"loras\":[{\"id\":\"/etc/passwd\"}]", 404, "lora_not_found", "loras[0].id"},
        {"\"loras\":[{\"id\":\"Style\"}]", 404, "lora_not_found", "loras[0].id"},
        {"\"loras\":[{\"id\":\"x\",\"scale\":2.01}]", 400, "invalid_loras", "loras[0].scale"},
        {"\"loras\":[{\"id\":\"x\",\"scale\":-2.01}]", 400, "invalid_loras", "loras[0].scale"},
        {"\"loras\":[{\"id\":\"x\",\"scale\":\"1\"}]", 400, "invalid_loras", "loras[0].scale"},
        {"\"loras\":[{\"id\":\"x\",\"window\":\"on\"}]", 400, "invalid_loras", "loras[0].window"},
        {"\"loras\":[{\"id\":\"x\",\"window\":true}]", 400, "invalid_loras", "loras[0].window"},
        {"\"loras\":[{\"id\":\"x\",\"path\":\"f\"}]", 400, "unknown_parameter", "loras[0].path"},
        {"\"loras\":[{\"id\":\"x\"},{\"id\":\"x\"}]", 400, "invalid_loras", "loras"},
        {"\"loras\":[{\"id\":\"x\",\"window\":\"taca\"}]", 400, "invalid_loras", "loras"},
        {"\"loras\":[{},{},{},{},{}]", 400, "invalid_loras", "loras"},
        {"\"taca\":{\"lora\":1}", 400, "invalid_taca", "taca.lora"},
        {"\"taca\":{\"lora\":true}", 400, "invalid_taca", "taca.lora"},
        {"\"taca\":{\"lora\":\"none\"}", 404, "lora_not_found", "taca.lora"},
        {"\"taca\":{\"lora\":\"x\"},\"loras\":[{\"id\":\"x\"}]", 400, "invalid_taca", "taca.lora"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct api_request r;
        struct api_error e;
        int rc = read_with(&r, &e, bad[i].members, 4);
        if (rc != bad[i].status || strcmp(e.code, bad[i].code) != 0)
            printf("    for %s: %d %s: %s\n", bad[i].members, rc, e.code, e.message);
        CHECK_INT(rc, bad[i].status);
        CHECK_STR(e.code, bad[i].code);
        CHECK_STR(e.param, bad[i].param);
        CHECK(r.arena.blocks == NULL);
    }
}

static void test_who_is_not_here_learns_who_is(void) {
    struct api_request r;
    struct api_error e;
    read_with(&r, &e, "\"loras\":[{\"id\":\"none\"}]", 2);
    CHECK_STR(e.message, "no adapter \"none\" here; this server has \"style\", \"hand.v2\"");
    read_with(&r, &e, "\"loras\":[{\"id\":\"style\"}]", 0);
    CHECK_STR(e.message, "no adapter \"style\" here; this server has none");
    CHECK_INT(read_with(&r, &e, "\"taca\":{\"lora\":true}", 0), 404);
    CHECK_STR(e.code, "lora_not_found");
    /* four are the most, both ways together */
    CHECK_INT(
        read_with(&r, &e,
                  "\"taca\":{\"lora\":\"x\"},\"loras\":[{\"id\":\"style\"},{\"id\":\"a-b_c\"},"
                  "{\"id\":\"hand.v2\"},{\"id\":\"x\"}]",
                  4),
        400);
    CHECK_STR(e.param, "taca.lora");
}

static void test_the_normalised_request_has_them(void) {
    static const char *const all[] = {
        "\"loras\":[{\"id\":\"x\",\"scale\":0.1},{\"id\":\"style\",\"scale\":-2}]",
        "\"taca\":{\"lora\":\"x\",\"threshold\":970},\"loras\":[{\"id\":\"style\",\"scale\":0}]",
        "\"taca\":true,\"loras\":[{\"id\":\"x\",\"scale\":0.333333333333,\"window\":\"taca\"}]"};
    struct api_request r, again;
    struct api_error e;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        CHECK_INT(read_with(&r, &e, all[i], 4), 0);
        CHECK_INT(read_for(&again, &e, r.json, 4), 0);
        check_same_params(&r.params, &again.params);
        CHECK_STR(again.json, r.json);
        api_request_finish(&r);
        api_request_finish(&again);
    }
    CHECK_INT(read_with(&r, &e, "\"taca\":{\"lora\":\"x\"},\"loras\":[{\"id\":\"style\"}]", 4), 0);
    CHECK_HAS(r.json, "\"loras\":[{\"id\":\"style\",\"scale\":1,\"window\":\"always\"},"
                      "{\"id\":\"x\",\"scale\":1,\"window\":\"taca\"}]");
    api_request_finish(&r);
}

static void test_pictures_and_lists_name_them(void) {
    struct taca_model_info m = adapted(2), bare = adapted(0);
    struct api_limits limits;
    struct api_request r;
    struct api_error e;
    struct taca_buf out;
    taca_buf_init(&out, 1 << 20);
    CHECK_INT(
        read_with(&r, &e,
                  "\"taca\":{\"lora\":\"hand.v2\"},\"loras\":[{\"id\":\"style\",\"scale\":0.8}]",
                  2),
        0);
    api_image_parameters(&out, &r.params, &m);
    CHECK_HAS(out.data, "a cat <lora:style:0.8> <lora:hand.v2:1>\nSteps: ");
    CHECK_HAS(out.data, ", TACA LoRA: \"hand.v2\", Version: ");
    taca_buf_reset(&out);
    api_image_json(&out, &r.params, &m);
    CHECK_HAS(out.data, "\"loras\":[{\"id\":\"style\",\"scale\":0.8,\"window\":\"always\"},");
    taca_buf_reset(&out);
    const struct taca_model_info *const models[] = {&m, &bare};
    api_loras_json(&out, models, 2);
    CHECK_HAS(
        out.data,
        "{\"object\":\"list\",\"data\":[{\"id\":\"style\",\"object\":\"lora\","
        "\"model\":\"demo\",\"family\":\"sd3\",\"naming\":\"kohya\",\"rank\":4,\"modules\":12,"
        "\"parameters\":3456},{\"id\":\"hand.v2\",");
    taca_buf_reset(&out);
    api_loras_json(&out, models + 1, 1);
    CHECK_STR(out.data, "{\"object\":\"list\",\"data\":[]}");
    taca_buf_reset(&out);
    api_limits_init(&limits);
    api_capabilities_json(&out, &limits, &m, NULL, 0);
    CHECK_HAS(out.data, "\"loras\":{\"max\":4,\"scale\":{\"min\":-2,\"max\":2},\"windows\":"
                        "[\"always\",\"taca\"],\"available\":[{\"id\":\"style\",");
    CHECK_HAS(out.data, "\"loras\":{\"type\":\"array of {id, scale, window}\",\"default\":[]}");
    taca_buf_finish(&out);
    api_request_finish(&r);
}

int main(void) {
    TEST(test_each_member_has_its_default);
    TEST(test_an_adapter_follows_the_window);
    TEST(test_mistakes_are_named);
    TEST(test_who_is_not_here_learns_who_is);
    TEST(test_the_normalised_request_has_them);
    TEST(test_pictures_and_lists_name_them);
    return TEST_END();
}
