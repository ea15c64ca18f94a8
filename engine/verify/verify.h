/* verify.h - a build against reference tensors: runs cases and compares every output.
 *
 * A case is a model set (NAME.config.json, NAME.{diffusers,orig,bfl}.safetensors and
 * NAME.io.safetensors), a TACA set (NAME.json names its model), a LoRA set (lora.json and
 * lora_bad.json), an embedding pipeline (an entry of a *pipelines.json) or a text case (an entry of
 * text_cases.json). Everything runs through the code that serves images. Knows nothing of
 * terminals: results go to a sink. */
#ifndef TACA_ENGINE_VERIFY_VERIFY_H
#define TACA_ENGINE_VERIFY_VERIFY_H

#include <stdbool.h>

#include "base/err.h"
#include "kernels/backend.h"

enum { VERIFY_MAX_FOLDERS = 16 };

struct verify_opts {
    const char *weights[VERIFY_MAX_FOLDERS]; /* further folders with model sets */
    int n_weights;
    const char *layout;      /* "diffusers", "orig" or "bfl": read these weight files only; NULL =
                                the first of them that a set has */
    enum taca_dtype dtype;   /* of matrix products: TACA_F32 or TACA_BF16 */
    enum taca_narrow narrow; /* with BF16: the linear maps of transformer blocks in 8 bits */
    double
        tol; /* absolute, times the standard deviation of outputs above 1; 0 = each output's own */
    const char *device; /* as taca_backend_open takes it; NULL = "cpu" */
    int threads;        /* 0 = what the process may use */
};

struct verify_result {
    const char *case_name, *output;
    int rank;
    int64_t dim[TACA_MAX_RANK];
    double rel_l2, max_abs, tol; /* a difference that is not a number is infinite */
    bool ok;
};

struct verify_sink {
    void *ctx;
    void (*result)(void *ctx, const struct verify_result *r);
    /* A case of a folder that this build cannot run, or a part of one. */
    void (*skipped)(void *ctx, const char *case_name, const char *why);
    /* A case that broke off. */
    void (*failed)(void *ctx, const char *case_name, const char *why);
};

struct verify_counts {
    int cases, outputs, skipped;
    int failed; /* outputs beyond their tolerance and cases that broke off */
};

/* Whether the machine can do what opts ask for; TACA_EINVAL for a device that is none. */
enum taca_code verify_ready(const struct verify_opts *opts, struct taca_err *err) TACA_MUST_USE;

/* Runs the case `path` (without suffix), or every case of the folder `path`; adds to *counts.
 * TACA_ENOTFOUND when there is no such case, or none in the folder. */
enum taca_code verify_path(const struct verify_opts *opts, const struct verify_sink *sink,
                           const char *path, struct verify_counts *counts,
                           struct taca_err *err) TACA_MUST_USE;

#endif
