/* disk_db.c - see disk_db.h. The only file that knows SQLite. */
#include "server/disk_db.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { APPLICATION_ID = 0x74616361, BUSY_MS = 5000 }; /* "taca" */

enum statement {
    BEGIN,
    COMMIT,
    INSERT,
    END,
    STATE,
    REMOVE,
    REMEMBER,
    FORGET,
    MODEL,
    NO_MODEL,
    STATEMENTS
};

static const char *const sql[STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    /* an id that comes again is one whose row could not be removed */
    [INSERT] = "INSERT OR REPLACE INTO job(id,tag,client,key,model,state,created_us,request)"
               " VALUES(?1,?2,?3,?4,?5,0,?6,?7)",
    [END] = "UPDATE job SET state=2,key=?2,completed_us=?3,outcome=?4,"
            "request=coalesce(?5,request) WHERE id=?1 AND tag=?6",
    [STATE] = "UPDATE job SET state=?2,attempts=?3 WHERE id=?1 AND state<2",
    [REMOVE] = "DELETE FROM job WHERE id=?1 AND tag=?2",
    [REMEMBER] = "INSERT INTO gone(id) VALUES(?1)",
    [FORGET] = "DELETE FROM gone WHERE seq<=last_insert_rowid()-16384",
    [MODEL] = "INSERT OR REPLACE INTO model(name,path,loaded) VALUES(?1,?2,?3)",
    [NO_MODEL] = "DELETE FROM model WHERE name=?1",
};
_Static_assert(DB_REMEMBERED == 16384, "as FORGET says");

static const char schema[] =
    "CREATE TABLE job("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT," /* the order of acceptance */
    " id TEXT NOT NULL UNIQUE,"
    " tag INTEGER NOT NULL,"
    " client TEXT NOT NULL,"
    " key TEXT NOT NULL,"
    " model TEXT NOT NULL,"
    " state INTEGER NOT NULL," /* 0 queued, 1 running, 2 over */
    " attempts INTEGER NOT NULL DEFAULT 0,"
    " created_us INTEGER NOT NULL,"
    " completed_us INTEGER NOT NULL DEFAULT 0,"
    " request BLOB NOT NULL,"
    " outcome BLOB);"
    "CREATE TABLE gone(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL);"
    "CREATE TABLE store(starts INTEGER NOT NULL);"
    "INSERT INTO store VALUES(0);";

/* Added later: stores of the first form get it when they are opened. */
static const char models[] = "CREATE TABLE IF NOT EXISTS model("
                             " name TEXT PRIMARY KEY,"
                             " path TEXT NOT NULL,"
                             " loaded INTEGER NOT NULL)";

struct db {
    char *path;
    int lock_fd;
    sqlite3 *handle;
    sqlite3_stmt *prepared[STATEMENTS];
    int64_t starts;
    bool broken;
};

/* ---- failures -------------------------------------------------------------------------------- */

static enum taca_code code_of(int rc) {
    switch (rc & 0xFF) {
    case SQLITE_NOMEM: return TACA_ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return TACA_EBUSY;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return TACA_EFORMAT;
    default: return TACA_EIO;
    }
}

/* After a failed fsync the kernel may have dropped the pages and call the next one a success. */
static bool is_final(int extended) {
    return extended == SQLITE_IOERR_FSYNC || extended == SQLITE_IOERR_DIR_FSYNC ||
           (extended & 0xFF) == SQLITE_CORRUPT || (extended & 0xFF) == SQLITE_NOTADB;
}

static enum taca_code failed(struct db *db, const char *what, struct taca_err *err) {
    int rc = sqlite3_extended_errcode(db->handle), os = sqlite3_system_errno(db->handle);
    if (is_final(rc)) db->broken = true;
    return taca_fail(err, code_of(rc), "%s: %s: %s%s%s", db->path, what, sqlite3_errmsg(db->handle),
                     os ? ": " : "", os ? strerror(os) : "");
}

bool db_is_broken(const struct db *db) { return db->broken; }

static enum taca_code exec(struct db *db, const char *text, const char *what,
                           struct taca_err *err) {
    if (sqlite3_exec(db->handle, text, NULL, NULL, NULL) == SQLITE_OK) return TACA_OK;
    return failed(db, what, err);
}

/* A number that a statement gives. */
static enum taca_code ask(struct db *db, const char *text, int64_t *out, struct taca_err *err) {
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db->handle, text, -1, &s, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) *out = sqlite3_column_int64(s, 0);
    enum taca_code code = rc == SQLITE_ROW ? TACA_OK : failed(db, "reading it", err);
    sqlite3_finalize(s);
    return code;
}

/* ---- opening --------------------------------------------------------------------------------- */

