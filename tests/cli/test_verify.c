/* test_verify.c - verification of cases: it passes what is right, fails what is not, and says why.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "engine/io/checkpoint.h"
#include "engine/io/safetensors.h"
#include "engine/verify/verify.h"
#include "tests/test.h"

#define MODELS TACA_GOLDEN_DIR "/models"

/* ---- a sink that writes everything down ------------------------------------------------------ */

struct notes {
    char text[1 << 16];
    size_t len;
    int ok, bad;
    double worst; /* max abs of the last failed output */
};

static void note(struct notes *n, const char *what, const char *name, const char *more) {
    n->len +=
        (size_t)snprintf(n->text + n->len, sizeof n->text - n->len, "%s %s %s\n", what, name, more);
    if (n->len >= sizeof n->text) n->len = sizeof n->text - 1;
}
static void on_result(void *ctx, const struct verify_result *r) {
    struct notes *n = ctx;
    note(n, r->ok ? "ok" : "FAIL", r->case_name, r->output);
    n->ok += r->ok;
    n->bad += !r->ok;
    if (!r->ok) n->worst = r->max_abs;
}
static void on_skipped(void *ctx, const char *name, const char *why) {
    note(ctx, "skipped", name, why);
}
static void on_failed(void *ctx, const char *name, const char *why) {
    note(ctx, "failed", name, why);
}

static struct notes notes;
static struct verify_counts counts;
static struct taca_err last_error;

static enum taca_code verify(const char *path, const struct verify_opts *opts) {
    const struct verify_opts plain = {.dtype = TACA_F32, .threads = 1};
    const struct verify_sink sink = {&notes, on_result, on_skipped, on_failed};
    memset(&notes, 0, sizeof notes);
    memset(&counts, 0, sizeof counts);
    memset(&last_error, 0, sizeof last_error);
    return verify_path(opts ? opts : &plain, &sink, path, &counts, &last_error);
}

/* ---- temporary folders ----------------------------------------------------------------------- */

struct folder {
    char dir[64], path[256];
    char file[16][128];
    int n;
};

static const char *in_folder(struct folder *f, const char *name) {
    snprintf(f->path, sizeof f->path, "%s/%s", f->dir, name);
    return f->path;
}
static void folder_init(struct folder *f) {
    *f = (struct folder){.dir = "/tmp/taca_verify_XXXXXX"};
    CHECK(mkdtemp(f->dir) != NULL);
}
static const char *new_file(struct folder *f, const char *name) {
    snprintf(f->file[f->n++], sizeof f->file[0], "%s", name);
    return in_folder(f, name);
}
static void folder_finish(struct folder *f) {
    for (int i = 0; i < f->n; i++) unlink(in_folder(f, f->file[i]));
    CHECK_INT(rmdir(f->dir), 0);
}
static void put_text(struct folder *f, const char *name, const char *text) {
    FILE *file = fopen(new_file(f, name), "w");
    if (!CHECK(file != NULL)) return;
    fputs(text, file);
    fclose(file);
}
static void put_link(struct folder *f, const char *name, const char *target) {
    CHECK_INT(symlink(target, new_file(f, name)), 0);
}

/* sd3_tiny under its own name, its io with one tensor replaced by `change`. */
static void put_changed(struct folder *f, void (*change)(struct taca_tensor *t, float *values)) {
    struct taca_safetensors *io = NULL;
    struct taca_tensor t[64];
    float *values = NULL;
    struct taca_err err = {0};
    put_link(f, "sd3_tiny.config.json", MODELS "/sd3_tiny.config.json");
    put_link(f, "sd3_tiny.diffusers.safetensors", MODELS "/sd3_tiny.diffusers.safetensors");
    CHECK_OK(taca_safetensors_open(&io, MODELS "/sd3_tiny.io.safetensors", &err), err);
    size_t n = taca_safetensors_count(io);
    for (size_t i = 0; i < n && i < 64; i++) {
        t[i] = *taca_safetensors_at(io, i);
        if (strcmp(t[i].name, "out") != 0) continue;
        size_t bytes = (size_t)taca_tensor_count(&t[i]) * sizeof *values;
        values = malloc(bytes);
        if (!values) abort();
        memcpy(values, t[i].data, bytes);
        t[i].data = values;
        change(&t[i], values);
    }
    CHECK_OK(taca_safetensors_write(new_file(f, "sd3_tiny.io.safetensors"), t, n, &err), err);
    free(values);
    taca_safetensors_close(io);
}

