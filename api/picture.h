/* picture.h - the pictures inside a request: what to start from, and where to paint anew. Base64 or
 * files become pixels of the request's size. Internal to api/. */
#ifndef TACA_API_PICTURE_H
#define TACA_API_PICTURE_H

#include "api/fields.h"

/* Once all fields are read: takes the bytes out of their base64, looks at the heads of the files
 * (what is too large is refused here), and gives the request a size when it has none of its own.
 *   has_width, has_height  whether the request names them */
int api_pictures_open(struct api_draft *d, bool has_width, bool has_height);
/* Once everything else is checked: the files into d->r, which is on its own from then on. */
int api_pictures_keep(struct api_draft *d);
void api_pictures_finish(struct api_draft *d); /* what is between the two; zeroed is fine */

/* Fields: what comes as text. */
int api_set_image(struct api_draft *d, const json_t *v, struct api_name name);
int api_set_mask(struct api_draft *d, const json_t *v, struct api_name name);

#endif
