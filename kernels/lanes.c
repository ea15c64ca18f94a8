/* lanes.c - two queues on one device, as callers see them; see backend.h. */
#include <string.h>

#include "kernels/backend_ops.h"

/* A counting backend has those of the one that it stands for, whose work it foresees. */
static struct taca_backend *with_lanes(struct taca_backend *b) {
    struct taca_backend *real = taca_count_real(b);
    return real ? real : b;
}

bool taca_has_lanes(const struct taca_backend *b) {
    return with_lanes((struct taca_backend *)(uintptr_t)b)->ops->lane != NULL;
}

enum taca_lane taca_lane(struct taca_backend *b, enum taca_lane lane) {
    struct taca_backend *on = with_lanes(b);
    const enum taca_lane last = on->lane;
    if (lane == last || !on->ops->lane) return last;
    on->ops->lane(on, lane);
    on->lane = lane;
    return last;
}

enum taca_code taca_mark_open(struct taca_backend *b, struct taca_mark *m, struct taca_err *err) {
    m->event = b->ops->mark_open ? b->ops->mark_open(b) : NULL;
    return taca_queued(b, err);
}

void taca_mark_close(struct taca_backend *b, struct taca_mark *m) {
    if (m->event) b->ops->mark_close(b, m->event);
    m->event = NULL;
}

void taca_mark_set(struct taca_backend *b, struct taca_mark *m) {
    if (b->error.code == TACA_OK && m->event) b->ops->mark_set(b, m->event);
}

bool taca_mark_done(struct taca_backend *b, const struct taca_mark *m) {
    return !m->event || b->error.code != TACA_OK || b->ops->mark_done(b, m->event);
}

void taca_mark_follow(struct taca_backend *b, const struct taca_mark *m) {
    if (b->error.code == TACA_OK && m->event) b->ops->mark_follow(b, m->event);
}

enum taca_code taca_queued(struct taca_backend *b, struct taca_err *err) {
    enum taca_code code = b->error.code;
    if (code != TACA_OK) (void)taca_fail(err, code, "%s", b->error.text);
    memset(&b->error, 0, sizeof b->error);
    return code;
}
