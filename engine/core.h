/* core.h - inside the engine: what engine.c, sequence.c, memplan.c and verify/ share.
 *
 * An engine is its parts; taca_engine_open fills them from a model directory, `taca verify` from
 * single files. A part that is NULL is simply not there: text may be, when conditioning is given.
 */
#ifndef TACA_ENGINE_CORE_H
#define TACA_ENGINE_CORE_H

#include <string.h>

#include "engine/dit/adapter.h"
#include "engine/dit/dit.h"
#include "engine/engine.h"
#include "engine/sample/noise.h"
#include "engine/sample/sampler.h"
#include "engine/sample/schedule.h"
#include "engine/text/text.h"
#include "engine/vae/preview.h"
#include "engine/vae/tae.h"
#include "engine/vae/vae.h"
#include "kernels/backend.h"

/* An open adapter. */
struct engine_lora {
    struct taca_lora_info info;
    struct dit_adapter *adapter;
    int users; /* sequences */
    struct engine_lora *next;
};

/* What opening the parts took, of an engine for plans. */
struct engine_kept {
    size_t transformer, vae, text, taesd, adapters;
    size_t opening; /* the most while one of them was opened, files and conversions too */
};

/* The step that is at work; n = 0: none. */
struct engine_step {
    struct taca_seq **seqs; /* NULL: closed meanwhile */
    int n;
    struct taca_layout layout;
    struct taca_mark mark;
};

/* What a sequence starts from, in host memory. */
struct seq_start {
    float *noise; /* [c, h, w] */
    float *image; /* the same of an encoded image; NULL = none */
    float *mask;  /* [h, w]: 1 = repaint, 0 = keep; NULL = all */
};
/* An image that is being encoded, in the scratch of such work; zeroed: none. */
struct seq_encoding {
    bool under_way;
    struct taca_chw moments;
    size_t used; /* scratch before it */
};
/* What is left to do when an opening has been queued: nothing, unless an image is encoded first. */
struct seq_rest {
    struct seq_start start;
    float *draw; /* from the posterior */
    struct seq_encoding encoding;
};

/* What is at work beside the steps. */
enum engine_job { SIDE_NONE, SIDE_OPEN, SIDE_DECODE };
struct engine_side {
    enum engine_job job;
    struct taca_seq *seq;
    struct taca_mark mark;
    enum taca_code rc; /* of a part that was done meanwhile */
    struct taca_err err;
    const struct text_cond *cond[2]; /* of an opening: held to its end */
    struct seq_rest rest;
    const void *pixels; /* of a decoding, */
    size_t used;        /* and scratch before it */
    struct taca_image image;
};

struct taca_engine {
    struct taca_backend *b;
    struct dit *dit;
    struct vae *vae;
    struct text *text;
    struct taca_scheduler scheduler;
    struct preview_factors preview;
    struct tae *tae; /* of previews; may be NULL in an open engine, too */
    struct taca_model_info info;
    struct taca_scratch scratch;      /* of steps, and previews between them */
    struct taca_scratch side_scratch; /* of openings and decoding, where these have a lane */
    size_t step_bytes;                /* scratch of a step of all open sequences together */
    size_t side_bytes, preview_bytes; /* largest among them */
    struct taca_work step_work, side_work, preview_work; /* the same beside scratch */
    int open_seqs;
    struct engine_step step;
    struct engine_side side;
    struct engine_lora *loras; /* in the order of opening */
    struct engine_kept kept;
};

/* The spacing of noise levels that a pipeline class walks ("FluxPipeline", "FluxImg2Img..."). */
static inline enum taca_spacing seq_spacing(const char *pipeline) {
    return strncmp(pipeline, "Flux", 4) == 0 ? TACA_SPACING_EVEN : TACA_SPACING_TRAINED;
}

/* One text condition: context f32 [T, joint_width], pooled f32 [1, pooled_width], device memory. */
struct seq_text {
    struct taca_mat context, pooled;
};

/* The adapters of one sequence, in the engine's order. */
struct seq_lora {
    struct engine_lora *lora;
    float scale;
    bool windowed; /* only inside the TACA window */
};
struct seq_loras {
    struct seq_lora list[TACA_MAX_LORAS];
    int n;
    bool windowed;     /* one of them is */
    bool two_contexts; /* and changes how text enters */
};

enum { SEQ_COND, SEQ_UNCOND, SEQ_BRANCHES };

