/* client.c - see client.h. */
#include "cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

enum { LARGEST_RAW = 256 << 20, LARGEST_HEAD = 64 << 10, PIECE = 64 << 10, LOOK_MS = 200 };

/* ---- the connection -------------------------------------------------------------------------- */

/* Waits until fd is ready for `events` or the deadline passes. */
static enum taca_code wait_for(const struct client_request *r, int fd, short events,
                               double deadline_ms, struct taca_err *err) {
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        if (r->stop && *r->stop) return taca_fail(err, TACA_ECANCELLED, "cancelled");
        double left = deadline_ms - taca_now_ms();
        if (left <= 0) return taca_fail(err, TACA_EIO, "no answer in time");
        int n = poll(&p, 1, left < LOOK_MS ? (int)left + 1 : LOOK_MS);
        if (n > 0) return TACA_OK;
        if (n < 0 && errno != EINTR) return taca_fail(err, TACA_EIO, "poll: %s", strerror(errno));
    }
}

static const char unix_scheme[] = "unix:";
static bool is_unix(const char *host) { return strncmp(host, unix_scheme, 5) == 0; }

static enum taca_code connect_unix(const char *path, int *out, struct taca_err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if ((size_t)snprintf(a.sun_path, sizeof a.sun_path, "%s", path) >= sizeof a.sun_path)
        return taca_fail(err, TACA_EIO, "%s: longer than a socket's name may be", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&a, sizeof a) == 0) {
        *out = fd;
        return TACA_OK;
    }
    enum taca_code rc = taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return rc;
}

static enum taca_code connect_to(const struct client_request *r, double deadline_ms, int *out,
                                 struct taca_err *err) {
    if (is_unix(r->host)) return connect_unix(r->host + 5, out, err);
    struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM};
    char port[16];
    snprintf(port, sizeof port, "%d", r->port);
    int gai = getaddrinfo(r->host, port, &hints, &list);
    if (gai) return taca_fail(err, TACA_EIO, "%s: %s", r->host, gai_strerror(gai));
    int cause = 0, fd = -1;
    enum taca_code rc = TACA_OK;
    for (struct addrinfo *a = list; a && fd < 0 && !rc; a = a->ai_next) {
        socklen_t len = sizeof cause;
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) continue;
        cause = connect(fd, a->ai_addr, a->ai_addrlen) ? errno : 0;
        if (cause == EINPROGRESS) {
            rc = wait_for(r, fd, POLLOUT, deadline_ms, err);
            if (!rc) getsockopt(fd, SOL_SOCKET, SO_ERROR, &cause, &len);
        }
        if (cause) close(fd), fd = -1;
    }
    freeaddrinfo(list);
    if (rc) return rc;
    if (fd < 0)
        return taca_fail(err, TACA_EIO, "%s port %d: %s", r->host, r->port, strerror(cause));
    *out = fd;
    return TACA_OK;
}

static enum taca_code send_all(const struct client *c, const char *p, size_t left,
                               double deadline_ms, struct taca_err *err) {
    while (left > 0) {
        ssize_t n = send(c->fd, p, left, MSG_NOSIGNAL);
        if (n > 0) {
            p += n;
            left -= (size_t)n;
        } else if (errno == EAGAIN || errno == EINTR) {
            enum taca_code rc = wait_for(c->request, c->fd, POLLOUT, deadline_ms, err);
            if (rc) return rc;
        } else if (errno == EPIPE || errno == ECONNRESET) {
            return TACA_OK; /* it has heard enough: its answer says why */
        } else {
            return taca_fail(err, TACA_EIO, "sending: %s", strerror(errno));
        }
    }
    return TACA_OK;
}

/* Some bytes more in c->raw; *got = none: the server has closed. */
static enum taca_code receive(struct client *c, double deadline_ms, size_t *got,
                              struct taca_err *err) {
    for (;;) {
        char *p = taca_buf_reserve(&c->raw, PIECE);
        if (!p) return taca_fail(err, TACA_EIO, "answer too large");
        ssize_t n = recv(c->fd, p, PIECE, 0);
        if (n >= 0) {
            c->raw.len += (size_t)n;
            c->raw.data[c->raw.len] = 0;
            *got = (size_t)n;
            return TACA_OK;
        }
        if (errno != EAGAIN && errno != EINTR)
            return taca_fail(err, TACA_EIO, "reading: %s", strerror(errno));
        enum taca_code rc = wait_for(c->request, c->fd, POLLIN, deadline_ms, err);
        if (rc) return rc;
    }
}

/* ---- the head -------------------------------------------------------------------------------- */