static enum taca_code lock(struct db *db, struct taca_err *err) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s-lock", db->path);
    if (n < 0 || (size_t)n >= sizeof path)
        return taca_fail(err, TACA_EINVAL, "the path is too long");
    db->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (db->lock_fd < 0) return taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    if (flock(db->lock_fd, LOCK_EX | LOCK_NB) == 0) return TACA_OK;
    if (errno == EWOULDBLOCK)
        return taca_fail(err, TACA_EBUSY, "%s is in use by another process", db->path);
    return taca_fail(err, TACA_EIO, "locking %s: %s", path, strerror(errno));
}

/* Prompts are nobody's business: SQLite gives the files beside it the rights of this one. */
static enum taca_code make_file(struct db *db, struct taca_err *err) {
    int fd = open(db->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return taca_fail(err, TACA_EIO, "%s: %s", db->path, strerror(errno));
    close(fd);
    return TACA_OK;
}

static enum taca_code make_schema(struct db *db, struct taca_err *err) {
    char text[64];
    enum taca_code rc = exec(db, "BEGIN IMMEDIATE", "making it", err);
    if (!rc) rc = exec(db, schema, "making it", err);
    snprintf(text, sizeof text, "PRAGMA application_id=%d; PRAGMA user_version=%d", APPLICATION_ID,
             DB_VERSION);
    if (!rc) rc = exec(db, text, "making it", err);
    if (!rc) rc = exec(db, "COMMIT", "making it", err);
    return rc;
}

static enum taca_code check_version(struct db *db, struct taca_err *err) {
    int64_t id = 0, version = 0, tables = 0;
    enum taca_code rc = ask(db, "SELECT count(*) FROM sqlite_schema", &tables, err);
    if (!rc) rc = ask(db, "PRAGMA application_id", &id, err);
    if (!rc) rc = ask(db, "PRAGMA user_version", &version, err);
    if (rc) return rc;
    if (tables == 0) return make_schema(db, err);
    if (id != APPLICATION_ID)
        return taca_fail(err, TACA_EFORMAT, "%s is a database of another program", db->path);
    if (version == DB_VERSION) return TACA_OK;
    return taca_fail(err, TACA_EUNSUPPORTED,
                     "%s was made by a newer version of this program (its form is %lld, this "
                     "version knows %d)",
                     db->path, (long long)version, DB_VERSION);
}

static enum taca_code check_pages(struct db *db, struct taca_err *err) {
    sqlite3_stmt *s = NULL;
    enum taca_code rc = TACA_OK;
    if (sqlite3_prepare_v2(db->handle, "PRAGMA quick_check(1)", -1, &s, NULL) != SQLITE_OK ||
        sqlite3_step(s) != SQLITE_ROW)
        rc = failed(db, "checking it", err);
    else if (strcmp((const char *)sqlite3_column_text(s, 0), "ok") != 0)
        rc = taca_fail(err, TACA_EFORMAT, "%s is damaged: %s", db->path,
                       (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return rc;
}

/* Writes something: a file that cannot be written is found now and not with the first request. */
static enum taca_code count_start(struct db *db, struct taca_err *err) {
    enum taca_code rc = exec(db, "UPDATE store SET starts=starts+1", "writing to it", err);
    return rc ? rc : ask(db, "SELECT starts FROM store", &db->starts, err);
}

static enum taca_code prepare(struct db *db, struct taca_err *err) {
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(db->handle, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &db->prepared[i],
                               NULL) != SQLITE_OK)
            return failed(db, "preparing", err);
    return TACA_OK;
}

static enum taca_code open_file(struct db *db, struct taca_err *err) {
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    enum taca_code rc = lock(db, err);
    if (!rc) rc = make_file(db, err);
    if (rc) return rc;
    if (sqlite3_open_v2(db->path, &db->handle, flags, NULL) != SQLITE_OK)
        return db->handle ? failed(db, "opening it", err)
                          : taca_fail(err, TACA_ENOMEM, "opening %s", db->path);
    sqlite3_busy_timeout(db->handle, BUSY_MS);
    rc = exec(db,
              "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=FAST;"
              "PRAGMA trusted_schema=OFF;"
              "PRAGMA temp_store=MEMORY" /* there may be no directory for files that come and go */,
              "opening it", err);
    if (!rc) rc = check_version(db, err);
    if (!rc) rc = check_pages(db, err);
    if (!rc) rc = exec(db, models, "making it", err);
    if (!rc) rc = count_start(db, err);
    return rc ? rc : prepare(db, err);
}

enum taca_code db_open(struct db **out, const char *path, struct taca_err *err) {
    struct db *db = calloc(1, sizeof *db);
    if (db) db->lock_fd = -1;
    if (!db || !(db->path = strdup(path))) {
        free(db);
        return taca_fail(err, TACA_ENOMEM, "opening the job store");
    }
    enum taca_code rc = open_file(db, err);
    if (rc)
        db_close(db);
    else
        *out = db;
    return rc;
}

void db_close(struct db *db) {
    if (!db) return;
    for (int i = 0; i < STATEMENTS; i++) sqlite3_finalize(db->prepared[i]);
    sqlite3_close(db->handle);
    if (db->lock_fd >= 0) close(db->lock_fd);
    free(db->path);
    free(db);
}

int64_t db_starts(const struct db *db) { return db->starts; }

/* ---- reading --------------------------------------------------------------------------------- */

static const char *text_at(sqlite3_stmt *s, int column) {
    const unsigned char *text = sqlite3_column_text(s, column);
    return text ? (const char *)text : "";
}

static struct db_job row_of(sqlite3_stmt *s) {
    return (struct db_job){.id = text_at(s, 0),
                           .tag = (uint64_t)sqlite3_column_int64(s, 1),
                           .client = text_at(s, 2),
                           .key = text_at(s, 3),
                           .model = text_at(s, 4),
                           .state = (enum db_state)sqlite3_column_int(s, 5),
                           .attempts = sqlite3_column_int(s, 6),
                           .created_us = sqlite3_column_int64(s, 7),
                           .completed_us = sqlite3_column_int64(s, 8),
                           .request = sqlite3_column_blob(s, 9),
                           .request_len = (size_t)sqlite3_column_bytes(s, 9),
                           .outcome = sqlite3_column_blob(s, 10),
                           .outcome_len = (size_t)sqlite3_column_bytes(s, 10)};
}

/* The numbers of all rows in the order of db_load, made before any of them is read: a sort would
 * carry their requests with it. */
static enum taca_code list_rows(struct db *db, int64_t **out, int64_t *n, struct taca_err *err) {
    static const char all[] =
        "SELECT seq FROM job ORDER BY state<2, CASE state WHEN 2 THEN completed_us END, seq";
    sqlite3_stmt *s = NULL;
    int64_t count = 0;
    int rc = SQLITE_DONE;
    enum taca_code code = ask(db, "SELECT count(*) FROM job", &count, err);
    if (code) return code;
    if (!(*out = calloc((size_t)count + 1, sizeof **out)))
        return taca_fail(err, TACA_ENOMEM, "reading %s", db->path);
    if (sqlite3_prepare_v2(db->handle, all, -1, &s, NULL) != SQLITE_OK)
        return failed(db, "reading it", err);
    *n = 0;
    while (*n < count && (rc = sqlite3_step(s)) == SQLITE_ROW)
        (*out)[(*n)++] = sqlite3_column_int64(s, 0);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) code = failed(db, "reading it", err);
    sqlite3_finalize(s);
    return code;
}

enum taca_code db_load(struct db *db, void (*row)(void *ctx, const struct db_job *job), void *ctx,
                       struct taca_err *err) {
    static const char one[] =
        "SELECT id,tag,client,key,model,state,attempts,created_us,completed_us,request,outcome"
        " FROM job WHERE seq=?1";
    sqlite3_stmt *s = NULL;
    int64_t *rows = NULL, n = 0;
    enum taca_code code =
        exec(db, "UPDATE job SET state=0,attempts=attempts+1 WHERE state=1", "writing to it", err);
    if (!code) code = list_rows(db, &rows, &n, err);
    if (!code && sqlite3_prepare_v2(db->handle, one, -1, &s, NULL) != SQLITE_OK)
        code = failed(db, "reading it", err);
    for (int64_t i = 0; i < n && !code; i++) {
        sqlite3_bind_int64(s, 1, rows[i]);
        if (sqlite3_step(s) == SQLITE_ROW) {
            struct db_job job = row_of(s);
            row(ctx, &job);
        } else {
            code = failed(db, "reading it", err);
        }
        sqlite3_reset(s);
    }
    sqlite3_finalize(s);
    free(rows);
    return code;
}

enum taca_code db_load_gone(struct db *db, void (*row)(void *ctx, const char *id), void *ctx,
                            struct taca_err *err) {
    sqlite3_stmt *s = NULL;
    int rc;
    if (sqlite3_prepare_v2(db->handle, "SELECT id FROM gone ORDER BY seq", -1, &s, NULL) !=
        SQLITE_OK)
        return failed(db, "reading it", err);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) row(ctx, text_at(s, 0));
    enum taca_code code = rc == SQLITE_DONE ? TACA_OK : failed(db, "reading it", err);
    sqlite3_finalize(s);
    return code;
}

