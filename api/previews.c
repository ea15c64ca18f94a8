/* previews.c - when a preview is due and how large it may be; see request.h. */
#include "api/request.h"

int api_preview_due(const struct api_request *r, int steps_done) {
    int steps = taca_gen_params_forwards(&r->params), count = r->previews;
    if (count <= 0 || steps_done < 1 || steps_done >= steps) return -1;
    if (r->preview_every > 0) {
        int k = steps_done / r->preview_every;
        return steps_done % r->preview_every == 0 && k <= count ? k - 1 : -1;
    }
    /* the run in count + 1 equal parts, a preview at each border between two */
    if (count > steps - 1) count = steps - 1;
    int now = steps_done * (count + 1) / steps, before = (steps_done - 1) * (count + 1) / steps;
    return now > before ? now - 1 : -1;
}

/* The mean of source pixels [from, to) x [top, end) of one channel. */
static uint8_t mean(const uint8_t *rgb, int width, const int x[2], const int y[2]) {
    unsigned sum = 0, n = (unsigned)((x[1] - x[0]) * (y[1] - y[0]));
    for (int j = y[0]; j < y[1]; j++)
        for (int i = x[0]; i < x[1]; i++) sum += rgb[((size_t)j * (size_t)width + (size_t)i) * 3];
    return (uint8_t)((sum + n / 2) / n);
}

/* Source pixels of output pixel i: never none, neighbours may share one. */
static void span(int out[2], int i, int from, int to) {
    out[0] = (int)((int64_t)i * from / to);
    out[1] = (int)(((int64_t)(i + 1) * from + to - 1) / to);
}

void api_preview_shrink(struct taca_image *img, int max_side_px) {
    int w = img->width_px, h = img->height_px, longest = w > h ? w : h;
    if (max_side_px < 1 || longest <= max_side_px) return;
    int to_w = (int)((int64_t)w * max_side_px / longest);
    int to_h = (int)((int64_t)h * max_side_px / longest);
    if (to_w < 1) to_w = 1;
    if (to_h < 1) to_h = 1;
    /* In place: output pixel (i, j) lies at or before its first source pixel, and the sources of
     * every later one come after it. */
    uint8_t *to = img->rgb;
    for (int j = 0; j < to_h; j++) {
        int x[2], y[2];
        span(y, j, h, to_h);
        for (int i = 0; i < to_w; i++) {
            span(x, i, w, to_w);
            for (int c = 0; c < 3; c++) *to++ = mean(img->rgb + c, w, x, y);
        }
    }
    img->width_px = to_w;
    img->height_px = to_h;
}
