/* engine.h - from prompt to pixels on one device, a denoising step at a time.
 *
 * The unit of work is one step of a set of sequences; a sequence is one image in the making.
 * Between two steps a sequence is only data: it can join, wait, leave or die at no cost, and
 * sequences of one forward may differ in size, step, guidance, seed and TACA window. One thread
 * owns an engine; only taca_engine_info may be read from others. Knows nothing of HTTP, queues or
 * clocks.
 *
 *     taca_seq_open(e, &params, &s, &warnings, &err);
 *     while (!taca_seq_done(s)) taca_step(e, &s, 1, &err);
 *     taca_decode(e, &s, 1, &image, &err);
 *     taca_seq_close(e, s); */
#ifndef TACA_ENGINE_ENGINE_H
#define TACA_ENGINE_ENGINE_H

#include "engine/params.h"

struct taca_engine;
struct taca_seq;

/* INT8, FP8: as BF16, the linear maps of the transformer's blocks in 8 bits: integers on a CPU,
 * floats on a GPU. */
enum taca_precision {
    TACA_PRECISION_AUTO,
    TACA_PRECISION_F32,
    TACA_PRECISION_BF16,
    TACA_PRECISION_INT8,
    TACA_PRECISION_FP8
};
/* As options spell it. */
static inline const char *taca_precision_word(enum taca_precision p) {
    static const char *const words[] = {"auto", "f32", "bf16", "int8", "fp8"};
    return words[p];
}

struct taca_engine_opts {
    const char *model_path; /* Hugging Face directory or file; NULL when `transformer` is given */
    /* files or component folders that complete or replace the model's own; NULL = none. t5 may be
     * "none": to do without */
    const char *transformer, *vae, *clip_l, *clip_g, *t5;
    const char *taesd;    /* tiny decoder for previews; NULL = none */
    const char *config;   /* directory of configs and tokenizers, for files; NULL = none */
    const char *model_id; /* NULL = the checkpoint's own name */
    const char *device;   /* NULL = "cpu"; "auto", "cuda", "cuda:N" */
    int threads;          /* of a CPU; 0 = what the process may use */
    int share;            /* so many engines share these threads equally; 0 = it has all */
    enum taca_precision precision;
    bool deterministic; /* an image does not depend on what else is in its batches, bit for bit */
    size_t text_cache_bytes; /* 0 = 64 MiB */
    bool plan; /* for taca_engine_plan and _cost alone: reads headers, no weights, and needs no
                  memory for them */
};

/* Whether taca_engine_open knows the device's name, and with `there` whether it would find it now:
 * what it would say. */
enum taca_code taca_engine_check_device(const char *device, bool there,
                                        struct taca_err *err) TACA_MUST_USE;

/* True when `device` means the best there is, and that is the CPU although the program came with a
 * CUDA backend; *why says what it misses. */
bool taca_engine_misses_device(const char *device, struct taca_err *why);

enum taca_code taca_engine_open(struct taca_engine **out, const struct taca_engine_opts *opts,
                                struct taca_err *err) TACA_MUST_USE;
void taca_engine_close(struct taca_engine *e); /* NULL is fine; sequences must be closed */
const struct taca_model_info *taca_engine_info(const struct taca_engine *e);
enum taca_code taca_engine_cost(const struct taca_engine *e, const struct taca_gen_params *p,
                                struct taca_cost *out, struct taca_err *err) TACA_MUST_USE;

/* Where the memory stands. */
struct taca_memory_use {
    size_t device_used_bytes, device_total_bytes; /* by whomever; 0 where it has none of its own */
    size_t scratch_peak_bytes; /* the most that steps, texts and decodings took at one time */
};
void taca_engine_memory(const struct taca_engine *e, struct taca_memory_use *out);

/* What making n pictures of these parameters at once takes, with all adapters that they name, from
 * opening the engine to the last picture. Bytes are this machine's; what a process takes for
 * itself (code, libraries, tokenizers) is not among them. */
struct taca_plan {
    struct taca_cost cost;                                                      /* of one of them */
    double text_flops, encode_flops, admission_flops, step_flops, decode_flops; /* step: of all n */
    /* weights as the backend keeps them */
    size_t transformer_bytes, vae_bytes, text_bytes, taesd_bytes, adapter_bytes;
    size_t sequence_bytes, scratch_bytes, work_bytes, picture_bytes; /* while they are made */
    size_t mapped_bytes;  /* of files that stay mapped: the kernel may take them back at any time */
    size_t opening_bytes; /* the most at one time while weights are prepared */
    size_t peak_bytes;    /* that, or the sum of what is there while pictures are made */
};
enum taca_code taca_engine_plan(struct taca_engine *e, const struct taca_gen_params *p, int n,
                                struct taca_plan *out, struct taca_err *err) TACA_MUST_USE;
