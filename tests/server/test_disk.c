/* test_disk.c - the store of durable jobs on disks that fail: every write, every flush, the power.
 */
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/disk.h"
#include "tests/server/faulty_disk.h"
#include "tests/test.h"

#define TAG UINT64_C(0xFEDCBA9876543210)

static char folder[64], path[96];

static void new_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/taca-disk-XXXXXX");
    if (!mkdtemp(folder)) abort();
    snprintf(path, sizeof path, "%s/jobs.db", folder);
}

static void remove_folder(void) {
    static const char *const ends[] = {"", "-wal", "-shm", "-lock"};
    char name[128];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, ends[i]);
        (void)unlink(name);
    }
    snprintf(name, sizeof name, "%s-images", path);
    (void)rmdir(name);
    CHECK(rmdir(folder) == 0); /* pictures and names of other files would be left */
}

static struct db_job job_named(const char *id) {
    return (struct db_job){.id = id,
                           .tag = TAG,
                           .client = "ann",
                           .key = "nann:k",
                           .model = "demo",
                           .created_us = 1000,
                           .request = "req\0uest",
                           .request_len = 8};
}

static enum taca_code insert(struct db *db, const char *id, struct taca_err *err) {
    struct db_job job = job_named(id);
    enum taca_code rc = db_begin(db, err);
    if (!rc && (rc = db_insert(db, &job, err))) db_rollback(db);
    return rc ? rc : db_commit(db, err);
}

static enum taca_code end(struct db *db, const char *id, int64_t completed_us,
                          struct taca_err *err) {
    struct db_job job = {.id = id,
                         .tag = TAG,
                         .key = "",
                         .completed_us = completed_us,
                         .outcome = "out",
                         .outcome_len = 3};
    enum taca_code rc = db_begin(db, err);
    if (!rc && (rc = db_end(db, &job, err))) db_rollback(db);
    return rc ? rc : db_commit(db, err);
}

struct seen {
    char ids[512]; /* "a b c " */
    struct db_job last;
    int n;
};

static void see(void *ctx, const struct db_job *job) {
    struct seen *s = ctx;
    size_t at = strlen(s->ids);
    snprintf(s->ids + at, sizeof s->ids - at, "%s ", job->id);
    s->last = *job;
    s->n++;
    CHECK(job->request_len == 8 && memcmp(job->request, "req\0uest", 8) == 0);
    CHECK((job->state == DB_OVER) == (job->outcome_len == 3));
    CHECK(job->tag == TAG);
    CHECK_STR(job->client, "ann");
    CHECK_STR(job->model, "demo");
}

static void see_id(void *ctx, const char *id) {
    struct seen *s = ctx;
    size_t at = strlen(s->ids);
    snprintf(s->ids + at, sizeof s->ids - at, "%s ", id);
}

static void test_rows_come_back_in_their_order(void) {
    struct taca_err err = {0};
    struct db *db = NULL;
    struct seen s = {.n = 0};
    static const char *const ids[] = {"a", "b", "c", "d", "e"};
    new_folder();
    CHECK_OK(db_open(&db, path, &err), err);
    CHECK_INT(db_starts(db), 1);
    for (int i = 0; i < 5; i++) CHECK_OK(insert(db, ids[i], &err), err);
    CHECK_OK(end(db, "d", 50, &err), err);
    CHECK_OK(end(db, "b", 60, &err), err);
    CHECK_OK(db_set_state(db, "c", DB_RUNNING, 1, &err), err);
    CHECK_OK(db_set_state(db, "b", DB_RUNNING, 1, &err), err); /* is over, and stays it */
    CHECK_INT(end(db, "x", 1, &err), TACA_ENOTFOUND);
    db_close(db);
    err = (struct taca_err){0};
    CHECK_OK(db_open(&db, path, &err), err);
    CHECK_INT(db_starts(db), 2);
    CHECK_OK(db_load(db, see, &s, &err), err);
    CHECK_STR(s.ids, "d b a c e ");
    s = (struct seen){.n = 0};
    CHECK_OK(db_remove(db, "d", TAG, &err), err);
    CHECK_OK(db_remove(db, "a", TAG + 1, &err), err); /* another job of that name */
    CHECK_OK(db_remove(db, "nobody", TAG, &err), err);
    CHECK_OK(db_load_gone(db, see_id, &s, &err), err);
    CHECK_STR(s.ids, "d ");
    db_close(db);
    struct stat st;
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    remove_folder();
}

static void see_attempts(void *ctx, const struct db_job *job) {
    int *attempts = ctx;
    *attempts = job->attempts;
    CHECK_INT(job->state, DB_QUEUED);
}

