/* model_dir.h - a Hugging Face model directory: which components it has and where they are.
 *
 * Reads model_index.json (what is null or absent is not there), the config.json of each component,
 * the scheduler's and our optional taca.json (id, width, height, steps, guidance, t5_tokens, note,
 * latent_rgb). A path that is not such a directory is answered by what it looks like. Transformer,
 * VAE, scheduler and the two CLIP encoders with their tokenizers must be there; the third encoder
 * may be absent, also when the index names it: many keep a copy without its 10 GB. Opens no
 * weights and understands no field of the configs. */
#ifndef TACA_ENGINE_IO_MODEL_DIR_H
#define TACA_ENGINE_IO_MODEL_DIR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

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
    bool left_out[TACA_COMPONENTS];  /* named by model_index.json, but its folder is not there */
    char *dir[TACA_COMPONENTS];      /* path of the component, NULL when absent */
    json_t *config[TACA_COMPONENTS]; /* config.json (tokenizers: tokenizer_config.json), NULL if
                                        absent */
    json_t *scheduler;               /* scheduler_config.json */
    json_t *taca;                    /* taca.json, NULL when absent */
};

enum taca_code taca_model_dir_open(struct taca_model_dir *out, const char *path,
                                   struct taca_err *err) TACA_MUST_USE;
void taca_model_dir_finish(struct taca_model_dir *d); /* zeroed is fine */

/* The checkpoint's own name: "id" of taca.json, else that of its folder (or of the repository when
 * the folder is a snapshot in a Hugging Face cache). Only letters, digits, '.', '_' and '-'. */
void taca_model_dir_id(const struct taca_model_dir *d, char *id, size_t size);

#endif
