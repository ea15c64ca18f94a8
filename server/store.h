/* store.h - every job that can be asked for by name: those under way, and finished ones with their
 * results, for a time and within a number of bytes. What has gone is remembered a while longer as
 * "was here".
 *
 * Plain data on the loop thread, driven by the caller's clock. Holds pointers to jobs and never
 * frees one. */
#ifndef TACA_SERVER_STORE_H
#define TACA_SERVER_STORE_H

#include "base/err.h"
#include "server/job.h"

enum { STORE_BUCKETS = 4096, STORE_GONE = 16384, STORE_JOB_BYTES = 4096 };

struct store;
enum taca_code store_open(struct store **out, int64_t ttl_us, size_t max_bytes,
                          struct taca_err *err) TACA_MUST_USE;
void store_close(struct store *s); /* must be empty; NULL is fine */

/* A job that was accepted, by its id and, when it has one, by its idempotency key. */
void store_add(struct store *s, struct job *job);
struct job *store_find(const struct store *s, const char *id);
struct job *store_find_key(const struct store *s, const char *key);
/* Its key means nothing any more: the client may try again with it. */
void store_forget_key(struct store *s, struct job *job);
/* The job is over: from now on its time runs. `bytes` are those of its results. */
void store_keep(struct store *s, struct job *job, size_t bytes, int64_t now_us);
/* Takes out the next kept job whose time is over, or the oldest while there are too many bytes.
 * NULL = none has to go. */
struct job *store_evict(struct store *s, int64_t now_us);
/* As if it had never been here, whatever its state. */
void store_discard(struct store *s, struct job *job);
/* One that was evicted by another process. */
void store_remember(struct store *s, const char *id);
int64_t store_next_expiry_us(const struct store *s); /* INT64_MAX = nothing is kept */
bool store_was_here(const struct store *s, const char *id);

int store_kept(const struct store *s);
size_t store_bytes(const struct store *s);
struct job *store_first(const struct store *s); /* kept ones, the oldest first, by job->younger */

#endif