/* ---- what is right --------------------------------------------------------------------------- */

static void test_model_sets_and_pipelines_pass(void) {
    CHECK_INT(verify(MODELS, NULL), TACA_OK);
    printf("    %d outputs, %d skipped\n", counts.outputs, counts.skipped);
    CHECK_INT(counts.failed, 0);
    CHECK_INT(notes.ok, 38);
    CHECK_HAS(notes.text, "ok sd35m_tiny out.skip_layers");
    CHECK_HAS(notes.text, "ok difftest_vae_lc1 out.moments");
    CHECK_HAS(notes.text, "ok pipe_sd3_inpaint out.image");
    CHECK_HAS(notes.text, "ok difftest_flux out");
    CHECK_HAS(notes.text, "ok pipe_flux_dev_truecfg out.image");
    CHECK_HAS(notes.text, "skipped pipe_flux_dev_i2i");
}

static void test_taca_sets_find_their_models_beside(void) {
    CHECK_INT(verify(TACA_GOLDEN_DIR "/taca", NULL), TACA_OK);
    CHECK_INT(counts.failed, 0);
    CHECK_INT(notes.ok, 29);
    CHECK_HAS(notes.text, "ok taca_sd35m_tiny out.skip_layers.gamma_1.2");
    CHECK_HAS(notes.text, "ok pipe_sd3_taca gammas");
}

static void test_text_cases_without_t5_pass(void) {
    CHECK_INT(verify(TACA_GOLDEN_DIR "/pipelines", NULL), TACA_OK);
    CHECK_INT(counts.failed, 0);
    CHECK_INT(notes.ok, 14);
    CHECK_HAS(notes.text, "ok sd35_no_t5 ids.negative.clip_g");
    CHECK_HAS(notes.text, "ok sd35_no_t5 init.latents");
    CHECK_HAS(notes.text, "ok sd35_no_t5 out.image");
}

static void test_a_case_may_be_named_with_or_without_suffix(void) {
    CHECK_INT(verify(MODELS "/sd3_tiny", NULL), TACA_OK);
    CHECK_INT(notes.ok, 1);
    CHECK_INT(verify(MODELS "/sd3_tiny.io.safetensors", NULL), TACA_OK);
    CHECK_INT(notes.ok, 1);
    CHECK_INT(verify(MODELS "/pipe_sd3_t2i", NULL), TACA_OK);
    CHECK_INT(notes.ok, 5);
    CHECK_INT(counts.cases, 1);
}

static void test_further_folders_hold_weights(void) {
    struct folder f;
    const struct verify_opts with = {.weights = {MODELS}, .n_weights = 1, .threads = 1};
    folder_init(&f);
    put_link(&f, "taca_sd3_tiny.json", TACA_GOLDEN_DIR "/taca/taca_sd3_tiny.json");
    put_link(&f, "taca_sd3_tiny.io.safetensors",
             TACA_GOLDEN_DIR "/taca/taca_sd3_tiny.io.safetensors");
    CHECK_INT(verify(f.dir, NULL), TACA_OK);
    CHECK_INT(counts.failed, 1);
    CHECK_HAS(notes.text, "no model set sd3_tiny");
    CHECK_INT(verify(f.dir, &with), TACA_OK);
    CHECK_INT(counts.failed, 0);
    CHECK_INT(notes.ok, 2);
    folder_finish(&f);
}

/* ---- what is wrong --------------------------------------------------------------------------- */

static void one_value_off(struct taca_tensor *t, float *values) {
    (void)t;
    values[777] += 0.004f;
}
static void not_a_number(struct taca_tensor *t, float *values) {
    (void)t;
    values[5] = NAN;
}
static void fewer_rows(struct taca_tensor *t, float *values) {
    (void)values;
    t->dim[0] = 1;
}

