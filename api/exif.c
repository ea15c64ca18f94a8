/* exif.c - see exif.h. */
#include "api/exif.h"

#include <stdlib.h>
#include <string.h>

enum { ORIENTATION = 0x0112, SHORT = 3, ENTRY_BYTES = 12 };

struct tiff {
    const unsigned char *bytes;
    size_t len;
    int little; /* byte order */
};

/* n bytes at `at`, which lie inside. */
static uint32_t number(const struct tiff *t, size_t at, int n) {
    uint32_t v = 0;
    for (int i = 0; i < n; i++) v = v << 8 | t->bytes[at + (size_t)(t->little ? n - 1 - i : i)];
    return v;
}

int api_exif_orientation(const void *tiff, size_t len) {
    struct tiff t = {tiff, len, len > 0 && *(const char *)tiff == 'I'};
    if (len < 8 || memcmp(tiff, t.little ? "II" : "MM", 2) != 0 || number(&t, 2, 2) != 42)
        return EXIF_UPRIGHT;
    const size_t directory = number(&t, 4, 4);
    if (directory > len - 2) return EXIF_UPRIGHT;
    const size_t n = number(&t, directory, 2);
    for (size_t i = 0, at = directory + 2; i < n && len - at >= ENTRY_BYTES; i++) {
        if (number(&t, at, 2) == ORIENTATION && number(&t, at + 2, 2) == SHORT) {
            const int v = (int)number(&t, at + 8, 2);
            return v >= EXIF_UPRIGHT && v <= EXIF_LAST ? v : EXIF_UPRIGHT;
        }
        at += ENTRY_BYTES;
    }
    return EXIF_UPRIGHT;
}

struct api_size api_exif_sides(struct api_size s, int orientation) {
    return orientation < 5 ? s : (struct api_size){s.h, s.w};
}

uint8_t *api_exif_turn(const uint8_t *in, int channels, struct api_size stored, int orientation) {
    static const struct {
        int swapped, right_to_left, bottom_up; /* of the stored rows and columns */
    } ways[EXIF_LAST + 1] = {{0, 0, 0}, {0, 0, 0}, {0, 1, 0}, {0, 1, 1}, {0, 0, 1},
                             {1, 0, 0}, {1, 0, 1}, {1, 1, 1}, {1, 1, 0}};
    const struct api_size to = api_exif_sides(stored, orientation);
    const size_t c = (size_t)channels;
    uint8_t *out = malloc((size_t)to.w * (size_t)to.h * c), *at = out;
    for (int y = 0; out && y < to.h; y++)
        for (int x = 0; x < to.w; x++, at += c) {
            int sx = ways[orientation].swapped ? y : x, sy = ways[orientation].swapped ? x : y;
            if (ways[orientation].right_to_left) sx = stored.w - 1 - sx;
            if (ways[orientation].bottom_up) sy = stored.h - 1 - sy;
            memcpy(at, in + ((size_t)sy * (size_t)stored.w + (size_t)sx) * c, c);
        }
    return out;
}
