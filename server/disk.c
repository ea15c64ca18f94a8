/* disk.c - see disk.h. */
#include "server/disk.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/metrics.h"

enum { MAX_RECORD_BYTES = 1 << 30, TURN_PICTURES = 8 };

struct disk {
    struct db *db;
    struct disk_files *files;
    struct taca_mailbox box, *results;
    sem_t mail;
    atomic_bool closing;
    bool started;
    struct taca_mail *slow, **slow_end; /* what has pictures to write or to remove */
    pthread_t thread;
};

struct disk_write *disk_write_open(enum disk_kind kind) {
    struct disk_write *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->kind = kind;
    taca_buf_init(&w->request, MAX_RECORD_BYTES);
    taca_buf_init(&w->outcome, MAX_RECORD_BYTES);
    return w;
}

void disk_write_close(struct disk_write *w) {
    if (!w) return;
    taca_buf_finish(&w->request);
    taca_buf_finish(&w->outcome);
    free(w->pictures);
    free(w);
}

const char *disk_file(const char *store) {
    static const char sqlite[] = "sqlite:";
    if (!store || strcmp(store, "memory") == 0) return NULL;
    return strncmp(store, sqlite, sizeof sqlite - 1) ? "" : store + sizeof sqlite - 1;
}

/* ---- one transaction ------------------------------------------------------------------------- */

static enum taca_code apply(struct disk *d, struct disk_write *w) {
    switch (w->kind) {
    case DISK_INSERT: return db_insert(d->db, &w->row, &w->err);
    case DISK_STATE: return db_set_state(d->db, w->row.id, w->row.state, w->row.attempts, &w->err);
    case DISK_END: return db_end(d->db, &w->row, &w->err);
    case DISK_REMOVE: return db_remove(d->db, w->row.id, w->row.tag, &w->err);
    case DISK_MODEL: return db_set_model(d->db, &w->said, &w->err);
    }
    return TACA_EINTERNAL;
}

static struct disk_write *next_of(struct disk_write *w) {
    return (struct disk_write *)w->mail.next;
}

enum together { WRITTEN, ONE_LESS, NONE };

/* All that are still fine, or none: what fails is marked and the others may try again. */
static enum together write_together(struct disk *d, struct disk_write *first) {
    struct taca_err err = {0};
    if (db_begin(d->db, &err)) return NONE;
    for (struct disk_write *w = first; w; w = next_of(w)) {
        if (w->rc || !(w->rc = apply(d, w))) continue;
        db_rollback(d->db);
        return ONE_LESS;
    }
    metric_add(METRIC_STORE_TRANSACTIONS, NULL, 1);
    return db_commit(d->db, &err) == TACA_OK ? WRITTEN : NONE;
}

static void write_alone(struct disk *d, struct disk_write *w) {
    if (w->rc || (w->rc = db_begin(d->db, &w->err))) return;
    w->rc = apply(d, w);
    if (w->rc) {
        db_rollback(d->db);
        return;
    }
    metric_add(METRIC_STORE_TRANSACTIONS, NULL, 1);
    w->rc = db_commit(d->db, &w->err);
}

/* ---- a turn ---------------------------------------------------------------------------------- */

/* A row that names a picture comes after the picture. */
static bool write_pictures(struct disk *d, struct disk_write *w) {
    if (w->kind != DISK_END) return false;
    for (int i = 0; i < w->n && !w->rc; i++)
        w->rc = disk_files_write(d->files, &w->pictures[i].name, w->pictures[i].bytes,
                                 w->pictures[i].len, &w->err);
    return w->n > 0;
}

static void remove_pictures(struct disk *d, const struct disk_write *w) {
    for (int i = 0; i < w->n; i++) disk_files_remove(d->files, &w->pictures[i].name);
}

static void write_all(struct disk *d, struct disk_write *first) {
    bool pictures = false;
    struct taca_err err = {0};
    for (struct disk_write *w = first; w; w = next_of(w)) pictures |= write_pictures(d, w);
    enum taca_code synced = pictures ? disk_files_sync(d->files, &err) : TACA_OK;
    for (struct disk_write *w = first; synced && w; w = next_of(w)) {
        if (w->kind != DISK_END || w->n == 0 || w->rc) continue;
        w->rc = synced;
        w->err = err;
    }
    enum together went;
    do went = write_together(d, first);
    while (went == ONE_LESS);
    for (struct disk_write *w = first; went == NONE && w; w = next_of(w)) write_alone(d, w);
    metric_set(METRIC_STORE_BROKEN, db_is_broken(d->db));
}

