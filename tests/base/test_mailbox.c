/* test_mailbox.c - four senders, one receiver: nothing lost, nothing twice, each sender's mails in
 * order, a wake-up whenever the box stops being empty, and none after it is closed. */
#include "base/mailbox.h"

#include <stdatomic.h>

#include "tests/test.h"

enum { SENDERS = 4, EACH = 20000 };

struct letter {
    struct taca_mail mail; /* first: a mail is a letter */
    int sender, number;
};

static atomic_int wakes;
static void count_wake(void *ctx) { atomic_fetch_add((atomic_int *)ctx, 1); }

static void test_mails_come_in_the_order_of_posting(void) {
    struct taca_mailbox box;
    struct letter l[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    atomic_store(&wakes, 0);
    taca_mailbox_init(&box, count_wake, &wakes);
    CHECK(taca_mailbox_take(&box) == NULL);
    for (int i = 0; i < 3; i++) CHECK(taca_mailbox_post(&box, &l[i].mail));
    CHECK_INT(atomic_load(&wakes), 1); /* only when it stopped being empty */
    struct taca_mail *m = taca_mailbox_take(&box);
    for (int i = 0; i < 3; i++, m = m->next) CHECK(m == &l[i].mail);
    CHECK(m == NULL);
    CHECK(taca_mailbox_take(&box) == NULL);
    CHECK(taca_mailbox_post(&box, &l[1].mail)); /* the tail was reset */
    CHECK_INT(atomic_load(&wakes), 2);
    CHECK(taca_mailbox_take(&box) == &l[1].mail && l[1].mail.next == NULL);
    taca_mailbox_finish(&box);
}

static void test_a_closed_box_gives_the_mail_back(void) {
    struct taca_mailbox box;
    struct letter a = {0}, b = {0};
    atomic_store(&wakes, 0);
    taca_mailbox_init(&box, count_wake, &wakes);
    CHECK(taca_mailbox_post(&box, &a.mail));
    taca_mailbox_close(&box);
    CHECK(!taca_mailbox_post(&box, &b.mail));
    CHECK_INT(atomic_load(&wakes), 1);
    CHECK(taca_mailbox_take(&box) == &a.mail); /* what was posted before still arrives */
    CHECK(!taca_mailbox_post(&box, &b.mail));
    CHECK_INT(atomic_load(&wakes), 1);
    taca_mailbox_finish(&box);
}

static void test_no_wake_function_is_fine(void) {
    struct taca_mailbox box;
    struct letter a = {0};
    taca_mailbox_init(&box, NULL, NULL);
    CHECK(taca_mailbox_post(&box, &a.mail));
    CHECK(taca_mailbox_take(&box) == &a.mail);
    taca_mailbox_finish(&box);
}

/* The stress: the receiver sleeps on a condition that wake sets, so that a lost wake-up would hang
 * it rather than pass. */
struct post_office {
    struct taca_mailbox box;
    pthread_mutex_t lock;
    pthread_cond_t bell;
    bool rung;
    struct letter *letters; /* [SENDERS][EACH] */
};

static void ring(void *ctx) {
    struct post_office *o = ctx;
    pthread_mutex_lock(&o->lock);
    o->rung = true;
    pthread_cond_signal(&o->bell);
    pthread_mutex_unlock(&o->lock);
}

struct sender {
    struct post_office *office;
    int index, refused;
};

static void *send_all(void *arg) {
    struct sender *s = arg;
    struct letter *mine = s->office->letters + (size_t)s->index * EACH;
    for (int i = 0; i < EACH; i++) {
        mine[i].sender = s->index;
        mine[i].number = i;
        s->refused += !taca_mailbox_post(&s->office->box, &mine[i].mail);
    }
    return NULL;
}

static void test_four_senders_lose_nothing(void) {
    struct post_office o = {.lock = PTHREAD_MUTEX_INITIALIZER, .bell = PTHREAD_COND_INITIALIZER};
    struct sender senders[SENDERS];
    pthread_t threads[SENDERS];
    int next[SENDERS] = {0}, received = 0, out_of_order = 0;
    o.letters = calloc((size_t)SENDERS * EACH, sizeof *o.letters);
    if (!CHECK(o.letters != NULL)) return;
    taca_mailbox_init(&o.box, ring, &o);
    for (int i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){.office = &o, .index = i};
        CHECK_INT(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
    }
    while (received < SENDERS * EACH) {
        pthread_mutex_lock(&o.lock);
        while (!o.rung) pthread_cond_wait(&o.bell, &o.lock);
        o.rung = false;
        pthread_mutex_unlock(&o.lock);
        for (struct taca_mail *m = taca_mailbox_take(&o.box); m; m = m->next) {
            struct letter *l = (struct letter *)m;
            out_of_order += l->number != next[l->sender]++;
            received++;
        }
    }
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_INT(next[i], EACH);
        CHECK_INT(senders[i].refused, 0);
    }
    CHECK_INT(out_of_order, 0);
    CHECK(taca_mailbox_take(&o.box) == NULL);
    taca_mailbox_finish(&o.box);
    free(o.letters);
}

static void test_closing_under_fire_leaves_every_mail_with_one_owner(void) {
    struct post_office o = {.lock = PTHREAD_MUTEX_INITIALIZER, .bell = PTHREAD_COND_INITIALIZER};
    struct sender senders[SENDERS];
    pthread_t threads[SENDERS];
    int received = 0, refused = 0;
    o.letters = calloc((size_t)SENDERS * EACH, sizeof *o.letters);
    if (!CHECK(o.letters != NULL)) return;
    taca_mailbox_init(&o.box, ring, &o);
    for (int i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){.office = &o, .index = i};
        CHECK_INT(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
    }
    for (int rounds = 0; rounds < 50; rounds++)
        for (struct taca_mail *m = taca_mailbox_take(&o.box); m; m = m->next) received++;
    taca_mailbox_close(&o.box);
    for (struct taca_mail *m = taca_mailbox_take(&o.box); m; m = m->next) received++;
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
        refused += senders[i].refused;
    }
    CHECK(taca_mailbox_take(&o.box) == NULL); /* nothing came in after the close */
    CHECK_INT(received + refused, SENDERS * EACH);
    taca_mailbox_finish(&o.box);
    free(o.letters);
}

int main(void) {
    TEST(test_mails_come_in_the_order_of_posting);
    TEST(test_a_closed_box_gives_the_mail_back);
    TEST(test_no_wake_function_is_fine);
    TEST(test_four_senders_lose_nothing);
    TEST(test_closing_under_fire_leaves_every_mail_with_one_owner);
    return TEST_END();
}