enum taca_code db_load_models(struct db *db, void (*row)(void *ctx, const struct db_model *m),
                              void *ctx, struct taca_err *err) {
    sqlite3_stmt *s = NULL;
    int rc;
    if (sqlite3_prepare_v2(db->handle, "SELECT name,path,loaded FROM model ORDER BY rowid", -1, &s,
                           NULL) != SQLITE_OK)
        return failed(db, "reading it", err);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        const struct db_model m = {text_at(s, 0), text_at(s, 1), sqlite3_column_int(s, 2) != 0};
        row(ctx, &m);
    }
    enum taca_code code = rc == SQLITE_DONE ? TACA_OK : failed(db, "reading it", err);
    sqlite3_finalize(s);
    return code;
}

/* ---- writing --------------------------------------------------------------------------------- */

static enum taca_code run(struct db *db, enum statement which, const char *what,
                          struct taca_err *err) {
    sqlite3_stmt *s = db->prepared[which];
    enum taca_code rc = sqlite3_step(s) == SQLITE_DONE ? TACA_OK : failed(db, what, err);
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    return rc;
}

static void bind_text(sqlite3_stmt *s, int at, const char *text) {
    sqlite3_bind_text(s, at, text, -1, SQLITE_STATIC);
}

static void bind_blob(sqlite3_stmt *s, int at, const void *bytes, size_t len) {
    if (bytes) sqlite3_bind_blob64(s, at, bytes, len, SQLITE_STATIC);
}

