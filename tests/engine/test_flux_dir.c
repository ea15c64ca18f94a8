/* test_flux_dir.c - a FluxPipeline directory from opening to pictures: what it says of itself, its
 * defaults, its refusals. The directory is put together from parts with links; two matrices of the
 * transformer, which meet the text, are made to the width of the encoders. */
#include "engine/engine.h"

#include "engine/io/safetensors.h"
#include "tests/io/tmp.h"
#include "tests/test.h"

#define GOLDEN(path) TACA_GOLDEN_DIR "/" path

enum { JOINT = 40, POOLED = 16, MAX_TENSORS = 256 };

static const char index_json[] =
    "{\"_class_name\": \"FluxPipeline\","
    " \"scheduler\": [\"diffusers\", \"FlowMatchEulerDiscreteScheduler\"],"
    " \"text_encoder\": [\"transformers\", \"CLIPTextModel\"],"
    " \"text_encoder_2\": [\"transformers\", \"T5EncoderModel\"],"
    " \"tokenizer\": [\"transformers\", \"CLIPTokenizer\"],"
    " \"tokenizer_2\": [\"transformers\", \"T5TokenizerFast\"],"
    " \"transformer\": [\"diffusers\", \"FluxTransformer2DModel\"],"
    " \"vae\": [\"diffusers\", \"AutoencoderKL\"]}";

static void link_to(const char *name, const char *target) {
    if (symlink(target, tmp_path(name)) != 0) perror(name), exit(1);
}

/* The weights of `from` with the text's width replaced; what is made is small and regular. */
static void write_transformer(const char *from, const char *to) {
    static float made[32 * JOINT];
    static struct taca_tensor t[MAX_TENSORS];
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        made[i] = (float)(0.2 * sin(0.37 * (double)i));
    CHECK_OK(taca_safetensors_open(&st, from, &err), err);
    if (!st || taca_safetensors_count(st) > MAX_TENSORS) abort();
    size_t n = taca_safetensors_count(st);
    for (size_t i = 0; i < n; i++) {
        t[i] = *taca_safetensors_at(st, i);
        const bool context = strcmp(t[i].name, "context_embedder.weight") == 0;
        if (!context && !strstr(t[i].name, "text_embedder.linear_1.weight")) continue;
        t[i].data = made;
        t[i].dim[1] = context ? JOINT : POOLED;
    }
    CHECK_OK(taca_safetensors_write(to, t, n, &err), err);
    taca_safetensors_close(st);
}

/* <tmp>/<name>: FLUX dev or schnell. */
static void make_model(const char *name, bool dev) {
    char p[256], config[512];
    struct {
        const char *part, *target;
    } links[] = {{"text_encoder", GOLDEN("pipelines/sd35_tiny/text_encoder")},
                 {"text_encoder_2", GOLDEN("pipelines/sd35_tiny_t5/text_encoder_3")},
                 {"tokenizer", GOLDEN("pipelines/sd35_tiny/tokenizer")},
                 {"tokenizer_2", GOLDEN("pipelines/sd35_tiny_t5/tokenizer_3")},
                 {"vae/diffusion_pytorch_model.safetensors",
                  GOLDEN("models/vae_tiny_flux.diffusers.safetensors")},
                 {"vae/config.json", GOLDEN("models/vae_tiny_flux.config.json")}};
    snprintf(p, sizeof p, "%s/model_index.json", name);
    tmp_text(p, index_json);
    snprintf(p, sizeof p, "%s/scheduler/scheduler_config.json", name);
    tmp_text(p, dev ? "{\"shift\": 3.0, \"use_dynamic_shifting\": true}" : "{\"shift\": 1.0}");
    snprintf(config, sizeof config,
             "{\"_class_name\": \"FluxTransformer2DModel\", \"in_channels\": 64,"
             " \"num_layers\": 1, \"num_single_layers\": 2, \"attention_head_dim\": 16,"
             " \"num_attention_heads\": 2, \"joint_attention_dim\": %d,"
             " \"pooled_projection_dim\": %d, \"axes_dims_rope\": [4, 4, 8],"
             " \"guidance_embeds\": %s}",
             JOINT, POOLED, dev ? "true" : "false");
    snprintf(p, sizeof p, "%s/transformer/config.json", name);
    tmp_text(p, config);
    snprintf(p, sizeof p, "%s/transformer/diffusion_pytorch_model.safetensors", name);
    write_transformer(dev ? GOLDEN("models/pipe_flux_dev.transformer.diffusers.safetensors")
                          : GOLDEN("models/pipe_flux_schnell.transformer.diffusers.safetensors"),
                      tmp_path(p));
    snprintf(p, sizeof p, "%s/vae", name);
    if (mkdir(tmp_path(p), 0700) != 0) perror(p), exit(1);
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        snprintf(p, sizeof p, "%s/%s", name, links[i].part);
        link_to(p, links[i].target);
    }
}

