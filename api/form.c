/* form.c - see form.h. A body is
 *
 *     --BOUNDARY CRLF  headers CRLF CRLF  bytes CRLF  --BOUNDARY CRLF ...  --BOUNDARY-- [CRLF]
 *
 * and nothing else: no text in front or behind, no space after a boundary, no folded header, no
 * bytes in which the boundary turns up as the beginning of something longer. */
#include "api/form.h"

#include <string.h>
#include <strings.h>

enum { MAX_BOUNDARY = 70, MAX_HEADERS = 8, MAX_LINE = 1024 };

struct cursor {
    const char *at, *end;
    char boundary[MAX_BOUNDARY + 5]; /* "\r\n--" in front */
    size_t boundary_len;             /* with those */
    struct api_error *err;
};

static int broken(struct api_error *err, const char *what) {
    return api_fail(err, 400, "invalid_form", NULL, "the body is no multipart/form-data: %s", what);
}

/* ---- headers of the request and of parts ------------------------------------------------------
 */

static bool boundary_char(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("'()+_,-./:=? ", c));
}

static bool token_char(char c) { return c > ' ' && c < 127 && !strchr("()<>@,;:\\\"/[]?=", c); }

static const char *skip_space(const char *s, const char *end) {
    while (s < end && (*s == ' ' || *s == '\t')) s++;
    return s;
}

struct parameter {
    const char *name, *value;
    size_t name_len, len;
    bool escaped; /* quoted with a backslash in it: not to be taken by the letter */
};

/* One `; name=value`; returns what follows, NULL when there is none or it is malformed. */
static const char *next_parameter(struct parameter *p, const char *s, const char *end) {
    s = skip_space(s, end);
    if (s == end || *s != ';') return NULL;
    s = skip_space(s + 1, end);
    *p = (struct parameter){.name = s};
    while (s < end && token_char(*s)) s++;
    p->name_len = (size_t)(s - p->name);
    if (p->name_len == 0 || s == end || *s != '=') return NULL;
    p->value = ++s;
    if (s < end && *s == '"') {
        p->value = ++s;
        for (; s < end && *s != '"'; s++)
            if (*s == '\\' && s + 1 < end) p->escaped = true, s++;
        if (s >= end) return NULL;
        p->len = (size_t)(s - p->value);
        return s + 1;
    }
    while (s < end && token_char(*s)) s++;
    p->len = (size_t)(s - p->value);
    return p->len ? s : NULL;
}

static bool is_name(const struct parameter *p, const char *name) {
    return p->name_len == strlen(name) && strncasecmp(p->name, name, p->name_len) == 0;
}

static const char form_type[] = "multipart/form-data";

bool api_is_form(const char *content_type) {
    const size_t len = sizeof form_type - 1;
    if (!content_type || strncasecmp(content_type, form_type, len) != 0) return false;
    return !content_type[len] || content_type[len] == ';' || content_type[len] == ' ' ||
           content_type[len] == '\t';
}

static int read_boundary(struct cursor *c, const char *content_type) {
    const char *s = content_type + sizeof form_type - 1, *end = s + strlen(s);
    struct parameter p;
    bool found = false;
    while ((s = next_parameter(&p, s, end))) {
        if (!is_name(&p, "boundary")) continue;
        if (found) return broken(c->err, "Content-Type names two boundaries");
        found = true;
        bool ok = p.len >= 1 && p.len <= MAX_BOUNDARY && p.value[p.len - 1] != ' ' && !p.escaped;
        for (size_t i = 0; i < p.len && ok; i++) ok = boundary_char(p.value[i]);
        if (!ok) return broken(c->err, "the boundary must be 1..70 characters of RFC 2046");
        memcpy(c->boundary, "\r\n--", 4);
        memcpy(c->boundary + 4, p.value, p.len);
        c->boundary_len = p.len + 4;
    }
    return found ? 0 : broken(c->err, "Content-Type names no boundary");
}

/* form-data; name="prompt"; filename="a.png" */
static int read_disposition(struct api_part *part, const char *s, const char *end,
                            struct api_error *err) {
    static const char kind[] = "form-data";
    struct parameter p;
    const char *rest;
    if ((size_t)(end - s) < sizeof kind - 1 || strncasecmp(s, kind, sizeof kind - 1) != 0)
        return broken(err, "a part is not form-data");
    for (s += sizeof kind - 1; (rest = next_parameter(&p, s, end)); s = rest) {
        if (is_name(&p, "filename") || is_name(&p, "filename*")) part->file = true;
        if (!is_name(&p, "name")) continue;
        if (part->name[0]) return broken(err, "a part has two names");
        bool plain = p.len >= 1 && p.len <= API_MAX_PART_NAME && !p.escaped;
        for (size_t i = 0; i < p.len && plain; i++) plain = p.value[i] >= ' ' && p.value[i] <= '~';
        if (!plain) return broken(err, "the name of a part must have 1..64 characters of ASCII");
        memcpy(part->name, p.value, p.len);
        part->name[p.len] = 0;
    }
    if (skip_space(s, end) != end) return broken(err, "the Content-Disposition of a part");
    return part->name[0] ? 0 : broken(err, "a part has no name");
}