enum taca_code db_begin(struct db *db, struct taca_err *err) {
    if (db->broken)
        return taca_fail(err, TACA_EIO, "%s: the disk has failed before; nothing more is written",
                         db->path);
    return run(db, BEGIN, "beginning", err);
}

enum taca_code db_commit(struct db *db, struct taca_err *err) {
    enum taca_code rc = run(db, COMMIT, "committing", err);
    if (rc) db_rollback(db);
    return rc;
}

void db_rollback(struct db *db) {
    /* some failures have rolled back already */
    if (!sqlite3_get_autocommit(db->handle)) sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
}

enum taca_code db_insert(struct db *db, const struct db_job *job, struct taca_err *err) {
    sqlite3_stmt *s = db->prepared[INSERT];
    bind_text(s, 1, job->id);
    sqlite3_bind_int64(s, 2, (sqlite3_int64)job->tag);
    bind_text(s, 3, job->client);
    bind_text(s, 4, job->key);
    bind_text(s, 5, job->model);
    sqlite3_bind_int64(s, 6, job->created_us);
    bind_blob(s, 7, job->request, job->request_len);
    return run(db, INSERT, "writing a job", err);
}

enum taca_code db_end(struct db *db, const struct db_job *job, struct taca_err *err) {
    sqlite3_stmt *s = db->prepared[END];
    bind_text(s, 1, job->id);
    bind_text(s, 2, job->key);
    sqlite3_bind_int64(s, 3, job->completed_us);
    bind_blob(s, 4, job->outcome, job->outcome_len);
    bind_blob(s, 5, job->request, job->request_len);
    sqlite3_bind_int64(s, 6, (sqlite3_int64)job->tag);
    enum taca_code rc = run(db, END, "writing a result", err);
    if (!rc && sqlite3_changes(db->handle) == 0)
        rc = taca_fail(err, TACA_ENOTFOUND, "%s: there is no job %s", db->path, job->id);
    return rc;
}

enum taca_code db_set_state(struct db *db, const char *id, enum db_state state, int attempts,
                            struct taca_err *err) {
    sqlite3_stmt *s = db->prepared[STATE];
    bind_text(s, 1, id);
    sqlite3_bind_int(s, 2, state);
    sqlite3_bind_int(s, 3, attempts);
    return run(db, STATE, "writing how a job stands", err);
}

enum taca_code db_remove(struct db *db, const char *id, uint64_t tag, struct taca_err *err) {
    bind_text(db->prepared[REMOVE], 1, id);
    sqlite3_bind_int64(db->prepared[REMOVE], 2, (sqlite3_int64)tag);
    enum taca_code rc = run(db, REMOVE, "removing a job", err);
    if (rc || sqlite3_changes(db->handle) == 0) return rc;
    bind_text(db->prepared[REMEMBER], 1, id);
    rc = run(db, REMEMBER, "removing a job", err);
    return rc ? rc : run(db, FORGET, "removing a job", err);
}

enum taca_code db_set_model(struct db *db, const struct db_model *m, struct taca_err *err) {
    const enum statement which = m->path ? MODEL : NO_MODEL;
    sqlite3_stmt *s = db->prepared[which];
    bind_text(s, 1, m->name);
    if (m->path) bind_text(s, 2, m->path);
    if (m->path) sqlite3_bind_int(s, 3, m->loaded);
    return run(db, which, "writing about a model", err);
}
