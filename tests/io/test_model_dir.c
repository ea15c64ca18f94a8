/* test_model_dir.c - model directories: honest, incomplete, and paths that are none. */
#include "engine/io/model_dir.h"
#include "tests/io/tmp.h"
#include "tests/test.h"

#define DEMO TACA_SOURCE_DIR "/models/demo"
#define TINY TACA_GOLDEN_DIR "/pipelines/sd35_tiny"

#define CLIP      "[\"transformers\",\"CLIPTextModelWithProjection\"]"
#define TOKENIZER "[\"transformers\",\"CLIPTokenizer\"]"
#define SCHEDULER "\"scheduler\":[\"diffusers\",\"FlowMatchEulerDiscreteScheduler\"]"
#define ENCODERS                                                                                   \
    "\"text_encoder\":" CLIP ",\"text_encoder_2\":" CLIP ",\"tokenizer\":" TOKENIZER               \
    ",\"tokenizer_2\":" TOKENIZER
#define VAE          "\"vae\":[\"diffusers\",\"AutoencoderKL\"]"
#define DIT          "\"transformer\":[\"diffusers\",\"SD3Transformer2DModel\"]"
#define CLASS        "\"_class_name\":\"StableDiffusion3Pipeline\""
#define T5           "\"text_encoder_3\":[\"transformers\",\"T5EncoderModel\"]"
#define T5_TOKENIZER "\"tokenizer_3\":[\"transformers\",\"T5TokenizerFast\"]"

static void refuse(const char *path, enum taca_code code, const char *words) {
    struct taca_model_dir d = {.path = tmp_root};
    struct taca_err err = {0};
    CHECK_INT(taca_model_open(&d, &(struct taca_model_paths){.model = path}, &err), code);
    CHECK(d.path == tmp_root); /* untouched on failure */
    CHECK_HAS(err.text, words);
}

/* A directory whose components are there (but the third encoder), with this index. */
static const char *model(const char *dir, const char *index) {
    static const char *const files[] = {
        "transformer/config.json",        "vae/config.json",
        "text_encoder/config.json",       "text_encoder_2/config.json",
        "tokenizer/vocab.json",           "tokenizer_2/tokenizer_config.json",
        "scheduler/scheduler_config.json"};
    char name[128];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(name, sizeof name, "%s/%s", dir, files[i]);
        tmp_text(name, "{}");
    }
    snprintf(name, sizeof name, "%s/model_index.json", dir);
    tmp_text(name, index);
    return tmp_path(dir);
}

static void test_the_demo_opens(void) {
    struct taca_model_dir d = {0};
    struct taca_err err = {0};
    char id[64];
    CHECK_OK(taca_model_open(&d, &(struct taca_model_paths){.model = DEMO}, &err), err);
    CHECK_STR(d.class_name, "StableDiffusion3Pipeline");
    for (int i = 0; i < TACA_COMPONENTS; i++) {
        bool third = i == TACA_TEXT_ENCODER_3 || i == TACA_TOKENIZER_3;
        CHECK_INT(d.has[i], !third);
        CHECK_INT(d.dir[i] != NULL, !third);
        CHECK_INT(d.config[i] != NULL, !third);
        CHECK(!d.left_out[i]); /* its index says null */
    }
    CHECK_STR(d.dir[TACA_TEXT_ENCODER_2], DEMO "/text_encoder_2");
    CHECK(d.scheduler && d.taca);
    CHECK_INT(json_integer_value(json_object_get(d.config[TACA_TRANSFORMER], "num_layers")), 8);
    taca_model_dir_id(&d, id, sizeof id);
    CHECK_STR(id, "demo");
    taca_model_dir_finish(&d);
    taca_model_dir_finish(&d); /* twice is fine */
}

