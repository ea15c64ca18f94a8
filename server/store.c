/* store.c - see store.h. Two hash tables whose chains run through the jobs, and one list of the
 * kept ones by age, which is their order of expiry too. */
#include "server/store.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct store {
    int64_t ttl_us;
    size_t max_bytes, bytes;
    uint64_t salt; /* clients choose ids: chains must not be theirs to choose */
    struct job *ids[STORE_BUCKETS], *keys[STORE_BUCKETS];
    struct job *oldest, *youngest;
    int kept;
    uint64_t gone[STORE_GONE]; /* a ring of hashes; 0 = empty */
    size_t gone_at;
};

static uint64_t hash(const struct store *s, const char *text) {
    uint64_t h = s->salt;
    for (; *text; text++) {
        h = (h ^ (unsigned char)*text) * UINT64_C(0x9E3779B97F4A7C15);
        h ^= h >> 32;
    }
    return h ? h : 1;
}

enum taca_code store_open(struct store **out, int64_t ttl_us, size_t max_bytes,
                          struct taca_err *err) {
    struct store *s = calloc(1, sizeof *s);
    if (!s) return taca_fail(err, TACA_ENOMEM, "opening the job store");
    (void)!getrandom(&s->salt, sizeof s->salt, 0);
    s->ttl_us = ttl_us;
    s->max_bytes = max_bytes;
    *out = s;
    return TACA_OK;
}

void store_close(struct store *s) { free(s); }

/* ---- finding --------------------------------------------------------------------------------- */

void store_add(struct store *s, struct job *job) {
    struct job **bucket = &s->ids[hash(s, job->id) % STORE_BUCKETS];
    job->same_id = *bucket;
    *bucket = job;
    job->stored = true;
    if (!job->idempotency_key[0]) return;
    bucket = &s->keys[hash(s, job->idempotency_key) % STORE_BUCKETS];
    job->same_key = *bucket;
    *bucket = job;
    job->by_key = true;
}

struct job *store_find(const struct store *s, const char *id) {
    struct job *job = s->ids[hash(s, id) % STORE_BUCKETS];
    while (job && strcmp(job->id, id) != 0) job = job->same_id;
    return job;
}

struct job *store_find_key(const struct store *s, const char *key) {
    struct job *job = s->keys[hash(s, key) % STORE_BUCKETS];
    while (job && strcmp(job->idempotency_key, key) != 0) job = job->same_key;
    return job;
}

void store_forget_key(struct store *s, struct job *job) {
    if (!job->by_key) return;
    struct job **at = &s->keys[hash(s, job->idempotency_key) % STORE_BUCKETS];
    while (*at != job) at = &(*at)->same_key;
    *at = job->same_key;
    job->by_key = false;
}

/* ---- keeping --------------------------------------------------------------------------------- */

void store_keep(struct store *s, struct job *job, size_t bytes, int64_t now_us) {
    job->younger = NULL;
    *(s->youngest ? &s->youngest->younger : &s->oldest) = job;
    s->youngest = job;
    job->stored_bytes = bytes + STORE_JOB_BYTES;
    job->expires_us = now_us + s->ttl_us;
    s->bytes += job->stored_bytes;
    s->kept++;
}

static void unkeep(struct store *s, struct job *job) {
    struct job **at = &s->oldest, *older = NULL;
    for (; *at && *at != job; at = &(*at)->younger) older = *at;
    if (!*at) return; /* not kept */
    *at = job->younger;
    if (s->youngest == job) s->youngest = older;
    s->bytes -= job->stored_bytes;
    s->kept--;
}

void store_discard(struct store *s, struct job *job) {
    unkeep(s, job);
    store_forget_key(s, job);
    struct job **at = &s->ids[hash(s, job->id) % STORE_BUCKETS];
    while (*at != job) at = &(*at)->same_id;
    *at = job->same_id;
    job->stored = false;
}

void store_remember(struct store *s, const char *id) {
    s->gone[s->gone_at++ % STORE_GONE] = hash(s, id);
}

struct job *store_evict(struct store *s, int64_t now_us) {
    struct job *job = s->oldest;
    if (!job || (now_us < job->expires_us && s->bytes <= s->max_bytes)) return NULL;
    store_discard(s, job);
    store_remember(s, job->id);
    return job;
}

int64_t store_next_expiry_us(const struct store *s) {
    return s->oldest ? s->oldest->expires_us : INT64_MAX;
}

bool store_was_here(const struct store *s, const char *id) {
    uint64_t h = hash(s, id);
    for (size_t i = 0; i < STORE_GONE; i++)
        if (s->gone[i] == h) return true;
    return false;
}

int store_kept(const struct store *s) { return s->kept; }

size_t store_bytes(const struct store *s) { return s->bytes; }

struct job *store_first(const struct store *s) {
    return s->oldest;
}
