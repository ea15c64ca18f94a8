/* limits.c - see limits.h. */
#include "api/limits.h"

void api_limits_init(struct api_limits *l) {
    *l = (struct api_limits){.max_pixels = 4 << 20,
                             .max_side_px = 2048,
                             .max_steps = 100,
                             .max_n = 8,
                             .max_image_pixels = 16 << 20,
                             .max_body_bytes = 20 << 20,
                             .max_prompt_bytes = 8192,
                             .max_start_timeout_ms = 3600 * 1000};
}
