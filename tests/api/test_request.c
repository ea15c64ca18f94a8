/* test_request.c - every field of POST /v1/generate: range, type, default, names. The ranges are
 * those of the API's documentation, written out here a second time. */
#include "api/fields.h"
#include "tests/api/common.h"

/* A numeric field: the ends of its range are accepted, a step beyond is refused. */
static const struct {
    const char *name, *code;
    const char *below, *min, *max, *above; /* NULL below or above: no such number to try */
    bool whole;
} numbers[] = {
    {"width", "invalid_width", "48", "64", "2048", "2064", true},
    {"height", "invalid_height", "48", "64", "2048", "2064", true},
    {"steps", "invalid_steps", "0", "1", "100", "101", true},
    {"num_inference_steps", "invalid_steps", "0", "1", "100", "101", true},
    {"cfg_scale", "invalid_cfg_scale", "0.999", "1", "30", "30.001", false},
    {"true_cfg_scale", "invalid_cfg_scale", "0.999", "1", "30", "30.001", false},
    {"seed", "invalid_seed", "-2", "-1", "9007199254740991", "9007199254740992", true},
    {"n", "invalid_n", "0", "1", "8", "9", true},
    {"shift", "invalid_shift", "0.009", "0.01", "100", "100.1", false},
    {"clip_skip", "invalid_clip_skip", "-1", "0", "12", "13", true},
    {"png_level", "invalid_png_level", "-1", "0", "9", "10", true},
    {"output_compression", "invalid_output_compression", "-1", "0", "100", "101", true},
    {"previews", "invalid_previews", "-1", "0", "8", "9", true},
    {"partial_images", "invalid_previews", "-1", "0", "8", "9", true},
    {"priority", "invalid_priority", "-11", "-10", "10", "11", true},
    {"start_timeout_ms", "invalid_start_timeout_ms", "-1", "0", "3600000", "3600001", true},
    {"deadline_ms", "invalid_deadline_ms", "-1", "0", "3600000", "3600001", true},
};
enum { N_NUMBERS = sizeof numbers / sizeof *numbers };

static const char *member(const char *name, const char *value) {
    static char text[512];
    snprintf(text, sizeof text, "\"%s\":%s", name, value);
    return text;
}

static void test_numbers_are_accepted_to_the_ends_of_their_range(void) {
    for (int i = 0; i < N_NUMBERS; i++) {
        check_accepted(member(numbers[i].name, numbers[i].min));
        check_accepted(member(numbers[i].name, numbers[i].max));
        check_refused(member(numbers[i].name, numbers[i].below), 400, numbers[i].code,
                      numbers[i].name);
        check_refused(member(numbers[i].name, numbers[i].above), 400, numbers[i].code,
                      numbers[i].name);
        check_refused(member(numbers[i].name, "1e300"), 400, numbers[i].code, numbers[i].name);
        check_refused(member(numbers[i].name, "-1e300"), 400, numbers[i].code, numbers[i].name);
        check_refused(member(numbers[i].name, "9223372036854775807"), 400, numbers[i].code,
                      numbers[i].name);
        check_refused(member(numbers[i].name, "-9223372036854775808"), 400, numbers[i].code,
                      numbers[i].name);
    }
}

static void test_whole_numbers_may_be_written_as_reals(void) {
    char real[64];
    for (int i = 0; i < N_NUMBERS; i++) {
        if (!numbers[i].whole) continue;
        snprintf(real, sizeof real, "%s.0", numbers[i].max);
        check_accepted(member(numbers[i].name, real));
        snprintf(real, sizeof real, "%s.5", numbers[i].min);
        check_refused(member(numbers[i].name, real), 400, numbers[i].code, numbers[i].name);
    }
    struct api_request r;
    struct api_error e;
    CHECK_INT(parse_with(&r, &e, "\"steps\":2e1,\"seed\":7.0"), 0);
    CHECK_INT(r.params.steps, 20);
    CHECK_INT(r.params.seed, 7);
    api_request_finish(&r);
}