static void test_one_wrong_value_fails(void) {
    struct folder f;
    struct verify_opts opts = {.threads = 1};
    folder_init(&f);
    put_changed(&f, one_value_off);
    CHECK_INT(verify(f.dir, NULL), TACA_OK);
    CHECK_INT(counts.failed, 1);
    CHECK_HAS(notes.text, "FAIL sd3_tiny out");
    CHECK_NEAR(notes.worst, 0.004, 1e-4);
    opts.tol = 0.01;
    CHECK_INT(verify(f.dir, &opts), TACA_OK);
    CHECK_INT(counts.failed, 0);
    opts.tol = 1e-9;
    CHECK_INT(verify(MODELS "/sd3_tiny", &opts), TACA_OK);
    CHECK_INT(counts.failed, 1);
    folder_finish(&f);
}

static void test_what_is_not_a_number_fails(void) {
    struct folder f;
    folder_init(&f);
    put_changed(&f, not_a_number);
    CHECK_INT(verify(f.dir, NULL), TACA_OK);
    CHECK_INT(counts.failed, 1);
    CHECK(isinf(notes.worst));
    folder_finish(&f);
}

static void test_a_reference_of_another_shape_fails(void) {
    struct folder f;
    folder_init(&f);
    put_changed(&f, fewer_rows);
    CHECK_INT(verify(f.dir, NULL), TACA_OK);
    CHECK_INT(counts.failed, 1);
    CHECK_HAS(notes.text, "out: the reference holds");
    folder_finish(&f);
}

static void test_a_cut_file_is_a_failure(void) {
    struct folder f;
    folder_init(&f);
    put_changed(&f, one_value_off);
    CHECK_INT(truncate(in_folder(&f, "sd3_tiny.io.safetensors"), 3000), 0);
    CHECK_INT(verify(f.dir, NULL), TACA_OK);
    CHECK_INT(counts.failed, 1);
    CHECK_HAS(notes.text, "failed sd3_tiny");
    folder_finish(&f);
}

static void test_what_this_build_lacks_is_skipped_unless_named(void) {
    struct folder f;
    folder_init(&f);
    put_text(&f, "other.config.json", "{\"cross_attention_dim\": 1}");
    put_text(&f, "other.diffusers.safetensors", "");
    put_link(&f, "other.io.safetensors", MODELS "/sd3_tiny.io.safetensors");
    CHECK_INT(verify(f.dir, NULL), TACA_OK);
    CHECK_INT(counts.failed, 0);
    CHECK_INT(counts.skipped, 1);
    CHECK_HAS(notes.text, "skipped other the config is of no known model");
    CHECK_INT(verify(in_folder(&f, "other"), NULL), TACA_OK);
    CHECK_INT(counts.failed, 1);
    CHECK_HAS(notes.text, "failed other the config is of no known model");
    folder_finish(&f);
}

static void test_missing_cases_are_named(void) {
    struct folder f;
    folder_init(&f);
    CHECK_INT(verify(f.dir, NULL), TACA_ENOTFOUND);
    CHECK_HAS(last_error.text, "no cases in");
    CHECK_INT(verify(MODELS "/sd3_tny", NULL), TACA_ENOTFOUND);
    CHECK_HAS(last_error.text, "no case sd3_tny");
    CHECK_INT(verify("/nowhere/at/all", NULL), TACA_ENOTFOUND);
    folder_finish(&f);
}

/* ---- hostile case files ---------------------------------------------------------------------- */

