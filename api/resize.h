/* resize.h - pictures of one size to another. Internal to api/. */
#ifndef TACA_API_RESIZE_H
#define TACA_API_RESIZE_H

#include <stdint.h>

struct api_size {
    int w, h;
};
/* `channels` interleaved bytes a pixel, rows top down; sides 1..65536.
 *   out(y, x) = sum of in(j, i) * k((j + 1/2) / ry - (y + 1/2)) * k(the same of i and x) / their
 * sum with k Lanczos's window of three lobes, r = in / out per side, and k stretched by r where r >
 * 1, so that shrinking averages. Beyond the border there is nothing. NULL when out of memory;
 * free(). */
uint8_t *api_resize(const uint8_t *in, int channels, struct api_size from, struct api_size to);

#endif
