/* test_schedule.c - noise levels against the reference scheduler: printed tables, hashes of whole
 * schedules in float bits, and the schedules stored with reference pipeline runs. */
#include "engine/io/checkpoint.h"
#include "engine/sample/schedule.h"
#include "tests/sample/hash.h"
#include "tests/test.h"

static const struct taca_scheduler sd3 = {.shift = 3, .train_steps = 1000};

static void check_table(const struct taca_schedule *s, const double *want, int n) {
    CHECK_INT(s->steps, n);
    for (int i = 0; i < n; i++) CHECK_NEAR(s->sigma[i], want[i], 1e-7 * want[i]);
    CHECK(s->sigma[n] == 0);
}

static void test_four_steps_of_sd3(void) {
    static const double want[] = {1, .857692301, .602150559, .008928572};
    struct taca_schedule s;
    struct taca_err err = {0};
    CHECK_OK(taca_schedule_init(&s, &sd3, 4, 0, 0, &err), err);
    check_table(&s, want, 4);
    CHECK_NEAR(s.timestep[1], 857.692301, 1e-4);
}

static void test_twenty_eight_steps_of_sd3(void) {
    static const double want[] = {
        1,          .987380624, .974107742, .960129321, .945387483, .929817915, .913348973,
        .895900309, .877381921, .857692301, .836716652, .814324796, .790368259, .764677107,
        .737055838, .707278490, .675082326, .640160203, .602150559, .560625017, .515072107,
        .464876026, .409288824, .347392648, .278048784, .199826986, .110905729, .008928572};
    struct taca_schedule s;
    struct taca_err err = {0};
    CHECK_OK(taca_schedule_init(&s, &sd3, 28, 0, 0, &err), err);
    check_table(&s, want, 28);
}

static void test_shift_one_is_linear(void) {
    static const double want[] = {1, .667, .334, .001};
    struct taca_schedule s;
    struct taca_err err = {0};
    CHECK_OK(taca_schedule_init(&s, &sd3, 4, 0, 1, &err), err);
    check_table(&s, want, 4);
}

static void test_one_step_goes_straight_to_the_image(void) {
    struct taca_schedule s;
    struct taca_err err = {0};
    CHECK_OK(taca_schedule_init(&s, &sd3, 1, 0, 0, &err), err);
    CHECK_INT(s.steps, 1);
    CHECK(s.sigma[0] == 1 && s.sigma[1] == 0 && s.timestep[0] == 1000);
}

static void test_schedules_are_the_references_to_the_bit(void) {
    static const struct {
        int n;
        double shift;
        uint64_t sigmas, timesteps;
    } want[] = {
        {2, 3, 0x780359C278BF840A, 0x95E80772D90FB0C3},
        {4, 3, 0xB75F8CD57D0D0935, 0xE83B6BBBFE995F45},
        {20, 3, 0x702250BBBEE92A3D, 0xC2C3874864EF3307},
        {28, 3, 0x3CC65515DE9726B9, 0xD2E4C15231CAB85D},
        {30, 3, 0xDF0058D6426226C8, 0xC3F3F1191CE72868},
        {50, 3, 0xB8DC75452B695F2D, 0xA5385446B7C8D20E},
        {200, 3, 0xFABFEDC8635F8F0F, 0xFA0919ED56F6A9E0},
        {4, 1, 0xA9A3B4915314E5FF, 0x730E92363ACA53F5},
        {200, 1, 0xE755AF9365656D02, 0xB2F53D970A5B76AB},
        {28, 1.15, 0x84EC432B2FC93DAF, 0xCC45D882BF6886FE},
        {28, 0.5, 0x694F1B8E82AB1E89, 0xF4D80B6B818EA39E},
        {10, 2.2, 0x8AA8FE82383F67E3, 0xD63DF8424A44006F},
        {30, 6, 0x13A42EFA36C520CA, 0x27AE53D838EBFA59},
        {200, 100, 0x0268D122EC735A84, 0x607595717DD1D6C1},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct taca_schedule s;
        struct taca_err err = {0};
        int n = want[i].n;
        CHECK_OK(taca_schedule_init(&s, &sd3, n, 0, want[i].shift, &err), err);
        CHECK(fnv_floats(FNV_START, s.sigma, (size_t)n + 1) == want[i].sigmas);
        CHECK(fnv_floats(FNV_START, s.timestep, (size_t)n) == want[i].timesteps);
    }
}

/* ---- FLUX: even levels, a shift that grows with the picture -------------------------------------
 */

