/* exif.h - which way up a picture is: cameras store what the sensor saw and how it was held. And
 * the comment in which programs tell how they made one. */
#ifndef TACA_API_EXIF_H
#define TACA_API_EXIF_H

#include <stddef.h>
#include <stdint.h>

#include "api/resize.h"
#include "base/buf.h"

/* 1 = as it is stored. 2..4: mirrored, turned by half, both; 5..8: sides change places too. */
enum { EXIF_UPRIGHT = 1, EXIF_LAST = 8 };

/* What the Orientation (0x0112) of the first directory says; EXIF_UPRIGHT when it is not there or
 * makes no sense. `tiff`: the bytes from the byte order mark on. */
int api_exif_orientation(const void *tiff, size_t len);
/* Appends the UserComment (0x9286) as UTF-8: of ASCII, or of UTF-16 in the order of the other
 * numbers. False, with nothing appended, when it is not there or makes no sense. */
bool api_exif_comment(struct taca_buf *out, const void *tiff, size_t len);
/* Appends a block that says nothing but `utf8`, in UTF-16: from the byte order mark on. */
void api_exif_put_comment(struct taca_buf *out, const char *utf8);
/* The sides as they are shown. */
struct api_size api_exif_sides(struct api_size stored, int orientation);
/* The picture as it is shown, its own memory (free); NULL when out of memory. `channels` bytes a
 * pixel. */
uint8_t *api_exif_turn(const uint8_t *in, int channels, struct api_size stored, int orientation);

#endif