/* Values of every JSON type; `kinds` says which of them a field takes. */
static const struct {
    char kind;
    const char *json, *found;
} types[] = {{'s', "\"zz\"", "a string"}, {'i', "2", "an integer"}, {'b', "true", "true"},
             {'b', "false", "false"},     {'a', "[1]", "an array"}, {'o', "{}", "an object"},
             {'r', "2.5", "2.5"}};
static const struct {
    const char *name, *kinds; /* kinds it accepts, or refuses for another reason */
} typed[] = {{"prompt_2", "s"},
             {"prompt_3", "s"},
             {"negative_prompt", "s"},
             {"negative_prompt_2", "s"},
             {"negative_prompt_3", "s"},
             {"model", "s"},
             {"width", "i"},
             {"height", "i"},
             {"size", "s"},
             {"round_size", "b"},
             {"steps", "i"},
             {"cfg_scale", "ir"},
             {"seed", "i"},
             {"n", "i"},
             {"shift", "ir"},
             {"sampler", "s"},
             {"schedule", "s"},
             {"rng", "s"},
             {"skip_layer_guidance", "o"},
             {"loras", "a"},
             {"taca", "bo"},
             {"image", "s"},
             {"mask", "s"},
             {"strength", "ri"},
             {"clip_skip", "i"},
             {"output_format", "s"},
             {"output_compression", "i"},
             {"png_level", "i"},
             {"response_format", "s"},
             {"metadata", "b"},
             {"stream", "b"},
             {"previews", "io"},
             {"priority", "i"},
             {"start_timeout_ms", "i"},
             {"deadline_ms", "i"},
             {"on_disconnect", "s"},
             {"user", "s"}};
enum { N_TYPED = sizeof typed / sizeof *typed };

static void test_wrong_types_are_named(void) {
    struct api_request r;
    struct api_error e;
    for (int i = 0; i < N_TYPED; i++) {
        char code[64];
        snprintf(code, sizeof code, "invalid_%s", typed[i].name);
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            if (strchr(typed[i].kinds, types[t].kind)) continue;
            check_refused(member(typed[i].name, types[t].json), 400, code, typed[i].name);
            parse_with(&r, &e, member(typed[i].name, types[t].json));
            CHECK_HAS(e.message, typed[i].name);
            if (types[t].kind != 'r') CHECK_HAS(e.message, types[t].found);
        }
        check_accepted(member(typed[i].name, "null")); /* null means absent */
    }
    CHECK_INT(parse(&r, &e, "{\"prompt\":7}"), 400);
    CHECK_STR(e.message, "prompt must be a string, got an integer");
}

static void test_every_field_of_the_table_is_tested_here(void) {
    size_t n;
    const struct api_field *f = api_fields(&n);
    for (size_t i = 0; i < n; i++) {
        bool found = strcmp(f[i].name, "prompt") == 0 || api_field_refused(&f[i], &demo);
        for (int k = 0; k < N_TYPED; k++) found = found || strcmp(f[i].name, typed[k].name) == 0;
        if (!CHECK(found)) printf("    no test of %s\n", f[i].name);
        if (f[i].kind != API_INT && f[i].kind != API_NUMBER) continue;
        found = api_field_refused(&f[i], &demo);
        for (int k = 0; k < N_NUMBERS; k++)
            found = found || strcmp(f[i].name, numbers[k].name) == 0;
        if (!CHECK(found)) printf("    no range of %s\n", f[i].name);
    }
}

