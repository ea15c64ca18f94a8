/* reply_parts.h - what a JSON reply and an event have in common. Internal to api/. */
#ifndef TACA_API_REPLY_PARTS_H
#define TACA_API_REPLY_PARTS_H

#include "api/reply.h"

/* {"queue_ms":...,...,"total_ms":...} */
void api_put_timings(struct taca_buf *out, const struct api_timings *t);
/* "format":"png" or another,"width":...,"height":...,"b64_json":"..." or "url":"..." */
void api_put_picture(struct taca_buf *out, const struct api_result_image *img);
/* Only the last of these. */
void api_put_bytes(struct taca_buf *out, const struct api_result_image *img);

#endif