static const struct taca_scheduler flux_dev = {.spacing = TACA_SPACING_EVEN,
                                               .shift = 3,
                                               .dynamic = TACA_DYNAMIC_EXPONENTIAL,
                                               .base_shift = 0.5,
                                               .max_shift = 1.15,
                                               .base_tokens = 256,
                                               .max_tokens = 4096,
                                               .train_steps = 1000};
static const struct taca_scheduler flux_schnell = {
    .spacing = TACA_SPACING_EVEN, .shift = 1, .train_steps = 1000};

static void check_levels(const struct taca_scheduler *scheduler, int64_t tokens, double shift,
                         const double *want, int n) {
    struct taca_schedule s;
    struct taca_err err = {0};
    CHECK_OK(taca_schedule_init(&s, scheduler, n, tokens, shift, &err), err);
    check_table(&s, want, n);
}

static void test_flux_dev_follows_the_size_of_the_picture(void) {
    static const double large[] = {1, 0.904530764, 0.759510934, 0.512844145};
    static const double small[] = {1, 0.849234819, 0.652489424, 0.384944737};
    static const double many[] = {
        1,          .988408625, .976222456, .963394403, .949872553, .935598910, .920508981,
        .904530764, .887583435, .869575918, .850405693, .829956412, .808095515, .784671605,
        .759510934, .732412815, .703144729, .671434820, .636964500, .599356711, .558162868,
        .512844145, .462748408, .407078415, .344848931, .274827987, .195454597, .104720898};
    check_levels(&flux_dev, 4096, 0, large, 4);
    check_levels(&flux_dev, 1024, 0, small, 4);
    check_levels(&flux_dev, 4096, 0, many, 28);
}

static void test_flux_schnell_is_even(void) {
    static const double want[] = {1, 0.75, 0.5, 0.25};
    check_levels(&flux_schnell, 4096, 0, want, 4);
    check_levels(&flux_schnell, 256, 0, want, 4); /* whatever the picture */
    check_levels(&flux_dev, 4096, 1, want, 4);    /* asking for a shift turns the dynamic one off */
}

static void test_a_linear_shift_is_mu_itself(void) {
    struct taca_scheduler s = flux_dev;
    s.base_shift = 1, s.max_shift = 3, s.dynamic = TACA_DYNAMIC_LINEAR;
    static const double at_base[] = {1, 0.75, 0.5, 0.25};
    static const double at_max[] = {1, 0.9, 0.75, 0.5}; /* 3 s / (1 + 2 s) */
    check_levels(&s, 256, 0, at_base, 4);
    check_levels(&s, 4096, 0, at_max, 4);
}

/* SD3's spacing under a dynamic shift: the lowest trained level is not shifted beforehand. */
static void test_trained_levels_take_a_dynamic_shift_once(void) {
    struct taca_scheduler s = flux_dev;
    const double e = exp(1.15);
    double want[4];
    s.spacing = TACA_SPACING_TRAINED;
    for (int i = 0; i < 4; i++) {
        const double t = 1 - i * 0.333;
        want[i] = e / (e + 1 / t - 1);
    }
    check_levels(&s, 4096, 0, want, 4);
}

/* Timesteps of the first steps, as published tables of TACA have them. */
static void test_first_timesteps_of_flux(void) {
    static const struct {
        int64_t tokens;
        int n;
        double t[5];
    } want[] = {{4096, 30, {1000.0, 989.2, 977.9, 966.0, 953.5}},
                {4096, 28, {1000.0, 988.4, 976.2, 963.4, 949.9}},
                {1024, 30, {1000.0, 982.0, 963.4}},
                {2304, 30, {1000.0, 985.4, 970.3, 954.5}},
                {9216, 30, {1000.0, 995.4, 990.6, 985.4, 979.9}},
                {16384, 30, {1000.0, 998.6, 997.2, 995.6, 994.0}}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct taca_schedule s;
        struct taca_err err = {0};
        CHECK_OK(taca_schedule_init(&s, &flux_dev, want[i].n, want[i].tokens, 0, &err), err);
        for (int k = 0; k < 5 && want[i].t[k] > 0; k++)
            CHECK_NEAR(s.timestep[k], want[i].t[k], 0.051);
    }
}

static void test_flux_levels_fall_strictly(void) {
    static const int64_t tokens[] = {1, 256, 4096, 16384, 24000};
    for (size_t k = 0; k < sizeof tokens / sizeof *tokens; k++)
        for (int n = 1; n <= TACA_MAX_STEPS; n++) {
            struct taca_schedule s;
            struct taca_err err = {0};
            CHECK_OK(taca_schedule_init(&s, &flux_dev, n, tokens[k], 0, &err), err);
            bool falls = s.sigma[0] == 1 && s.sigma[n] == 0;
            for (int i = 0; i < n; i++) falls = falls && s.sigma[i + 1] < s.sigma[i];
            CHECK(falls);
        }
}

