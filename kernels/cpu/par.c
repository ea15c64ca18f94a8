/* par.c - see par.h.
 *
 * A job is published as one 64-bit ticket: epoch, number of items, next item. Adding 1 claims an
 * item and tells at the same moment which job it belongs to; whoever claims beyond the end has
 * touched nothing else. The next job is published only after every claimed item is done, so `fn`
 * and `ctx` are stable for all who hold one. */
#include "kernels/cpu/par.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    MAX_THREADS = 256,
    FIELD = 20, /* bits of "items" and of "next" in a ticket */
    MAX_ITEMS = 1 << (FIELD - 1),
    /* About 20 us: longer than the gap between two ops, shorter than a scheduler's slice. */
    SPINS = 600,
};
static const uint64_t FIELD_MASK = (1u << FIELD) - 1;

struct cpu_pool {
    _Alignas(64) _Atomic uint64_t ticket; /* epoch << 40 | items << 20 | next */
    _Alignas(64) _Atomic int64_t done;    /* items of this job that are finished */
    cpu_item_fn fn;
    void *ctx;

    _Alignas(64) pthread_mutex_t lock; /* for sleeping only */
    pthread_cond_t wake;
    _Atomic int asleep;
    _Atomic bool stop;

    int threads; /* helpers that run, and the caller */
    void (*init)(void *ctx);
    void *init_ctx;
    struct helper {
        struct cpu_pool *pool;
        pthread_t thread;
        int worker;
    } helper[]; /* threads - 1 */
};

static uint64_t epoch_of(uint64_t ticket) { return ticket >> (2 * FIELD); }

/* Claims and runs items until none is left. */
static void work(struct cpu_pool *p, int worker) {
    for (;;) {
        const uint64_t t = atomic_fetch_add_explicit(&p->ticket, 1, memory_order_acq_rel);
        const uint64_t next = t & FIELD_MASK, items = t >> FIELD & FIELD_MASK;
        if (next >= items) return;
        p->fn(p->ctx, (int64_t)next, worker);
        atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
    }
}

/* Sleeps until the epoch is no longer `seen` or the pool closes. */
static void doze(struct cpu_pool *p, uint64_t seen) {
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->asleep, 1);
    while (epoch_of(atomic_load(&p->ticket)) == seen && !atomic_load(&p->stop))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *help(void *arg) {
    struct helper *h = arg;
    struct cpu_pool *p = h->pool;
    uint64_t seen = 0;
    p->init(p->init_ctx);
    while (!atomic_load(&p->stop)) {
        uint64_t now = seen;
        for (int i = 0; i < SPINS && now == seen; i++) {
            _mm_pause();
            now = epoch_of(atomic_load_explicit(&p->ticket, memory_order_acquire));
        }
        if (now == seen) {
            doze(p, seen);
            continue;
        }
        seen = now;
        work(p, h->worker);
    }
    return NULL;
}

struct cpu_pool *cpu_pool_open(int threads, void (*init)(void *ctx), void *ctx) {
    if (threads < 1) threads = 1;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    size_t bytes = sizeof(struct cpu_pool) + (size_t)threads * sizeof(struct helper);
    struct cpu_pool *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) return NULL;
    atomic_init(&p->ticket, 0);
    atomic_init(&p->done, 0);
    atomic_init(&p->asleep, 0);
    atomic_init(&p->stop, false);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->init = init;
    p->init_ctx = ctx;
    p->threads = 1;
    for (; p->threads < threads; p->threads++) {
        struct helper *h = &p->helper[p->threads - 1];
        h->pool = p;
        h->worker = p->threads;
        if (pthread_create(&h->thread, NULL, help, h) != 0) break;
    }
    return p;
}

void cpu_pool_close(struct cpu_pool *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->threads - 1; i++) pthread_join(p->helper[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int cpu_pool_threads(const struct cpu_pool *p) { return p->threads; }

/* At most MAX_ITEMS at once. */
static void run_job(struct cpu_pool *p, int64_t n, cpu_item_fn fn, void *ctx) {
    p->fn = fn;
    p->ctx = ctx;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    const uint64_t epoch = epoch_of(atomic_load_explicit(&p->ticket, memory_order_relaxed)) + 1;
    atomic_store(&p->ticket, epoch << (2 * FIELD) | (uint64_t)n << FIELD);
    if (atomic_load(&p->asleep) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    work(p, 0);
    for (int i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < n; i++)
        if (i < SPINS)
            _mm_pause();
        else
            sched_yield(); /* a helper holds an item and may want this very CPU */
}

struct slice {
    cpu_item_fn fn;
    void *ctx;
    int64_t first;
};
static void run_slice(void *ctx, int64_t i, int worker) {
    const struct slice *s = ctx;
    s->fn(s->ctx, s->first + i, worker);
}

void cpu_parallel(struct cpu_pool *p, int64_t n, cpu_item_fn fn, void *ctx) {
    if (p->threads == 1 || n == 1) {
        for (int64_t i = 0; i < n; i++) fn(ctx, i, 0);
        return;
    }
    for (struct slice s = {fn, ctx, 0}; s.first < n; s.first += MAX_ITEMS)
        run_job(p, n - s.first < MAX_ITEMS ? n - s.first : MAX_ITEMS, run_slice, &s);
}

/* CPUs of the cgroup's quota rounded up, 0 when there is none. */
static int quota_cpus(void) {
    long long quota = -1, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1; /* "max" */
        fclose(f);
    }
    if (quota <= 0 || period <= 0) return 0;
    return (int)((quota + period - 1) / period);
}

int cpu_threads_available(void) {
    cpu_set_t set;
    int n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    int quota = quota_cpus();
    if (quota > 0 && quota < n) n = quota;
    return n > 0 ? n : 1;
}
