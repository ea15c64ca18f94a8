/* client.c - see client.h. */
#include "cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

/* Waits until fd is ready for `events` or the deadline passes. */
static enum taca_code wait_for(int fd, short events, double deadline_ms, struct taca_err *err) {
    struct pollfd p = {.fd = fd, .events = events};
    double left = deadline_ms - taca_now_ms();
    int n = left > 0 ? poll(&p, 1, (int)left + 1) : 0;
    if (n > 0) return TACA_OK;
    return taca_fail(err, TACA_EIO, n == 0 ? "no answer in time" : "poll failed");
}

static enum taca_code connect_to(const struct client_request *r, double deadline_ms, int *out,
                                 struct taca_err *err) {
    struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM};
    char port[16];
    snprintf(port, sizeof port, "%d", r->port);
    int gai = getaddrinfo(r->host, port, &hints, &list);
    if (gai) return taca_fail(err, TACA_EIO, "%s: %s", r->host, gai_strerror(gai));
    int cause = 0, fd = -1;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        socklen_t len = sizeof cause;
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) continue;
        cause = connect(fd, a->ai_addr, a->ai_addrlen) ? errno : 0;
        if (cause == EINPROGRESS && wait_for(fd, POLLOUT, deadline_ms, NULL) == TACA_OK)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &cause, &len);
        if (cause) close(fd), fd = -1;
    }
    freeaddrinfo(list);
    if (fd < 0)
        return taca_fail(err, TACA_EIO, "%s port %d: %s", r->host, r->port, strerror(cause));
    *out = fd;
    return TACA_OK;
}

static enum taca_code send_all(int fd, const char *p, size_t left, double deadline_ms,
                               struct taca_err *err) {
    while (left > 0) {
        ssize_t n = send(fd, p, left, MSG_NOSIGNAL);
        if (n > 0) {
            p += n;
            left -= (size_t)n;
        } else if (errno == EAGAIN) {
            enum taca_code rc = wait_for(fd, POLLOUT, deadline_ms, err);
            if (rc) return rc;
        } else {
            return taca_fail(err, TACA_EIO, "sending: %s", strerror(errno));
        }
    }
    return TACA_OK;
}

static enum taca_code read_all(int fd, struct taca_buf *in, double deadline_ms,
                               struct taca_err *err) {
    for (;;) {
        char *p = taca_buf_reserve(in, 1 << 16);
        if (!p) return taca_fail(err, TACA_EIO, "answer too large");
        ssize_t n = recv(fd, p, 1 << 16, 0);
        if (n == 0) return TACA_OK;
        if (n > 0) {
            in->len += (size_t)n;
            in->data[in->len] = 0;
        } else if (errno == EAGAIN) {
            enum taca_code rc = wait_for(fd, POLLIN, deadline_ms, err);
            if (rc) return rc;
        } else {
            return taca_fail(err, TACA_EIO, "reading: %s", strerror(errno));
        }
    }
}

enum taca_code client_send(const struct client_request *r, int *status, struct taca_buf *body,
                           struct taca_err *err) {
    const double deadline_ms = taca_now_ms() + r->timeout_ms;
    struct taca_buf out, in;
    int fd = -1;
    taca_buf_init(&out, 16 << 20);
    taca_buf_init(&in, 1 << 30);
    taca_buf_printf(&out, "%s %s HTTP/1.1\r\nHost: %s:%d\r\nConnection: close\r\n%s", r->method,
                    r->path, r->host, r->port, r->headers ? r->headers : "");
    if (r->body)
        taca_buf_printf(&out, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                        strlen(r->body));
    taca_buf_puts(&out, "\r\n");
    if (r->body) taca_buf_puts(&out, r->body);
    enum taca_code rc = connect_to(r, deadline_ms, &fd, err);
    if (!rc) rc = send_all(fd, out.data, out.len, deadline_ms, err);
    if (!rc) rc = read_all(fd, &in, deadline_ms, err);
    const char *end = !rc && in.data ? strstr(in.data, "\r\n\r\n") : NULL;
    if (!rc && (!end || sscanf(in.data, "HTTP/1.%*d %d", status) != 1))
        rc = taca_fail(err, TACA_EPROTO, "the answer is not HTTP");
    if (!rc) taca_buf_put(body, end + 4, in.len - (size_t)(end + 4 - in.data));
    if (fd >= 0) close(fd);
    taca_buf_finish(&out);
    taca_buf_finish(&in);
    return rc;
}
