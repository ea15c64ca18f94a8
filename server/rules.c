/* rules.c - see rules.h. */
#include "server/rules.h"

#include <stdlib.h>

static void drop(struct rules_place *p, struct rules *r) {
    if (!r) return;
    pthread_mutex_lock(&p->lock);
    int left = --r->users;
    pthread_mutex_unlock(&p->lock);
    if (left > 0) return;
    access_close(r->access);
    free(r);
}

void rules_init(struct rules_place *p) {
    *p = (struct rules_place){.now = NULL};
    pthread_mutex_init(&p->lock, NULL);
}

void rules_finish(struct rules_place *p) {
    drop(p, p->now);
    pthread_mutex_destroy(&p->lock);
}

enum taca_code rules_set(struct rules_place *p, struct access *access,
                         const struct api_limits *limits, struct taca_err *err) {
    struct rules *r = malloc(sizeof *r);
    if (!r) {
        access_close(access);
        return taca_fail(err, TACA_ENOMEM, "taking new rules over");
    }
    *r = (struct rules){.access = access, .limits = *limits, .users = 1};
    pthread_mutex_lock(&p->lock);
    struct rules *old = p->now;
    p->now = r;
    pthread_mutex_unlock(&p->lock);
    drop(p, old);
    return TACA_OK;
}

struct rules *rules_hold(struct rules_place *p) {
    pthread_mutex_lock(&p->lock);
    struct rules *r = p->now;
    r->users++;
    pthread_mutex_unlock(&p->lock);
    return r;
}

void rules_leave(struct rules_place *p, struct rules *r) { drop(p, r); }

void rules_headers(struct rules_place *p, const char *origin, struct taca_buf *out) {
    struct rules *r = rules_hold(p);
    access_headers(r->access, origin, out);
    rules_leave(p, r);
}
