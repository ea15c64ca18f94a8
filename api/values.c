/* values.c - see values.h. */
#include "api/values.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int api_refuse(struct api_error *err, struct api_name name, const char *fmt, ...) {
    char code[sizeof err->code], text[sizeof err->message];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(code, sizeof code, "invalid_%s", name.field);
    return api_fail(err, 400, code, name.param, "%s", text);
}

struct api_quote api_quote(const char *s) {
    enum { LONGEST = 64 };
    struct api_quote q;
    size_t len = strnlen(s, LONGEST + 1);
    bool cut = len > LONGEST;
    if (cut) len = LONGEST;
    while (cut && len > 0 && ((unsigned char)s[len] & 0xC0) == 0x80) len--;
    snprintf(q.text, sizeof q.text, "%.*s%s", (int)len, s, cut ? "..." : "");
    return q;
}

const char *api_type_of(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: return "null";
    }
    return "?";
}

int api_want_bool(bool *out, const json_t *v, struct api_name name, struct api_error *err) {
    if (!json_is_boolean(v))
        return api_refuse(err, name, "%s must be true or false, got %s", name.param,
                          api_type_of(v));
    *out = json_is_true(v);
    return 0;
}

int api_want_int(int64_t *out, const json_t *v, int64_t min, int64_t max, struct api_name name,
                 struct api_error *err) {
    enum { EXACT_BITS = 53 };
    long long lo = (long long)min, hi = (long long)max;
    int64_t i;
    if (json_is_integer(v)) {
        i = json_integer_value(v);
    } else if (json_is_real(v)) {
        double d = json_real_value(v);
        if (d != floor(d) || fabs(d) > (double)(INT64_C(1) << EXACT_BITS))
            return api_refuse(err, name, "%s must be an integer in %lld..%lld, got %.17g",
                              name.param, lo, hi, d);
        i = (int64_t)d;
    } else {
        return api_refuse(err, name, "%s must be an integer in %lld..%lld, got %s", name.param, lo,
                          hi, api_type_of(v));
    }
    if (i < min || i > max)
        return api_refuse(err, name, "%s must be in %lld..%lld, got %lld", name.param, lo, hi,
                          (long long)i);
    *out = i;
    return 0;
}

int api_want_number(double *out, const json_t *v, double min, double max, struct api_name name,
                    struct api_error *err) {
    if (!json_is_number(v))
        return api_refuse(err, name, "%s must be a number in %g..%g, got %s", name.param, min, max,
                          api_type_of(v));
    double d = json_number_value(v);
    if (!(d >= min && d <= max))
        return api_refuse(err, name, "%s must be in %g..%g, got %.17g", name.param, min, max, d);
    *out = d;
    return 0;
}
