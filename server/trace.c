/* trace.c - see trace.h. */
#include "server/trace.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* `len` lowercase hex digits, as the standard wants them. */
static bool is_hex(const char *s, size_t len) { return strspn(s, "0123456789abcdef") >= len; }

static bool is_zero(const char *s, size_t len) { return strspn(s, "0") >= len; }

/* version "-" trace "-" parent "-" flags; later versions may add to it behind another dash */
static bool is_good(const char *s) {
    size_t len = s ? strlen(s) : 0;
    if (len < TRACE_HEADER_LEN || s[2] != '-' || s[35] != '-' || s[52] != '-') return false;
    if (!is_hex(s, 2) || memcmp(s, "ff", 2) == 0) return false;
    if (len > TRACE_HEADER_LEN && (memcmp(s, "00", 2) == 0 || s[TRACE_HEADER_LEN] != '-'))
        return false;
    return is_hex(s + 3, TRACE_ID_LEN) && !is_zero(s + 3, TRACE_ID_LEN) &&
           is_hex(s + 36, TRACE_SPAN_LEN) && !is_zero(s + 36, TRACE_SPAN_LEN) && is_hex(s + 53, 2);
}

void trace_read(struct trace *out, const char *traceparent) {
    uint64_t span = 0;
    *out = (struct trace){.id = ""};
    if (!is_good(traceparent) ||
        getrandom(&span, sizeof span, GRND_NONBLOCK) != (ssize_t)sizeof span)
        return;
    memcpy(out->id, traceparent + 3, TRACE_ID_LEN);
    memcpy(out->flags, traceparent + 53, 2);
    snprintf(out->span, sizeof out->span, "%016llx", (unsigned long long)(span ? span : 1));
}

/* Of the flags we know the first: whether the caller records. */
void trace_header(char out[TRACE_HEADER_LEN + 1], const struct trace *t) {
    out[0] = 0;
    if (!t->id[0]) return;
    bool sampled = strchr("13579bdf", t->flags[1]) != NULL;
    snprintf(out, TRACE_HEADER_LEN + 1, "00-%s-%s-%s", t->id, t->span, sampled ? "01" : "00");
}

void trace_fields(struct taca_buf *out, const struct trace *t) {
    if (t->id[0]) taca_buf_printf(out, ",\"trace_id\":\"%s\",\"span_id\":\"%s\"", t->id, t->span);
}