/* Entries of pipelines.json: `field` of the good one (in args where it says so) becomes `value`. */
static const struct {
    const char *field;
    bool in_args;
    const char *value, *says;
} hostile[] = {
    {"pipeline", false, "7", "names no \"pipeline\""},
    {"pipeline", false, "\"FluxFillPipeline\"", "FluxFillPipeline is not part of this build"},
    {"seed", false, "\"x\"", "seed: wanted an integer"},
    {"seed", false, "[]", "wanted 1..16"},
    {"seed", false, "[1, 2, 3]", "3 of them for 1 images"},
    {"args", false, "[]", "no object \"args\""},
    {"scheduler", false, "3", "no object \"scheduler\""},
    {"scheduler", false, "{\"use_karras_sigmas\": true}", "use_karras_sigmas"},
    {"scheduler", false, "{\"shift\": -1}", "shift"},
    {"transformer", false, "\"vae_tiny_sd3\"", "wanted an SD3 transformer"},
    {"transformer", false, "\"nobody\"", "no model set nobody"},
    {"vae", false, "\"sd3_tiny\"", "type"},
    {"height", true, "-64", "height"},
    {"height", true, "65", "wanted multiples of 16"},
    {"height", true, "16000", "up to"},
    {"num_inference_steps", true, "0", "num_inference_steps"},
    {"num_inference_steps", true, "100000", "num_inference_steps"},
    {"num_inference_steps", true, "3", "sigmas: the reference holds 5 values, this build 4"},
    {"num_images_per_prompt", true, "1000000", "num_images_per_prompt"},
    {"guidance_scale", true, "\"high\"", "guidance_scale"},
    {"skip_guidance_layers", true, "[1]", "argument skip_guidance_layers"},
    {"taca", true, "{\"gamma\": 1.2}", "wanted \"sigma_ge\", or \"steps\""},
    {"taca", true, "{\"gamma\": 1.2, \"steps\": [3, 1]}", "\"steps\""},
    {"taca", true, "{\"gamma\": \"x\", \"steps\": [0, 1]}", "gamma"},
};

static void test_hostile_entries_are_refused_with_a_reason(void) {
    const struct verify_opts opts = {.weights = {MODELS}, .n_weights = 1, .threads = 1};
    struct taca_err err = {0};
    json_t *all = NULL;
    CHECK_OK(taca_json_load(&all, MODELS "/pipelines.json", &err), err);
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        json_t *entry = json_deep_copy(json_object_get(all, "pipe_sd3_t2i"));
        json_t *at = hostile[i].in_args ? json_object_get(entry, "args") : entry;
        json_object_set_new(at, hostile[i].field,
                            json_loads(hostile[i].value, JSON_DECODE_ANY, NULL));
        json_t *file = json_pack("{s:o}", "pipe_sd3_t2i", entry);
        char *text = json_dumps(file, 0);
        struct folder f;
        folder_init(&f);
        put_text(&f, "pipelines.json", text);
        put_link(&f, "pipe_sd3_t2i.io.safetensors", MODELS "/pipe_sd3_t2i.io.safetensors");
        CHECK_INT(verify(in_folder(&f, "pipe_sd3_t2i"), &opts), TACA_OK);
        CHECK_INT(counts.failed, 1);
        CHECK_HAS(notes.text, hostile[i].says);
        folder_finish(&f);
        free(text);
        json_decref(file);
    }
    json_decref(all);
}

/* ---- text cases ------------------------------------------------------------------------------ */

#define PIPELINES TACA_GOLDEN_DIR "/pipelines"

/* Entries of text_cases.json: `field` of the case without T5 becomes `value`, and what is said. An
 * empty `says`: it passes. */
static const struct {
    const char *field, *value, *says;
} text_entries[] = {
    {"weights", "\"sd35_tiny\"", ""},
    {"weights", "null", "names no \"weights\""},
    {"weights", "\"nowhere\"", "no nowhere in"},
    {"without", "[]", "no text_encoder_3"},
    {"without", "[7]", "without[0]: wanted a component's name"},
    {"without", "[\"vae\"]", "without vae: only T5 may be missing"},
    {"transformer_file", "7", "transformer_file: wanted a path"},
    {"transformer_file", "\"nothing\"", "no nothing in"},
    {"transformer_file", "\"same.safetensors\"", "this is a CLIP text encoder"},
    {"override", "7", "override: wanted one component and its file"},
    {"override", "{\"text_encoder\": 7}", "override: wanted one component and its file"},
    {"override", "{\"text_encoder_3\": \"same.safetensors\"}", "override: no text_encoder_3"},
    {"override", "{\"text_encoder\": \"nothing\"}", "no nothing in"},
    {"override", "{\"vae\": \"same.safetensors\"}", "vae/model.safetensors"},
    {"override", "{\"text_encoder_2\": \"other.safetensors\"}", "is in no file of the component"},
    {"override", "{\"text_encoder\": \"same.safetensors\"}", ""}, /* by itself: no change */
};

