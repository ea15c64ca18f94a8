/* values.h - JSON values to plain data, with messages that say what was wanted and what was found.
 * Internal to api/. Each function returns 0 or the status of the error it recorded. */
#ifndef TACA_API_VALUES_H
#define TACA_API_VALUES_H

#include <jansson.h>

#include "api/error.h"
#include "base/mem.h"

/* A field as the client spelt it, and the canonical field that its code names. */
struct api_name {
    const char *param; /* "num_inference_steps", "taca.scale" */
    const char *field; /* "steps", "taca" */
};

/* 400 invalid_<field> */
int api_refuse(struct api_error *err, struct api_name name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Client text for a message: at most 64 bytes, cut between two characters. */
struct api_quote {
    char text[72];
};
struct api_quote api_quote(const char *s);
/* "a string", "an integer" ... of a value, for messages. */
const char *api_type_of(const json_t *v);

int api_want_bool(bool *out, const json_t *v, struct api_name name, struct api_error *err);
/* 1.0 and 1e3 are integers too: JSON knows one kind of number, and some clients write them so. */
int api_want_int(int64_t *out, const json_t *v, int64_t min, int64_t max, struct api_name name,
                 struct api_error *err);
int api_want_number(double *out, const json_t *v, double min, double max, struct api_name name,
                    struct api_error *err);

#endif
