/* form.h - a body of multipart/form-data (RFC 7578) as its parts. Read strictly from a buffer that
 * holds all of it: what two readers could understand differently is refused. Knows nothing of what
 * the parts mean. */
#ifndef TACA_API_FORM_H
#define TACA_API_FORM_H

#include "api/error.h"

enum { API_MAX_PARTS = 64, API_MAX_PART_NAME = 64 };

struct api_part {
    char name[API_MAX_PART_NAME + 1];
    bool file;         /* came with a file name */
    const char *bytes; /* inside the body, no NUL behind them */
    size_t len;
};
struct api_form {
    int n;
    struct api_part parts[API_MAX_PARTS];
};

/* Whether a Content-Type (NULL = none) is that of such a body. */
bool api_is_form(const char *content_type);
/* 0, or 400 invalid_form with *err filled. Parts keep the order of the body; names may repeat. */
int api_form_read(struct api_form *out, const char *content_type, const char *body, size_t len,
                  struct api_error *err);

#endif
