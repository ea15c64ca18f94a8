/* disk_db.h - the table of durable jobs: one SQLite file, one connection, one thread at a time.
 *
 * Rows are plain: what a job is and how it ended are bytes from job_record.h. Write-ahead log with
 * synchronous=FULL: what db_commit has returned TACA_OK for survives the end of the process and of
 * the machine. Knows neither threads nor pictures. */
#ifndef TACA_SERVER_DISK_DB_H
#define TACA_SERVER_DISK_DB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { DB_VERSION = 1, DB_REMEMBERED = 16384 };

enum db_state { DB_QUEUED, DB_RUNNING, DB_OVER };

struct db_job { /* strings and bytes are borrowed */
    const char *id;
    uint64_t tag; /* names its pictures */
    const char *client, *key, *model;
    enum db_state state;
    int attempts;                     /* times that it was running when the process ended */
    int64_t created_us, completed_us; /* wall clock; 0 = not yet */
    const void *request, *outcome;    /* NULL = none */
    size_t request_len, outcome_len;
};

struct db;
/* Opens the file, or makes it. Refused: what is not a job store, is damaged, was made by a newer
 * version, cannot be written, or is in use by another process (TACA_EBUSY). The file beside it,
 * PATH-lock, is what tells the latter, so that others may read the store meanwhile. */
enum taca_code db_open(struct db **out, const char *path, struct taca_err *err) TACA_MUST_USE;
void db_close(struct db *db); /* NULL is fine */
/* How often this store was opened, this time included. */
int64_t db_starts(const struct db *db);

/* All rows: those that are over by their time, then the others in the order in which they came.
 * Those that were running count an attempt more and are queued again. */
enum taca_code db_load(struct db *db, void (*row)(void *ctx, const struct db_job *job), void *ctx,
                       struct taca_err *err) TACA_MUST_USE;
/* The last ids that were removed, the oldest first. */
enum taca_code db_load_gone(struct db *db, void (*row)(void *ctx, const char *id), void *ctx,
                            struct taca_err *err) TACA_MUST_USE;

/* The operator's last word about a model; strings are borrowed. */
struct db_model {
    const char *name, *path;
    bool loaded;
};
enum taca_code db_load_models(struct db *db, void (*row)(void *ctx, const struct db_model *m),
                              void *ctx, struct taca_err *err) TACA_MUST_USE;

/* Between db_begin and db_commit or db_rollback. A failed commit has been rolled back. */
enum taca_code db_begin(struct db *db, struct taca_err *err) TACA_MUST_USE;
enum taca_code db_commit(struct db *db, struct taca_err *err) TACA_MUST_USE;
void db_rollback(struct db *db);
enum taca_code db_insert(struct db *db, const struct db_job *job,
                         struct taca_err *err) TACA_MUST_USE;
/* By job->id and job->tag. A request of NULL stays as it is. TACA_ENOTFOUND when there is no such
 * row. */
enum taca_code db_end(struct db *db, const struct db_job *job, struct taca_err *err) TACA_MUST_USE;
enum taca_code db_set_state(struct db *db, const char *id, enum db_state state, int attempts,
                            struct taca_err *err) TACA_MUST_USE;
/* The id is remembered. */
enum taca_code db_remove(struct db *db, const char *id, uint64_t tag,
                         struct taca_err *err) TACA_MUST_USE;

/* path NULL: there is nothing to remember about it any more. */
enum taca_code db_set_model(struct db *db, const struct db_model *m,
                            struct taca_err *err) TACA_MUST_USE;

/* True once writing to the disk has failed in a way after which nobody knows what is on it: from
 * then on every db_begin fails. */
bool db_is_broken(const struct db *db);

#endif
