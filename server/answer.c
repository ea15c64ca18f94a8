/* answer.c - see answer.h. */
#include "server/answer.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"

const char *const answer_headers[] = {"Cache-Control",
                                      "no-store",
                                      "X-Content-Type-Options",
                                      "nosniff",
                                      "Content-Security-Policy",
                                      "default-src 'none'",
                                      "Connection",
                                      "close",
                                      NULL};

bool request_id_ok(const char *s, size_t len) {
    if (len < 1 || len > REQUEST_ID_MAX) return false;
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!alnum && c != '.' && c != '_' && c != '-') return false;
    }
    return true;
}

void request_id_make(char out[REQUEST_ID_MAX + 1]) {
    uint64_t raw[2];
    if (getrandom(raw, sizeof raw, GRND_NONBLOCK) != (ssize_t)sizeof raw) {
        /* only before the kernel's pool is ready: an id need not be secret, it must differ */
        static atomic_uint_fast64_t counter;
        raw[0] = (uint64_t)taca_now_us();
        raw[1] = atomic_fetch_add(&counter, 1);
    }
    snprintf(out, REQUEST_ID_MAX + 1, "%016llx%016llx", (unsigned long long)raw[0],
             (unsigned long long)raw[1]);
}

const char *answer_reason_phrase(int status) {
    static const struct {
        int status;
        const char *phrase;
    } table[] = {{400, "Bad Request"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {408, "Request Timeout"},
                 {413, "Content Too Large"},
                 {414, "URI Too Long"},
                 {415, "Unsupported Media Type"},
                 {417, "Expectation Failed"},
                 {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {503, "Service Unavailable"},
                 {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].status == status) return table[i].phrase;
    return "Error";
}

void answer_retry_headers(struct taca_buf *out, const struct api_error *e) {
    if (e->retry_after_s > 0)
        taca_buf_printf(out, "Retry-After: %d\nretry-after-ms: %d\n", e->retry_after_s,
                        e->retry_after_s * 1000);
    /* permanent for this request: client libraries would otherwise try a 409 or 504 again */
    if (e->status == 400 || e->status == 409 || e->status == 504)
        taca_buf_puts(out, "x-should-retry: false\n");
}

static void put_lines(struct taca_buf *out, const char *lines) {
    while (lines && *lines) {
        const char *end = strchr(lines, '\n');
        size_t len = end ? (size_t)(end - lines) : strlen(lines);
        taca_buf_put(out, lines, len);
        taca_buf_puts(out, "\r\n");
        lines += len + (end != NULL);
    }
}

void answer_error_bytes(struct taca_buf *out, const struct api_error *e, const char *request_id,
                        const char *more) {
    struct taca_buf body, retry;
    taca_buf_init(&body, 4096);
    taca_buf_init(&retry, 1024);
    api_error_json(&body, e);
    answer_retry_headers(&retry, e);
    taca_buf_printf(out, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n", e->status,
                    answer_reason_phrase(e->status));
    taca_buf_printf(out, "Content-Length: %zu\r\nX-Request-Id: %s\r\n", body.len, request_id);
    for (int i = 0; answer_headers[i]; i += 2)
        taca_buf_printf(out, "%s: %s\r\n", answer_headers[i], answer_headers[i + 1]);
    put_lines(out, retry.data);
    put_lines(out, more);
    taca_buf_puts(out, "\r\n");
    taca_buf_put(out, body.data ? body.data : "", body.len);
    if (body.failed || retry.failed) out->failed = true;
    taca_buf_finish(&body);
    taca_buf_finish(&retry);
}