static void hand_back(struct disk *d, struct disk_write *w) {
    metric_add(METRIC_STORE_WRITES, NULL, 1);
    if (w->rc) metric_add(METRIC_STORE_ERRORS, "write", 1);
    if (w->kind == DISK_REMOVE && !w->rc) remove_pictures(d, w);
    if (w->kind == DISK_END && w->rc) remove_pictures(d, w);
    if (!taca_mailbox_post(d->results, &w->mail)) disk_write_close(w);
}

static void write_and_hand_back(struct disk *d, struct disk_write *first) {
    if (!first) return;
    int64_t start = taca_now_us();
    write_all(d, first);
    metric_observe(METRIC_STORE_COMMIT, (double)(taca_now_us() - start) / 1e6);
    for (struct disk_write *w = first, *next; w; w = next) {
        next = next_of(w);
        hand_back(d, w);
    }
}

/* Acceptances and the like to *quick, and what has pictures behind the others that wait. What is
 * taken out of its order is never about the same row: an end is posted after the row is there, and
 * a row is known by its tag, too. */
static void sort(struct disk *d, struct taca_mail *m, struct taca_mail **quick) {
    for (struct taca_mail *next; m; m = next) {
        enum disk_kind kind = ((struct disk_write *)m)->kind;
        struct taca_mail ***end = kind == DISK_INSERT || kind == DISK_STATE ? &quick : &d->slow_end;
        next = m->next;
        m->next = NULL;
        **end = m;
        *end = &m->next;
    }
}

/* As many as have not too many pictures, one at least: each takes a flush, and clients wait for
 * what is accepted meanwhile. */
static struct taca_mail *some_slow(struct disk *d) {
    struct taca_mail *first = d->slow, **at = &d->slow;
    int pictures = 0;
    while (*at && pictures < TURN_PICTURES) {
        const struct disk_write *w = (struct disk_write *)*at;
        pictures += w->kind == DISK_END ? w->n : 0;
        at = &(*at)->next;
    }
    if (!first) return NULL;
    d->slow = *at;
    *at = NULL;
    if (!d->slow) d->slow_end = &d->slow;
    return first;
}

static void *run(void *arg) {
    struct disk *d = arg;
    for (;;) {
        struct taca_mail *quick = NULL;
        bool closing = atomic_load(&d->closing); /* before the last look into the box */
        sort(d, taca_mailbox_take(&d->box), &quick);
        write_and_hand_back(d, (struct disk_write *)quick);
        if (d->slow) {
            write_and_hand_back(d, (struct disk_write *)some_slow(d));
            continue;
        }
        if (quick) continue;
        if (closing) return NULL;
        while (sem_wait(&d->mail) != 0 && errno == EINTR) {
        }
    }
}

/* ---- the outside ----------------------------------------------------------------------------- */

static void wake(void *ctx) {
    struct disk *d = ctx;
    sem_post(&d->mail);
}

enum taca_code disk_open(struct disk **out, const char *path, struct taca_mailbox *results,
                         struct taca_err *err) {
    char dir[4096];
    int n = snprintf(dir, sizeof dir, "%s-images", path);
    if (n < 0 || (size_t)n >= sizeof dir)
        return taca_fail(err, TACA_EINVAL, "the path of the job store is too long");
    struct disk *d = calloc(1, sizeof *d);
    if (!d) return taca_fail(err, TACA_ENOMEM, "opening the job store");
    d->results = results;
    d->slow_end = &d->slow;
    sem_init(&d->mail, 0, 0);
    taca_mailbox_init(&d->box, wake, d);
    enum taca_code rc = db_open(&d->db, path, err);
    if (!rc) rc = disk_files_open(&d->files, dir, err);
    if (rc)
        disk_close(d);
    else
        *out = d;
    return rc;
}

struct db *disk_db(struct disk *d) {
    return d->db;
}

const struct disk_files *disk_files(const struct disk *d) { return d->files; }

enum taca_code disk_start(struct disk *d, struct taca_err *err) {
    sigset_t all, before;
    sigfillset(&all); /* signals belong to the loop's thread */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int rc = pthread_create(&d->thread, NULL, run, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    d->started = rc == 0;
    return d->started ? TACA_OK : taca_fail(err, TACA_EIO, "store thread: %s", strerror(rc));
}

void disk_post(struct disk *d, struct disk_write *w) { (void)taca_mailbox_post(&d->box, &w->mail); }

void disk_close(struct disk *d) {
    if (!d) return;
    atomic_store(&d->closing, true);
    sem_post(&d->mail);
    if (d->started) pthread_join(d->thread, NULL);
    /* what was posted to a thread that never started */
    for (struct taca_mail *m = taca_mailbox_take(&d->box), *next; m; m = next) {
        next = m->next;
        disk_write_close((struct disk_write *)m);
    }
    db_close(d->db);
    disk_files_close(d->files);
    taca_mailbox_finish(&d->box);
    sem_destroy(&d->mail);
    free(d);
}
