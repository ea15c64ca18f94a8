/* test_store.c - what can be asked for by name, with invented time; and the hash of bodies. */
#include <stdlib.h>

#include "server/store.h"
#include "tests/test.h"

static struct job *job_named(const char *id, const char *key) {
    struct job *j = job_open();
    if (!j) abort();
    snprintf(j->id, sizeof j->id, "%s", id);
    snprintf(j->idempotency_key, sizeof j->idempotency_key, "%s", key);
    return j;
}

static struct store *open_store(int64_t ttl_us, size_t bytes) {
    struct store *s = NULL;
    struct taca_err err = {0};
    if (store_open(&s, ttl_us, bytes, &err)) abort();
    return s;
}

static void drop(struct store *s, int64_t now_us) {
    struct job *j;
    while ((j = store_evict(s, now_us))) job_close(j);
}

static void test_time_runs_from_the_end_of_a_job(void) {
    struct store *s = open_store(100, 1 << 30);
    struct job *a = job_named("a", ""), *b = job_named("b", "");
    store_add(s, a);
    store_add(s, b);
    CHECK(store_find(s, "a") == a && store_find(s, "b") == b && !store_find(s, "c"));
    CHECK(!store_evict(s, INT64_MAX)); /* neither is over */
    CHECK(store_next_expiry_us(s) == INT64_MAX);
    store_keep(s, b, 10, 1000);
    store_keep(s, a, 20, 1050);
    CHECK_INT(store_kept(s), 2);
    CHECK_INT(store_bytes(s), 30 + 2 * STORE_JOB_BYTES);
    CHECK_INT(store_next_expiry_us(s), 1100);
    CHECK(!store_evict(s, 1099));
    CHECK(store_evict(s, 1100) == b);
    CHECK(!store_evict(s, 1100) && !store_find(s, "b") && store_find(s, "a") == a);
    CHECK(store_was_here(s, "b") && !store_was_here(s, "a") && !store_was_here(s, "c"));
    job_close(b);
    drop(s, INT64_MAX);
    CHECK_INT(store_bytes(s), 0);
    store_close(s);
    store_close(NULL);
}

static void test_too_many_bytes_send_the_oldest_away(void) {
    struct store *s = open_store(1000, 3 * STORE_JOB_BYTES);
    char id[8];
    for (int i = 0; i < 5; i++) {
        snprintf(id, sizeof id, "j%d", i);
        struct job *j = job_named(id, "");
        store_add(s, j);
        store_keep(s, j, 0, i);
        drop(s, i);
    }
    CHECK_INT(store_kept(s), 3);
    CHECK(!store_find(s, "j0") && !store_find(s, "j1") && store_find(s, "j2"));
    CHECK_STR(store_first(s)->id, "j2");
    drop(s, INT64_MAX);
    store_close(s);
}

static void test_keys(void) {
    struct store *s = open_store(1000, 1 << 30);
    struct job *a = job_named("a", "nk"), *b = job_named("b", "ok");
    store_add(s, a);
    store_add(s, b);
    CHECK(store_find_key(s, "nk") == a && store_find_key(s, "ok") == b);
    store_forget_key(s, a);
    store_forget_key(s, a); /* twice is fine */
    CHECK(!store_find_key(s, "nk") && store_find(s, "a") == a);
    store_keep(s, a, 0, 0);
    store_keep(s, b, 0, 0);
    drop(s, 1000);
    CHECK(!store_find_key(s, "ok"));
    store_close(s);
}

static void test_many(void) {
    enum { MANY = 20000 };
    struct store *s = open_store(10, SIZE_MAX);
    char id[32];
    for (int i = 0; i < MANY; i++) {
        snprintf(id, sizeof id, "job-%d", i);
        struct job *j = job_named(id, id);
        store_add(s, j);
        store_keep(s, j, 1, i);
    }
    int found = 0;
    for (int i = 0; i < MANY; i++) {
        snprintf(id, sizeof id, "job-%d", i);
        struct job *j = store_find(s, id);
        found += j && strcmp(j->id, id) == 0 && store_find_key(s, id) == j;
    }
    CHECK_INT(found, MANY);
    drop(s, INT64_MAX);
    CHECK(!store_was_here(s, "job-0")); /* long ago: the ring has gone round */
    snprintf(id, sizeof id, "job-%d", MANY - 1);
    CHECK(store_was_here(s, id));
    store_close(s);
}

static void check_hash(const char *message, size_t times, const char *want) {
    char hex[65];
    uint8_t out[SHA256_BYTES];
    size_t len = strlen(message);
    char *all = malloc(len * times + 1);
    if (!all) abort();
    for (size_t i = 0; i < times; i++) memcpy(all + i * len, message, len);
    sha256(out, all, len * times);
    for (int i = 0; i < SHA256_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", out[i]);
    CHECK_STR(hex, want);
    free(all);
}

/* the examples of FIPS 180-2, appendix B, and the empty message */
static void test_sha256(void) {
    check_hash("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    check_hash("a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    check_hash("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

int main(void) {
    TEST(test_time_runs_from_the_end_of_a_job);
    TEST(test_too_many_bytes_send_the_oldest_away);
    TEST(test_keys);
    TEST(test_many);
    TEST(test_sha256);
    return TEST_END();
}
