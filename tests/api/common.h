/* common.h - a model, limits and one-line parsing for the tests of api/. */
#ifndef TACA_TESTS_API_COMMON_H
#define TACA_TESTS_API_COMMON_H

#include "api/reply.h"
#include "api/request.h"
#include "tests/test.h"

/* As models/demo: 128 px, 28 steps, guidance 4.5. */
__attribute__((unused)) static const struct taca_model_info demo = {.id = "demo",
                                                                    .family = "sd3",
                                                                    .backend = "cpu",
                                                                    .device = "test",
                                                                    .precision = "f32",
                                                                    .default_width_px = 128,
                                                                    .default_height_px = 128,
                                                                    .default_steps = 28,
                                                                    .default_cfg_scale = 4.5,
                                                                    .min_side_px = 64,
                                                                    .max_side_px = 4096,
                                                                    .side_multiple_px = 16,
                                                                    .takes_images = true,
                                                                    .joint_blocks = 12,
                                                                    .clip_tokens = 32,
                                                                    .n_loras = 1,
                                                                    .loras = {{.id = "style"}},
                                                                    .parameters = 12345678,
                                                                    .weight_bytes = 49382712};

enum { RANDOM_SEED = 424242 };

/* Status of the body; r and e are set anew, r needs a finish when 0. */
__attribute__((unused)) static int parse_bytes(struct api_request *r, struct api_error *e,
                                               const char *body, size_t len) {
    struct api_limits limits;
    api_limits_init(&limits);
    *r = (struct api_request){0};
    *e = (struct api_error){0};
    return api_request_parse(r, body, len, &demo, &limits, RANDOM_SEED, e);
}

__attribute__((unused)) static int parse(struct api_request *r, struct api_error *e,
                                         const char *body) {
    return parse_bytes(r, e, body, strlen(body));
}

/* {"prompt":"a cat",<members>} */
__attribute__((unused)) static int parse_with(struct api_request *r, struct api_error *e,
                                              const char *members) {
    char body[4096];
    snprintf(body, sizeof body, "{\"prompt\":\"a cat\",%s}", members);
    return parse(r, e, body);
}

/* The members are refused with this status, code and param ("" = null). */
__attribute__((unused)) static void check_refused(const char *members, int status, const char *code,
                                                  const char *param) {
    struct api_request r;
    struct api_error e;
    int rc = parse_with(&r, &e, members);
    if (rc != status || strcmp(e.code, code) != 0 || strcmp(e.param, param) != 0)
        printf("    for %s: %d %s %s: %s\n", members, rc, e.code, e.param, e.message);
    CHECK_INT(rc, status);
    CHECK_INT(e.status, status);
    CHECK_STR(e.code, code);
    CHECK_STR(e.param, param);
    CHECK(r.arena.blocks == NULL); /* nothing written on failure */
    api_request_finish(&r);
}

__attribute__((unused)) static void check_accepted(const char *members) {
    struct api_request r;
    struct api_error e;
    if (!CHECK(parse_with(&r, &e, members) == 0)) printf("    for %s: %s\n", members, e.message);
    api_request_finish(&r);
}

__attribute__((unused)) static bool same_text(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* Every member, bit for bit. */
__attribute__((unused)) static void check_same_params(const struct taca_gen_params *a,
                                                      const struct taca_gen_params *b) {
    CHECK(same_text(a->prompt, b->prompt));
    CHECK(same_text(a->prompt_2, b->prompt_2));
    CHECK(same_text(a->prompt_3, b->prompt_3));
    CHECK(same_text(a->negative_prompt, b->negative_prompt));
    CHECK(same_text(a->negative_prompt_2, b->negative_prompt_2));
    CHECK(same_text(a->negative_prompt_3, b->negative_prompt_3));
    CHECK_INT(a->width_px, b->width_px);
    CHECK_INT(a->height_px, b->height_px);
    CHECK_INT(a->steps, b->steps);
    CHECK(a->cfg_scale == b->cfg_scale);
    CHECK(a->shift == b->shift);
    CHECK(a->sampler == b->sampler && a->schedule == b->schedule && a->rng == b->rng);
    CHECK(a->slg.layers == b->slg.layers && a->slg.scale == b->slg.scale);
    CHECK(a->slg.start == b->slg.start && a->slg.stop == b->slg.stop);
    CHECK_INT(a->clip_skip, b->clip_skip);
    CHECK_INT(a->seed, b->seed);
    CHECK_INT(a->taca.rule, b->taca.rule);
    CHECK(a->taca.gamma == b->taca.gamma);
    CHECK(a->taca.fraction == b->taca.fraction);
    CHECK_INT(a->taca.first_step, b->taca.first_step);
    CHECK_INT(a->taca.end_step, b->taca.end_step);
    CHECK(a->taca.sigma_min == b->taca.sigma_min);
    CHECK(a->taca.sigma_max == b->taca.sigma_max);
    CHECK_INT(a->n_loras, b->n_loras);
    for (int i = 0; i < a->n_loras && i < b->n_loras; i++) {
        CHECK_STR(a->loras[i].id, b->loras[i].id);
        CHECK(a->loras[i].scale == b->loras[i].scale);
        CHECK_INT(a->loras[i].when, b->loras[i].when);
    }
}

#endif