static bool is_header(const char *line, size_t len, const char *name, const char **value) {
    size_t n = strlen(name);
    if (len <= n || line[n] != ':' || strncasecmp(line, name, n) != 0) return false;
    *value = skip_space(line + n + 1, line + len);
    return true;
}

static int read_header(struct api_part *part, const char *line, size_t len, struct api_error *err) {
    const char *value, *end = line + len, *colon = memchr(line, ':', len);
    if (!colon || colon == line) return broken(err, "a line of a part's head");
    for (const char *s = line; s < colon; s++)
        if (!token_char(*s)) return broken(err, "a line of a part's head");
    if (is_header(line, len, "Content-Disposition", &value)) {
        if (part->name[0]) return broken(err, "a part has two Content-Dispositions");
        return read_disposition(part, value, end, err);
    }
    if (is_header(line, len, "Content-Transfer-Encoding", &value)) {
        static const char *const plain[] = {"binary", "8bit", "7bit"};
        for (int i = 0; i < 3; i++)
            if ((size_t)(end - value) == strlen(plain[i]) &&
                strncasecmp(value, plain[i], strlen(plain[i])) == 0)
                return 0;
        return broken(err, "parts are sent as they are, without a Content-Transfer-Encoding");
    }
    return 0; /* Content-Type and others say nothing that the bytes do not */
}

/* ---- parts ------------------------------------------------------------------------------------
 */

/* The rest of a line and its CRLF; NULL when there is none within reason. */
static const char *take_line(struct cursor *c, size_t *len) {
    const char *line = c->at;
    size_t left = (size_t)(c->end - line);
    const char *lf = memchr(line, '\n', left < MAX_LINE + 2 ? left : MAX_LINE + 2);
    if (!lf || lf == line || lf[-1] != '\r') return NULL;
    *len = (size_t)(lf - 1 - line);
    if (memchr(line, '\r', *len) || memchr(line, 0, *len)) return NULL;
    c->at = lf + 1;
    return line;
}

static int read_head(struct cursor *c, struct api_part *part) {
    const char *line;
    size_t len;
    for (int n = 0; n <= MAX_HEADERS; n++) {
        if (!(line = take_line(c, &len))) return broken(c->err, "the head of a part");
        if (len == 0) return part->name[0] ? 0 : broken(c->err, "a part without a name");
        int rc = read_header(part, line, len, c->err);
        if (rc) return rc;
    }
    return broken(c->err, "a part has more than 8 header lines");
}

/* Behind a boundary: *last = it was the closing one. */
static int after_boundary(struct cursor *c, bool *last) {
    size_t left = (size_t)(c->end - c->at);
    *last = left >= 2 && memcmp(c->at, "--", 2) == 0;
    if (*last) {
        c->at += 2, left -= 2;
        bool over = left == 0 || (left == 2 && memcmp(c->at, "\r\n", 2) == 0);
        return over ? 0 : broken(c->err, "there is something behind its end");
    }
    if (left < 2 || memcmp(c->at, "\r\n", 2) != 0)
        return broken(c->err, "a boundary that goes on, or the body is cut");
    c->at += 2;
    return 0;
}

static int read_part(struct cursor *c, struct api_part *part) {
    *part = (struct api_part){.file = false};
    int rc = read_head(c, part);
    if (rc) return rc;
    /* an empty part: the CRLF of the boundary is also the one that ended the head */
    const char *from = c->at - 2;
    const char *found = memmem(from, (size_t)(c->end - from), c->boundary, c->boundary_len);
    if (!found) return broken(c->err, "the last part has no end");
    if (found == from) return broken(c->err, "a part without bytes and without a line for them");
    part->bytes = c->at;
    part->len = (size_t)(found - c->at);
    c->at = found + c->boundary_len;
    return 0;
}

int api_form_read(struct api_form *out, const char *content_type, const char *body, size_t len,
                  struct api_error *err) {
    struct cursor c = {.at = body, .end = body + len, .err = err};
    bool last = false;
    out->n = 0;
    if (!api_is_form(content_type)) return broken(err, "Content-Type says something else");
    int rc = read_boundary(&c, content_type);
    if (rc) return rc;
    const size_t first = c.boundary_len - 2; /* without the CRLF */
    if (len < first || memcmp(body, c.boundary + 2, first) != 0)
        return broken(err, "it does not begin with the boundary");
    c.at += first;
    rc = after_boundary(&c, &last);
    while (!rc && !last) {
        if (out->n == API_MAX_PARTS) return broken(err, "more than 64 parts");
        rc = read_part(&c, &out->parts[out->n]);
        if (!rc) rc = after_boundary(&c, &last);
        if (!rc) out->n++;
    }
    return rc;
}
