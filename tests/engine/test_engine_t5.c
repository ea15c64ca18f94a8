/* A whole SD3.5 checkpoint with T5: what the engine says of it, and lengths of a request's text. */
#include "engine/engine.h"
#include "tests/test.h"

#define SD35 TACA_GOLDEN_DIR "/pipelines/sd35_tiny_t5"

static int tokens_of(struct taca_engine *e, int length, unsigned *warnings) {
    struct taca_gen_params p;
    struct taca_seq *s = NULL;
    struct taca_cost cost = {0};
    struct taca_err err = {0};
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = "a castle on a hill, a river in front";
    p.width_px = p.height_px = 64;
    p.steps = 2;
    p.cfg_scale = 1;
    if (length) p.max_sequence_length = length;
    CHECK_OK(taca_engine_cost(e, &p, &cost, &err), err);
    CHECK_OK(taca_seq_open(e, &p, &s, warnings, &err), err);
    if (!s) return -1;
    const int tokens = taca_seq_tokens(e, s);
    CHECK_INT(tokens, cost.tokens);
    while (!taca_seq_done(s)) CHECK_OK(taca_step(e, &s, 1, &err), err);
    taca_seq_close(e, s);
    return tokens;
}

static void test_a_request_may_say_how_long_its_text_is(void) {
    const struct taca_engine_opts opts = {
        .model_path = SD35, .threads = 1, .precision = TACA_PRECISION_F32};
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    unsigned warnings = 0;
    enum { PATCHES = 16, CLIP = 77 };
    CHECK_OK(taca_engine_open(&e, &opts, &err), err);
    if (!e) return;
    CHECK(taca_engine_info(e)->has_t5);
    CHECK_INT(taca_engine_info(e)->t5_tokens, 256);
    CHECK_INT(tokens_of(e, 0, &warnings), PATCHES + CLIP + 256);
    CHECK_INT(warnings, 0);
    CHECK_INT(tokens_of(e, 512, &warnings), PATCHES + CLIP + 512);
    CHECK_INT(warnings, 0);
    CHECK_INT(tokens_of(e, 4, &warnings), PATCHES + CLIP + 4);
    CHECK_INT(warnings, TACA_WARN_PROMPT_CUT);
    taca_engine_close(e);
}

int main(void) {
    TEST(test_a_request_may_say_how_long_its_text_is);
    return TEST_END();
}