static void on_model(void *ctx, const struct db_model *m) {
    taca_buf_printf(ctx, "%s=%s%s ", m->name, m->path, m->loaded ? "" : " (out)");
}

static const char *models_of(struct taca_buf *out, struct db *db) {
    struct taca_err err = {0};
    taca_buf_reset(out);
    CHECK_OK(db_load_models(db, on_model, out, &err), err);
    return out->data ? out->data : "";
}

static void test_the_last_word_about_a_model_is_kept(void) {
    struct db *db = NULL;
    struct taca_err err = {0};
    struct taca_buf got;
    new_folder();
    taca_buf_init(&got, 4096);
    CHECK_OK(db_open(&db, path, &err), err);
    CHECK_STR(models_of(&got, db), "");
    CHECK_OK(db_set_model(db, &(struct db_model){"big", "/m/big", true}, &err), err);
    CHECK_OK(db_set_model(db, &(struct db_model){"demo", "", false}, &err), err);
    CHECK_OK(db_set_model(db, &(struct db_model){"odd'; DROP", "/m", true}, &err), err);
    db_close(db);
    CHECK_OK(db_open(&db, path, &err), err);
    CHECK_STR(models_of(&got, db), "big=/m/big demo= (out) odd'; DROP=/m ");
    CHECK_OK(db_set_model(db, &(struct db_model){"big", "/n", true}, &err), err);
    CHECK_OK(db_set_model(db, &(struct db_model){"demo", NULL, true}, &err), err);
    CHECK_OK(db_set_model(db, &(struct db_model){"never", NULL, false}, &err), err);
    CHECK_STR(models_of(&got, db), "odd'; DROP=/m big=/n ");
    db_close(db);
    taca_buf_finish(&got);
    remove_folder();
}

static void test_running_at_the_end_of_the_process_counts_as_an_attempt(void) {
    struct taca_err err = {0};
    struct db *db = NULL;
    int attempts = 0;
    new_folder();
    CHECK_OK(db_open(&db, path, &err), err);
    CHECK_OK(insert(db, "a", &err), err);
    for (int i = 1; i <= 3; i++) {
        CHECK_OK(db_set_state(db, "a", DB_RUNNING, attempts, &err), err);
        db_close(db);
        CHECK_OK(db_open(&db, path, &err), err);
        CHECK_OK(db_load(db, see_attempts, &attempts, &err), err);
        CHECK_INT(attempts, i);
    }
    db_close(db); /* it waited: that is nobody's fault */
    CHECK_OK(db_open(&db, path, &err), err);
    CHECK_OK(db_load(db, see_attempts, &attempts, &err), err);
    CHECK_INT(attempts, 3);
    db_close(db);
    remove_folder();
}

/* ---- failures -------------------------------------------------------------------------------- */

enum { WRITES = 6 };

/* Six jobs, of which the first is ended; bits of what was acknowledged: k for job k, 6 for the end.
 */
static unsigned work(struct db *db) {
    unsigned acknowledged = 0;
    for (int i = 0; i < WRITES; i++) {
        char id[4] = {'j', (char)('0' + i), 0};
        if (!insert(db, id, NULL)) acknowledged |= 1u << i;
        if (i == 2 && (acknowledged & 1) && !end(db, "j0", 5, NULL)) acknowledged |= 1u << WRITES;
    }
    return acknowledged;
}

static void see_bits(void *ctx, const struct db_job *job) {
    unsigned *there = ctx;
    *there |= 1u << (job->id[1] - '0');
    if (job->id[1] == '0' && job->state == DB_OVER) *there |= 1u << WRITES;
}

/* What a new process finds; the file must be sound. */
static unsigned found_after(void) {
    struct taca_err err = {0};
    struct db *db = NULL;
    unsigned there = 0;
    CHECK_OK(db_open(&db, path, &err), err);
    if (!db) return 0;
    CHECK_OK(db_load(db, see_bits, &there, &err), err);
    CHECK_OK(insert(db, "j9", &err), err); /* and it goes on */
    db_close(db);
    return there;
}

/* Opens and works on a disk whose nth operation fails; how many operations there were. */
static int fail_nth(int nth, int code, bool for_ever) {
    struct db *db = NULL;
    unsigned acknowledged = 0;
    new_folder();
    faulty_disk_fail(nth, code, for_ever);
    if (!db_open(&db, path, NULL)) {
        acknowledged = work(db);
        bool flush_failed = db_is_broken(db);
        if (code == SQLITE_FULL) CHECK(!flush_failed);
        if (flush_failed) CHECK(db_begin(db, NULL) != TACA_OK);
        db_close(db);
    }
    int count = faulty_disk_count();
    faulty_disk_fail(0, 0, false);
    unsigned there = found_after();
    if (!CHECK((acknowledged & ~there) == 0))
        printf("        operation %d, code %d: acknowledged %x, found %x\n", nth, code,
               acknowledged, there);
    remove_folder();
    return count;
}

