/* case.h - what the files of engine/verify share: one case on its way, its reference tensors, and
 * the comparison. Private to engine/verify. */
#ifndef TACA_ENGINE_VERIFY_CASE_H
#define TACA_ENGINE_VERIFY_CASE_H

#include "engine/core.h"
#include "engine/io/safetensors.h"
#include "engine/verify/verify.h"

enum { CASE_MAX_BLOCKS = 128, CASE_MAX_IMAGES = 16, CASE_PATH = 4096 };

struct verify_case {
    const struct verify_opts *opts;
    const struct verify_sink *sink;
    struct verify_counts *counts;
    const char *dir, *name;
    const json_t *entry; /* of a pipelines.json or text_cases.json, else the set's own JSON */
    struct taca_safetensors *io; /* the reference */
    bool *checked;               /* per tensor of io */
    double tolerance;            /* of outputs in f32, whatever their name; 0 = each output's own */
    struct taca_engine *e;       /* its parts are opened as the case needs them */
    void *device[CASE_MAX_BLOCKS];
    int n_device;
    void *host[CASE_MAX_BLOCKS];
    int n_host;
};

/* ---- compare.c ------------------------------------------------------------------------------- */

/* Opens io and an engine with nothing but a backend; case_finish releases all that a case holds. */
enum taca_code case_init(struct verify_case *c, struct taca_err *err) TACA_MUST_USE;
void case_finish(struct verify_case *c);
/* n zeroed floats of host memory, or device memory holding n floats of `host`, until case_finish.
 */
enum taca_code case_floats(struct verify_case *c, float **out, int64_t n,
                           struct taca_err *err) TACA_MUST_USE;
enum taca_code case_upload(struct verify_case *c, float **out, const float *host, int64_t n,
                           struct taca_err *err) TACA_MUST_USE;
bool case_has(const struct verify_case *c, const char *name);
/* An input of io, widened, with `rank` positive dims; wanted dims of -1 accept any. */
enum taca_code case_input(struct verify_case *c, const char *name, int rank, int64_t *dim,
                          float **out, struct taca_err *err) TACA_MUST_USE;
/* Compares what the build made with the reference called `output`, when io has one. */
enum taca_code case_compare(struct verify_case *c, const char *output, const float *got, int64_t n,
                            struct taca_err *err) TACA_MUST_USE;
enum taca_code case_compare_ids(struct verify_case *c, const char *output, const int32_t *got,
                                int64_t n, struct taca_err *err) TACA_MUST_USE;
/* Outputs whose names begin so are not to be computed after all. */
void case_unwanted(struct verify_case *c, const char *head);
/* Names the outputs of io that nothing was compared with. */
void case_report_unchecked(struct verify_case *c);

/* ---- model_set.c ----------------------------------------------------------------------------- */

enum set_type { SET_UNKNOWN, SET_SD3, SET_FLUX, SET_VAE };
enum set_type set_type_of(const json_t *config);

struct set_paths {
    char config[CASE_PATH], weights[CASE_PATH];
};
/* Looks in the case's folder, the --weights folders and ../models. */
enum taca_code set_find(const struct verify_case *c, const char *name, struct set_paths *out,
                        struct taca_err *err) TACA_MUST_USE;
/* Opens a set's model as e->dit or e->vae. *config may be NULL; else free it. */
enum taca_code set_open(struct verify_case *c, const char *name, enum set_type *type,
                        json_t **config, struct taca_err *err) TACA_MUST_USE;
/* The sets with `suffix` (".transformer", "" for all) in those folders: calls fn with each name. */
void set_each(const struct verify_case *c, const char *suffix,
              void (*fn)(void *ctx, const char *name), void *ctx);

/* ---- autoencoder.c --------------------------------------------------------------------------- */

/* image [n, ch, factor h, factor w] from z, whose shape dim is [n, c, h, w]; host memory. raw: z is
 * in VAE space. */
enum taca_code case_decode(struct verify_case *c, float *image, const float *z, const int64_t *dim,
                           bool raw, struct taca_err *err) TACA_MUST_USE;
/* moments (device) of one image [ch, h, w] in -1..1 (host). */
enum taca_code case_encode(struct verify_case *c, struct taca_chw moments, const float *image,
                           int64_t h, int64_t w, struct taca_err *err) TACA_MUST_USE;
