/* test_par.c - the CPU backend's thread pool: every item once, no worker twice at a time, however
 * short the jobs and however many threads share the machine. */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "kernels/cpu/par.h"
#include "tests/test.h"

enum { ITEMS = 3000, THREADS = 5 };

static _Atomic int started;
static void count_start(void *ctx) {
    if (strcmp(ctx, "helper") == 0) atomic_fetch_add(&started, 1);
}

struct job {
    _Atomic int seen[ITEMS];
    _Atomic int busy[THREADS];
    _Atomic int clashes;
    int threads;
};

static void item(void *ctx, int64_t i, int worker) {
    struct job *j = ctx;
    if (worker < 0 || worker >= j->threads || atomic_exchange(&j->busy[worker], 1))
        atomic_fetch_add(&j->clashes, 1);
    atomic_fetch_add(&j->seen[i], 1);
    atomic_store(&j->busy[worker], 0);
}

static struct cpu_pool *open_pool(int threads) {
    static char word[] = "helper";
    struct cpu_pool *p = cpu_pool_open(threads, count_start, word);
    CHECK(p != NULL);
    return p;
}

/* Jobs of every small size, one after the other without a pause, then a long one. */
static void test_every_item_runs_once(void) {
    static struct job j;
    for (int threads = 1; threads <= THREADS; threads += 2) {
        struct cpu_pool *p = open_pool(threads);
        memset(&j, 0, sizeof j);
        j.threads = threads;
        int64_t jobs = 0;
        for (int round = 0; round < 100; round++)
            for (int64_t n = 0; n <= 20; n++, jobs++) cpu_parallel(p, n, item, &j);
        cpu_parallel(p, ITEMS, item, &j);
        int wrong = 0;
        for (int i = 0; i < ITEMS; i++) wrong += j.seen[i] != 1 + (i < 20 ? 100 * (20 - i) : 0);
        CHECK_INT(wrong, 0);
        CHECK_INT(j.clashes, 0);
        cpu_pool_close(p);
    }
}

/* Helpers fall asleep between these jobs and must be woken. */
static void test_sleeping_helpers_wake(void) {
    static struct job j;
    struct cpu_pool *p = open_pool(3);
    j.threads = 3;
    for (int k = 0; k < 20; k++) {
        struct timespec ms = {0, 1000000};
        nanosleep(&ms, NULL);
        cpu_parallel(p, 50, item, &j);
    }
    for (int i = 0; i < 50; i++) CHECK_INT(j.seen[i], 20);
    CHECK_INT(j.clashes, 0);
    cpu_pool_close(p);
}

/* Each of two pools is used by its own thread. */
static void *use_own_pool(void *arg) {
    struct job *j = arg;
    struct cpu_pool *p = cpu_pool_open(3, count_start, (char[]){"helper"});
    for (int k = 0; p && k < 500; k++) cpu_parallel(p, 10, item, j);
    cpu_pool_close(p);
    return NULL;
}
static void test_two_pools_do_not_meet(void) {
    static struct job a, b;
    pthread_t other;
    a.threads = b.threads = 3;
    CHECK_INT(pthread_create(&other, NULL, use_own_pool, &a), 0);
    (void)use_own_pool(&b);
    CHECK_INT(pthread_join(other, NULL), 0);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(a.seen[i], 500);
        CHECK_INT(b.seen[i], 500);
    }
    CHECK_INT(a.clashes + b.clashes, 0);
}

static void test_helpers_are_initialised(void) {
    atomic_store(&started, 0);
    struct cpu_pool *p = open_pool(4);
    CHECK_INT(cpu_pool_threads(p), 4);
    cpu_pool_close(p); /* joins them: each has begun */
    CHECK_INT(started, 3);
    cpu_pool_close(NULL);
    CHECK(cpu_threads_available() >= 1);
}

int main(void) {
    TEST(test_every_item_runs_once);
    TEST(test_sleeping_helpers_wake);
    TEST(test_two_pools_do_not_meet);
    TEST(test_helpers_are_initialised);
    return TEST_END();
}
