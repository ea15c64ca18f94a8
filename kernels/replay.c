/* replay.c - recording and replaying ops, where a backend can. */
#include "kernels/backend_ops.h"

bool taca_replays(const struct taca_backend *b) { return b->ops->replay && !b->plain; }

bool taca_replay(struct taca_backend *b, const void *key, size_t bytes) {
    return taca_replays(b) && !b->error.code && b->ops->replay(b, key, bytes);
}

bool taca_recorded(struct taca_backend *b) { return !b->ops->recorded || b->ops->recorded(b); }

void taca_replay_forget(struct taca_backend *b) {
    if (b->ops->replay_forget) b->ops->replay_forget(b);
}

void taca_backend_replay(struct taca_backend *b, bool on) { b->plain = !on; }

struct taca_replay_counts taca_replay_count(const struct taca_backend *b) {
    return b->ops->replay_count ? b->ops->replay_count(b) : (struct taca_replay_counts){0};
}