static void test_defaults_are_the_models_and_the_documents(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(parse(&r, &e, "{\"prompt\":\"a cat\"}"), 0);
    CHECK_STR(r.params.prompt, "a cat");
    CHECK(r.params.prompt_2 == NULL && r.params.negative_prompt == NULL && r.user == NULL);
    CHECK_INT(r.params.width_px, 128);
    CHECK_INT(r.params.height_px, 128);
    CHECK_INT(r.params.steps, 28);
    CHECK(r.params.cfg_scale == 4.5 && r.params.shift == 0);
    CHECK_INT(r.params.seed, RANDOM_SEED);
    CHECK_INT(r.params.taca.rule, TACA_WINDOW_OFF);
    CHECK_INT(r.n, 1);
    CHECK(r.file.format == API_FORMAT_ANY && r.file.png_level == -1 && r.file.quality == -1);
    CHECK(r.metadata && !r.stream);
    CHECK_INT(r.response, API_RESPONSE_ANY);
    CHECK_INT(r.previews, 0);
    CHECK_INT(r.priority, 0);
    CHECK_INT(r.start_timeout_ms, 0);
    CHECK_INT(r.deadline_ms, 0);
    CHECK_INT(r.on_disconnect, API_DISCONNECT_DEFAULT);
    api_request_finish(&r);
    api_request_finish(&r); /* twice is fine */
}

static void test_values_arrive_where_they_belong(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(parse_with(&r, &e,
                         "\"prompt_2\":\"two\",\"prompt_3\":\"three\",\"negative_prompt\":\"no\","
                         "\"negative_prompt_2\":\"no2\",\"negative_prompt_3\":\"no3\","
                         "\"model\":\"demo\",\"width\":256,\"height\":64,\"steps\":9,"
                         "\"cfg_scale\":2.5,\"seed\":11,\"n\":3,\"shift\":1.5,"
                         "\"sampler\":\"dpmpp_2m\",\"schedule\":\"karras\",\"clip_skip\":1,"
                         "\"output_format\":\"png\",\"png_level\":7,"
                         "\"response_format\":\"b64_json\",\"metadata\":false,\"stream\":true,"
                         "\"previews\":4,\"priority\":-3,\"start_timeout_ms\":1000,"
                         "\"deadline_ms\":2000,\"on_disconnect\":\"continue\",\"user\":\"u1\""),
              0);
    const struct taca_gen_params *p = &r.params;
    CHECK_STR(p->prompt_2, "two");
    CHECK_STR(p->prompt_3, "three");
    CHECK_STR(p->negative_prompt, "no");
    CHECK_STR(p->negative_prompt_2, "no2");
    CHECK_STR(p->negative_prompt_3, "no3");
    CHECK(p->width_px == 256 && p->height_px == 64 && p->steps == 9 && p->clip_skip == 1);
    CHECK(p->sampler == TACA_DPMPP_2M && p->schedule == TACA_LEVELS_KARRAS);
    CHECK(p->cfg_scale == 2.5 && p->shift == 1.5 && p->seed == 11);
    CHECK(r.n == 3 && r.file.format == API_PNG && r.file.png_level == 7 && !r.metadata &&
          r.stream && r.previews == 4);
    CHECK_INT(r.response, API_RESPONSE_B64_JSON);
    CHECK(r.priority == -3 && r.start_timeout_ms == 1000 && r.deadline_ms == 2000);
    CHECK_INT(r.on_disconnect, API_DISCONNECT_CONTINUE);
    CHECK_STR(r.user, "u1");
    api_request_finish(&r);
}