static void test_a_third_encoder_may_be_left_out(void) {
    struct taca_model_dir d = {0};
    struct taca_err err = {0};
    char id[64];
    /* the index names T5 */
    CHECK_OK(taca_model_open(&d, &(struct taca_model_paths){.model = TINY}, &err), err);
    CHECK(!d.has[TACA_TEXT_ENCODER_3] && d.left_out[TACA_TEXT_ENCODER_3]);
    CHECK(!d.has[TACA_TOKENIZER_3] && d.left_out[TACA_TOKENIZER_3]);
    CHECK(d.has[TACA_TOKENIZER_2] && !d.left_out[TACA_TOKENIZER_2]);
    CHECK(d.taca == NULL);
    taca_model_dir_id(&d, id, sizeof id);
    CHECK_STR(id, "sd35_tiny");
    taca_model_dir_finish(&d);
}

static void test_a_third_encoder_needs_its_tokenizer(void) {
    const char *dir = model("t5", "{" CLASS "," DIT "," VAE "," ENCODERS "," SCHEDULER "," T5
                                  "," T5_TOKENIZER "}");
    tmp_text("t5/text_encoder_3/config.json", "{}");
    refuse(dir, TACA_ENOTFOUND, "text_encoder_3 is there, tokenizer_3 is not");
    tmp_text("t5/tokenizer_3/tokenizer.json", "{}");
    struct taca_model_dir d = {0};
    struct taca_err err = {0};
    CHECK_OK(taca_model_open(&d, &(struct taca_model_paths){.model = dir}, &err), err);
    CHECK(d.has[TACA_TEXT_ENCODER_3] && d.config[TACA_TEXT_ENCODER_3]);
    CHECK(d.has[TACA_TOKENIZER_3] && !d.config[TACA_TOKENIZER_3]); /* optional file */
    taca_model_dir_finish(&d);
}

static void test_other_pipelines_are_answered_by_name(void) {
    refuse(model("kontext", "{\"_class_name\":\"FluxKontextPipeline\"}"), TACA_EUNSUPPORTED,
           "FluxKontextPipeline is not supported by this build (it is given a picture to change)");
    refuse(model("fill", "{\"_class_name\":\"FluxFillPipeline\"}"), TACA_EUNSUPPORTED,
           "(it is given a picture and what of it to fill)");
    refuse(model("control", "{\"_class_name\":\"FluxControlPipeline\"}"), TACA_EUNSUPPORTED,
           "(it is given edges, depth or the like)");
    refuse(model("xl", "{\"_class_name\":\"StableDiffusionXLPipeline\"}"), TACA_EUNSUPPORTED,
           "StableDiffusionXLPipeline is not supported by this build; supported: "
           "StableDiffusion3Pipeline, FluxPipeline");
    refuse(model("none", "{}"), TACA_EFORMAT, "no _class_name");
    refuse(model("vae", "{" CLASS "," DIT "," ENCODERS "," SCHEDULER
                        ",\"vae\":[\"diffusers\",\"AutoencoderTiny\"]}"),
           TACA_EUNSUPPORTED, "vae is a AutoencoderTiny, supported: AutoencoderKL");
    refuse(model("sched", "{" CLASS "," DIT "," VAE "," ENCODERS
                          ",\"scheduler\":[\"diffusers\",\"DDIMScheduler\"]}"),
           TACA_EUNSUPPORTED, "scheduler is a DDIMScheduler");
}

