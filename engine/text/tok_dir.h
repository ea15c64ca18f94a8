/* tok_dir.h - the folder that a tokenizer's files are read from. */
#ifndef TACA_ENGINE_TEXT_TOK_DIR_H
#define TACA_ENGINE_TEXT_TOK_DIR_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>

#include "base/err.h"

struct tok_dir {
    const char *name;    /* borrowed */
    char path[PATH_MAX]; /* of the file at work, for messages too */
};

/* Sets the path; TACA_EINVAL when it is too long. */
enum taca_code tok_dir_path(struct tok_dir *d, const char *file,
                            struct taca_err *err) TACA_MUST_USE;
bool tok_dir_has(struct tok_dir *d, const char *file);
/* *out belongs to the caller, NULL when there is no such file. */
enum taca_code tok_dir_json(struct tok_dir *d, json_t **out, const char *file,
                            struct taca_err *err) TACA_MUST_USE;

#endif
