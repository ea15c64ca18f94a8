/* image_write.h - a finished picture as a file, in any format that there is, with what it was made
 * from inside. Who adds a format adds a row to the table of image_write.c. */
#ifndef TACA_API_IMAGE_WRITE_H
#define TACA_API_IMAGE_WRITE_H

#include "base/buf.h"
#include "engine/params.h"

enum api_format { API_FORMAT_ANY, API_PNG, API_JPEG }; /* ANY: nobody has said; becomes PNG */
extern const char *const api_format_names[];           /* "" for ANY, "png" ..., NULL */
const char *api_format_name(enum api_format f);        /* "png" */
const char *api_format_type(enum api_format f);        /* "image/png" */
const char *api_format_ending(enum api_format f);      /* ".png" */

struct api_encoding {
    enum api_format format;
    int png_level; /* of PNG: 0..9 as zlib's; -1 = not given: 3 */
    int quality;   /* of JPEG: 0..100; -1 = not given: 100 */
};
/* What a picture was made from. */
struct api_origin {
    const struct taca_gen_params *params;
    const struct taca_model_info *model;
};
/* Appends the file, nothing on failure. origin NULL: it does not say how it was made. */
enum taca_code api_image_write(struct taca_buf *out, const struct taca_image *img,
                               const struct api_encoding *how, const struct api_origin *origin,
                               struct taca_err *err) TACA_MUST_USE;

/* What a file may carry; image_file.h reads it. */
struct api_image_text {
    const char *keyword; /* Latin-1, 1..79 bytes */
    const char *text;    /* UTF-8 */
};
/* The text "parameters" as A1111 and its viewers have it, and the JSON of our own text "taca". */
void api_image_parameters(struct taca_buf *out, const struct taca_gen_params *p,
                          const struct taca_model_info *m);
void api_image_json(struct taca_buf *out, const struct taca_gen_params *p,
                    const struct taca_model_info *m);

#endif
