/* admin.h - what operators may ask for: bodies of POST /v1/models/load and /v1/models/unload. */
#ifndef TACA_API_ADMIN_H
#define TACA_API_ADMIN_H

#include "api/error.h"

struct api_model_order {
    char model[64];
    char path[4096]; /* load: "" = where it was before */
    bool only_idle;  /* unload: "when_busy":"refuse"; else what was accepted is made first */
};

/* Unknown fields are refused by name. 0, or an HTTP status with *err filled. */
int api_read_load(struct api_model_order *out, const char *body, size_t len, struct api_error *err);
int api_read_unload(struct api_model_order *out, const char *body, size_t len,
                    struct api_error *err);

#endif