static void test_choices_outside_the_list_are_refused_by_name(void) {
    check_refused("\"sampler\":\"ddim\"", 400, "invalid_sampler", "sampler");
    check_refused("\"sampler\":\"Euler\"", 400, "invalid_sampler", "sampler");
    check_refused("\"schedule\":\"turbo\"", 400, "invalid_schedule", "schedule");
    check_refused("\"output_format\":\"webp\"", 400, "invalid_output_format", "output_format");
    check_refused("\"output_format\":\"gif\"", 400, "invalid_output_format", "output_format");
    check_refused("\"response_format\":\"uri\"", 400, "invalid_response_format", "response_format");
    check_refused("\"on_disconnect\":\"\"", 400, "invalid_on_disconnect", "on_disconnect");
    check_refused("\"response_format\":\"\"", 400, "invalid_response_format", "response_format");
    check_refused("\"on_disconnect\":\"ignore\"", 400, "invalid_on_disconnect", "on_disconnect");
    check_refused("\"model\":\"sd9\"", 404, "model_not_found", "model");
    struct api_request r;
    struct api_error e;
    parse_with(&r, &e, "\"output_format\":\"webp\"");
    CHECK_STR(e.message,
              "output_format \"webp\" is not supported by this server yet: use \"png\", \"jpeg\"");
    parse_with(&r, &e, "\"output_format\":\"jpg\"");
    CHECK_STR(e.message, "output_format must be one of \"png\", \"jpeg\", got \"jpg\"");
    parse_with(&r, &e, "\"sampler\":\"ddim\"");
    CHECK_STR(e.message, "sampler must be one of \"euler\", \"heun\", \"dpmpp_2m\", "
                         "\"euler_ancestral\", \"lcm\", got \"ddim\"");
}

static void test_known_fields_that_cannot_be_honoured_are_refused(void) {
    static const char *const names[] = {"webhook", "guidance_scale", "max_sequence_length"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char code[64];
        snprintf(code, sizeof code, "invalid_%s", names[i]);
        check_refused(member(names[i], "1"), 400, code, names[i]);
        check_refused(member(names[i], "[]"), 400, code, names[i]);
        check_accepted(member(names[i], "null"));
    }
    struct api_request r;
    struct api_error e;
    parse_with(&r, &e, "\"webhook\":[]");
    CHECK_STR(e.message, "webhook is not supported by this server yet");
    parse_with(&r, &e, "\"guidance_scale\":3.5");
    CHECK_HAS(e.message, "no embedded guidance");
    CHECK_HAS(e.message, "cfg_scale");
}

static void test_unknown_fields_are_refused_with_a_hint(void) {
    static const struct {
        const char *name, *hint; /* NULL: none */
    } all[] = {{"stepz", "steps"},
               {"heigth", "height"},
               {"promt", "prompt"},
               {"cfgScale", "cfg_scale"},
               {"negativePrompt", "negative_prompt"},
               {"num_inference_step", "num_inference_steps"},
               {"cfg", "cfg_scale"},
               {"guidance", "cfg_scale"},
               {"num_images", "n"},
               {"batch_size", "n"},
               {"sampler_name", "sampler"},
               {"scheduler", "schedule"},
               {"x", NULL},
               {"quality", NULL},
               {"", NULL},
               {"frobnicate", NULL}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_request r;
        struct api_error e;
        char hint[96] = "";
        check_refused(member(all[i].name, "1"), 400, "unknown_parameter", all[i].name);
        check_refused(member(all[i].name, "null"), 400, "unknown_parameter", all[i].name);
        parse_with(&r, &e, member(all[i].name, "1"));
        if (all[i].hint) snprintf(hint, sizeof hint, ": did you mean \"%s\"?", all[i].hint);
        char want[192];
        snprintf(want, sizeof want, "there is no parameter \"%s\"%s", all[i].name, hint);
        CHECK_STR(e.message, want);
    }
}

static void test_a_long_unknown_name_is_cut_between_characters(void) {
    struct api_request r;
    struct api_error e;
    struct taca_buf json;
    char body[1024] = "{\"a";
    for (int i = 0; i < 100; i++) strncat(body, "\xC3\xA9", 3); /* e with an accent */
    strncat(body, "\":1}", 5);
    CHECK_INT(parse(&r, &e, body), 400);
    CHECK_STR(e.code, "unknown_parameter");
    taca_buf_init(&json, 4096);
    api_error_json(&json, &e);
    CHECK(strstr(json.data, "ufffd") == NULL && strstr(json.data, "\xEF\xBF\xBD") == NULL);
    taca_buf_finish(&json);
}