static void test_a_picture_beyond_the_dynamic_range_is_refused(void) {
    struct taca_schedule s = {.steps = -7};
    struct taca_err err = {0};
    CHECK_INT(taca_schedule_init(&s, &flux_dev, 4, 65536, 0, &err), TACA_EINVAL);
    CHECK_HAS(err.text, "65536 tokens");
    CHECK_INT(s.steps, -7);
    err = (struct taca_err){0};
    CHECK_OK(taca_schedule_init(&s, &flux_dev, 4, 65536, 3, &err), err);
}

static void test_levels_fall_strictly_from_one_to_zero(void) {
    static const double shifts[] = {0.01, 0.07, 0.5, 1, 1.15, 3, 17, 100};
    for (size_t k = 0; k < sizeof shifts / sizeof *shifts; k++) {
        for (int n = 1; n <= TACA_MAX_STEPS; n++) {
            struct taca_schedule s;
            struct taca_err err = {0};
            CHECK_OK(taca_schedule_init(&s, &sd3, n, 0, shifts[k], &err), err);
            bool falls = s.sigma[0] == 1 && s.sigma[n] == 0;
            for (int i = 0; i < n; i++) falls = falls && s.sigma[i + 1] < s.sigma[i];
            CHECK(falls);
        }
    }
}

/* `sigmas` and `timesteps` of a reference run, 64 x 96 pixels. */
static void check_run(const char *file, const struct taca_scheduler *scheduler) {
    struct taca_err err = {0};
    struct taca_ckpt *io = NULL;
    struct taca_tensor sigmas, timesteps;
    struct taca_schedule s;
    float want[TACA_MAX_STEPS + 1];
    char path[512];

    snprintf(path, sizeof path, "%s/%s", TACA_GOLDEN_DIR, file);
    CHECK_OK(taca_ckpt_open(&io, path, &err), err);
    if (!io) return;
    CHECK_OK(taca_ckpt_get(io, &sigmas, "sigmas", 1, (int64_t[]){-1}, &err), err);
    int n = (int)sigmas.dim[0] - 1;
    CHECK_OK(taca_ckpt_get(io, &timesteps, "timesteps", 1, (int64_t[]){n}, &err), err);
    CHECK_OK(taca_schedule_init(&s, scheduler, n, 24, 0, &err), err);
    memcpy(want, sigmas.data, sizeof *want * (size_t)(n + 1));
    CHECK_FLOATS(file, s.sigma, want, (size_t)n + 1, 6e-8);
    memcpy(want, timesteps.data, sizeof *want * (size_t)n);
    CHECK_FLOATS(file, s.timestep, want, (size_t)n, 6.2e-5);
    taca_ckpt_close(io);
}

static void test_schedules_of_reference_runs(void) {
    check_run("models/pipe_sd3_t2i.io.safetensors", &sd3);
    check_run("models/pipe_sd3_i2i.io.safetensors", &sd3);
    check_run("models/pipe_sd3_inpaint.io.safetensors", &sd3);
    check_run("taca/pipe_sd3_taca.io.safetensors", &sd3);
    check_run("models/pipe_flux_dev_t2i.io.safetensors", &flux_dev);
    check_run("models/pipe_flux_dev_truecfg.io.safetensors", &flux_dev);
    check_run("models/pipe_flux_schnell_t2i.io.safetensors", &flux_schnell);
    check_run("taca/pipe_flux_dev_taca.io.safetensors", &flux_dev);
    check_run("pipelines/sd35_no_t5.io.safetensors", &sd3);
}

static void test_bad_requests_name_field_and_range(void) {
    static const double bad[] = {-1, 0.001, 101, (double)NAN, (double)INFINITY};
    struct taca_schedule s = {.steps = -7};
    for (int n = 0; n <= TACA_MAX_STEPS + 1; n += TACA_MAX_STEPS + 1) {
        struct taca_err err = {0};
        CHECK_INT(taca_schedule_init(&s, &sd3, n, 0, 0, &err), TACA_EINVAL);
        CHECK_STR(err.param, "steps");
        CHECK_HAS(err.text, "1..200");
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct taca_err err = {0};
        CHECK_INT(taca_schedule_init(&s, &sd3, 4, 0, bad[i], &err), TACA_EINVAL);
        CHECK_STR(err.param, "shift");
        CHECK_HAS(err.text, "0.01..100");
    }
    CHECK_INT(s.steps, -7); /* untouched on failure */
}

