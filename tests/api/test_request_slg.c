/* test_request_slg.c - the "skip_layer_guidance" field: what it takes, and what is said otherwise.
 */
#include "tests/api/common.h"

static void test_skip_layer_guidance_is_read_and_checked(void) {
    static const struct {
        const char *json, *code, *param;
    } bad[] = {{"{}", "invalid_skip_layer_guidance", "skip_layer_guidance.layers"},
               {"{\"layers\":[]}", "invalid_skip_layer_guidance", "skip_layer_guidance.layers"},
               {"{\"layers\":[12]}", "invalid_skip_layer_guidance", "skip_layer_guidance.layers"},
               {"{\"layers\":[-1]}", "invalid_skip_layer_guidance", "skip_layer_guidance.layers"},
               {"{\"layers\":7}", "invalid_skip_layer_guidance", "skip_layer_guidance.layers"},
               {"{\"layers\":[7],\"scale\":31}", "invalid_skip_layer_guidance",
                "skip_layer_guidance.scale"},
               {"{\"layers\":[7],\"stop\":1.5}", "invalid_skip_layer_guidance",
                "skip_layer_guidance.stop"},
               {"{\"layers\":[7],\"end\":1}", "unknown_parameter", "skip_layer_guidance.end"}};
    struct api_request r;
    struct api_error e;
    char body[256];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(body, sizeof body, "\"skip_layer_guidance\":%s", bad[i].json);
        check_refused(body, 400, bad[i].code, bad[i].param);
    }
    CHECK_INT(parse_with(&r, &e, "\"skip_layer_guidance\":{\"layers\":[7,8,9]}"), 0);
    CHECK_INT(r.params.slg.layers, 0x380);
    CHECK(r.params.slg.scale == 2.8 && r.params.slg.start == 0.01 && r.params.slg.stop == 0.2);
    api_request_finish(&r);
    CHECK_INT(parse_with(&r, &e, "\"cfg_scale\":1,\"skip_layer_guidance\":{\"layers\":[7]}"), 400);
    CHECK_STR(e.message, "skip_layer_guidance needs cfg_scale above 1, got 1");
}

int main(void) {
    TEST(test_skip_layer_guidance_is_read_and_checked);
    return TEST_END();
}
