/* listener_bind.c - from "localhost,10.0.0.7,unix:/run/taca.sock" and a port to listening sockets.
 * Addresses only: names are not looked up, a name server must not decide where we listen. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "server/listener_parts.h"

enum { BACKLOG = 4096, PORT_TRIES = 16 };

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
    } u;
    socklen_t len;
    bool optional; /* ::1 of localhost, on machines without IPv6 */
};

static const char unix_prefix[] = "unix:";

static bool parse_address(const char *text, struct address *a) {
    const char *path = text + sizeof unix_prefix - 1;
    *a = (struct address){0};
    if (strncmp(text, unix_prefix, sizeof unix_prefix - 1) == 0) {
        if (path[0] != '/' || strlen(path) >= sizeof a->u.local.sun_path) return false;
        a->u.local.sun_family = AF_UNIX;
        memcpy(a->u.local.sun_path, path, strlen(path) + 1);
        a->len = sizeof a->u.local;
    } else if (inet_pton(AF_INET, text, &a->u.v4.sin_addr) == 1) {
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
        return taca_fail_param(err, "host",
                               "\"%s\" is neither an address nor localhost nor unix:/PATH", host);
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
        char one[sizeof unix_prefix + sizeof(struct sockaddr_un)];
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

enum taca_code listener_check(const char *hosts, struct taca_err *err) {
    struct address list[LISTENER_MAX_SOCKETS];
    int n;
    return parse_hosts(hosts, list, &n, err);
}

/* A Unix socket's name outlives its process: 0 when nobody is behind it and it is gone now. */
static int remove_stale(const struct sockaddr_un *name) {
    struct stat st;
    if (lstat(name->sun_path, &st) < 0) return errno == ENOENT ? 0 : errno;
    if (!S_ISSOCK(st.st_mode)) return EEXIST;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    bool nobody = connect(fd, (const struct sockaddr *)name, sizeof *name) < 0 &&
                  (errno == ECONNREFUSED || errno == ENOENT);
    close(fd);
    if (!nobody) return EADDRINUSE;
    return unlink(name->sun_path) == 0 || errno == ENOENT ? 0 : errno;
}

static int set_up(int fd, const struct address *a, int mode) {
    int one = 1, family = a->u.any.sa_family;
    if (family != AF_UNIX) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, &a->u.any, a->len) < 0) return errno;
    /* nobody can connect before the next call, so nobody does without the permission */
    if (family == AF_UNIX && chmod(a->u.local.sun_path, (mode_t)mode) < 0) return errno;
    return listen(fd, BACKLOG) < 0 ? errno : 0;
}

/* A listening descriptor or -errno. */
static int listen_on(struct address *a, int port, int mode) {
    int family = a->u.any.sa_family;
    if (family == AF_INET) a->u.v4.sin_port = htons((uint16_t)port);
    if (family == AF_INET6) a->u.v6.sin6_port = htons((uint16_t)port);
    int cause = family == AF_UNIX ? remove_stale(&a->u.local) : 0;
    if (cause) return -cause;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    cause = set_up(fd, a, mode);
    if (!cause) return fd;
    listener_unbind(fd);
    return -cause;
}

void listener_unbind(int fd) {
    struct address a = {.len = sizeof a.u};
    bool named = getsockname(fd, &a.u.any, &a.len) == 0 && a.u.any.sa_family == AF_UNIX &&
                 a.u.local.sun_path[0] == '/';
    close(fd);
    if (named) (void)remove_stale(&a.u.local);
}

/* 0 = it has none. */
static int port_of(int fd) {
    struct address a = {.len = sizeof a.u};
    if (getsockname(fd, &a.u.any, &a.len) < 0 || a.u.any.sa_family == AF_UNIX) return 0;
    return ntohs(a.u.any.sa_family == AF_INET ? a.u.v4.sin_port : a.u.v6.sin6_port);
}

static bool may_lack(const struct address *a, int error) {
    return a->optional && (error == EAFNOSUPPORT || error == EADDRNOTAVAIL);
}

/* 0, or the errno of the first address that fails; *failed is then its index. */
static int listen_on_all(struct address *list, int n, const struct listener_opts *opts,
                         struct listener_bound *out, int *failed) {
    *out = (struct listener_bound){.port = opts->port};
    for (int i = 0; i < n; i++) {
        int fd = listen_on(&list[i], out->port, opts->socket_mode);
        if (fd >= 0) {
            int port = port_of(fd);
            out->fds[out->n++] = fd;
            if (port) out->port = port; /* "any" is the same one for all */
        } else if (!may_lack(&list[i], -fd)) {
            while (out->n > 0) listener_unbind(out->fds[--out->n]);
            *failed = i;
            return -fd;
        } else {
            taca_log(TACA_LOG_INFO, "no IPv6 here: not listening on ::1");
        }
    }
    return 0;
}

static enum taca_code explain(const struct address *a, int port, int error, struct taca_err *err) {
    char text[INET6_ADDRSTRLEN] = "";
    const void *raw = a->u.any.sa_family == AF_INET ? (const void *)&a->u.v4.sin_addr
                                                    : (const void *)&a->u.v6.sin6_addr;
    if (a->u.any.sa_family == AF_UNIX)
        return taca_fail(err, TACA_EIO, "cannot listen on unix:%s: %s", a->u.local.sun_path,
                         error == EEXIST ? "there is something that is no socket"
                                         : strerror(error));
    inet_ntop(a->u.any.sa_family, raw, text, sizeof text);
    return taca_fail(err, TACA_EIO, "cannot listen on %s port %d: %s", text, port, strerror(error));
}

static void take_given(const struct listener_opts *opts, struct listener_bound *out) {
    *out = (struct listener_bound){.n = opts->n_given};
    for (int i = 0; i < opts->n_given; i++) {
        out->fds[i] = opts->given[i];
        if (!out->port) out->port = port_of(out->fds[i]);
    }
}

enum taca_code listener_bind(const struct listener_opts *opts, struct listener_bound *out,
                             struct taca_err *err) {
    struct address list[LISTENER_MAX_SOCKETS];
    int n_list, failed = 0, error = EADDRINUSE, port = opts->port;
    if (opts->n_given) {
        take_given(opts, out);
        return TACA_OK;
    }
    if (port < 0 || port > 65535)
        return taca_fail_param(err, "port", "port %d is not in 0..65535", port);
    enum taca_code rc = parse_hosts(opts->hosts, list, &n_list, err);
    if (rc != TACA_OK) return rc;
    /* the port that the kernel chose for one address may be taken on the next */
    for (int i = 0; error == EADDRINUSE && i < (port ? 1 : PORT_TRIES); i++)
        error = listen_on_all(list, n_list, opts, out, &failed);
    if (error) return explain(&list[failed], port, error, err);
    bool has_port = false;
    for (int i = 0; i < out->n; i++) has_port |= port_of(out->fds[i]) != 0;
    if (!has_port) out->port = 0;
    return TACA_OK;
}