struct taca_seq {
    int width_px, height_px;
    struct sampler walk;
    struct taca_schedule schedule;
    struct taca_window window;
    struct taca_slg slg;
    enum taca_preview preview;
    struct seq_loras loras;
    float cfg_scale, guidance_scale;
    bool masked;    /* part of an image stays */
    int n_branches; /* 1, or 2 with classifier-free guidance */
    struct taca_chw latent;
    struct taca_chw velocity[SEQ_BRANCHES]; /* after a step, [SEQ_COND] is the guess of
                                               the finished latent */
    struct taca_chw image, noise, mask;    /* what to keep, its noise, and where not; with a mask */
    struct taca_chw kept;                  /* the image at the level of a step; with a mask */
    struct taca_chw skipped;               /* velocity without some blocks; no data without slg */
    struct taca_mat context[SEQ_BRANCHES]; /* projected text [T, width] */
    struct taca_mat outside[SEQ_BRANCHES]; /* the same outside the window, where that differs */
    struct taca_mat places;                /* rotary, [image rows + T, place_width] */
    struct taca_mat mod[SEQ_BRANCHES];     /* [steps, mod_width] */
    void *memory;                          /* one device block holding all of the above */
    size_t step_bytes, side_bytes;
    struct taca_work step_work;
};

/* Cuts s->memory (NULL only counts) into the buffers of a latent of `shape` (its data is ignored)
 * with s->n_branches text conditions; returns the bytes needed. */
size_t seq_lay_out(struct taca_seq *s, const struct dit_info *d, struct taca_chw shape,
                   int64_t text_rows, int steps);

/* Opens a sequence under explicit conditioning. Queued on the lane of now; on failure nothing is at
 * work any more. What is given is not kept, but for the conditioning on the device. */
struct seq_given {
    const struct seq_text *cond, *uncond; /* uncond NULL = no guidance */
    struct taca_rng *rng;                 /* draws what start does not have, and what steps need */
    const struct seq_start *start;        /* NULL: from the parameters */
    struct seq_rest *rest; /* gets what is left to do, for seq_go_on; NULL: it is waited for */
};
enum taca_code seq_open_with(struct taca_engine *e, const struct taca_gen_params *p,
                             const struct seq_given *given, struct taca_seq **out,
                             struct taca_err *err) TACA_MUST_USE;
/* The latent [c, h, w] in host memory, and putting one there to go on from step `step`. */
enum taca_code seq_latent_read(struct taca_engine *e, const struct taca_seq *s, float *out,
                               struct taca_err *err) TACA_MUST_USE;
enum taca_code seq_latent_write(struct taca_engine *e, struct taca_seq *s, const float *latent,
                                int step, struct taca_err *err) TACA_MUST_USE;

void seq_free(struct taca_engine *e, struct taca_seq *s); /* nothing of it is at work */
/* `image` as bytes in scratch, queued; and those as a picture, which waits. */
void *seq_picture_queue(struct taca_engine *e, struct taca_scratch *scratch, struct taca_map image);
enum taca_code seq_picture_read(struct taca_engine *e, const void *pixels, int width_px,
                                int height_px, struct taca_image *out,
                                struct taca_err *err) TACA_MUST_USE;

/* ---- side.c ---------------------------------------------------------------------------------- */

/* What is queued now begins behind the opening of these, when one is at work. */
enum taca_code side_precedes(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                             struct taca_err *err) TACA_MUST_USE;
void side_abandon(struct taca_engine *e); /* waits; nothing at work is fine */

/* ---- start.c --------------------------------------------------------------------------------- */

/* z [c, h, w] of an image [factor*h, factor*w, 3] in -1..1, drawn from the posterior with noise
 * [c, h, w]; all in host memory. The scratch of side work must have the room of memplan_encode.
 * begin is queued (z: its shape alone); end waits, and in any case the scratch is as before. */
enum taca_code seq_encode(struct taca_engine *e, struct taca_chw z, const float *image,
                          const float *noise, struct taca_err *err) TACA_MUST_USE;
enum taca_code seq_encode_begin(struct taca_engine *e, struct seq_encoding *out, struct taca_chw z,
                                const float *image, struct taca_err *err) TACA_MUST_USE;
enum taca_code seq_encode_end(struct taca_engine *e, struct seq_encoding *encoding, float *z,
                              const float *noise, struct taca_err *err) TACA_MUST_USE;
void seq_encode_drop(struct taca_engine *e, struct seq_encoding *encoding); /* instead of end */
/* The mask of pixels at latent size: the pixel in each corner. */
void seq_shrink_mask(float *out, int64_t h, int64_t w, int factor, const uint8_t *mask);
/* What the parameters say, for a sequence that is laid out: the posterior's draw before the noise.
 * An image begins to be encoded. Finish it in any case. */
enum taca_code seq_draw(struct seq_rest *out, struct taca_engine *e, const struct taca_seq *s,
                        const struct taca_gen_params *p, struct taca_rng *rng,
                        struct taca_err *err) TACA_MUST_USE;
