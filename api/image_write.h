/* image_write.h - what a finished picture's file says about how it was made. */
#ifndef TACA_API_IMAGE_WRITE_H
#define TACA_API_IMAGE_WRITE_H

#include "base/buf.h"
#include "engine/params.h"

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