static enum taca_code load(struct taca_scheduler *s, const char *text, struct taca_err *err) {
    *err = (struct taca_err){0};
    json_t *config = json_loads(text, 0, NULL);
    CHECK(config != NULL);
    enum taca_code rc = taca_scheduler_load(s, config, TACA_SPACING_TRAINED, err);
    json_decref(config);
    return rc;
}

static void test_configs_are_read(void) {
    struct taca_scheduler s = {0};
    struct taca_err err;
    CHECK_OK(load(&s, "{\"shift\": 3.0, \"num_train_timesteps\": 500}", &err), err);
    CHECK(s.shift == 3 && s.train_steps == 500);
    CHECK_OK(load(&s,
                  "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift_terminal\": null,"
                  " \"use_dynamic_shifting\": false}",
                  &err),
             err);
    CHECK(s.shift == 1 && s.train_steps == 1000); /* the reference's defaults */
    CHECK(s.dynamic == TACA_DYNAMIC_OFF && s.spacing == TACA_SPACING_TRAINED);
    CHECK_OK(load(&s, "{\"shift\": 3.0, \"use_dynamic_shifting\": true}", &err), err);
    CHECK(s.dynamic == TACA_DYNAMIC_EXPONENTIAL);
    CHECK(s.base_shift == 0.5 && s.max_shift == 1.15); /* defaults again */
    CHECK(s.base_tokens == 256 && s.max_tokens == 4096);
    CHECK_OK(load(&s,
                  "{\"use_dynamic_shifting\": true, \"time_shift_type\": \"linear\","
                  " \"base_shift\": 0.25, \"max_shift\": 1.5, \"base_image_seq_len\": 100,"
                  " \"max_image_seq_len\": 200}",
                  &err),
             err);
    CHECK(s.dynamic == TACA_DYNAMIC_LINEAR && s.base_shift == 0.25 && s.max_shift == 1.5);
    CHECK(s.base_tokens == 100 && s.max_tokens == 200);
}

static void test_unsupported_configs_say_what_is_unsupported(void) {
    static const char *const options[] = {"use_karras_sigmas", "use_exponential_sigmas",
                                          "use_beta_sigmas", "invert_sigmas",
                                          "stochastic_sampling"};
    struct taca_scheduler s = {.train_steps = -7};
    struct taca_err err;
    char text[128];
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        snprintf(text, sizeof text, "{\"shift\": 3.0, \"%s\": true}", options[i]);
        CHECK_INT(load(&s, text, &err), TACA_EUNSUPPORTED);
        CHECK_HAS(err.text, options[i]);
    }
    CHECK_INT(load(&s, "{\"shift_terminal\": 0.1}", &err), TACA_EUNSUPPORTED);
    CHECK_INT(load(&s, "{\"_class_name\": \"DDIMScheduler\"}", &err), TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "DDIMScheduler");
    CHECK_INT(load(&s, "{\"shift\": \"big\"}", &err), TACA_EFORMAT);
    CHECK_INT(load(&s, "{\"shift\": -3}", &err), TACA_EFORMAT);
    CHECK_INT(load(&s, "{\"num_train_timesteps\": 0}", &err), TACA_EFORMAT);
    CHECK_INT(load(&s, "{\"use_dynamic_shifting\": true, \"time_shift_type\": \"cubic\"}", &err),
              TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "cubic");
    CHECK_INT(load(&s, "{\"use_dynamic_shifting\": true, \"max_image_seq_len\": 256}", &err),
              TACA_EFORMAT);
    CHECK_HAS(err.text, "base_image_seq_len");
    CHECK_INT(s.train_steps, -7);
}

int main(void) {
    TEST(test_four_steps_of_sd3);
    TEST(test_twenty_eight_steps_of_sd3);
    TEST(test_shift_one_is_linear);
    TEST(test_one_step_goes_straight_to_the_image);
    TEST(test_schedules_are_the_references_to_the_bit);
    TEST(test_levels_fall_strictly_from_one_to_zero);
    TEST(test_flux_dev_follows_the_size_of_the_picture);
    TEST(test_flux_schnell_is_even);
    TEST(test_a_linear_shift_is_mu_itself);
    TEST(test_trained_levels_take_a_dynamic_shift_once);
    TEST(test_first_timesteps_of_flux);
    TEST(test_flux_levels_fall_strictly);
    TEST(test_a_picture_beyond_the_dynamic_range_is_refused);
    TEST(test_schedules_of_reference_runs);
    TEST(test_bad_requests_name_field_and_range);
    TEST(test_configs_are_read);
    TEST(test_unsupported_configs_say_what_is_unsupported);
    return TEST_END();
}
