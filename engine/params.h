/* params.h - what an image request is, in plain data. The only part of the engine that the API
 * layer sees: no tensors, no devices. Strings are NUL-terminated UTF-8 and borrowed;
 * taca_gen_params_copy puts them into an arena, taca_gen_params_pack/unpack carry them across a
 * pipe. */
#ifndef TACA_ENGINE_PARAMS_H
#define TACA_ENGINE_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"

enum { TACA_MAX_STEPS = 200, TACA_MAX_T5_TOKENS = 512 };

/* When temperature-adjusted cross-modal attention acts. A step i of n with noise level sigma (after
 * the schedule's shift) is inside when
 *   - OFF: never;
 *   - FRACTION: i / n < fraction (released code: 3 of 30 = 0.1);
 *   - STEPS: first_step <= i < end_step;
 *   - SIGMA: sigma_min <= sigma <= sigma_max (paper: timestep >= 970, so sigma_min 0.97).
 * Bounds are inclusive where written so, evaluated in double on the host. */
enum taca_window_rule {
    TACA_WINDOW_OFF,
    TACA_WINDOW_FRACTION,
    TACA_WINDOW_STEPS,
    TACA_WINDOW_SIGMA
};
struct taca_window {
    enum taca_window_rule rule;
    double gamma; /* factor on image-to-text logits inside the window, 0..10 */
    double fraction;
    int first_step, end_step;
    double sigma_min, sigma_max;
};
/* gamma 1.2 in the first tenth of the steps. */
struct taca_window taca_window_default(void);

/* A low-rank adapter that the engine has open (taca_lora_open), and when it acts. */
enum taca_lora_when {
    TACA_LORA_ALWAYS,
    TACA_LORA_IN_WINDOW /* in the steps of the TACA window, as the released code runs its own */
};
enum { TACA_MAX_LORAS = 8, TACA_MAX_LORA_ID = 64 };
struct taca_lora_use {
    const char *id;
    double scale; /* 1 = as trained, -20..20 */
    enum taca_lora_when when;
};
struct taca_lora_info {
    char id[TACA_MAX_LORA_ID + 1];
    char naming[24]; /* of the file: "kohya" */
    int modules;     /* that it changes */
    int rank;        /* the largest of its pairs */
    int64_t parameters, bytes;
};

/* How a step uses the velocity that the model gave it. */
enum taca_sampler {
    TACA_EULER,
    TACA_HEUN,            /* two forwards a step, one in the last */
    TACA_DPMPP_2M,        /* in the noise levels of k-diffusion, as people mean it */
    TACA_EULER_ANCESTRAL, /* its form for rectified flow, eta 1 */
    TACA_LCM
};
extern const char *const taca_sampler_names[]; /* NULL-terminated */

/* Forwards of the model that n steps of it take. */
int taca_sampler_forwards(enum taca_sampler s, int n);

/* The noise levels between 1 and 0. All but DEFAULT and its two remappings are ComfyUI's. */
enum taca_levels {
    TACA_LEVELS_DEFAULT, /* the checkpoint's scheduler */
    TACA_LEVELS_SIMPLE,
    TACA_LEVELS_NORMAL,
    TACA_LEVELS_SGM_UNIFORM,
    TACA_LEVELS_BETA,
    TACA_LEVELS_KARRAS,     /* first and last of DEFAULT, rho 7 between */
    TACA_LEVELS_EXPONENTIAL /* the same, evenly in the logarithm */
};
extern const char *const taca_levels_names[]; /* NULL-terminated */

/* Skip-layer guidance: in step i of n with n * start < i < n * stop, the velocity moves away from
 * the one of a forward without some blocks. Only beside classifier-free guidance. */
struct taca_slg {
    uint64_t layers; /* bit k: without block k; 0 = off */
    double scale;
    double start, stop; /* 0..1 */
};
/* No layers; scale 2.8 from 0.01 to 0.2. */
struct taca_slg taca_slg_default(void);
bool taca_slg_has(const struct taca_slg *g, int i, int n);

/* Whose random numbers the noise is. */
enum taca_noise {
    TACA_NOISE_TORCH, /* torch's CPU generator */
    TACA_NOISE_PHILOX /* its CUDA generator, as other programs compute it on the CPU */
};
extern const char *const taca_noise_names[]; /* NULL-terminated */

/* How a look at an unfinished picture is made. */
enum taca_preview {
    TACA_PREVIEW_RGB,   /* one pixel per latent, at no cost */
    TACA_PREVIEW_TAESD, /* full size, by the tiny decoder */
};
extern const char *const taca_preview_names[]; /* NULL-terminated */

