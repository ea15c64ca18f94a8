/* mailbox.c - see mailbox.h. */
#include "base/mailbox.h"

#include <stddef.h>

void taca_mailbox_init(struct taca_mailbox *m, void (*wake)(void *ctx), void *ctx) {
    pthread_mutex_init(&m->lock, NULL);
    m->first = NULL;
    m->last = &m->first;
    m->closed = false;
    m->wake = wake;
    m->ctx = ctx;
}

void taca_mailbox_finish(struct taca_mailbox *m) { pthread_mutex_destroy(&m->lock); }

bool taca_mailbox_post(struct taca_mailbox *m, struct taca_mail *mail) {
    pthread_mutex_lock(&m->lock);
    bool was_empty = m->first == NULL, closed = m->closed;
    if (!closed) {
        mail->next = NULL;
        *m->last = mail;
        m->last = &mail->next;
        if (was_empty && m->wake) m->wake(m->ctx);
    }
    pthread_mutex_unlock(&m->lock);
    return !closed;
}

struct taca_mail *taca_mailbox_take(struct taca_mailbox *m) {
    pthread_mutex_lock(&m->lock);
    struct taca_mail *list = m->first;
    m->first = NULL;
    m->last = &m->first;
    pthread_mutex_unlock(&m->lock);
    return list;
}

void taca_mailbox_close(struct taca_mailbox *m) {
    pthread_mutex_lock(&m->lock);
    m->closed = true;
    pthread_mutex_unlock(&m->lock);
}