/* How long that would take here: rates of products, attention and convolutions of the model's
 * widths, timed on the spot (some tens of milliseconds), and the work of each kind. Only in an
 * engine that was opened with `plan`. */
struct taca_plan_seconds {
    double text, encode, admission, step, decode; /* decode: of one picture */
    double all;                                   /* of n pictures, without opening */
};
enum taca_code taca_engine_plan_seconds(struct taca_engine *e, const struct taca_gen_params *p,
                                        int n, struct taca_plan_seconds *out,
                                        struct taca_err *err) TACA_MUST_USE;

/* ---- adapters -------------------------------------------------------------------------------- */

/* Opens an adapter file (LoRA, any naming) under an id that requests name. warn (may be NULL) gets
 * a line for each key that is left out; a file of which nothing fits is an error. */
enum taca_code taca_lora_open(struct taca_engine *e, const char *id, const char *path,
                              void (*warn)(void *ctx, const char *text), void *ctx,
                              struct taca_err *err) TACA_MUST_USE;
/* TACA_EBUSY while a sequence uses it. An engine's close closes all. */
enum taca_code taca_lora_close(struct taca_engine *e, const char *id,
                               struct taca_err *err) TACA_MUST_USE;
const struct taca_lora_info *taca_lora_at(const struct taca_engine *e, int i); /* NULL: no more */

/* ---- sequences ------------------------------------------------------------------------------- */

/* Checks the parameters, encodes the prompts, draws the noise and computes the modulation of every
 * step. *warnings (may be NULL) gets a set of enum taca_warning. */
enum taca_code taca_seq_open(struct taca_engine *e, const struct taca_gen_params *p,
                             struct taca_seq **out, unsigned *warnings,
                             struct taca_err *err) TACA_MUST_USE;
void taca_seq_close(struct taca_engine *e, struct taca_seq *s); /* NULL is fine */
int taca_seq_step(const struct taca_seq *s);                    /* steps done */
int taca_seq_steps(const struct taca_seq *s);                   /* steps in all */
bool taca_seq_done(const struct taca_seq *s);
/* Image + text tokens it adds to a forward, all branches. */
int taca_seq_tokens(const struct taca_engine *e, const struct taca_seq *s);

/* One denoising step of each of n >= 1 distinct, unfinished sequences, in one forward. On failure
 * no sequence has advanced. */
enum taca_code taca_step(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                         struct taca_err *err) TACA_MUST_USE;

/* The same in two halves: begin queues it, end waits for it, and only then have the sequences
 * advanced. One step at a time; between the halves its sequences are left alone. */
enum taca_code taca_step_begin(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                               struct taca_err *err) TACA_MUST_USE;
bool taca_step_done(const struct taca_engine *e); /* end would not wait */
enum taca_code taca_step_end(struct taca_engine *e, struct taca_err *err) TACA_MUST_USE;

/* The current guess of the finished image after at least one step: a pixel per latent, or 8 x 8 by
 * the tiny decoder, as the sequence's parameters say. */
enum taca_code taca_seq_preview(struct taca_engine *e, const struct taca_seq *s,
                                struct taca_image *out, struct taca_err *err) TACA_MUST_USE;

/* Finished sequences to images; out[i] belongs to the caller. TACA_ENUMERIC when a latent is not
 * finite. On failure no image is left in out. */
enum taca_code taca_decode(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                           struct taca_image *out, struct taca_err *err) TACA_MUST_USE;

/* ---- beside the steps ------------------------------------------------------------------------ */

/* True when openings and decoding are done beside steps; else a first half below does it all. */
bool taca_overlaps(const struct taca_engine *e);
/* Opening and decoding in two halves: begin queues the work, end waits for it. One of both at a
 * time, else TACA_EBUSY. Steps, previews and closing go on meanwhile. *out may be stepped as soon
 * as begin has returned; when end fails it is closed. Closing what is opened or decoded waits for
 * it, and there is no end then. */
enum taca_code taca_seq_open_begin(struct taca_engine *e, const struct taca_gen_params *p,
                                   struct taca_seq **out, unsigned *warnings,
                                   struct taca_err *err) TACA_MUST_USE;
enum taca_code taca_seq_open_end(struct taca_engine *e, struct taca_err *err) TACA_MUST_USE;
enum taca_code taca_decode_begin(struct taca_engine *e, struct taca_seq *s,
                                 struct taca_err *err) TACA_MUST_USE;
enum taca_code taca_decode_end(struct taca_engine *e, struct taca_image *out,
                               struct taca_err *err) TACA_MUST_USE;
/* End would not wait. Ask now and then: what an image's encoding leaves to do is done by this. */
bool taca_side_done(struct taca_engine *e);

#endif
