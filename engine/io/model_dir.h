/* model_dir.h - a model on the disk: which components it has, where they are, their configs.
 *
 * Two forms. A Hugging Face directory: reads model_index.json (what is null or absent is not
 * there), the config.json of each component, the scheduler's and our optional taca.json (id, width,
 * height, steps, guidance, t5_tokens, note, latent_rgb). Or a single file with some of the parts
 * inside: configs come from the shapes, from what published models have, and from what is given
 * beside (FILE.config.json: one config, or an object of them by component name, "scheduler" and
 * "taca" among them; or a directory of configs); CLIP's public vocabulary stands in for the
 * tokenizer that such a file does not have. Parts given apart complete or replace either.
 *
 * A path that is neither is answered by what it looks like. All components of the pipeline must be
 * there, but SD3's third encoder may be absent, also when the index names it: many keep a copy
 * without its 10 GB. Understands no field of the configs. */
#ifndef TACA_ENGINE_IO_MODEL_DIR_H
#define TACA_ENGINE_IO_MODEL_DIR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "engine/io/checkpoint.h"

/* The places of a pipeline. FLUX has T5 in the second encoder's, SD3 in the third's. */
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

/* What a user names. Unset = NULL. */
struct taca_model_paths {
    const char *model;            /* directory or file; may be NULL when the transformer is given */
    const char *part[TACA_KINDS]; /* files or component folders; T5: "none" leaves it out */
    const char *config; /* directory laid out as a model's: configs, scheduler, tokenizers */
    bool partial;       /* what is missing is no error: for looking, not for running */
    bool hollow;        /* weights are for a plan: see taca_ckpt_set_hollow */
};

struct taca_model_dir {
    char *path;
    char class_name[64]; /* "StableDiffusion3Pipeline" or "FluxPipeline" */
    bool hollow;
    bool has[TACA_COMPONENTS];
    bool left_out[TACA_COMPONENTS];       /* of the pipeline or its index, but not there */
    char *dir[TACA_COMPONENTS];           /* path of the component's folder or of the file that has
                                             it, NULL when absent */
    json_t *config[TACA_COMPONENTS];      /* config.json or as derived (tokenizers:
                                             tokenizer_config.json), NULL if absent */
    enum taca_kind kind[TACA_COMPONENTS]; /* of its weights; TACA_KINDS for the rest */
    json_t *scheduler;                    /* scheduler_config.json */
    json_t *taca;                         /* taca.json, NULL when absent */
};

enum taca_code taca_model_open(struct taca_model_dir *out, const struct taca_model_paths *paths,
                               struct taca_err *err) TACA_MUST_USE;
void taca_model_dir_finish(struct taca_model_dir *d); /* zeroed is fine */

/* The weights of a component that is there. */
enum taca_code taca_model_weights(const struct taca_model_dir *d, enum taca_component c,
                                  struct taca_ckpt **out, struct taca_err *err) TACA_MUST_USE;

/* The checkpoint's own name: "id" of taca.json, else that of its folder or file (or of the
 * repository when the folder is a snapshot in a Hugging Face cache). Only letters, digits, '.', '_'
 * and '-'. */
void taca_model_dir_id(const struct taca_model_dir *d, char *id, size_t size);

#endif
