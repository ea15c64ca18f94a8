/* test_inspect.c - the command `taca inspect`: what it prints and how it exits. */
#include <jansson.h>

#include "cli/cli.h"
#include "tests/io/tmp.h"
#include "tests/test.h"

/* As in main.c, but into a string that can be looked at. */
static char complaint[512];
int cli_fail(const char *command, const struct taca_err *err) {
    snprintf(complaint, sizeof complaint, "taca %s: %s", command, err->text);
    return EXIT_FAILED;
}

static char output[1 << 16];

/* Runs it with stdout in a file, whose content is then in `output`. */
static int run(int argc, char **argv) {
    const char *path = tmp_path("stdout");
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    complaint[0] = 0;
    if (saved < 0 || !freopen(path, "wb", stdout)) abort();
    int code = cli_inspect(argc, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(output, 1, sizeof output - 1, f) : 0;
    output[n] = 0;
    if (f) fclose(f);
    return code;
}

static int inspect(const char *a, const char *b) {
    char *argv[] = {(char[]){"inspect"}, (char *)a, (char *)b, NULL};
    return run(b ? 3 : a ? 2 : 1, argv);
}

static int inspect_with(const char *model, const char *const *options, int n) {
    char *argv[16] = {(char[]){"inspect"}, (char *)model};
    for (int i = 0; i < n; i++) argv[2 + i] = (char *)options[i];
    return run(2 + n, argv);
}

static json_int_t number(const json_t *j, const char *a, const char *b, const char *c) {
    j = json_object_get(json_object_get(j, a), b);
    return json_integer_value(c ? json_object_get(j, c) : j);
}

static void test_a_model_is_told_in_words(void) {
    CHECK_INT(inspect(TACA_SOURCE_DIR "/models/demo", NULL), EXIT_OK);
    CHECK_HAS(output, "demo  StableDiffusion3Pipeline (sd3.5)");
    CHECK_HAS(output, "8 layers, width 192, 3 heads of 64, qk norm, dual attention in layers 0-1");
    CHECK_HAS(output, "factor 8, 16 latent channels");
    CHECK_HAS(output, "11.2 M");
    CHECK_HAS(output, "not part of this model");
    CHECK_HAS(output, "128x128, 28 steps, guidance 4.5; sides up to 512");
    CHECK_HAS(output, "making 1 picture of 128x128, 28 steps");
    CHECK_HAS(output, " at most, opening ");
    CHECK_INT(inspect(TACA_GOLDEN_DIR "/pipelines/sd35_tiny", NULL), EXIT_OK);
    CHECK_HAS(output, "of the pipeline, but not there");
}

static void test_a_model_is_told_in_json(void) {
    CHECK_INT(inspect(TACA_SOURCE_DIR "/models/demo", "--json"), EXIT_OK);
    json_t *j = json_loads(output, JSON_REJECT_DUPLICATES, NULL);
    CHECK(j != NULL); /* one object, nothing behind it */
    CHECK_STR(json_string_value(json_object_get(j, "id")), "demo");
    CHECK_INT(number(j, "components", "transformer", "parameters"), 11220544);
    CHECK(json_is_null(json_object_get(json_object_get(j, "components"), "text_encoder_3")));
    CHECK_INT(number(j, "structure", "transformer", "layers"), 8);
    CHECK_INT(number(j, "structure", "text_encoder_2", "vocabulary"), 728);
    CHECK_INT(number(j, "defaults", "steps", NULL), 28);
    CHECK_INT(number(j, "weight_memory", "f32", NULL), 4 * (11220544 + 998771 + 2 * 510464));
    json_decref(j);
}

static void test_options_change_what_is_planned(void) {
    const char *const options[] = {"--json", "--size=256x64", "--steps=3", "--count=2"};
    CHECK_INT(inspect_with(TACA_SOURCE_DIR "/models/demo", options, 4), EXIT_OK);
    json_t *j = json_loads(output, JSON_REJECT_DUPLICATES, NULL);
    CHECK_INT(number(j, "plan", "width", NULL), 256);
    CHECK_INT(number(j, "plan", "height", NULL), 64);
    CHECK_INT(number(j, "plan", "steps", NULL), 3);
    CHECK_INT(number(j, "plan", "count", NULL), 2);
    CHECK_INT(number(j, "plan", "tokens", NULL), 2 * (16 * 4 + 32)); /* with guidance */
    CHECK(number(j, "plan", "memory", "peak") > number(j, "plan", "memory", "transformer"));
    CHECK(json_real_value(
              json_object_get(json_object_get(json_object_get(j, "plan"), "seconds"), "all")) > 0);
    json_decref(j);
}

static void test_a_plan_that_cannot_be_is_refused(void) {
    CHECK_INT(inspect(TACA_SOURCE_DIR "/models/demo", "--size=65x64"), EXIT_FAILED);
    CHECK_HAS(complaint, "width must be a multiple of 16 in 64..512, got 65");
    CHECK_INT(inspect(TACA_SOURCE_DIR "/models/demo", "--size=big"), EXIT_FAILED);
    CHECK_HAS(complaint, "--size must be WxH");
    CHECK_INT(inspect(TACA_SOURCE_DIR "/models/demo", "--lora=nowhere"), EXIT_FAILED);
    CHECK_HAS(complaint, "nowhere");
    CHECK_INT(inspect(TACA_SOURCE_DIR "/models/demo", "--count=0"), EXIT_USAGE);
}

static void test_a_part_alone_is_told_without_a_plan(void) {
    const char *file = TACA_GOLDEN_DIR "/models/flux_tiny_dev.diffusers.safetensors";
    CHECK_INT(inspect(file, NULL), EXIT_OK);
    CHECK_HAS(output, "for the weights in f32");
    CHECK_HAS(output, "no vae in it; give one with --vae");
    CHECK_INT(inspect(file, "--json"), EXIT_OK);
    CHECK_HAS(output, "\"plan\":null,\"plan_missing\":\"");
}

static void test_a_wrong_path_is_one_line_and_exit_1(void) {
    CHECK_INT(inspect(tmp_path("nowhere"), NULL), EXIT_FAILED);
    CHECK_HAS(complaint, "taca inspect: ");
    CHECK_HAS(complaint, "No such file or directory");
    CHECK_STR(output, "");
    CHECK_INT(inspect(TACA_SOURCE_DIR "/models/demo/vae", NULL), EXIT_FAILED);
    CHECK_HAS(complaint, "try the directory above");
    CHECK(!strchr(complaint, '\n'));
}

static void test_usage_errors_exit_2(void) {
    CHECK_INT(inspect(NULL, NULL), EXIT_USAGE);
    CHECK_INT(inspect("a", "b"), EXIT_USAGE);
    CHECK_INT(inspect(TACA_SOURCE_DIR "/models/demo", "--jsno"), EXIT_USAGE);
    CHECK_INT(inspect("--help", NULL), EXIT_OK);
    CHECK_HAS(output, "inspect MODEL");
}

int main(void) {
    tmp_begin();
    TEST(test_a_model_is_told_in_words);
    TEST(test_a_model_is_told_in_json);
    TEST(test_options_change_what_is_planned);
    TEST(test_a_plan_that_cannot_be_is_refused);
    TEST(test_a_part_alone_is_told_without_a_plan);
    TEST(test_a_wrong_path_is_one_line_and_exit_1);
    TEST(test_usage_errors_exit_2);
    tmp_end();
    return TEST_END();
}
