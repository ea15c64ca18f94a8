/* png.h - pixels to PNG bytes, parameters included. */
#ifndef TACA_API_PNG_H
#define TACA_API_PNG_H

#include "base/buf.h"
#include "engine/params.h"

struct api_png_text {
    const char *keyword; /* Latin-1, 1..79 bytes */
    const char *text;    /* UTF-8: tEXt when it fits Latin-1, else iTXt */
};
/* Appends an 8-bit RGB PNG. level 0..9 is zlib's. */
enum taca_code api_png_write(struct taca_buf *out, const struct taca_image *img, int level,
                             const struct api_png_text *texts, int n_texts,
                             struct taca_err *err) TACA_MUST_USE;

/* The "parameters" text of A1111 for one image of a request, and the JSON of our own "taca" chunk.
 */
struct api_request;
struct taca_model_info;
void api_png_parameters(struct taca_buf *out, const struct taca_gen_params *p,
                        const struct taca_model_info *m);
void api_png_json(struct taca_buf *out, const struct taca_gen_params *p,
                  const struct taca_model_info *m);

#endif