enum taca_code verify_vae(struct verify_case *c, struct taca_err *err) TACA_MUST_USE;

/* ---- checkpoint.c ---------------------------------------------------------------------------- */

/* Opens all parts of the checkpoint that a text case names, with what it replaces and leaves out.
 */
enum taca_code case_open_checkpoint(struct verify_case *c, int t5_tokens,
                                    struct taca_err *err) TACA_MUST_USE;

/* ---- batch.c --------------------------------------------------------------------------------- */

/* The inputs of a batch on the device, prepared as a sequence prepares them at admission. FLUX's
 * reference has tokens instead of latents: they become latents one token high, and the places that
 * it gives say where they are. */
struct case_batch {
    int n;
    struct taca_chw latent, velocity;     /* of the first item; the others follow */
    struct taca_chw control;              /* c = 0: none */
    struct taca_mat text, pooled;         /* [n * T, joint_width], [n, pooled_width] */
    struct taca_mat context, mod, places; /* [n * T, width], [n, mod_width], of one item */
    const float *t, *guidance;            /* of each item, on the host; guidance may be NULL */
    int64_t text_rows;
    struct seq_loras loras; /* of all items */
};

/* From the inputs of io, for e->dit; prepared without adapters. */
enum taca_code case_batch_load(struct verify_case *c, struct case_batch *in,
                               struct taca_err *err) TACA_MUST_USE;
/* Takes latents and control latents from in.hidden_states.control, beside each other there. */
enum taca_code case_batch_control(struct verify_case *c, struct case_batch *in,
                                  struct taca_err *err) TACA_MUST_USE;
/* Once more, when in->loras has changed. */
enum taca_code case_batch_prepare(struct verify_case *c, const struct case_batch *in,
                                  struct taca_err *err) TACA_MUST_USE;
/* One forward of all items under gamma, compared with `output`. skip as in struct dit_forward. */
enum taca_code case_batch_run(struct verify_case *c, const struct case_batch *in, float gamma,
                              const bool *skip, const char *output,
                              struct taca_err *err) TACA_MUST_USE;

/* ---- the kinds of cases ---------------------------------------------------------------------- */

enum taca_code verify_model_set(struct verify_case *c, struct taca_err *err) TACA_MUST_USE;
enum taca_code verify_taca_set(struct verify_case *c, struct taca_err *err) TACA_MUST_USE;
enum taca_code verify_lora_set(struct verify_case *c, struct taca_err *err) TACA_MUST_USE;
enum taca_code verify_pipeline(struct verify_case *c, struct taca_err *err) TACA_MUST_USE;
enum taca_code verify_text_case(struct verify_case *c, struct taca_err *err) TACA_MUST_USE;

/* ---- arguments of a pipeline call ------------------------------------------------------------ */

enum case_task { CASE_TEXT_TO_IMAGE, CASE_IMAGE_TO_IMAGE, CASE_INPAINT };
struct case_args {
    enum case_task task;
    bool flux; /* a pipeline of FLUX: other defaults, latents as tokens */
    int height_px, width_px, steps, images; /* images per prompt */
    double guidance;                        /* classifier-free; 1 = one pass */
    double embedded;                        /* the guidance that is an input of FLUX dev */
    double strength;
    struct taca_window window;
    const char *lora; /* an adapter's file, NULL = none; it follows the window where there is one */
    double lora_scale;
    int clip_skip, t5_tokens;
    uint64_t seed[CASE_MAX_IMAGES];
    int n_seeds; /* 1 = one generator for all images */
};
enum taca_code case_args_read(struct case_args *out, const struct verify_case *c,
                              struct taca_err *err) TACA_MUST_USE;

/* ---- sampling.c ------------------------------------------------------------------------------ */

struct case_sampling {
    struct case_args args;
    int images;                              /* in all */
    struct seq_text cond[CASE_MAX_IMAGES];   /* of each image */
    struct seq_text uncond[CASE_MAX_IMAGES]; /* used when guidance > 1 */
};
/* From noise to images with e->dit, e->vae and e->scheduler, comparing everything on the way. */
enum taca_code case_sample(struct verify_case *c, const struct case_sampling *s,
                           struct taca_err *err) TACA_MUST_USE;

#endif
