/* head.c - see head.h. */
#include "server/head.h"

#include <string.h>
#include <strings.h>

enum { RECORD_BYTES = 64 }; /* that a parser keeps for each field, argument and cookie */

struct span {
    const char *p, *end;
};

/* What the fields said, judged together at the end of the head. */
struct seen {
    int hosts, lengths, codings, cookies, fields;
    unsigned singles; /* a bit for each that came */
    size_t cookie_bytes;
    bool plain_chunked, too_large, expects_other;
};

static int refuse(struct head *h, int status, const char *why) {
    h->why = why;
    return h->status = status;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
static bool is_alnum(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
static bool is_token(char c) { return c > 32 && c < 127 && !strchr("()<>@,;:\\\"/[]?={}", c); }
static bool is_token_span(struct span s) {
    if (s.p == s.end) return false;
    for (const char *q = s.p; q < s.end; q++)
        if (!is_token(*q)) return false;
    return true;
}
static bool equals(struct span s, const char *word) {
    size_t len = strlen(word);
    return (size_t)(s.end - s.p) == len && strncasecmp(s.p, word, len) == 0;
}

/* ---- request line ---------------------------------------------------------------------------- */

static int check_version(struct head *h, struct span v) {
    bool shaped = v.end - v.p >= 8 && memcmp(v.p, "HTTP/", 5) == 0;
    for (const char *q = v.p + 5; shaped && q < v.end; q++) shaped = is_digit(*q) || *q == '.';
    if (!shaped || !is_digit(v.p[5]))
        return refuse(h, 400, "the request line does not end in an HTTP version");
    if (v.end - v.p != 8 || memcmp(v.p, "HTTP/1.", 7) != 0 || v.p[7] > '1')
        return refuse(h, 505, "HTTP/1.0 and HTTP/1.1 are spoken here");
    h->minor = v.p[7] - '0';
    return 0;
}

static int check_method(struct head *h, struct span m) {
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t len = strlen(known[i]);
        if ((size_t)(m.end - m.p) == len && memcmp(m.p, known[i], len) == 0) return 0;
    }
    return refuse(h, 405, "this method is not served");
}

/* %2F and %5C: a slash to some, a letter of a name to others. */
static bool is_escaped_slash(const char *q) {
    return (q[1] == '2' && (q[2] | 0x20) == 'f') || (q[1] == '5' && (q[2] | 0x20) == 'c');
}

static int check_uri_bytes(struct head *h, struct span u) {
    int args = 0;
    bool query = false;
    for (const char *q = u.p; q < u.end; q++) {
        query = query || *q == '?';
        /* browsers leave some of these as they are in a query, which nothing here reads */
        if (*q <= 32 || *q > 126 || *q == '#' || (!query && strchr("\"<>\\^`{|}", *q)))
            return refuse(h, 400, "a byte in the request target is not allowed there");
        args += *q == '&' || *q == '?';
        if (*q != '%') continue;
        if (u.end - q < 3 || !is_hex(q[1]) || !is_hex(q[2]) || (q[1] == '0' && q[2] == '0'))
            return refuse(h, 400, "the request target has a bad % escape");
        if (!query && is_escaped_slash(q))
            return refuse(h, 400, "an escaped slash in the path of the request target");
    }
    if (args > HEAD_MAX_PAIRS) return refuse(h, 414, "too many query arguments");
    h->parse_bytes = (size_t)args * RECORD_BYTES; /* the rest is added at the end */
    return 0;
}

/* "[2001:db8::1]" without its first bracket; where it ends, NULL when it does not. */
static const char *skip_ip_literal(struct span s) {
    const char *q = s.p;
    while (q < s.end && (is_hex(*q) || *q == ':' || *q == '.')) q++;
    return q > s.p && q < s.end && *q == ']' ? q + 1 : NULL;
}

/* host [":" port] of RFC 3986, without a user: those only ever deceive. May be empty. */
static bool authority_ok(struct span s) {
    const char *q = s.p;
    if (q < s.end && *q == '[') {
        q = skip_ip_literal((struct span){q + 1, s.end});
        if (!q) return false;
    } else {
        while (q < s.end && (is_alnum(*q) || strchr("-._~!$&'()*+,;=%", *q))) q++;
    }
    if (q < s.end && *q++ != ':') return false;
    while (q < s.end && is_digit(*q)) q++;
    return q == s.end;
}

/* "http://host[:port]/path": a proxy's form, which every server must take. */
static bool absolute_ok(struct span u) {
    size_t scheme = 0;
    if (u.end - u.p > 7 && strncasecmp(u.p, "http://", 7) == 0) scheme = 7;
    if (u.end - u.p > 8 && strncasecmp(u.p, "https://", 8) == 0) scheme = 8;
    if (!scheme) return false;
    const char *host = u.p + scheme, *q = host;
    while (q < u.end && *q != '/' && *q != '?') q++;
    return q > host && *host != ':' && authority_ok((struct span){host, q});
}

static int check_target(struct head *h, struct span m, struct span u) {
    if (u.end - u.p > HEAD_MAX_URI) return refuse(h, 414, "the request target is too long");
    if (check_uri_bytes(h, u)) return h->status;
    if (*u.p == '/' || absolute_ok(u)) return 0;
    if (equals(u, "*") && equals(m, "OPTIONS")) return 0;
    return refuse(h, 400, "the request target is neither a path nor an http URI");
}

static int check_request_line(struct head *h, struct span l) {
    struct span m = {l.p, memchr(l.p, ' ', (size_t)(l.end - l.p))};
    if (!m.end || !is_token_span(m))
        return refuse(h, 400, "the request line does not begin with a method and one space");
    struct span u = {m.end + 1, memchr(m.end + 1, ' ', (size_t)(l.end - m.end - 1))};
    if (!u.end || u.end == u.p)
        return refuse(h, 400, "the request line is not method, target and version");
    struct span v = {u.end + 1, l.end};
    if (check_version(h, v)) return h->status;
    if (check_method(h, m)) return h->status;
    return check_target(h, m, u);
}

/* ---- fields ---------------------------------------------------------------------------------- */

static int take_length(struct head *h, struct span v, bool padded, struct seen *s, uint64_t max) {
    if (s->lengths++) return refuse(h, 400, "more than one Content-Length");
    /* blanks behind the digits are legal, but the parser behind would answer them twice */
    if (v.p == v.end || padded) return refuse(h, 400, "Content-Length is not a plain number");
    uint64_t x = 0;
    for (const char *q = v.p; q < v.end; q++) {
        if (!is_digit(*q)) return refuse(h, 400, "Content-Length is not a plain number");
        x = x > UINT64_MAX / 20 ? x : x * 10 + (uint64_t)(*q - '0'); /* saturates far above max */
    }
    h->content_length = x;
    if (x > max)
        s->too_large = true;
    else if (v.end - v.p > 10)
        return refuse(h, 400, "Content-Length has too many digits");
    return 0;
}

static int take_cookies(struct head *h, struct span v, struct seen *s) {
    s->cookies++;
    s->cookie_bytes += (size_t)(v.end - v.p);
    for (const char *q = v.p; q < v.end; q++) s->cookies += *q == ';' || *q == ',';
    return s->cookies > HEAD_MAX_PAIRS ? refuse(h, 431, "too many cookies") : 0;
}

/* Fields that mean one thing, and another to whoever reads their second line first. */
static int take_single(struct head *h, struct span name, struct seen *s) {
    static const char *const names[] = {"Content-Type", "Authorization", "Origin",
                                        "Idempotency-Key"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (!equals(name, names[i])) continue;
        if (s->singles & 1u << i) return refuse(h, 400, "a field that may come once came twice");
        s->singles |= 1u << i;
    }
    return 0;
}

static int take_field(struct head *h, struct span name, struct span v, bool padded, struct seen *s,
                      uint64_t max_body) {
    if (equals(name, "Host")) {
        if (s->hosts++) return refuse(h, 400, "more than one Host");
        if (!authority_ok(v)) return refuse(h, 400, "Host is not a host and a port");
    } else if (equals(name, "Content-Length")) {
        return take_length(h, v, padded, s, max_body);
    } else if (equals(name, "Transfer-Encoding")) {
        if (s->codings++) return refuse(h, 400, "more than one Transfer-Encoding");
        s->plain_chunked = equals(v, "chunked") && !padded;
    } else if (equals(name, "Expect")) {
        h->expects_continue = equals(v, "100-continue");
        s->expects_other = s->expects_other || !h->expects_continue;
    } else if (equals(name, "Content-Encoding")) {
        if (!equals(v, "identity"))
            return refuse(h, 415, "the body must come without a Content-Encoding");
    } else if (equals(name, "Cookie")) {
        return take_cookies(h, v, s);
    } else {
        return take_single(h, name, s);
    }
    return 0;
}

static struct span trim(struct span v) {
    while (v.p < v.end && (*v.p == ' ' || *v.p == '\t')) v.p++;
    while (v.end > v.p && (v.end[-1] == ' ' || v.end[-1] == '\t')) v.end--;
    return v;
}

static int check_field(struct head *h, struct span l, struct seen *s, uint64_t max_body) {
    if (*l.p == ' ' || *l.p == '\t') return refuse(h, 400, "a header line is folded");
    const char *colon = memchr(l.p, ':', (size_t)(l.end - l.p));
    if (!colon) return refuse(h, 400, "a header line has no colon");
    struct span name = {l.p, colon}, v = trim((struct span){colon + 1, l.end});
    if (!is_token_span(name)) return refuse(h, 400, "a header name is not a token");
    return take_field(h, name, v, v.end != l.end, s, max_body);
}

static int check_together(struct head *h, const struct seen *s) {
    if (!s->hosts && h->minor == 1) return refuse(h, 400, "HTTP/1.1 needs a Host header");
    if (s->codings) {
        if (s->lengths) return refuse(h, 400, "both Content-Length and Transfer-Encoding");
        if (h->minor == 0) return refuse(h, 400, "Transfer-Encoding in HTTP/1.0");
        if (!s->plain_chunked) return refuse(h, 501, "the only transfer coding is chunked");
        h->chunked = true;
    }
    if (s->expects_other && h->minor == 1)
        return refuse(h, 417, "the only expectation is 100-continue");
    if (s->too_large) return refuse(h, 413, "the body is larger than this server accepts");
    return h->status = HEAD_GOOD;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* Controls end a head at once: no line with one can become valid. */
static bool is_control(char c) {
    unsigned char u = (unsigned char)c;
    return (u < 32 && u != '\t' && u != '\r' && u != '\n') || u == 127;
}

static int check_line(struct head *h, struct span l, int line, struct seen *s, uint64_t max_body) {
    if (line == 0) return check_request_line(h, l);
    if (l.p == l.end) return check_together(h, s);
    if (line > HEAD_MAX_LINES) return refuse(h, 431, "too many header lines");
    s->fields++;
    return check_field(h, l, s, max_body);
}

int head_check(struct head *out, const char *bytes, size_t len, uint64_t max_body) {
    struct head *h = out;
    struct seen s = {0};
    size_t limit = len < HEAD_MAX_BYTES ? len : HEAD_MAX_BYTES, start = 0;
    int line = 0;
    *h = (struct head){.minor = 1};
    /* one empty line before the request is an old client's habit: RFC 9112 2.2 */
    if (limit >= 2 && bytes[0] == '\r' && bytes[1] == '\n') start = 2;
    for (size_t i = start; i < limit; i++) {
        char c = bytes[i];
        if (is_control(c)) return refuse(h, 400, "a control byte in the request head");
        if (i > start && bytes[i - 1] == '\r' && c != '\n')
            return refuse(h, 400, "a carriage return without a line feed");
        if (c != '\n') continue;
        if (i == start || bytes[i - 1] != '\r')
            return refuse(h, 400, "a line feed without a carriage return");
        struct span l = {bytes + start, bytes + i - 1};
        if (check_line(h, l, line++, &s, max_body)) {
            h->len = i + 1;
            h->parse_bytes +=
                h->len + s.cookie_bytes + (size_t)(s.fields + s.cookies) * RECORD_BYTES;
            return h->status;
        }
        start = i + 1;
    }
    if (len < HEAD_MAX_BYTES) return h->status = HEAD_MORE;
    return line == 0 ? refuse(h, 414, "the request line is too long")
                     : refuse(h, 431, "the request head is too large");
}

bool head_find(char *out, size_t max, const char *bytes, size_t len, const char *name) {
    const char *end = bytes + len, *line = bytes, *lf;
    size_t name_len = strlen(name);
    for (; (lf = memchr(line, '\n', (size_t)(end - line))); line = lf + 1) {
        if (lf - line == 1 && *line == '\r' && line > bytes) return false; /* the head's end */
        if ((size_t)(lf - line) <= name_len || line[name_len] != ':') continue;
        if (strncasecmp(line, name, name_len) != 0) continue;
        struct span v = trim((struct span){line + name_len + 1, lf - (lf[-1] == '\r')});
        if ((size_t)(v.end - v.p) >= max) return false;
        memcpy(out, v.p, (size_t)(v.end - v.p));
        out[v.end - v.p] = 0;
        return true;
    }
    return false;
}

/* The value of a chunk size line without its extension; false when it is not 1..8 hex digits. */
static bool chunk_size(struct span l, uint64_t *out) {
    uint64_t x = 0;
    const char *q = l.p;
    for (; q < l.end && is_hex(*q); q++) {
        if (q - l.p >= 8) return false;
        int digit = is_digit(*q) ? *q - '0' : (*q | 0x20) - 'a' + 10;
        x = x << 4 | (uint64_t)digit;
    }
    if (q == l.p || (q < l.end && *q != ';')) return false;
    *out = x;
    return true;
}

/* A line up to CRLF from *at on. HEAD_MORE, HEAD_GOOD (and *at behind it) or 400. */
static int chunk_line(const char *bytes, size_t len, size_t *at, struct span *out) {
    for (size_t i = *at; i < len; i++) {
        if (i - *at > HEAD_MAX_URI || is_control(bytes[i])) return 400;
        if (i > *at && bytes[i - 1] == '\r' && bytes[i] != '\n') return 400;
        if (bytes[i] != '\n') continue;
        if (i == *at || bytes[i - 1] != '\r') return 400;
        *out = (struct span){bytes + *at, bytes + i - 1};
        *at = i + 1;
        return HEAD_GOOD;
    }
    return HEAD_MORE;
}

int head_check_chunks(const char *bytes, size_t len, uint64_t max_body, const char **why) {
    size_t at = 0;
    struct span l;
    uint64_t size = 1;
    *why = "the chunked body is malformed";
    while (size > 0) {
        int rc = chunk_line(bytes, len, &at, &l);
        if (rc != HEAD_GOOD) return rc;
        if (!chunk_size(l, &size)) return 400;
        if (size > max_body) {
            *why = "the body is larger than this server accepts";
            return 413;
        }
        if (size == 0) break;
        if (len - at <= size) return HEAD_MORE;
        at += (size_t)size;
        if (bytes[at] != '\r' || (len - at > 1 && bytes[at + 1] != '\n')) return 400;
        if (len - at < 2) return HEAD_MORE;
        at += 2;
    }
    for (;;) { /* trailer fields, ignored */
        int rc = chunk_line(bytes, len, &at, &l);
        if (rc != HEAD_GOOD) return rc;
        if (l.p == l.end) return HEAD_GOOD;
        const char *colon = memchr(l.p, ':', (size_t)(l.end - l.p));
        if (!colon || !is_token_span((struct span){l.p, colon})) return 400;
    }
}
