/* limits.h - the one table of what a client may ask for. The parser checks against it,
 * /v1/capabilities shows it, the flags of `taca serve` set it. */
#ifndef TACA_API_LIMITS_H
#define TACA_API_LIMITS_H

#include <stddef.h>
#include <stdint.h>

struct api_limits {
    int64_t max_pixels; /* width * height */
    int max_side_px;
    int max_steps;
    int max_n;
    int64_t max_image_pixels; /* of a picture that is sent in */
    size_t max_body_bytes;
    size_t max_prompt_bytes;
    int max_start_timeout_ms;
};
/* 4 MP, 2048, 100, 8, 16 MP, 20 MiB, 8192, one hour */
void api_limits_init(struct api_limits *l);

#endif
