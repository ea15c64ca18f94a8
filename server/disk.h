/* disk.h - the store thread: durable jobs and their pictures, written behind the loop's back.
 *
 * Properties: one thread owns the connection to the database (disk_db.h) and writes the pictures
 * (disk_files.h). Operation: the loop posts a write, and gets it back with its result once it is on
 * the disk. Whatever was posted meanwhile goes into the next transaction together: one flush of the
 * disk for many requests. Acceptances go before ends, whose pictures take a flush each; otherwise
 * the order is that of posting. A write that fails is left out of its transaction. Safety: a write
 * is a message; whoever holds the pointer owns it. */
#ifndef TACA_SERVER_DISK_H
#define TACA_SERVER_DISK_H

#include "base/mailbox.h"
#include "server/disk_db.h"
#include "server/disk_files.h"

enum disk_kind {
    DISK_INSERT, /* a job was accepted */
    DISK_STATE,  /* it runs, or is back in the queue */
    DISK_END,    /* it is over: pictures first, then how it ended */
    DISK_REMOVE, /* it goes, and its pictures with it */
    DISK_MODEL   /* what an operator wants of a model: `said` */
};

struct disk_picture {
    struct disk_name name;
    const void *bytes; /* borrowed until the write is back; NULL where it is to be removed */
    size_t len;
};

struct disk_write {
    struct taca_mail mail; /* first */
    enum disk_kind kind;
    void *ctx; /* the sender's */
    struct db_job row;
    struct taca_buf request, outcome;             /* owned: what row points into */
    char id[80], client[40], key[180], model[72]; /* the same */
    struct db_model said;                         /* points into model and request, too */
    struct disk_picture *pictures;                /* owned, [n] */
    int n;

    enum taca_code rc; /* results */
    struct taca_err err;
};

/* Zeroed but for its buffers; NULL when out of memory. */
struct disk_write *disk_write_open(enum disk_kind kind);
void disk_write_close(struct disk_write *w); /* NULL is fine */

/* The file that --job-store means: of "sqlite:FILE". NULL when jobs live in memory (NULL or
 * "memory"), "" when it makes no sense. */
const char *disk_file(const char *store);

struct disk;
/* The job store at `path`, its pictures in the directory `path`-images; results are posted to
 * `results`. Nothing is written before disk_start, until then db and files are the caller's. */
enum taca_code disk_open(struct disk **out, const char *path, struct taca_mailbox *results,
                         struct taca_err *err) TACA_MUST_USE;
struct db *disk_db(struct disk *d);
const struct disk_files *disk_files(const struct disk *d);
enum taca_code disk_start(struct disk *d, struct taca_err *err) TACA_MUST_USE;
void disk_post(struct disk *d, struct disk_write *w);
/* Finishes what was posted (results are posted, too) and joins the thread. NULL is fine. */
void disk_close(struct disk *d);

#endif