static void test_a_name_and_its_alias_exclude_each_other(void) {
    check_refused("\"steps\":3,\"num_inference_steps\":3", 400, "invalid_steps",
                  "num_inference_steps");
    check_refused("\"num_inference_steps\":3,\"steps\":3", 400, "invalid_steps",
                  "num_inference_steps");
    check_refused("\"cfg_scale\":3,\"true_cfg_scale\":3", 400, "invalid_cfg_scale",
                  "true_cfg_scale");
    check_refused("\"previews\":1,\"partial_images\":1", 400, "invalid_previews", "partial_images");
    check_accepted("\"steps\":3,\"num_inference_steps\":null");
    check_accepted("\"steps\":null,\"num_inference_steps\":3");
}

static void test_sizes(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(parse_with(&r, &e, "\"size\":\"512x256\""), 0);
    CHECK(r.params.width_px == 512 && r.params.height_px == 256);
    api_request_finish(&r);
    static const char *const bad[] = {"512",      "512x",     "x512",      "512X512",   " 512x512",
                                      "512x512 ", "0512x512", "-64x64",    "512x512x3", "512*512",
                                      "auto",     "",         "123456x64", "64.0x64",   "0x64"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char members[64];
        snprintf(members, sizeof members, "\"size\":\"%s\"", bad[i]);
        check_refused(members, 400, "invalid_size", "size");
    }
    check_refused("\"size\":\"48x64\"", 400, "invalid_size", "size");
    check_refused("\"size\":\"64x2064\"", 400, "invalid_size", "size");
    check_refused("\"size\":\"72x64\"", 400, "size_not_multiple", "size");
    check_refused("\"width\":100", 400, "size_not_multiple", "width");
    check_refused("\"height\":72", 400, "size_not_multiple", "height");
    check_refused("\"size\":\"64x64\",\"width\":64", 400, "invalid_size", "size");
    check_refused("\"height\":64,\"size\":\"64x64\"", 400, "invalid_size", "size");
    check_accepted("\"size\":\"64x64\",\"width\":null");
    check_accepted("\"width\":2048,\"height\":2048"); /* exactly 4 MP */
    parse_with(&r, &e, "\"width\":100");
    CHECK_STR(e.message,
              "width must be a multiple of 16, got 100: 96 and 112 are, or set round_size");
}

static void test_round_size_goes_to_the_nearest_multiple_in_range(void) {
    static const struct {
        int from, to;
    } all[] = {{64, 64}, {65, 64}, {71, 64}, {72, 80}, {100, 96}, {1000, 1008}, {2047, 2048}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_request r;
        struct api_error e;
        char members[64];
        snprintf(members, sizeof members, "\"round_size\":true,\"width\":%d", all[i].from);
        CHECK_INT(parse_with(&r, &e, members), 0);
        CHECK_INT(r.params.width_px, all[i].to);
        api_request_finish(&r);
    }
    check_refused("\"round_size\":true,\"width\":60", 400, "invalid_width", "width");
    check_refused("\"round_size\":true,\"size\":\"2049x64\"", 400, "invalid_size", "size");
    check_refused("\"round_size\":false,\"width\":100", 400, "size_not_multiple", "width");
}

static void test_area_and_sides_follow_the_limits(void) {
    struct api_request r = {0};
    struct api_error e = {0};
    struct api_limits l;
    api_limits_init(&l);
    l.max_pixels = 256 * 256;
    l.max_side_px = 320;
    const char *over = "{\"prompt\":\"x\",\"size\":\"272x256\"}";
    CHECK_INT(api_request_parse(&r, over, strlen(over), &demo, &l, 1, &e), 400);
    CHECK_STR(e.code, "invalid_size");
    CHECK_STR(e.message, "width x height must be at most 65536 pixels, got 272 x 256 = 69632");
    const char *wide = "{\"prompt\":\"x\",\"width\":336,\"height\":64}";
    e = (struct api_error){0};
    CHECK_INT(api_request_parse(&r, wide, strlen(wide), &demo, &l, 1, &e), 400);
    CHECK_STR(e.code, "invalid_width");
    const char *fits = "{\"prompt\":\"x\",\"width\":320,\"height\":192}";
    e = (struct api_error){0};
    CHECK_INT(api_request_parse(&r, fits, strlen(fits), &demo, &l, 1, &e), 0);
    api_request_finish(&r);
    l.max_side_px = 96; /* below the model's default of 128 */
    const char *plain = "{\"prompt\":\"x\"}";
    CHECK_INT(api_request_parse(&r, plain, strlen(plain), &demo, &l, 1, &e), 400);
    CHECK_STR(e.message, "width must be in 64..96, got 128");
}