/* Waits for the encoded image, if there is one, and queues the rest. */
enum taca_code seq_go_on(struct taca_engine *e, struct taca_seq *s, struct seq_rest *rest,
                         struct taca_err *err) TACA_MUST_USE;
void seq_rest_finish(struct taca_engine *e, struct seq_rest *rest); /* zeroed is fine */
/* Puts what its first step starts from into the sequence. Queued. */
enum taca_code seq_begin(struct taca_engine *e, struct taca_seq *s, const struct seq_start *start,
                         struct taca_err *err) TACA_MUST_USE;
/* After a step to noise level sigma (0 = the last): what the mask keeps is the image again, in the
 * latent at that level and in the guess. Queued. */
void seq_keep_unmasked(struct taca_engine *e, struct taca_seq *s, float sigma);

/* ---- memplan.c ------------------------------------------------------------------------------- */

/* What a step of n_branches x (image of h x w latents + text_rows) and its decoding cost, with all
 * adapters on, by running the model on a counting backend. */
struct memplan_want {
    int64_t h, w, text_rows;
    int n_branches, steps;
    enum taca_sampler sampler;
    bool skips;                    /* with skip-layer guidance */
    bool encodes, masked;          /* from an image; with a mask */
    const struct seq_loras *loras; /* NULL = none */
    bool control;                  /* with a control latent each */
};
struct memplan {
    struct taca_counts step, admission, decode, encode; /* admission: of all steps' modulations */
    size_t step_bytes, preview_bytes;                   /* scratch */
    size_t side_bytes; /* scratch of admission and of the autoencoder, whichever way it runs */
    size_t seq_bytes;  /* device memory of the sequence itself */
    struct taca_work step_work, side_work, preview_work; /* what ops take beside scratch */
};
enum taca_code memplan_run(const struct taca_engine *e, const struct memplan_want *want,
                           struct memplan *out, struct taca_err *err) TACA_MUST_USE;
/* The part of it that seq_encode is: encode and side_bytes, which only grows. */
enum taca_code memplan_encode(const struct taca_engine *e, int64_t h, int64_t w,
                              struct memplan *out, struct taca_err *err) TACA_MUST_USE;
/* Of steps and of what is done beside them, or of whichever is more where they take turns. */
size_t engine_scratch_bytes(const struct taca_engine *e, size_t steps, size_t side);
static inline struct taca_scratch *engine_side_scratch(struct taca_engine *e) {
    return taca_has_lanes(e->b) ? &e->side_scratch : &e->scratch;
}
enum taca_code engine_reserve_side(struct taca_engine *e, size_t bytes,
                                   struct taca_err *err) TACA_MUST_USE;
/* Makes scratch and work memory large enough for everything that is open plus `extra` of a new
 * sequence: nothing is allocated from then on. TACA_ENOMEM says what it takes and what there is;
 * what is open goes on as before. */
enum taca_code engine_reserve(struct taca_engine *e, const struct memplan *extra,
                              struct taca_err *err) TACA_MUST_USE;
/* The sequence's own block; the same words for want of memory. */
enum taca_code engine_take(struct taca_engine *e, const struct memplan *plan, void **out,
                           struct taca_err *err) TACA_MUST_USE;

/* ---- loras.c --------------------------------------------------------------------------------- */

void engine_loras_close(struct taca_engine *e);
/* Those that *p names; they stay open until dropped. */
enum taca_code seq_loras_take(const struct taca_engine *e, const struct taca_gen_params *p,
                              struct seq_loras *out, struct taca_err *err) TACA_MUST_USE;
/* Refuses what a sequence cannot run: adapters that want more than prompts and noise. */
enum taca_code seq_loras_check(const struct seq_loras *s, struct taca_err *err) TACA_MUST_USE;
void seq_loras_drop(struct seq_loras *s); /* zeroed is fine */
bool seq_in_window(const struct taca_seq *s, int step);
/* Those that are on inside or outside the window, one gate each: for what runs outside of a
 * forward. The result points into *set. */
struct lora_set {
    struct dit_lora list[TACA_MAX_LORAS];
    float gate[TACA_MAX_LORAS];
    struct dit_loras all;
};
const struct dit_loras *seq_loras_on(const struct seq_loras *s, bool inside, struct lora_set *set);
/* Those that are on in the next step of n sequences, a gate for each branch. */
struct batch_loras {
    struct dit_loras all;
    struct dit_lora *list;
    float *gate;
};
enum taca_code batch_loras_init(struct batch_loras *out, const struct taca_engine *e,
                                struct taca_seq *const *seqs, int n,
                                struct taca_err *err) TACA_MUST_USE;
void batch_loras_finish(struct batch_loras *b);

#endif
