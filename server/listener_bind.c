/* listener_bind.c - from "localhost,10.0.0.7" and a port to listening sockets. Addresses only:
 * names are not looked up, a name server must not decide where we listen. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "server/listener_parts.h"

enum { BACKLOG = 4096, PORT_TRIES = 16 };

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } u;
    socklen_t len;
    bool optional; /* ::1 of localhost, on machines without IPv6 */
};

static bool parse_address(const char *text, struct address *a) {
    *a = (struct address){0};
    if (inet_pton(AF_INET, text, &a->u.v4.sin_addr) == 1) {
        a->u.v4.sin_family = AF_INET;
        a->len = sizeof a->u.v4;
    } else if (inet_pton(AF_INET6, text, &a->u.v6.sin6_addr) == 1) {
        a->u.v6.sin6_family = AF_INET6;
        a->len = sizeof a->u.v6;
    }
    return a->len > 0;
}

static enum taca_code add_host(const char *host, struct address *list, int *n,
                               struct taca_err *err) {
    bool local = strcmp(host, "localhost") == 0;
    if (*n + 1 + local > LISTENER_MAX_SOCKETS)
        return taca_fail_param(err, "host", "more than %d addresses", LISTENER_MAX_SOCKETS);
    if (!parse_address(local ? "127.0.0.1" : host, &list[*n]))
        return taca_fail_param(err, "host", "\"%s\" is neither an address nor localhost", host);
    *n += 1;
    if (local) {
        parse_address("::1", &list[*n]);
        list[*n].optional = true;
        *n += 1;
    }
    return TACA_OK;
}

static enum taca_code parse_hosts(const char *hosts, struct address *list, int *n,
                                  struct taca_err *err) {
    *n = 0;
    while (*hosts) {
        char one[INET6_ADDRSTRLEN + 2];
        size_t len = strcspn(hosts, ",");
        const char *start = hosts;
        hosts += len + (hosts[len] == ',');
        while (len > 0 && *start == ' ') start++, len--;
        while (len > 0 && start[len - 1] == ' ') len--;
        if (len > 1 && *start == '[' && start[len - 1] == ']') start++, len -= 2;
        if (len == 0) continue;
        if (len >= sizeof one)
            return taca_fail_param(err, "host", "\"%.40s...\" is not an address", start);
        memcpy(one, start, len);
        one[len] = 0;
        enum taca_code rc = add_host(one, list, n, err);
        if (rc != TACA_OK) return rc;
    }
    return *n ? TACA_OK : taca_fail_param(err, "host", "no address to listen on");
}

/* A listening descriptor or -errno. */
static int listen_on(struct address *a, int port) {
    int one = 1, family = a->u.any.sa_family;
    if (family == AF_INET)
        a->u.v4.sin_port = htons((uint16_t)port);
    else
        a->u.v6.sin6_port = htons((uint16_t)port);
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, &a->u.any, a->len) < 0 || listen(fd, BACKLOG) < 0) {
        int saved = errno;
        close(fd);
        return -saved;
    }
    return fd;
}

static int port_of(int fd) {
    struct address a = {.len = sizeof a.u};
    if (getsockname(fd, &a.u.any, &a.len) < 0) return 0;
    return ntohs(a.u.any.sa_family == AF_INET ? a.u.v4.sin_port : a.u.v6.sin6_port);
}

static bool may_lack(const struct address *a, int error) {
    return a->optional && (error == EAFNOSUPPORT || error == EADDRNOTAVAIL);
}

/* 0, or the errno of the first address that fails; *failed is then its index. */
static int listen_on_all(struct address *list, int n, int port, int *fds, int *n_fds, int *failed) {
    *n_fds = 0;
    for (int i = 0; i < n; i++) {
        int fd = listen_on(&list[i], port);
        if (fd >= 0) {
            fds[(*n_fds)++] = fd;
            port = port_of(fd); /* "any" is the same one for all */
        } else if (!may_lack(&list[i], -fd)) {
            while (*n_fds > 0) close(fds[--*n_fds]);
            *failed = i;
            return -fd;
        } else {
            taca_log(TACA_LOG_INFO, "no IPv6 here: not listening on ::1");
        }
    }
    return 0;
}

enum taca_code listener_bind(const char *hosts, int port, int fds[LISTENER_MAX_SOCKETS], int *n,
                             int *bound_port, struct taca_err *err) {
    struct address list[LISTENER_MAX_SOCKETS];
    int n_list, n_fds = 0, failed = 0, error = EADDRINUSE;
    if (port < 0 || port > 65535)
        return taca_fail_param(err, "port", "port %d is not in 0..65535", port);
    enum taca_code rc = parse_hosts(hosts, list, &n_list, err);
    if (rc != TACA_OK) return rc;
    /* the port that the kernel chose for one address may be taken on the next */
    for (int i = 0; error == EADDRINUSE && i < (port ? 1 : PORT_TRIES); i++)
        error = listen_on_all(list, n_list, port, fds, &n_fds, &failed);
    if (error) {
        char text[INET6_ADDRSTRLEN] = "";
        const struct address *a = &list[failed];
        const void *raw = a->u.any.sa_family == AF_INET ? (const void *)&a->u.v4.sin_addr
                                                        : (const void *)&a->u.v6.sin6_addr;
        inet_ntop(a->u.any.sa_family, raw, text, sizeof text);
        return taca_fail(err, TACA_EIO, "cannot listen on %s port %d: %s", text, port,
                         strerror(error));
    }
    *n = n_fds;
    *bound_port = port_of(fds[0]);
    return TACA_OK;
}
