/* core.h - inside the engine: what engine.c, sequence.c, memplan.c and verify/ share.
 *
 * An engine is its parts; taca_engine_open fills them from a model directory, `taca verify` from
 * single files. A part that is NULL is simply not there: text may be, when conditioning is given.
 */
#ifndef TACA_ENGINE_CORE_H
#define TACA_ENGINE_CORE_H

#include <string.h>

#include "engine/dit/dit.h"
#include "engine/engine.h"
#include "engine/sample/noise.h"
#include "engine/sample/schedule.h"
#include "engine/text/text.h"
#include "engine/vae/preview.h"
#include "engine/vae/vae.h"
#include "kernels/backend.h"

struct taca_engine {
    struct taca_backend *b;
    struct dit *dit;
    struct vae *vae;
    struct text *text;
    struct taca_scheduler scheduler;
    struct preview_factors preview;
    struct taca_model_info info;
    struct taca_scratch scratch;
    size_t step_bytes;   /* step scratch of all open sequences together */
    size_t decode_bytes; /* largest decode among them */
    int open_seqs;
};

/* The spacing of noise levels that a pipeline class walks ("FluxPipeline", "FluxImg2Img..."). */
static inline enum taca_spacing seq_spacing(const char *pipeline) {
    return strncmp(pipeline, "Flux", 4) == 0 ? TACA_SPACING_EVEN : TACA_SPACING_TRAINED;
}

/* One text condition: context f32 [T, joint_width], pooled f32 [1, pooled_width], device memory. */
struct seq_text {
    struct taca_mat context, pooled;
};

enum { SEQ_COND, SEQ_UNCOND, SEQ_BRANCHES };

struct taca_seq {
    int width_px, height_px;
    int step;
    struct taca_schedule schedule;
    struct taca_window window;
    float cfg_scale, guidance_scale;
    int n_branches; /* 1, or 2 with classifier-free guidance */
    struct taca_chw latent;
    struct taca_chw velocity[SEQ_BRANCHES]; /* after a step, [SEQ_COND] is the guided velocity */
    struct taca_mat context[SEQ_BRANCHES];  /* projected text [T, width] */
    struct taca_mat places;                 /* rotary, [image rows + T, place_width] */
    struct taca_mat mod[SEQ_BRANCHES];      /* [steps, mod_width] */
    void *memory;                           /* one device block holding all of the above */
    size_t step_bytes, decode_bytes;
};

/* Cuts s->memory (NULL only counts) into the buffers of a latent of `shape` (its data is ignored)
 * with s->n_branches text conditions; returns the bytes needed. */
size_t seq_lay_out(struct taca_seq *s, const struct dit_info *d, struct taca_chw shape,
                   int64_t text_rows, int steps);

/* Opens a sequence under explicit conditioning (uncond NULL = no guidance). The noise is the next
 * draw of *rng. Nothing of the arguments is kept. */
enum taca_code seq_open_with(struct taca_engine *e, const struct taca_gen_params *p,
                             const struct seq_text *cond, const struct seq_text *uncond,
                             struct taca_rng *rng, struct taca_seq **out,
                             struct taca_err *err) TACA_MUST_USE;
/* The latent [c, h, w] in host memory, and putting one there to go on from step `step`. */
enum taca_code seq_latent_read(struct taca_engine *e, const struct taca_seq *s, float *out,
                               struct taca_err *err) TACA_MUST_USE;
enum taca_code seq_latent_write(struct taca_engine *e, struct taca_seq *s, const float *latent,
                                int step, struct taca_err *err) TACA_MUST_USE;

/* What a step of n_branches x (image of h x w latents + text_rows) and its decoding cost, by
 * running the model on a counting backend. */
struct memplan {
    double step_flops, decode_flops;
    size_t step_bytes, decode_bytes; /* scratch */
    size_t seq_bytes;                /* device memory of the sequence itself */
};
enum taca_code memplan_run(const struct taca_engine *e, int64_t h, int64_t w, int64_t text_rows,
                           int n_branches, int steps, struct memplan *out,
                           struct taca_err *err) TACA_MUST_USE;
/* Makes the engine's scratch large enough for everything that is open plus `extra` of a new
 * sequence. */
enum taca_code engine_reserve(struct taca_engine *e, const struct memplan *extra,
                              struct taca_err *err) TACA_MUST_USE;

#endif
