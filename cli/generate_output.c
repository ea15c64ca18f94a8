/* generate_output.c - where finished pictures go. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "api/image_file.h"
#include "cli/file.h"
#include "cli/generate.h"

/* Where the picture goes when nobody said: a pipe gets it, a terminal does not. */
static bool to_stdout(const struct gen_opts *o) {
    return o->output ? strcmp(o->output, "-") == 0 : !isatty(STDOUT_FILENO);
}

/* ---- which kind of file ---------------------------------------------------------------------- */

/* What an ending says; ANY: a picture that cannot be written, or no word about pictures. */
static const struct ending {
    const char *text;
    enum api_format format;
} endings[] = {{".png", API_PNG},         {".jpg", API_JPEG},        {".jpeg", API_JPEG},
               {".webp", API_FORMAT_ANY}, {".gif", API_FORMAT_ANY},  {".bmp", API_FORMAT_ANY},
               {".tif", API_FORMAT_ANY},  {".tiff", API_FORMAT_ANY}, {".avif", API_FORMAT_ANY}};

static const struct ending *ending_of(const char *path) {
    const char *dot = path ? strrchr(path, '.') : NULL;
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (strcasecmp(dot, endings[i].text) == 0) return &endings[i];
    return NULL;
}

enum api_format gen_format(const struct gen_opts *o) {
    const struct ending *e = ending_of(o->output);
    if (o->format >= 0) return (enum api_format)(o->format + 1);
    return e && e->format != API_FORMAT_ANY ? e->format : API_PNG;
}

static enum taca_code check_format(const struct gen_opts *o, struct taca_err *err) {
    const struct ending *e = ending_of(o->output);
    if (e && e->format == API_FORMAT_ANY)
        return taca_fail_param(err, "output", "%s: pictures are written as .png or .jpg",
                               o->output);
    if (e && e->format != gen_format(o))
        return taca_fail_param(err, "format",
                               "%s would be no %s file: leave out --format, or name "
                               "the file otherwise",
                               o->output, api_format_name(gen_format(o)));
    return TACA_OK;
}

/* ---- where it goes --------------------------------------------------------------------------- */

/* Image k's own name: out.png, or out-k.png when there are several; without a name, its seed's. */
static void image_path(char *path, size_t size, const struct gen_opts *o, int k, uint64_t seed) {
    if (!o->output) {
        snprintf(path, size, "taca-%llu%s", (unsigned long long)seed,
                 api_format_ending(gen_format(o)));
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
    enum taca_code rc = check_format(o, err);
    if (rc) return rc;
    if (to_stdout(o)) {
        if (o->n > 1) return taca_fail_param(err, "count", "several pictures need -o FILE");
        return TACA_OK;
    }
    image_path(path, sizeof path, o, 0, 0);
    return file_check(path, err);
}

static void tell(const struct gen_opts *o, const char *path, const struct taca_buf *file,
                 uint64_t seed) {
    const unsigned long long s = seed;
    int w = 0, h = 0;
    struct taca_buf line;
    if (api_image_size(&w, &h, file->data, file->len, NULL)) w = h = 0;
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

enum taca_code gen_deliver(const struct gen_opts *o, const struct taca_buf *file, int k,
                           uint64_t seed, struct taca_err *err) {
    char path[4096];
    if (to_stdout(o)) {
        if (fwrite(file->data, 1, file->len, stdout) != file->len || fflush(stdout) != 0)
            return taca_fail(err, TACA_EIO, "stdout: %s", strerror(errno));
        return TACA_OK;
    }
    image_path(path, sizeof path, o, k, seed);
    enum taca_code rc = file_write(path, file, err);
    if (!rc) tell(o, path, file, seed);
    return rc;
}