/* The value of header `name` in the head, or NULL. */
static const char *header(const char *head, const char *name) {
    size_t len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line && line[2] != '\r';
         line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, len) != 0 || line[2 + len] != ':') continue;
        const char *value = line + 2 + len + 1;
        return value + strspn(value, " \t");
    }
    return NULL;
}

static enum taca_code understand_head(struct client *c, struct taca_err *err) {
    const char *value;
    if (sscanf(c->raw.data, "HTTP/1.%*1d %3d", &c->status) != 1)
        return taca_fail(err, TACA_EPROTO, "the answer is not HTTP");
    if ((value = header(c->raw.data, "Retry-After"))) {
        long s = strtol(value, NULL, 10);
        c->retry_after_s = s < 0 ? 0 : s > 3600 ? 3600 : (int)s;
    }
    if ((value = header(c->raw.data, "Content-Type")))
        snprintf(c->content_type, sizeof c->content_type, "%.*s", (int)strcspn(value, "\r\n"),
                 value);
    c->body = CLIENT_TO_END;
    if ((value = header(c->raw.data, "Content-Length"))) {
        c->body = CLIENT_LENGTH;
        c->left = strtoull(value, NULL, 10);
    }
    if ((value = header(c->raw.data, "Transfer-Encoding"))) {
        if (strncasecmp(value, "chunked", 7) != 0)
            return taca_fail(err, TACA_EPROTO, "an unknown transfer encoding");
        c->body = CLIENT_CHUNKS;
        c->left = 0;
    }
    c->ended = c->body == CLIENT_LENGTH && c->left == 0;
    return TACA_OK;
}

static enum taca_code read_head(struct client *c, double deadline_ms, struct taca_err *err) {
    for (;;) {
        const char *end = c->raw.data ? strstr(c->raw.data, "\r\n\r\n") : NULL;
        size_t got;
        if (end) {
            c->at = (size_t)(end + 4 - c->raw.data);
            return understand_head(c, err);
        }
        if (c->raw.len > LARGEST_HEAD) return taca_fail(err, TACA_EPROTO, "the answer is not HTTP");
        enum taca_code rc = receive(c, deadline_ms, &got, err);
        if (rc) return rc;
        if (!got) return taca_fail(err, TACA_EIO, "the connection broke");
    }
}

static void put_request(struct taca_buf *out, const struct client_request *r) {
    const bool v6 = strchr(r->host, ':') != NULL;
    taca_buf_printf(out, "%s %s HTTP/1.1\r\nHost: ", r->method, r->path);
    if (is_unix(r->host))
        taca_buf_puts(out, "localhost");
    else
        taca_buf_printf(out, v6 ? "[%s]:%d" : "%s:%d", r->host, r->port);
    taca_buf_printf(out, "\r\nConnection: close\r\n%s", r->headers ? r->headers : "");
    if (r->body)
        taca_buf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                        strlen(r->body));
    taca_buf_puts(out, "\r\n");
    if (r->body) taca_buf_puts(out, r->body);
}

static enum taca_code open_by(struct client *c, const struct client_request *r, double deadline_ms,
                              struct taca_err *err) {
    struct taca_buf out;
    *c = (struct client){.fd = -1, .request = r};
    taca_buf_init(&c->raw, LARGEST_RAW);
    taca_buf_init(&out, LARGEST_RAW);
    put_request(&out, r);
    enum taca_code rc = out.failed ? taca_fail(err, TACA_ENOMEM, "a request") : TACA_OK;
    if (!rc) rc = connect_to(r, deadline_ms, &c->fd, err);
    if (!rc) rc = send_all(c, out.data, out.len, deadline_ms, err);
    if (!rc) rc = read_head(c, deadline_ms, err);
    taca_buf_finish(&out);
    return rc;
}

enum taca_code client_open(struct client *c, const struct client_request *r, struct taca_err *err) {
    return open_by(c, r, taca_now_ms() + r->timeout_ms, err);
}

void client_close(struct client *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    taca_buf_finish(&c->raw);
}

/* ---- the body -------------------------------------------------------------------------------- */

/* The line that begins a chunk: c->left = its bytes. False while it is not all there. */
static bool chunk_begins(struct client *c, enum taca_code *rc, struct taca_err *err) {
    const char *line = c->raw.data + c->at;
    size_t skip = c->after_chunk ? 2 : 0; /* the end of the line of the one before */
    if (c->raw.len - c->at < skip) return false;
    const char *end = strstr(line + skip, "\r\n");
    char *digits_end;
    if (!end) return false;
    errno = 0;
    unsigned long long n = strtoull(line + skip, &digits_end, 16);
    if (digits_end == line + skip || errno || n > LARGEST_RAW) {
        *rc = taca_fail(err, TACA_EPROTO, "a broken chunk");
        return false;
    }
    c->at += (size_t)(end + 2 - line);
    c->left = (size_t)n;
    c->after_chunk = true;
    if (n == 0) c->ended = true;
    return true;
}

