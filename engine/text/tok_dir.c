/* tok_dir.c - see tok_dir.h. */
#include "engine/text/tok_dir.h"

#include <stdio.h>
#include <unistd.h>

#include "engine/io/checkpoint.h"

enum taca_code tok_dir_path(struct tok_dir *d, const char *file, struct taca_err *err) {
    int n = snprintf(d->path, sizeof d->path, "%s/%s", d->name, file);
    if (n < 0 || (size_t)n >= sizeof d->path)
        return taca_fail(err, TACA_EINVAL, "%s: the path is too long", d->name);
    return TACA_OK;
}

bool tok_dir_has(struct tok_dir *d, const char *file) {
    struct taca_err ignored;
    return tok_dir_path(d, file, &ignored) == TACA_OK && access(d->path, F_OK) == 0;
}

enum taca_code tok_dir_json(struct tok_dir *d, json_t **out, const char *file,
                            struct taca_err *err) {
    enum taca_code rc = tok_dir_path(d, file, err);
    *out = NULL;
    if (rc != TACA_OK || access(d->path, F_OK) != 0) return rc;
    return taca_json_load(out, d->path, err);
}
