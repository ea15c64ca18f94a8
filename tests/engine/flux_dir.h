/* flux_dir.h - a FluxPipeline directory put together from parts with links; two matrices of the
 * transformer, which meet the text, are made to the width of the encoders. */
#ifndef TACA_TESTS_ENGINE_FLUX_DIR_H
#define TACA_TESTS_ENGINE_FLUX_DIR_H

#include <math.h>

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

#endif
