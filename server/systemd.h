/* systemd.h - the few words between the service and who supervises it: sockets that are handed over
 * (LISTEN_FDS), and datagrams that tell how it goes (NOTIFY_SOCKET). Protocols of systemd, spoken
 * by others too; without them everything here does nothing.
 *
 * Loop thread. What is read from the environment is removed from it: it is not for our workers. */
#ifndef TACA_SERVER_SYSTEMD_H
#define TACA_SERVER_SYSTEMD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/err.h"

enum { SYSTEMD_MAX_SOCKETS = 8 };

struct systemd {
    /* listening sockets by the name that the socket unit gives them (FileDescriptorName=) */
    int main[SYSTEMD_MAX_SOCKETS], admin[SYSTEMD_MAX_SOCKETS];
    int n_main, n_admin;
    int fd; /* to tell, -1 = nobody listens */
    struct sockaddr_un where;
    socklen_t where_len;
    int64_t watchdog_ms; /* it wants to hear of us so often, 0 = never */
    int64_t last_ping_ms;
    char said[160]; /* the last status */
};

/* Call it before other threads exist. TACA_EINVAL when a descriptor is no listening stream socket,
 * or there are too many; n_main sockets named anything but "admin" are for requests. */
enum taca_code systemd_open(struct systemd *s, struct taca_err *err) TACA_MUST_USE;
/* A socket for requests can be reached from other machines. */
bool systemd_is_open_to_others(const struct systemd *s);
void systemd_close(struct systemd *s); /* the sockets are others' by then */

/* Lines of NAME=value. */
void systemd_tell(const struct systemd *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void systemd_tell_reloading(const struct systemd *s);
/* STATUS=..., when it is another than before. */
void systemd_status(struct systemd *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Call it often while the loop turns: WATCHDOG=1 when one is due. */
void systemd_beat(struct systemd *s, int64_t now_ms);

#endif