/* One image. Zero is not a valid value: start from taca_gen_params_init. */
struct taca_gen_params {
    const char *prompt;          /* every encoder, unless prompt_2 is given */
    const char *prompt_2;        /* second CLIP of SD3, T5 of FLUX; NULL or "" = prompt */
    const char *prompt_3;        /* T5 of SD3; NULL or "" = prompt */
    const char *negative_prompt; /* used when cfg_scale > 1; NULL = "" */
    const char *negative_prompt_2, *negative_prompt_3;
    int width_px, height_px;
    int steps;
    double cfg_scale;      /* <= 1: one pass without the negative prompt */
    double guidance_scale; /* an input of FLUX dev; 0 for models that have none */
    enum taca_sampler sampler;
    enum taca_levels schedule;
    double shift;            /* of the noise schedule; 0 = the checkpoint's own */
    int clip_skip;           /* 0 = last but one layer; positive prompt only */
    int max_sequence_length; /* T5 tokens of each prompt, 1..TACA_MAX_T5_TOKENS; 0 = the model's */
    uint64_t seed;           /* of the noise, below 2^53 */
    enum taca_noise rng;
    struct taca_window taca;
    struct taca_slg slg;
    const uint8_t *image; /* to start from: width_px * height_px RGB pixels, rows top down; NULL */
    const uint8_t
        *mask;       /* of image, a byte each: repaint where >= 128, keep elsewhere; NULL = all */
    double strength; /* with image: the part of the steps that runs, 0..1 */
    enum taca_preview preview;
    int n_loras;
    struct taca_lora_use loras[TACA_MAX_LORAS];
};

enum { TACA_MAX_SERVED_LORAS = 16 };

/* What a loaded checkpoint is; fixed after open, readable from any thread. */
struct taca_model_info {
    char id[64];       /* "demo" */
    char family[16];   /* "sd3", "sd3.5", "flux-dev", "flux-schnell" */
    char backend[16];  /* "cpu" */
    char device[96];   /* "avx512-bf16, 2 threads" */
    char precision[8]; /* "f32", "bf16" */
    int default_width_px, default_height_px, default_steps;
    double default_cfg_scale;
    bool guidance_embeds;          /* the model takes guidance_scale */
    double default_guidance_scale; /* 0 where it does not */
    int min_side_px, max_side_px, side_multiple_px;
    bool takes_images; /* its autoencoder can encode */
    int joint_blocks;  /* blocks that skip-layer guidance can name */
    int clip_tokens;   /* per prompt, BOS and EOS included */
    int t5_tokens;     /* per prompt that does not say; 0 = no T5 rows */
    bool has_t5;
    bool has_taesd;     /* a tiny decoder for previews is loaded */
    int64_t parameters; /* of all components */
    int64_t weight_bytes;
    /* filled by a service, not by an engine: the adapters that requests may name */
    int n_loras;
    struct taca_lora_info loras[TACA_MAX_SERVED_LORAS];
};

/* What one image will cost. */
struct taca_cost {
    int tokens;           /* image + text tokens of one forward, all CFG branches */
    double step_flops;    /* one step, all CFG branches */
    double total_flops;   /* steps, and what the autoencoder does */
    size_t seq_bytes;     /* held from admission to image */
    size_t scratch_bytes; /* peak of a step or of decoding, whichever is larger */
};

/* The model's own defaults; prompt "", seed 0, TACA off. */
void taca_gen_params_init(struct taca_gen_params *p, const struct taca_model_info *m);
/* Forwards of one image, and so steps of a sequence: what progress counts. A few less where levels
 * meet (TACA_LEVELS_BETA). */
int taca_gen_params_forwards(const struct taca_gen_params *p);
/* With an image and this strength, the first of n steps that runs: 0 at 1, n (none) at 0. */
int taca_first_step(int n, double strength);
/* TACA_EINVAL naming the field and the accepted range. */
enum taca_code taca_gen_params_check(const struct taca_gen_params *p,
                                     const struct taca_model_info *m,
                                     struct taca_err *err) TACA_MUST_USE;
/* Strings and pixels into `a`. The sides must have been checked. */
enum taca_code taca_gen_params_copy(struct taca_gen_params *dst, const struct taca_gen_params *src,
                                    struct taca_arena *a, struct taca_err *err) TACA_MUST_USE;
/* Flat bytes, little-endian host layout, versioned; unpack checks every length. */
void taca_gen_params_pack(struct taca_buf *out, const struct taca_gen_params *p);
enum taca_code taca_gen_params_unpack(struct taca_gen_params *p, const void *bytes, size_t len,
                                      struct taca_arena *a, struct taca_err *err) TACA_MUST_USE;

struct taca_image {
    int width_px, height_px;
    uint8_t *rgb; /* width * height * 3, rows top down; free with taca_image_finish */
};
void taca_image_finish(struct taca_image *img);

/* Things a client should know though its request was served. */
enum taca_warning {
    TACA_WARN_PROMPT_CUT = 1 << 0, /* more tokens than the encoder takes; the rest was dropped */
    TACA_WARN_NEGATIVE_CUT = 1 << 1,
    TACA_WARN_NEGATIVE_IGNORED = 1 << 2, /* negative prompt given, cfg_scale <= 1 */
    TACA_WARN_CLIP_CUT =
        1 << 3, /* CLIP takes only the start of a prompt that T5 reads to its end */
    TACA_WARN_IMAGE_SCALED = 1 << 4,    /* the picture to start from had another size */
    TACA_WARN_PRIORITY_LOWERED = 1 << 5 /* to what who asks may have */
};

#endif