static void test_prompt_lengths(void) {
    struct api_request r;
    struct api_error e;
    static char body[3 * 8192];
    CHECK_INT(parse(&r, &e, "{}"), 400);
    CHECK_STR(e.message, "prompt is required");
    CHECK_STR(e.param, "prompt");
    CHECK_INT(parse(&r, &e, "{\"prompt\":null}"), 400);
    CHECK_STR(e.message, "prompt is required");
    CHECK_INT(parse(&r, &e, "{\"prompt\":\"\"}"), 400);
    CHECK_STR(e.message, "prompt must not be empty");
    for (int len = 8191; len <= 8193; len++) {
        snprintf(body, sizeof body, "{\"prompt\":\"%0*d\"}", len, 0);
        CHECK_INT(parse(&r, &e, body), len > 8192 ? 400 : 0);
        if (len > 8192)
            CHECK_STR(e.message, "prompt must be at most 8192 bytes of UTF-8, got 8193");
        else
            CHECK_INT(strlen(r.params.prompt), len);
        api_request_finish(&r);
    }
    check_accepted("\"prompt_2\":\"\",\"negative_prompt\":\"\"");
    snprintf(body, sizeof body, "\"user\":\"%0256d\"", 0);
    check_accepted(body);
    snprintf(body, sizeof body, "\"user\":\"%0257d\"", 0);
    check_refused(body, 400, "invalid_user", "user");
}

static void test_prompts_of_every_script_arrive_unchanged(void) {
    static const char *const prompts[] = {
        "\xE8\xB5\xA4\xE3\x81\x84\xE7\xAB\x8B\xE6\x96\xB9\xE4\xBD\x93",
        "\xF0\x9F\x90\xB1",
        "e\xCC\x81\xCC\x81\xCC\x81",
        "\xE2\x80\xAE reversed",
        "two\\nlines\\ttab",
        "\\u0001",
        "<|endoftext|>",
        "\xEF\xBF\xBF"};
    static const char *const want[] = {
        "\xE8\xB5\xA4\xE3\x81\x84\xE7\xAB\x8B\xE6\x96\xB9\xE4\xBD\x93",
        "\xF0\x9F\x90\xB1",
        "e\xCC\x81\xCC\x81\xCC\x81",
        "\xE2\x80\xAE reversed",
        "two\nlines\ttab",
        "\x01",
        "<|endoftext|>",
        "\xEF\xBF\xBF"};
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        struct api_request r, again;
        struct api_error e;
        char body[256];
        snprintf(body, sizeof body, "{\"prompt\":\"%s\"}", prompts[i]);
        CHECK_INT(parse(&r, &e, body), 0);
        CHECK_STR(r.params.prompt, want[i]);
        CHECK_INT(parse(&again, &e, r.json), 0);
        CHECK_STR(again.params.prompt, want[i]);
        api_request_finish(&r);
        api_request_finish(&again);
    }
}