static void test_every_operation_may_fail_and_what_was_acknowledged_is_there(void) {
    static const int codes[] = {SQLITE_IOERR_WRITE, SQLITE_FULL};
    int cases = 0, all = fail_nth(0, 0, false);
    for (int c = 0; c < 2; c++)
        for (int for_ever = 0; for_ever < 2; for_ever++)
            for (int nth = 1; nth <= all; nth++, cases++) fail_nth(nth, codes[c], for_ever);
    printf("    %d cases\n", cases);
    CHECK(cases > 100);
}

static void test_after_a_failed_flush_nothing_is_acknowledged(void) {
    struct taca_err err = {0};
    struct db *db = NULL;
    new_folder();
    CHECK_OK(db_open(&db, path, &err), err);
    CHECK_OK(insert(db, "j0", &err), err);
    int n = 1; /* find the flush */
    do {
        faulty_disk_fail(n++, SQLITE_IOERR_FSYNC, false);
        (void)insert(db, "j1", NULL);
    } while (!db_is_broken(db) && n < 50);
    CHECK(db_is_broken(db));
    faulty_disk_fail(0, 0, false); /* the next flush would be a success */
    CHECK_INT(insert(db, "j2", &err), TACA_EIO);
    CHECK_HAS(err.text, "has failed before");
    db_close(db);
    CHECK((found_after() & 1) == 1);
    remove_folder();
}

/* How many operations there were; *lost: what was acknowledged and is not there any more. */
static int cut_at(int nth, uint64_t luck, unsigned *lost) {
    struct db *db = NULL;
    char shm[128];
    unsigned acknowledged = 0;
    new_folder();
    faulty_disk_cut(nth, luck);
    if (!db_open(&db, path, NULL)) acknowledged = work(db);
    db_close(db);
    int count = faulty_disk_is_dark() ? nth + 1 : faulty_disk_count();
    faulty_disk_after_cut();
    snprintf(shm, sizeof shm, "%s-shm", path); /* lives in memory */
    (void)unlink(shm);
    *lost = acknowledged & ~found_after();
    remove_folder();
    return count;
}

static void test_the_power_may_go_at_any_operation(void) {
    static const uint64_t luck[] = {UINT64_MAX, 0, UINT64_C(0x5555555555555555),
                                    UINT64_C(0xA36B1F9C4D27E805)};
    int cases = 0;
    for (int l = 0; l < 4; l++)
        for (int nth = 1, count = 1; nth <= count; nth++, cases++) {
            unsigned lost;
            count = cut_at(nth, luck[l], &lost);
            if (!CHECK(lost == 0))
                printf("        cut at %d, luck %" PRIx64 ": lost %x\n", nth, luck[l], lost);
        }
    printf("    %d cases\n", cases);
    CHECK(cases > 100);
}

