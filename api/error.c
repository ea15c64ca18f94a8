/* error.c - see error.h. */
#include "api/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Long client text is cut to fit; half a character must not stay behind. */
static void drop_cut_character(char *s) {
    size_t len = strlen(s), back = 0;
    while (back < 3 && back < len && ((unsigned char)s[len - 1 - back] & 0xC0) == 0x80) back++;
    if (back == len) return;
    uint32_t cp;
    char *last = s + len - 1 - back;
    if ((unsigned char)*last >= 0xC0 && taca_utf8_next(last, back + 1, &cp) == 0) *last = 0;
}

int api_fail(struct api_error *e, int status, const char *code, const char *param, const char *fmt,
             ...) {
    if (e->status) return e->status; /* the first is nearest the cause */
    e->status = status;
    snprintf(e->code, sizeof e->code, "%s", code);
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    drop_cut_character(e->param);
    drop_cut_character(e->message);
    return e->status;
}

void api_error_from(struct api_error *e, const struct taca_err *err) {
    char code[sizeof e->code];
    switch (err->code) {
    case TACA_EINVAL:
        if (!err->param[0]) break;
        /* "taca.scale" is a matter of the field "taca" */
        snprintf(code, sizeof code, "invalid_%.*s", (int)strcspn(err->param, "."), err->param);
        api_fail(e, 400, code, err->param, "%s", err->text);
        return;
    case TACA_ENOMEM:
        if (!e->status) e->retry_after_s = 5; /* a running image may free what this one needs */
        api_fail(e, 503, "gpu_oom", NULL, "not enough memory for this image: %s", err->text);
        return;
    case TACA_ENUMERIC: api_fail(e, 500, "numerical_error", NULL, "%s", err->text); return;
    case TACA_EDEVICE: api_fail(e, 500, "cuda_error", NULL, "device error: %s", err->text); return;
    case TACA_OK:
    case TACA_EIO:
    case TACA_EFORMAT:
    case TACA_ENOTFOUND:
    case TACA_EUNSUPPORTED:
    case TACA_ECANCELLED:
    case TACA_EBUSY:
    case TACA_EPROTO:
    case TACA_EINTERNAL: break;
    }
    /* its text may name files and addresses of ours: it is for the log */
    api_fail(e, 500, "internal", NULL, "internal error; the server's log has the reason");
}

const char *api_error_type(int status) {
    if (status == 401) return "authentication_error";
    if (status == 429) return "rate_limit_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
}

static void put_or_null(struct taca_buf *out, const char *s) {
    if (s[0])
        taca_buf_json(out, s, strlen(s));
    else
        taca_buf_puts(out, "null");
}

void api_error_json(struct taca_buf *out, const struct api_error *e) {
    taca_buf_puts(out, "{\"error\":{\"message\":");
    taca_buf_json(out, e->message, strlen(e->message));
    taca_buf_printf(out, ",\"type\":\"%s\",\"param\":", api_error_type(e->status));
    put_or_null(out, e->param);
    taca_buf_puts(out, ",\"code\":");
    put_or_null(out, e->code);
    taca_buf_puts(out, "}}");
}