static void test_missing_components_are_named(void) {
    refuse(model("novae", "{" CLASS "," DIT "," ENCODERS "," SCHEDULER ",\"vae\":[null,null]}"),
           TACA_EUNSUPPORTED, "model_index.json has no vae");
    refuse(model("nosched", "{" CLASS "," DIT "," VAE "," ENCODERS "}"), TACA_EUNSUPPORTED,
           "model_index.json has no scheduler");
    refuse(model("odd", "{" CLASS "," VAE "," ENCODERS "," SCHEDULER ",\"transformer\":[\"x\"]}"),
           TACA_EFORMAT, "transformer is not a pair");
    refuse(model("odd", "{" CLASS "," VAE "," ENCODERS "," SCHEDULER
                        ",\"transformer\":[null,\"SD3Transformer2DModel\"]}"),
           TACA_EFORMAT, "transformer is not a pair");
    static const char whole[] = "{" CLASS "," DIT "," VAE "," ENCODERS "," SCHEDULER "}";
    const char *dir = model("gone", whole);
    unlink(tmp_path("gone/tokenizer/vocab.json"));
    rmdir(tmp_path("gone/tokenizer"));
    refuse(dir, TACA_ENOTFOUND, "/gone/tokenizer is not there");
    dir = model("noconfig", whole);
    unlink(tmp_path("noconfig/vae/config.json"));
    refuse(dir, TACA_ENOTFOUND, "noconfig/vae/config.json: No such file");
    dir = model("badconfig", whole);
    tmp_text("badconfig/taca.json", "{");
    refuse(dir, TACA_EFORMAT, "badconfig/taca.json: not valid JSON");
}

static void test_paths_are_answered_by_what_they_are(void) {
    refuse(tmp_path("nowhere"), TACA_ENOTFOUND, "No such file");
    refuse("", TACA_ENOTFOUND, "No such file");
    refuse(DEMO "/transformer", TACA_ENOTFOUND,
           "one component of a model, try the directory above");
    refuse(tmp_root, TACA_ENOTFOUND, "no model_index.json in it");
    refuse(DEMO "/transformer/diffusion_pytorch_model.safetensors", TACA_ENOTFOUND,
           "no vae in it; give one with --vae");
    refuse(DEMO "/vae/diffusion_pytorch_model.safetensors", TACA_EFORMAT,
           "wanted a FLUX or SD3 transformer, this is a VAE; give it with --vae");
    refuse(tmp_text("sd.ckpt", "PK\x03\x04"), TACA_EFORMAT, "pickle");
    refuse(DEMO "/model_index.json", TACA_EFORMAT, "a JSON text");
    tmp_text("hub/models--a--b/snapshots/0a1b/README.md", "");
    refuse(tmp_path("hub/models--a--b"), TACA_ENOTFOUND, "name one of its snapshots");
}

static void test_its_name_comes_from_taca_json_or_the_path(void) {
    static const char whole[] = "{" CLASS "," DIT "," VAE "," ENCODERS "," SCHEDULER "}";
    static const struct {
        const char *dir, *taca, *id;
    } cases[] = {
        {"plain/my model", NULL, "my-model"},
        {"hub/models--org--stable-diffusion-3.5-medium/snapshots/0a1b", NULL,
         "stable-diffusion-3.5-medium"},
        {"named", "{\"id\":\"a\\nb/c\"}", "a-b-c"},
        {"unnamed", "{\"id\":\"\"}", "unnamed"},
        {"long", "{\"id\":\"0123456789abcdefghij\"}", "0123456789abcde"},
        {"plain/snapshots/x", NULL, "x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct taca_model_dir d = {0};
        struct taca_err err = {0};
        char id[16 + 48], taca[128];
        const char *dir = model(cases[i].dir, whole);
        snprintf(taca, sizeof taca, "%s/taca.json", cases[i].dir);
        if (cases[i].taca) tmp_text(taca, cases[i].taca);
        CHECK_OK(taca_model_open(&d, &(struct taca_model_paths){.model = dir}, &err), err);
        taca_model_dir_id(&d, id, strcmp(cases[i].dir, "long") == 0 ? 16 : sizeof id);
        CHECK_STR(id, cases[i].id);
        taca_model_dir_finish(&d);
    }
}

int main(void) {
    tmp_begin();
    TEST(test_the_demo_opens);
    TEST(test_a_third_encoder_may_be_left_out);
    TEST(test_a_third_encoder_needs_its_tokenizer);
    TEST(test_other_pipelines_are_answered_by_name);
    TEST(test_missing_components_are_named);
    TEST(test_paths_are_answered_by_what_they_are);
    TEST(test_its_name_comes_from_taca_json_or_the_path);
    tmp_end();
    return TEST_END();
}
