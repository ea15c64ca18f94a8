/* generate_output.c - where finished pictures go. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/file.h"
#include "cli/generate.h"

/* Where the picture goes when nobody said: a pipe gets it, a terminal does not. */
static bool to_stdout(const struct gen_opts *o) {
    return o->output ? strcmp(o->output, "-") == 0 : !isatty(STDOUT_FILENO);
}

/* Image k's own name: out.png, or out-k.png when there are several; without a name, its seed's. */
static void image_path(char *path, size_t size, const struct gen_opts *o, int k, uint64_t seed) {
    if (!o->output) {
        snprintf(path, size, "taca-%llu.png", (unsigned long long)seed);
        return;
    }
    const char *dot = strrchr(o->output, '.');
    int stem = dot && !strchr(dot, '/') ? (int)(dot - o->output) : (int)strlen(o->output);
    if (o->n == 1)
        snprintf(path, size, "%s", o->output);
    else
        snprintf(path, size, "%.*s-%d%s", stem, o->output, k, o->output + stem);
}

enum taca_code gen_output_check(const struct gen_opts *o, struct taca_err *err) {
    char path[4096];
    if (to_stdout(o)) {
        if (o->n > 1) return taca_fail_param(err, "count", "several pictures need -o FILE");
        return TACA_OK;
    }
    image_path(path, sizeof path, o, 0, 0);
    return file_check(path, err);
}

/* The sides, from the head of a PNG. */
static int side(const struct taca_buf *png, size_t at) {
    const unsigned char *p = (const unsigned char *)png->data + at;
    return png->len < 24 ? 0 : p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static void tell(const struct gen_opts *o, const char *path, const struct taca_buf *png,
                 uint64_t seed) {
    const unsigned long long s = seed;
    const int w = side(png, 16), h = side(png, 20);
    struct taca_buf line;
    if (!o->json) {
        if (!o->quiet) fprintf(stderr, "%s  %dx%d  seed %llu\n", path, w, h, s);
        return;
    }
    taca_buf_init(&line, 1 << 16);
    taca_buf_puts(&line, "{\"file\":");
    taca_buf_json(&line, path, strlen(path));
    taca_buf_printf(&line, ",\"seed\":%llu,\"width\":%d,\"height\":%d}\n", s, w, h);
    if (!line.failed) fputs(line.data, stderr);
    taca_buf_finish(&line);
}

enum taca_code gen_deliver(const struct gen_opts *o, const struct taca_buf *png, int k,
                           uint64_t seed, struct taca_err *err) {
    char path[4096];
    if (to_stdout(o)) {
        if (fwrite(png->data, 1, png->len, stdout) != png->len || fflush(stdout) != 0)
            return taca_fail(err, TACA_EIO, "stdout: %s", strerror(errno));
        return TACA_OK;
    }
    image_path(path, sizeof path, o, k, seed);
    enum taca_code rc = file_write(path, png, err);
    if (!rc) tell(o, path, png, seed);
    return rc;
}