static void test_seeds_of_all_images_stay_below_2_53(void) {
    struct api_request r;
    struct api_error e;
    check_accepted("\"seed\":9007199254740984,\"n\":8"); /* the last one is 2^53 - 1 */
    check_refused("\"seed\":9007199254740985,\"n\":8", 400, "invalid_seed", "seed");
    CHECK_INT(parse_with(&r, &e, "\"seed\":-1,\"n\":8"), 0);
    CHECK_INT(r.params.seed, RANDOM_SEED);
    api_request_finish(&r);
    struct api_limits l;
    api_limits_init(&l);
    const char *body = "{\"prompt\":\"x\",\"n\":8}";
    e = (struct api_error){0};
    CHECK_INT(api_request_parse(&r, body, strlen(body), &demo, &l, (UINT64_C(1) << 53) - 1, &e), 0);
    CHECK_INT(r.params.seed, (INT64_C(1) << 53) - 8);
    api_request_finish(&r);
}

static void test_previews(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(
        parse_with(&r, &e, "\"previews\":{\"every\":5,\"max_side\":64,\"method\":\"latent_rgb\"}"),
        0);
    CHECK(r.previews == 8 && r.preview_every == 5 && r.preview_max_side_px == 64);
    api_request_finish(&r);
    CHECK_INT(parse_with(&r, &e, "\"previews\":{}"), 0);
    CHECK(r.previews == 8 && r.preview_every == 0);
    api_request_finish(&r);
    check_accepted("\"previews\":{\"every\":null,\"max_side\":null,\"method\":null}");
    check_refused("\"previews\":{\"every\":0}", 400, "invalid_previews", "previews.every");
    check_refused("\"previews\":{\"every\":201}", 400, "invalid_previews", "previews.every");
    check_refused("\"previews\":{\"every\":\"5\"}", 400, "invalid_previews", "previews.every");
    check_refused("\"previews\":{\"max_side\":15}", 400, "invalid_previews", "previews.max_side");
    check_refused("\"previews\":{\"max_side\":257}", 400, "invalid_previews", "previews.max_side");
    check_refused("\"previews\":{\"method\":\"taesd\"}", 400, "invalid_previews",
                  "previews.method");
    check_refused("\"previews\":{\"method\":1}", 400, "invalid_previews", "previews.method");
    check_refused("\"previews\":{\"count\":1}", 400, "unknown_parameter", "previews.count");
}

static void test_previews_are_spread_over_the_run(void) {
    for (int steps = 1; steps <= 60; steps++) {
        for (int count = 0; count <= 8; count++) {
            struct api_request r = {.previews = count, .params = {.steps = steps}};
            int next = 0;
            for (int s = 0; s <= steps + 1; s++) {
                int k = api_preview_due(&r, s);
                if (k >= 0) CHECK_INT(k, next++);
                if (s >= steps) CHECK_INT(k, -1);
            }
            CHECK_INT(next, count < steps ? count : steps - 1);
        }
    }
    struct api_request r = {.previews = 8, .preview_every = 3, .params = {.steps = 10}};
    CHECK_INT(api_preview_due(&r, 2), -1);
    CHECK_INT(api_preview_due(&r, 3), 0);
    CHECK_INT(api_preview_due(&r, 9), 2);
    CHECK_INT(api_preview_due(&r, 10), -1);
    r.params.steps = 100;
    CHECK_INT(api_preview_due(&r, 24), 7);
    CHECK_INT(api_preview_due(&r, 27), -1); /* eight at most */
}

static void test_shrinking_a_preview_averages(void) {
    uint8_t px[4 * 2 * 3];
    for (int i = 0; i < 24; i++) px[i] = (uint8_t)(10 * i);
    struct taca_image img = {.width_px = 4, .height_px = 2, .rgb = px};
    api_preview_shrink(&img, 4);
    CHECK(img.width_px == 4 && img.height_px == 2 && px[23] == 230);
    api_preview_shrink(&img, 2); /* to 2 x 1: means of 2 x 2 */
    CHECK(img.width_px == 2 && img.height_px == 1);
    /* columns 0, 1 of rows 0, 1: 0 30 120 150 -> 75 */
    const uint8_t want[] = {75, 85, 95, 135, 145, 155};
    for (int i = 0; i < 6; i++) CHECK_INT(px[i], want[i]);
    enum { W = 37, H = 23 };
    uint8_t *flat = malloc(W * H * 3);
    if (!CHECK(flat != NULL)) return;
    memset(flat, 77, W * H * 3);
    struct taca_image odd = {.width_px = W, .height_px = H, .rgb = flat};
    api_preview_shrink(&odd, 16);
    CHECK(odd.width_px == 16 && odd.height_px == 9);
    for (int i = 0; i < 16 * 9 * 3; i++) CHECK_INT(flat[i], 77);
    taca_image_finish(&odd);
}

