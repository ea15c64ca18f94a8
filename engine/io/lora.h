/* lora.h - an adapter file as low-rank changes of a model's linear modules.
 *
 *     W' = W + strength * scale * B A        b' = b + strength * scale * bias
 *
 * Every naming in use is understood: diffusers and PEFT (lora_A/lora_B, lora.down/lora.up), kohya
 * (lora_unet_), ComfyUI (diffusion_model.), OneTrainer (lora_transformer_), LyCORIS (lycoris_,
 * plain low-rank files only), base_model.model., XLabs processors and bare names, over diffusers or
 * original module names. The reader is told which modules the model has and knows nothing else of
 * it. A file is used whole or refused: half a pair, a wrong shape, a value that is not finite,
 * DoRA, LoKr and their like are errors that name the key. Keys of modules that this model does not
 * have are named in warnings; a file of which nothing matches is an error that names its naming. */
#ifndef TACA_ENGINE_IO_LORA_H
#define TACA_ENGINE_IO_LORA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

/* A linear module of the model by its diffusers name: W [out, in]; or with in = 0 a norm, whose
 * gain of `out` values a file may replace. */
struct taca_lora_module {
    const char *name;
    int64_t in, out;
    bool doubles; /* a control adapter may read twice as many inputs: the second half is its own */
};

struct taca_lora_delta {
    int module;        /* index into the modules given */
    int64_t rank, in;  /* in: the module's, or twice that */
    const float *down; /* A [rank, in]; parts of a fused matrix share one */
    const float *up;   /* B [out, rank] */
    const float *bias; /* [out] or NULL */
    float scale;       /* alpha / rank */
};

/* A gain in the place of the module's, whatever the strength. */
struct taca_lora_gain {
    int module;
    const float *gain; /* [out] */
};

struct taca_lora_file {
    const char *naming; /* "kohya", for people */
    struct taca_lora_delta *deltas;
    struct taca_lora_gain *gains;
    int n_deltas, n_gains;
    int64_t parameters;
    struct taca_arena memory; /* of all of the above */
};

struct taca_lora_model {
    const struct taca_lora_module *modules;
    int n_modules;
};

/* Gets one line for each thing that was left out, before a failure too. */
struct taca_lora_warn {
    void (*fn)(void *ctx, const char *text);
    void *ctx;
};

/* warn may be NULL. */
enum taca_code taca_lora_read(struct taca_lora_file *out, const char *path,
                              const struct taca_lora_model *model,
                              const struct taca_lora_warn *warn,
                              struct taca_err *err) TACA_MUST_USE;
void taca_lora_file_finish(struct taca_lora_file *f); /* zeroed is fine */

#endif
