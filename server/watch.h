/* watch.h - tells when the client of a waiting connection leaves.
 *
 * The HTTP library does not look at a suspended connection at all, so the sockets of waiting
 * requests are also in a private epoll set, which hangs in the loop as one descriptor. Entries are
 * one-shot and carry a token of the caller's, never a pointer: an event may be under way while the
 * connection it speaks of is closed. */
#ifndef TACA_SERVER_WATCH_H
#define TACA_SERVER_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"

struct watch;

/* Loop thread. `half`: the client closed its sending side only and may still read. Reported one
 * round of the loop after the event, so that whatever was posted to the loop before the socket was
 * added has been seen first. */
typedef void watch_left_fn(void *ctx, uint64_t token, bool half);

enum taca_code watch_open(struct watch **out, uv_loop_t *loop, watch_left_fn *left, void *ctx,
                          struct taca_err *err) TACA_MUST_USE;
/* Any thread. The socket must be removed before it is closed. */
bool watch_add(struct watch *w, int fd, uint64_t token);
void watch_remove(struct watch *w, int fd);
/* Any thread: after a half-close, from now on report only a reset or a full close. */
void watch_again(struct watch *w, int fd, uint64_t token);
/* Loop thread; closed() is called once its uv handles are closed, *w is then freed. */
void watch_close(struct watch *w, void (*closed)(void *ctx), void *ctx);

#endif