static void test_the_normalised_request_parses_to_the_same(void) {
    static const char *const all[] = {
        "\"seed\":5",
        "\"taca\":true,\"n\":4,\"cfg_scale\":0.1e1",
        "\"cfg_scale\":7.1000000000000005,\"shift\":3.3333333333333335",
        "\"prompt_2\":\"two\",\"prompt_3\":\"3\",\"negative_prompt\":\"\\\"no\\\"\\n\\u2028\"",
        "\"negative_prompt_2\":\"\",\"negative_prompt_3\":\"c\",\"clip_skip\":2,\"steps\":3",
        "\"sampler\":\"heun\",\"schedule\":\"beta\",\"rng\":\"philox\"",
        "\"skip_layer_guidance\":{\"layers\":[3,0,11],\"scale\":1.25,\"start\":0,\"stop\":0.5}",
        "\"size\":\"192x64\",\"png_level\":9,\"metadata\":false",
        "\"output_format\":\"jpeg\",\"output_compression\":0",
        "\"output_format\":\"png\",\"png_level\":0",
        "\"width\":100,\"round_size\":true,\"seed\":9007199254740991"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_request r, again;
        struct api_error e;
        CHECK_INT(parse_with(&r, &e, all[i]), 0);
        if (!CHECK(parse(&again, &e, r.json) == 0)) printf("    %s: %s\n", r.json, e.message);
        check_same_params(&r.params, &again.params);
        CHECK(r.n == again.n && r.metadata == again.metadata);
        CHECK(memcmp(&r.file, &again.file, sizeof r.file) == 0);
        CHECK_STR(again.json, r.json);
        api_request_finish(&r);
        api_request_finish(&again);
    }
}

static void test_binary_replies_hold_one_image(void) {
    check_accepted("\"response_format\":\"binary\"");
    check_accepted("\"response_format\":\"binary\",\"n\":2,\"stream\":true");
    check_refused("\"response_format\":\"binary\",\"n\":2", 400, "invalid_response_format",
                  "response_format");
}

int main(void) {
    TEST(test_numbers_are_accepted_to_the_ends_of_their_range);
    TEST(test_whole_numbers_may_be_written_as_reals);
    TEST(test_wrong_types_are_named);
    TEST(test_every_field_of_the_table_is_tested_here);
    TEST(test_defaults_are_the_models_and_the_documents);
    TEST(test_values_arrive_where_they_belong);
    TEST(test_choices_outside_the_list_are_refused_by_name);
    TEST(test_known_fields_that_cannot_be_honoured_are_refused);
    TEST(test_unknown_fields_are_refused_with_a_hint);
    TEST(test_a_long_unknown_name_is_cut_between_characters);
    TEST(test_a_name_and_its_alias_exclude_each_other);
    TEST(test_sizes);
    TEST(test_round_size_goes_to_the_nearest_multiple_in_range);
    TEST(test_area_and_sides_follow_the_limits);
    TEST(test_prompt_lengths);
    TEST(test_prompts_of_every_script_arrive_unchanged);
    TEST(test_seeds_of_all_images_stay_below_2_53);
    TEST(test_previews);
    TEST(test_previews_are_spread_over_the_run);
    TEST(test_shrinking_a_preview_averages);
    TEST(test_the_normalised_request_parses_to_the_same);
    TEST(test_binary_replies_hold_one_image);
    return TEST_END();
}
