/* mailbox.h - many senders, one receiver, in order.
 *
 * Properties: intrusive (embed struct taca_mail as a member), unbounded, never blocks for longer
 * than a list splice. A post hands the message over: the sender must not touch it again.
 * Operation: the receiver takes the whole list at once and works through it unlocked.
 * Safety: `wake` runs on the sender's thread under the lock, only when the box goes from empty to
 * non-empty, so after taca_mailbox_close nobody can be inside it; it must not block or post
 * (uv_async_send is right). A receiver that is woken drains everything: wake-ups coalesce. */
#ifndef TACA_BASE_MAILBOX_H
#define TACA_BASE_MAILBOX_H

#include <pthread.h>
#include <stdbool.h>

struct taca_mail {
    struct taca_mail *next;
};

struct taca_mailbox {
    pthread_mutex_t lock;
    struct taca_mail *first, **last;
    bool closed;
    void (*wake)(void *ctx); /* may be NULL: a receiver that polls */
    void *ctx;
};

void taca_mailbox_init(struct taca_mailbox *m, void (*wake)(void *ctx), void *ctx);
void taca_mailbox_finish(struct taca_mailbox *m); /* must be empty */
/* False when the box is closed: the sender still owns the mail. */
bool taca_mailbox_post(struct taca_mailbox *m, struct taca_mail *mail);
/* All mails in the order of posting, linked by next; NULL when there are none. */
struct taca_mail *taca_mailbox_take(struct taca_mailbox *m);
void taca_mailbox_close(struct taca_mailbox *m); /* later posts return false */

#endif
