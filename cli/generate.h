/* generate.h - what the files of `taca generate` share.
 *
 * What is asked for becomes one JSON object in the words of POST /v1/generate: a picture's own
 * parameters (--from), then the options. The engine in this process and a service read the same
 * object, so they make the same picture and name the same fields. */
#ifndef TACA_CLI_GENERATE_H
#define TACA_CLI_GENERATE_H

#include <jansson.h>
#include <signal.h>

#include "api/error.h"
#include "api/image_write.h"
#include "cli/flags.h"
#include "cli/picture.h"
#include "engine/engine.h"

enum { GEN_MAX_IMAGES = 64 };

/* Numbers that are NAN and whole ones below their range were not given. */
struct gen_opts {
    struct taca_engine_opts engine;
    const char *prompt, *server, *api_key, *from, *output;
    const char *size, *negative, *prompt_2, *prompt_3, *slg_layers, *image, *mask;
    int width, height, steps, n, precision, clip_skip, t5_tokens;
    int format, png_level, jpeg_quality; /* format: of api_format_names but the first */
    int taca_steps, lora_window, sampler, schedule, rng;
    double cfg, guidance, shift, seed, strength, patience_s;
    double taca_scale, taca_fraction, taca_threshold, slg_scale, slg_start, slg_stop;
    bool taca, no_taca, round_size, quiet, metadata, json, preview;
    struct flag_list lora;
};

/* What is made: filled by gen_request_open. */
struct gen {
    const struct gen_opts *o;
    json_t *request;        /* an object; the pictures that go in are not in it */
    struct picture picture; /* --image and --mask */
    char *model;            /* that made the picture of --from; NULL = none */
    const volatile sig_atomic_t *stop;
};

/* Reads the command line; FLAGS_OK, or what flags_parse says. */
enum flags_result gen_options(struct gen_opts *o, int argc, char **argv);
/* gen_request_close in any case. */
enum taca_code gen_request_open(struct gen *g, const struct gen_opts *o,
                                struct taca_err *err) TACA_MUST_USE;
void gen_request_close(struct gen *g);

/* --lora "NAME:SCALE" or "NAME": the bytes of NAME. *scale stays when none is given; then it is
 * the scale of adapter `id` in the picture of --from, and so is *window ("always", "taca"). */
int gen_lora_split(const char *item, double *scale);
struct gen_lora {
    const char *id, *window;
    double scale;
};
void gen_lora_from_picture(const struct gen *g, struct gen_lora *use);

/* A refusal in our words: the message, and the option that is its field's. */
enum taca_code gen_refused(const struct api_error *e, struct taca_err *err);
/* "taca generate: text" on stderr. */
void gen_warn(const char *text);

/* --format, or what the ending of the output says, or PNG. */
enum api_format gen_format(const struct gen_opts *o);
/* A finished picture: to the file or the pipe that was asked for. k-th of o->n. */
enum taca_code gen_deliver(const struct gen_opts *o, const struct taca_buf *file, int k,
                           uint64_t seed, struct taca_err *err) TACA_MUST_USE;
/* Before anything is made: whether that will be possible. */
enum taca_code gen_output_check(const struct gen_opts *o, struct taca_err *err) TACA_MUST_USE;

enum taca_code gen_here(struct gen *g, struct taca_err *err) TACA_MUST_USE;
enum taca_code gen_there(struct gen *g, struct taca_err *err) TACA_MUST_USE; /* --server */

#endif