static void test_text_cases_may_replace_parts_or_are_refused(void) {
    static const char name[] = "sd35_no_t5";
    const struct verify_opts opts = {.weights = {PIPELINES}, .n_weights = 1, .threads = 1};
    struct taca_err err = {0};
    json_t *all = NULL;
    CHECK_OK(taca_json_load(&all, PIPELINES "/text_cases.json", &err), err);
    for (size_t i = 0; i < sizeof text_entries / sizeof *text_entries; i++) {
        json_t *entry = json_deep_copy(json_object_get(all, name));
        json_object_set_new(entry, text_entries[i].field,
                            json_loads(text_entries[i].value, JSON_DECODE_ANY, NULL));
        json_t *file = json_pack("{s:o}", name, entry);
        char *text = json_dumps(file, 0);
        struct folder f;
        folder_init(&f);
        put_text(&f, "text_cases.json", text);
        put_link(&f, "sd35_no_t5.io.safetensors", PIPELINES "/sd35_no_t5.io.safetensors");
        put_link(&f, "same.safetensors", PIPELINES "/sd35_tiny/text_encoder/model.safetensors");
        put_link(&f, "other.safetensors", MODELS "/vae_tiny_sd3.diffusers.safetensors");
        CHECK_INT(verify(in_folder(&f, name), &opts), TACA_OK);
        CHECK_INT(counts.failed, text_entries[i].says[0] != 0);
        CHECK_HAS(notes.text, text_entries[i].says);
        folder_finish(&f);
        free(text);
        json_decref(file);
    }
    json_decref(all);
}

static void test_hostile_taca_sets_are_refused_with_a_reason(void) {
    static const char *const sets[][2] = {
        {"[]", "object"},
        {"{\"model\": \"sd3_tiny\"}", "an array \"gammas\""},
        {"{\"model\": 1, \"gammas\": [1.2]}", "wanted a \"model\""},
        {"{\"model\": \"vae_tiny_sd3\", \"gammas\": [1.2]}", "is no transformer"},
        {"{\"model\": \"sd3_tiny\", \"gammas\": [\"x\"]}", "gammas[0]"},
        {"{\"model\": \"sd3_tiny\", \"gammas\": [-1]}", "gammas[0]"},
        {"{\"model\": \"sd3_tiny\", \"gammas\": [7.5]}", "no output to compare"},
        {"{\"model\": \"sd3_tiny\", \"gammas\": [2], \"skip_layers\": [99]}", "layer 99"},
        {"{\"model\": \"sd3_tiny\", \"gammas\": [2], \"gammas\": [2]}", "duplicate"},
        {"{\"model\": \"sd3_tiny", ""},
    };
    const struct verify_opts opts = {.weights = {MODELS}, .n_weights = 1, .threads = 1};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        struct folder f;
        folder_init(&f);
        put_text(&f, "odd.json", sets[i][0]);
        put_link(&f, "odd.io.safetensors", TACA_GOLDEN_DIR "/taca/taca_sd3_tiny.io.safetensors");
        enum taca_code rc = verify(f.dir, &opts);
        CHECK(counts.failed == 1 || rc != TACA_OK);
        CHECK_HAS(notes.text, sets[i][1]);
        folder_finish(&f);
    }
}

int main(void) {
    TEST(test_model_sets_and_pipelines_pass);
    TEST(test_taca_sets_find_their_models_beside);
    TEST(test_text_cases_without_t5_pass);
    TEST(test_a_case_may_be_named_with_or_without_suffix);
    TEST(test_further_folders_hold_weights);
    TEST(test_one_wrong_value_fails);
    TEST(test_what_is_not_a_number_fails);
    TEST(test_a_reference_of_another_shape_fails);
    TEST(test_a_cut_file_is_a_failure);
    TEST(test_what_this_build_lacks_is_skipped_unless_named);
    TEST(test_missing_cases_are_named);
    TEST(test_hostile_entries_are_refused_with_a_reason);
    TEST(test_text_cases_may_replace_parts_or_are_refused);
    TEST(test_hostile_taca_sets_are_refused_with_a_reason);
    return TEST_END();
}
