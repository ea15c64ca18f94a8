/* graph.cu - ops that come again and again, as one CUDA graph each.
 *
 * A key runs plainly when it is first seen: work memory grows, the library's algorithms are timed.
 * The second time its ops are recorded and launched as a graph, from then on the graph alone is.
 * A graph knows addresses, so all are forgotten when memory that one may use goes or moves. What
 * cannot be recorded runs plainly for good; a graph for which there is no memory is none. */
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/cuda.cuh"

enum { KEYS = 48, GRAPHS = 16, ATTEMPTS = 2 };
static const size_t GRAPH_BYTES = 128 << 20; /* of all graphs together, as the device counts */

struct recording {
    void *key;
    size_t key_bytes;
    cudaGraphExec_t exec; /* NULL: only seen so far */
    size_t device_bytes;
    int failed; /* attempts */
    uint64_t used;
};

struct cuda_graphs {
    struct recording list[KEYS];
    int n;
    uint64_t turn;
    struct recording *now; /* its ops are being recorded, */
    bool given_up;         /* in vain */
    struct taca_replay_counts counts;
};

bool cuda_graphs_open(struct cuda *c) {
    c->graphs = (struct cuda_graphs *)calloc(1, sizeof *c->graphs);
    if (c->graphs) return true;
    c->host->backend_fail(&c->base, TACA_ENOMEM, "cuda:%d: graphs", c->device);
    return false;
}

/* The device has nothing of it to do any more. */
static void drop_graph(struct cuda_graphs *g, struct recording *r) {
    if (!r->exec) return;
    (void)cudaGraphExecDestroy(r->exec);
    g->counts.kept--;
    g->counts.kept_bytes -= r->device_bytes;
    r->exec = NULL;
    r->device_bytes = 0;
}

/* Keys stay known: they are told apart by more than what went. */
static void drop_graphs(struct cuda_graphs *g) {
    for (int i = 0; i < g->n; i++) {
        drop_graph(g, &g->list[i]);
        g->list[i].failed = 0;
    }
}

void cuda_graphs_close(struct cuda *c) {
    struct cuda_graphs *g = c->graphs;
    if (!g) return;
    drop_graphs(g);
    for (int i = 0; i < g->n; i++) free(g->list[i].key);
    free(g);
    c->graphs = NULL;
}

void cuda_replay_forget(struct taca_backend *b) {
    struct cuda *c = cuda_of(b);
    if (c->graphs->counts.kept)
        (void)cuda_ok(c, cudaStreamSynchronize(cuda_stream_of(c, TACA_LANE_STEP)), "graph");
    drop_graphs(c->graphs);
}

struct taca_replay_counts cuda_replay_count(const struct taca_backend *b) {
    const struct cuda *c = (const struct cuda *)b;
    return c->graphs ? c->graphs->counts : taca_replay_counts();
}

bool cuda_must_not_now(struct cuda *c) {
    if (!c->graphs->now) return false;
    c->graphs->given_up = true;
    return true;
}

/* ---- which to keep --------------------------------------------------------------------------- */

static struct recording *find(struct cuda_graphs *g, const void *key, size_t bytes) {
    for (int i = 0; i < g->n; i++)
        if (g->list[i].key_bytes == bytes && memcmp(g->list[i].key, key, bytes) == 0)
            return &g->list[i];
    return NULL;
}

/* The one that was used longest ago, among those with or without a graph. */
static struct recording *oldest(struct cuda_graphs *g, bool with_graph) {
    struct recording *found = NULL;
    for (int i = 0; i < g->n; i++) {
        struct recording *r = &g->list[i];
        if ((r->exec != NULL) == with_graph && (!found || r->used < found->used)) found = r;
    }
    return found;
}

/* Notes a key. Without memory for it nothing is noted. Keys that come once, as of batches that
 * change with every step, push out each other and no graph: KEYS is more than GRAPHS. */
static void note(struct cuda_graphs *g, const void *key, size_t bytes) {
    void *copy = malloc(bytes);
    if (!copy) return;
    memcpy(copy, key, bytes);
    struct recording *r = g->n < KEYS ? &g->list[g->n++] : oldest(g, false);
    free(r->key);
    *r = {copy, bytes, NULL, 0, 0, ++g->turn};
}

/* Room for one more graph. */
static void make_room(struct cuda *c) {
    struct cuda_graphs *g = c->graphs;
    while (g->counts.kept >= GRAPHS || g->counts.kept_bytes >= GRAPH_BYTES) {
        (void)cuda_ok(c, cudaStreamSynchronize(c->stream), "graph"); /* it may still be running */
        drop_graph(g, oldest(g, true));
    }
}

/* ---- recording ------------------------------------------------------------------------------- */

/* The graph comes to nothing, and the ops can still be run: no error of the backend. */
static void give_up(struct cuda_graphs *g, struct recording *r) {
    (void)cudaGetLastError();
    drop_graph(g, r);
    g->counts.failed++;
    r->failed++;
}

/* False without memory for it; any other error is the backend's. */
static bool start_graph(struct cuda *c, struct recording *r) {
    const cudaError_t e = cudaGraphLaunch(r->exec, c->stream);
    if (e == cudaErrorMemoryAllocation) return false;
    (void)cuda_ok(c, e, "graph");
    return true;
}

static void begin_recording(struct cuda *c, struct recording *r) {
    make_room(c);
    c->graphs->given_up = false;
    if (cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess)
        c->graphs->now = r;
    else
        give_up(c->graphs, r);
}

bool cuda_replay(struct taca_backend *b, const void *key, size_t bytes) {
    struct cuda *c = cuda_of(b);
    struct cuda_graphs *g = c->graphs;
    struct recording *r = find(g, key, bytes);
    if (r) r->used = ++g->turn;
    if (r && r->exec && start_graph(c, r)) {
        g->counts.replayed++;
        return true;
    }
    if (!r)
        note(g, key, bytes);
    else if (r->exec)
        give_up(g, r);
    else if (r->failed < ATTEMPTS)
        begin_recording(c, r);
    if (!g->now) g->counts.plain++;
    return false;
}

/* What it takes of the device is about what is free less than before: other processes may be there
 * too. */
static bool make_graph(struct cuda *c, struct recording *r, cudaGraph_t recorded) {
    struct taca_replay_counts *n = &c->graphs->counts;
    size_t before = 0, after = 0, total;
    (void)cudaMemGetInfo(&before, &total);
    if (cudaGraphInstantiate(&r->exec, recorded, 0) != cudaSuccess) {
        r->exec = NULL;
        return false;
    }
    n->kept++;
    const bool there = cudaGraphUpload(r->exec, c->stream) == cudaSuccess;
    (void)cudaMemGetInfo(&after, &total);
    r->device_bytes = before > after ? before - after : 0;
    n->kept_bytes += r->device_bytes;
    return there;
}

bool cuda_recorded(struct taca_backend *b) {
    struct cuda *c = cuda_of(b);
    struct cuda_graphs *g = c->graphs;
    struct recording *r = g->now;
    cudaGraph_t recorded = NULL;
    if (!r) return true;
    g->now = NULL;
    const bool whole =
        cudaStreamEndCapture(c->stream, &recorded) == cudaSuccess && !g->given_up && !b->error.code;
    const bool started = whole && make_graph(c, r, recorded) && start_graph(c, r);
    if (recorded) (void)cudaGraphDestroy(recorded);
    if (started) {
        g->counts.recorded++;
        return true;
    }
    give_up(g, r);
    if (!b->error.code) g->counts.plain++;
    return b->error.code != TACA_OK; /* then there is nothing to be run */
}
