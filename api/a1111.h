/* a1111.h - the words of AUTOMATIC1111's /sdapi/v1, as far as clients of it need them: requests to
 * ours, results and lists to theirs. Pure. */
#ifndef TACA_API_A1111_H
#define TACA_API_A1111_H

#include "api/reply.h"

/* {"images":[base64],"parameters":{what was asked},"info":"JSON in a string"} */
void api_a1111_json(struct taca_buf *out, int64_t created_s, const struct api_request *r,
                    const struct taca_model_info *m, const struct api_result_image *images,
                    unsigned warnings);

/* How far the caller's picture is. */
struct api_a1111_progress {
    const char *job; /* id; NULL = there is none, and the rest means nothing */
    int64_t created_s;
    int images, images_done;
    int step, steps; /* of the image in the making */
    double part;     /* of the whole, 0..1 */
    double eta_ms;
};
void api_a1111_progress_json(struct taca_buf *out, const struct api_a1111_progress *p);

/* The last word of a path: "samplers", "sd-models", ... False when there is no such list. */
bool api_a1111_list_json(struct taca_buf *out, const char *name, const struct api_offer *offer);
/* The names of what is not used here, ", " between them, into `ignored` of `size` bytes. */
int api_a1111_set_options(const char *body, size_t len, const struct api_offer *offer,
                          char *ignored, size_t size, struct api_error *err);
/* What a picture says about itself: {"info":"...","items":{...},"parameters":{}}. */
int api_a1111_png_info(struct taca_buf *out, const char *body, size_t len,
                       const struct api_limits *limits, struct api_error *err);

#endif