static struct taca_engine *open_engine(const char *name) {
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    const struct taca_engine_opts opts = {
        .model_path = tmp_path(name), .precision = TACA_PRECISION_F32, .deterministic = true};
    CHECK_OK(taca_engine_open(&e, &opts, &err), err);
    return e;
}

/* One picture; false when it was refused. */
static bool draw(struct taca_engine *e, const struct taca_gen_params *p, struct taca_image *out) {
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    *out = (struct taca_image){0};
    CHECK_OK(taca_seq_open(e, p, &s, NULL, &err), err);
    while (s && !taca_seq_done(s) && !err.code) CHECK_OK(taca_step(e, &s, 1, &err), err);
    if (s && !err.code) CHECK_OK(taca_decode(e, &s, 1, out, &err), err);
    taca_seq_close(e, s);
    return out->rgb != NULL;
}

static void test_dev_has_its_defaults_and_draws(void) {
    struct taca_engine *e = open_engine("dev");
    struct taca_image plain, guided;
    struct taca_gen_params p;
    if (!e) return;
    const struct taca_model_info *m = taca_engine_info(e);
    CHECK_STR(m->family, "flux-dev");
    CHECK(m->guidance_embeds && m->default_guidance_scale == 3.5 && m->default_cfg_scale == 1);
    CHECK_INT(m->default_steps, 28);
    CHECK_INT(m->default_width_px, 1024);
    CHECK_INT(m->side_multiple_px, 16);
    CHECK_INT(m->t5_tokens, 512);
    taca_gen_params_init(&p, m);
    CHECK(p.guidance_scale == 3.5);
    p.prompt = "a red cube";
    p.width_px = p.height_px = m->min_side_px;
    p.steps = 2;
    if (draw(e, &p, &plain)) {
        CHECK_INT(plain.width_px, m->min_side_px);
        p.guidance_scale = 9;
        if (draw(e, &p, &guided))
            CHECK(memcmp(plain.rgb, guided.rgb, (size_t)(3 * p.width_px * p.height_px)) != 0);
        taca_image_finish(&guided);
    }
    taca_image_finish(&plain);
    taca_engine_close(e);
}

static void test_schnell_takes_no_guidance(void) {
    struct taca_engine *e = open_engine("schnell");
    struct taca_seq *s = NULL;
    struct taca_err err = {0};
    struct taca_image image;
    struct taca_gen_params p;
    if (!e) return;
    const struct taca_model_info *m = taca_engine_info(e);
    CHECK_STR(m->family, "flux-schnell");
    CHECK(!m->guidance_embeds && m->default_guidance_scale == 0 && m->default_cfg_scale == 1);
    CHECK_INT(m->default_steps, 4);
    CHECK_INT(m->t5_tokens, 256);
    taca_gen_params_init(&p, m);
    p.width_px = p.height_px = m->min_side_px;
    p.steps = 1;
    CHECK(draw(e, &p, &image));
    taca_image_finish(&image);
    p.guidance_scale = 3.5;
    CHECK_INT(taca_seq_open(e, &p, &s, NULL, &err), TACA_EINVAL);
    CHECK_STR(err.param, "guidance_scale");
    CHECK_HAS(err.text, "flux-schnell");
    taca_engine_close(e);
}

int main(void) {
    tmp_begin();
    make_model("dev", true);
    make_model("schnell", false);
    TEST(test_dev_has_its_defaults_and_draws);
    TEST(test_schnell_takes_no_guidance);
    tmp_end();
    return TEST_END();
}