/* What nothing can be done about, and proof that the test before would see a loss. */
static void test_a_disk_that_only_says_it_has_flushed_loses_jobs(void) {
    int losses = 0;
    faulty_disk_lie(true);
    for (int nth = 1, count = 1; nth <= count; nth++) {
        unsigned lost;
        count = cut_at(nth, UINT64_MAX, &lost);
        losses += lost != 0;
    }
    faulty_disk_lie(false);
    printf("    %d cuts lose something\n", losses);
    CHECK(losses > 0);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static struct disk_write *write_of(enum disk_kind kind, int i) {
    struct disk_write *w = disk_write_open(kind);
    if (!w) abort();
    snprintf(w->id, sizeof w->id, "job-%d", i);
    w->row = job_named(w->id);
    w->row.tag = (uint64_t)i;
    w->ctx = (void *)(intptr_t)i;
    return w;
}

static const struct disk_name png = {1, 0, ".png"}, jpg = {1, 1, ".jpg"}, strange = {2, 0, ".png"};

static void add_picture(struct disk_write *w, const struct disk_name *name, const char *bytes) {
    if (!w->pictures) w->pictures = calloc(2, sizeof *w->pictures);
    if (!w->pictures) abort();
    w->pictures[w->n++] = (struct disk_picture){*name, bytes, strlen(bytes)};
}

/* Results of n writes; -1 in codes for those that have not come. */
static void collect(struct taca_mailbox *results, int n, int *codes) {
    for (int got = 0, idle = 0; got < n && idle < 10000; idle++) {
        struct taca_mail *m = taca_mailbox_take(results), *next;
        if (!m) usleep(1000);
        for (; m; m = next, got++) {
            struct disk_write *w = (struct disk_write *)m;
            next = m->next;
            codes[(intptr_t)w->ctx] = (int)w->rc;
            disk_write_close(w);
        }
    }
}

static void test_writes_share_transactions_and_fail_alone(void) {
    enum { MANY = 400, BAD = 123 };
    struct taca_err err = {0};
    struct taca_mailbox results;
    struct disk *d = NULL;
    int codes[MANY];
    new_folder();
    taca_mailbox_init(&results, NULL, NULL);
    CHECK_OK(disk_open(&d, path, &results, &err), err);
    for (int i = 0; i < MANY; i++) codes[i] = -1;
    for (int i = 0; i < MANY; i++) disk_post(d, write_of(i == BAD ? DISK_END : DISK_INSERT, i));
    faulty_disk_fail(0, 0, false);
    CHECK_OK(disk_start(d, &err), err);
    collect(&results, MANY, codes);
    int flushes = faulty_disk_count(), good = 0;
    for (int i = 0; i < MANY; i++) good += codes[i] == TACA_OK;
    CHECK_INT(good, MANY - 1);
    CHECK_INT(codes[BAD], TACA_ENOTFOUND);
    printf("    %d writes, one bad: %d operations of the disk\n", MANY, flushes);
    CHECK(flushes < MANY);
    for (int i = 0; i < 2; i++) disk_post(d, write_of(DISK_INSERT, i));
    disk_close(d); /* writes what was posted */
    collect(&results, 2, codes);
    CHECK(codes[0] == TACA_OK && codes[1] == TACA_OK);
    taca_mailbox_finish(&results);
    remove_folder();
}

/* The first so many pictures of job 1. */
static bool keep(void *ctx, uint64_t tag, int index) {
    const int *n = ctx;
    return tag == 1 && index < *n;
}

static void test_a_picture_is_whole_or_not_there(void) {
    struct taca_err err = {0};
    struct taca_mailbox results;
    struct taca_buf out;
    struct disk *d = NULL;
    int codes[4] = {-1, -1, -1, -1};
    new_folder();
    taca_mailbox_init(&results, NULL, NULL);
    taca_buf_init(&out, 1 << 20);
    CHECK_OK(disk_open(&d, path, &results, &err), err);
    CHECK_OK(disk_start(d, &err), err);
    disk_post(d, write_of(DISK_INSERT, 1));
    struct disk_write *w = write_of(DISK_END, 1), *stray = write_of(DISK_END, 2);
    add_picture(w, &png, "a picture");
    add_picture(w, &jpg, "another");
    add_picture(stray, &strange, "of nobody");
    disk_post(d, w);
    disk_post(d, stray);
    collect(&results, 3, codes);
    CHECK_INT(codes[1], TACA_OK);
    CHECK_INT(codes[2], TACA_ENOTFOUND);
    const struct disk_files *files = disk_files(d);
    CHECK_OK(disk_files_read(files, &png, 9, &out, &err), err);
    CHECK_OK(disk_files_read(files, &jpg, 7, &out, &err), err);
    CHECK(out.len == 16 && memcmp(out.data, "a pictureanother", 16) == 0);
    CHECK_INT(disk_files_read(files, &png, 8, &out, NULL), TACA_EFORMAT);
    CHECK_INT(disk_files_read(files, &strange, 9, &out, NULL), TACA_ENOTFOUND);
    CHECK_INT(disk_files_sweep(files, keep, &(int){2}), 0);
    w = write_of(DISK_REMOVE, 1);
    add_picture(w, &png, "");
    disk_post(d, w);
    collect(&results, 1, codes);
    CHECK_INT(disk_files_read(files, &png, 9, &out, NULL), TACA_ENOTFOUND);
    CHECK_INT(disk_files_sweep(files, keep, &(int){0}), 1); /* the other */
    CHECK_INT(disk_files_read(files, &jpg, 7, &out, NULL), TACA_ENOTFOUND);
    disk_close(d);
    taca_buf_finish(&out);
    taca_mailbox_finish(&results);
    remove_folder();
}

int main(void) {
    faulty_disk_install();
    TEST(test_rows_come_back_in_their_order);
    TEST(test_the_last_word_about_a_model_is_kept);
    TEST(test_running_at_the_end_of_the_process_counts_as_an_attempt);
    TEST(test_every_operation_may_fail_and_what_was_acknowledged_is_there);
    TEST(test_after_a_failed_flush_nothing_is_acknowledged);
    TEST(test_the_power_may_go_at_any_operation);
    TEST(test_a_disk_that_only_says_it_has_flushed_loses_jobs);
    TEST(test_writes_share_transactions_and_fail_alone);
    TEST(test_a_picture_is_whole_or_not_there);
    return TEST_END();
}
