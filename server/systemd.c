/* systemd.c - see systemd.h. */
#include "server/systemd.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

enum { FIRST_FD = 3 };

/* A whole number from the environment; 0 when it is not there or none. */
static long long number(const char *name) {
    const char *text = getenv(name);
    char *end = NULL;
    long long v = text ? strtoll(text, &end, 10) : 0;
    return text && end != text && !*end && v > 0 ? v : 0;
}

/* Meant for this process; without a PID for anybody. */
static bool is_ours(const char *name) {
    long long pid = number(name);
    return pid == 0 || pid == getpid();
}

/* ---- sockets --------------------------------------------------------------------------------- */

static bool listens(int fd) {
    int type = 0, accepts = 0;
    socklen_t len = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM) return false;
    len = sizeof accepts;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) == 0 && accepts;
}

/* The next of a list with colons. */
static bool next_is_admin(const char **names) {
    size_t len = strcspn(*names, ":");
    bool admin = len == 5 && memcmp(*names, "admin", 5) == 0;
    *names += len + ((*names)[len] == ':');
    return admin;
}

static enum taca_code take_sockets(struct systemd *s, struct taca_err *err) {
    const char *names = getenv("LISTEN_FDNAMES");
    long long n = number("LISTEN_FDS");
    if (!n || number("LISTEN_PID") != getpid()) return TACA_OK;
    if (n > SYSTEMD_MAX_SOCKETS)
        return taca_fail_param(err, "LISTEN_FDS", "LISTEN_FDS: %lld sockets, at most %d", n,
                               SYSTEMD_MAX_SOCKETS);
    if (!names) names = "";
    for (int fd = FIRST_FD; fd < FIRST_FD + n; fd++) {
        if (!listens(fd))
            return taca_fail_param(err, "LISTEN_FDS",
                                   "LISTEN_FDS: descriptor %d is no stream socket that listens",
                                   fd);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        if (next_is_admin(&names))
            s->admin[s->n_admin++] = fd;
        else
            s->main[s->n_main++] = fd;
    }
    return TACA_OK;
}

static bool is_local(int fd) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
    } a = {0};
    socklen_t len = sizeof a;
    if (getsockname(fd, &a.any, &len) < 0) return false;
    if (a.any.sa_family == AF_INET) return ntohl(a.v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    if (a.any.sa_family == AF_INET6) return IN6_IS_ADDR_LOOPBACK(&a.v6.sin6_addr);
    return a.any.sa_family == AF_UNIX;
}

bool systemd_is_open_to_others(const struct systemd *s) {
    for (int i = 0; i < s->n_main; i++)
        if (!is_local(s->main[i])) return true;
    return false;
}

/* ---- telling --------------------------------------------------------------------------------- */

static void find_listener(struct systemd *s) {
    const char *path = getenv("NOTIFY_SOCKET");
    size_t len = path ? strlen(path) : 0;
    if (len == 0) return;
    if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof s->where.sun_path) {
        taca_log(TACA_LOG_WARN, "NOTIFY_SOCKET is neither a path nor an abstract name: not told");
        return;
    }
    s->where.sun_family = AF_UNIX;
    memcpy(s->where.sun_path, path, len);
    if (path[0] == '@') s->where.sun_path[0] = 0;
    /* the NUL at the end of a path is no part of an abstract name */
    s->where_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (path[0] == '/'));
    s->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (is_ours("WATCHDOG_PID")) s->watchdog_ms = number("WATCHDOG_USEC") / 1000;
}

static void send_text(const struct systemd *s, const char *text) {
    if (s->fd < 0) return;
    if (sendto(s->fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&s->where,
               s->where_len) < 0)
        taca_log(TACA_LOG_DEBUG, "NOTIFY_SOCKET: %s", strerror(errno));
}

void systemd_tell(const struct systemd *s, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    send_text(s, text);
}

/* The time is what tells this reload from one before: the system's, not the loop's. */
void systemd_tell_reloading(const struct systemd *s) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    systemd_tell(s, "RELOADING=1\nMONOTONIC_USEC=%lld",
                 (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000);
}

void systemd_status(struct systemd *s, const char *fmt, ...) {
    char text[sizeof s->said];
    va_list ap;
    if (s->fd < 0) return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (strcmp(text, s->said) == 0) return;
    snprintf(s->said, sizeof s->said, "%s", text);
    systemd_tell(s, "STATUS=%s", text);
}

void systemd_beat(struct systemd *s, int64_t now_ms) {
    if (s->watchdog_ms <= 0 || now_ms - s->last_ping_ms < s->watchdog_ms / 2) return;
    s->last_ping_ms = now_ms;
    send_text(s, "WATCHDOG=1");
}

/* ---- opening --------------------------------------------------------------------------------- */

enum taca_code systemd_open(struct systemd *s, struct taca_err *err) {
    static const char *const read[] = {"LISTEN_FDS",    "LISTEN_PID",    "LISTEN_FDNAMES",
                                       "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};
    *s = (struct systemd){.fd = -1};
    enum taca_code rc = take_sockets(s, err);
    find_listener(s);
    for (size_t i = 0; i < sizeof read / sizeof *read; i++) unsetenv(read[i]);
    return rc;
}

void systemd_close(struct systemd *s) {
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}
