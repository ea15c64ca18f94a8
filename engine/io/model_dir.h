/* model_dir.h - a Hugging Face model directory: which components it has and where they are.
 *
 * Reads model_index.json (what is null or absent is not there), the config.json of each component,
 * the scheduler's and our optional taca.json (id, width, height, steps, guidance, t5_tokens, note,
 * latent_rgb). A path that is not such a directory is answered by what it looks like. */
#ifndef TACA_ENGINE_IO_MODEL_DIR_H
#define TACA_ENGINE_IO_MODEL_DIR_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

enum taca_component {
    TACA_TRANSFORMER,
    TACA_VAE,
    TACA_TEXT_ENCODER,
    TACA_TEXT_ENCODER_2,
    TACA_TEXT_ENCODER_3,
    TACA_TOKENIZER,
    TACA_TOKENIZER_2,
    TACA_TOKENIZER_3,
    TACA_COMPONENTS
};
const char *
taca_component_name(enum taca_component c); /* "text_encoder_2", as in model_index.json */

struct taca_model_dir {
    char *path;
    char class_name[64]; /* "StableDiffusion3Pipeline" */
    bool has[TACA_COMPONENTS];
    char *dir[TACA_COMPONENTS];      /* path of the component, NULL when absent */
    json_t *config[TACA_COMPONENTS]; /* config.json (tokenizers: tokenizer_config.json), NULL if
                                        absent */
    json_t *scheduler;               /* scheduler_config.json */
    json_t *taca;                    /* taca.json, NULL when absent */
};

enum taca_code taca_model_dir_open(struct taca_model_dir *out, const char *path,
                                   struct taca_err *err) TACA_MUST_USE;
void taca_model_dir_finish(struct taca_model_dir *d);

#endif