/* The end of a chunk is read with the next one: a stream's buffer is never quite empty. */
static void drop_handed_out(struct client *c) {
    if (!c->at) return;
    memmove(c->raw.data, c->raw.data + c->at, c->raw.len - c->at);
    c->raw.len -= c->at;
    c->raw.data[c->raw.len] = 0;
    c->at = 0;
}

/* What is in c->raw of the body. */
static enum taca_code hand_out(struct client *c, struct taca_buf *body, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    while (!c->ended && c->at < c->raw.len) {
        size_t n = c->raw.len - c->at;
        if (c->body == CLIENT_CHUNKS && c->left == 0) {
            if (!chunk_begins(c, &rc, err)) return rc;
            continue;
        }
        if (c->body != CLIENT_TO_END && n > c->left) n = c->left;
        taca_buf_put(body, c->raw.data + c->at, n);
        c->at += n;
        if (c->body != CLIENT_TO_END) c->left -= n;
        if (c->body == CLIENT_LENGTH && c->left == 0) c->ended = true;
    }
    drop_handed_out(c);
    return body->failed ? taca_fail(err, TACA_EIO, "answer too large") : TACA_OK;
}

static enum taca_code read_by(struct client *c, struct taca_buf *body, double deadline_ms,
                              struct taca_err *err) {
    size_t before = body->len, got = 1;
    for (;;) {
        enum taca_code rc = hand_out(c, body, err);
        if (rc || c->ended || body->len > before) return rc;
        rc = receive(c, deadline_ms, &got, err);
        if (rc) return rc;
        if (got) continue;
        c->ended = c->body == CLIENT_TO_END;
        return c->ended ? TACA_OK : taca_fail(err, TACA_EIO, "the connection broke");
    }
}

enum taca_code client_read(struct client *c, struct taca_buf *body, struct taca_err *err) {
    return read_by(c, body, taca_now_ms() + c->request->timeout_ms, err);
}

enum taca_code client_send(const struct client_request *r, int *status, struct taca_buf *body,
                           struct taca_err *err) {
    const double deadline_ms = taca_now_ms() + r->timeout_ms;
    struct client c;
    enum taca_code rc = open_by(&c, r, deadline_ms, err);
    while (!rc && !c.ended) rc = read_by(&c, body, deadline_ms, err);
    if (!rc) *status = c.status;
    client_close(&c);
    return rc;
}

/* ---- addresses ------------------------------------------------------------------------------- */

enum taca_code client_url_parse(struct client_url *out, const char *url, const char *param,
                                struct taca_err *err) {
    static const char scheme[] = "http://";
    *out = (struct client_url){.port = 80};
    if (is_unix(url)) {
        if (url[5] && (size_t)snprintf(out->host, sizeof out->host, "%s", url) < sizeof out->host)
            return TACA_OK;
        return taca_fail_param(err, param, "\"%.80s\" is not unix:/PATH", url);
    }
    if (strncmp(url, "https://", 8) == 0)
        return taca_fail_param(
            err, param, "\"%.80s\": https is for the proxy in front; this speaks http://", url);
    const bool schemed = strncmp(url, scheme, sizeof scheme - 1) == 0;
    if (!schemed && strstr(url, "://"))
        return taca_fail_param(err, param, "\"%.80s\" does not begin with http:// or unix:/", url);
    const char *p = schemed ? url + sizeof scheme - 1 : url;
    bool v6 = *p == '[';
    size_t len = v6 ? strcspn(++p, "]") : strcspn(p, ":/?");
    if (len == 0 || len >= sizeof out->host || (v6 && p[len] != ']'))
        return taca_fail_param(err, param, "\"%.80s\" has no host", url);
    memcpy(out->host, p, len);
    p += len + v6;
    if (*p == ':') {
        char *end;
        long port = strtol(p + 1, &end, 10);
        if (end == p + 1 || p[1] < '0' || p[1] > '9' || port < 1 || port > 65535 ||
            (*end && *end != '/' && *end != '?'))
            return taca_fail_param(err, param, "\"%.80s\" has no valid port", url);
        out->port = (int)port;
        p = end;
    }
    if (*p && *p != '/' && *p != '?')
        return taca_fail_param(err, param, "\"%.80s\" has no host", url);
    if (strlen(p) >= sizeof out->path - 1 || strpbrk(p, " \r\n\t"))
        return taca_fail_param(err, param, "\"%.80s\" has no valid path", url);
    if (*p) snprintf(out->path, sizeof out->path, "%s%s", *p == '/' ? "" : "/", p);
    return TACA_OK;
}
