/* summary.h - what a model directory or file holds, told from headers and configs alone.
 *
 * For people (taca inspect): reads no weights and builds nothing, so it is quick for any size and
 * also answers for a checkpoint that is too large for this machine. The rooms that build the model
 * check more; their defaults for absent fields are repeated here. */
#ifndef TACA_ENGINE_IO_SUMMARY_H
#define TACA_ENGINE_IO_SUMMARY_H

#include "engine/io/checkpoint.h"
#include "engine/io/model_dir.h"

enum { TACA_SUMMARY_LAYERS = 256, TACA_SUMMARY_LEVELS = 16 };

struct taca_part {
    const char *name;
    bool there, left_out; /* left_out: of the pipeline, but not there */
    enum taca_kind kind;
    int64_t parameters, bytes;
    int64_t narrowed; /* parameters that bf16 halves: matrices, but no vectors and lookup tables */
    struct taca_ckpt_stats stats;
};

struct taca_clip_summary {
    int64_t layers, width, heads, vocabulary, positions, projection;
    char activation[24];
};

struct taca_summary {
    char id[64], class_name[64], family[16];
    char note[256];
    struct taca_part part[TACA_TEXT_ENCODER_3 + 1]; /* by enum taca_component */
    struct {
        int64_t layers, single_layers, heads, head_dim, joint_width, pooled_width, patch, channels;
        int64_t side;                      /* of the position table, in patches; 0 = no table */
        int64_t dual[TACA_SUMMARY_LAYERS]; /* layers with a second attention */
        int n_dual;
        bool qk_norm, guided; /* guided: takes the guidance as an input */
    } dit;
    struct {
        int64_t channels, widths[TACA_SUMMARY_LEVELS];
        int n_widths, factor;
        double scaling_factor, shift_factor;
        bool has_encoder;
    } vae;
    struct taca_clip_summary clip[2]; /* width 0: there is none */
    struct {
        int64_t layers, width, heads, vocabulary;
    } t5;
    double scheduler_shift;
    int64_t width_px, height_px, steps, max_side_px; /* max: 0 = no limit of its own */
    double guidance;
    int64_t parameters, bytes;     /* of all parts */
    int64_t f32_bytes, bf16_bytes; /* memory for these weights at either precision */
};

/* What is missing is told, not refused. */
enum taca_code taca_summary_read(struct taca_summary *out, const struct taca_model_paths *paths,
                                 struct taca_err *err) TACA_MUST_USE;

#endif
