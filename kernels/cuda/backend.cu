/* backend.cu - the CUDA backend: opening, memory, errors, and the table of its ops. */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/cuda.cuh"

/* Blocks up to this size are kept when they are freed: a layout per step costs no allocation. */
static const size_t CUDA_SMALL = 1 << 20;
static const size_t LEAST = 256;

/* ---- errors ---------------------------------------------------------------------------------- */

bool cuda_ok(struct cuda *c, cudaError_t e, const char *what) {
    if (e == cudaSuccess) return true;
    c->host->backend_fail(&c->base, e == cudaErrorMemoryAllocation ? TACA_ENOMEM : TACA_EDEVICE,
                          "cuda:%d: %s: %s", c->device, what, cudaGetErrorString(e));
    return false;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static bool let_go(struct cuda *c);

/* NULL when there is no memory, not even that of graphs; any other failure is the backend's error
 * as well. */
static void *device_alloc(struct cuda *c, size_t bytes) {
    void *p = NULL;
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e == cudaErrorMemoryAllocation && cuda_replay_count(&c->base).kept) {
        cuda_replay_forget(&c->base);
        e = cudaMalloc(&p, bytes ? bytes : 1);
    }
    if (e == cudaSuccess) return p;
    (void)cudaGetLastError(); /* no memory is not sticky */
    if (e == cudaErrorMemoryAllocation && let_go(c)) return device_alloc(c, bytes);
    if (e != cudaErrorMemoryAllocation) (void)cuda_ok(c, e, "allocation");
    return NULL;
}

static size_t size_class(size_t bytes) {
    size_t size = LEAST;
    while (size < bytes) size *= 2;
    return size;
}

/* Has all been done that may use it? */
static bool is_free(struct cuda *c, const struct cuda_block *k) {
    return !k->used &&
           (k->lane == c->base.lane || c->waits[k->lane] > k->wait || cuda_lane_idle(c, k->lane));
}

static bool is_large(size_t bytes) { return bytes > CUDA_SMALL; }

/* Large ones are not rounded up, so one that is a little too large will do. */
static bool fits(const struct cuda_block *k, size_t size) {
    return k->size == size || (is_large(size) && k->size > size && k->size - size < size / 8);
}

/* Gives back what is kept of large blocks, waiting for the device; false when that was nothing. */
static bool let_go(struct cuda *c) {
    int n = 0;
    for (int i = 0; i < c->n_blocks; i++) {
        if (c->blocks[i].used || !is_large(c->blocks[i].size))
            c->blocks[n++] = c->blocks[i];
        else
            (void)cuda_ok(c, cudaFree(c->blocks[i].p), "free");
    }
    const bool some = n < c->n_blocks;
    c->n_blocks = n;
    return some;
}

static void *cuda_alloc(struct taca_backend *b, size_t bytes) {
    struct cuda *c = cuda_of(b);
    const size_t size = is_large(bytes) ? bytes : size_class(bytes);
    for (int i = c->n_blocks - 1; i >= 0; i--) {
        struct cuda_block *k = &c->blocks[i];
        if (!fits(k, size) || !is_free(c, k)) continue;
        k->used = true;
        return k->p;
    }
    if (c->n_blocks == c->cap_blocks) {
        int cap = c->cap_blocks ? 2 * c->cap_blocks : 64;
        void *grown = realloc(c->blocks, (size_t)cap * sizeof *c->blocks);
        if (!grown) return NULL;
        c->blocks = (struct cuda_block *)grown;
        c->cap_blocks = cap;
    }
    void *p = device_alloc(c, size);
    if (p) c->blocks[c->n_blocks++] = {p, size, true, b->lane, 0};
    return p;
}

/* To free memory the runtime waits for all lanes, so while one works large blocks are kept. */
static void cuda_free(struct taca_backend *b, void *p) {
    struct cuda *c = cuda_of(b);
    for (int i = c->n_blocks - 1; i >= 0; i--) {
        struct cuda_block *k = &c->blocks[i];
        if (k->p != p) continue;
        k->used = false;
        k->lane = b->lane;
        k->wait = c->waits[b->lane];
        if (is_large(k->size) && cuda_lane_idle(c, TACA_LANE_STEP) &&
            cuda_lane_idle(c, TACA_LANE_SIDE))
            (void)let_go(c);
        return;
    }
}

/* False without memory, or with the backend's error. */
static bool grow(struct cuda *c, struct cuda_buf *b, size_t bytes) {
    if (b->size >= bytes) return true;
    /* it holds the old address; what is done beside steps is not recorded */
    if (c->base.lane == TACA_LANE_STEP) cuda_replay_forget(&c->base);
    void *p = device_alloc(c, bytes);
    if (!p) return false;
    (void)cuda_ok(c, cudaFree(b->p), "free"); /* waits for whoever still uses it */
    b->p = p;
    b->size = bytes;
    return true;
}

void *cuda_buf_get(struct cuda *c, struct cuda_buf *b, size_t bytes, const char *op) {
    if (b->size < bytes && cuda_must_not_now(c)) return NULL;
    if (grow(c, b, bytes)) return b->p;
    c->host->backend_fail(&c->base, TACA_ENOMEM, "cuda:%d: %s: %zu bytes of work memory", c->device,
                          op, bytes);
    return NULL;
}

static struct taca_work cuda_work(struct taca_backend *b) {
    struct cuda *c = cuda_of(b);
    const struct taca_work work = {{c->in.needed, c->out.needed}};
    c->in.needed = c->out.needed = 0;
    return work;
}

static bool cuda_reserve(struct taca_backend *b, const struct taca_work *work) {
    struct cuda *c = cuda_of(b);
    return grow(c, &c->in, work->bytes[0]) && grow(c, &c->out, work->bytes[1]);
}

void *cuda_weight_alloc(struct cuda *c, size_t bytes, const char *what, struct taca_err *err) {
    void *p = device_alloc(c, bytes);
    if (!p && c->base.error.code)
        (void)c->host->fail(err, c->base.error.code, "%s", c->base.error.text);
    else if (!p)
        (void)c->host->fail(err, TACA_ENOMEM, "cuda:%d: %s: %zu bytes", c->device, what, bytes);
    return p;
}

static void cuda_upload(struct taca_backend *b, void *dst, const void *host, size_t bytes) {
    cuda_stage_upload(cuda_of(b), dst, host, bytes);
}

static void cuda_download(struct taca_backend *b, void *host, const void *src, size_t bytes) {
    struct cuda *c = cuda_of(b);
    if (cuda_must_not_now(c)) return;
    if (cuda_ok(c, cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, c->stream),
                "download"))
        (void)cuda_ok(c, cudaStreamSynchronize(c->stream), "download");
}

static void cuda_fill_zero(struct taca_backend *b, void *dst, size_t bytes) {
    struct cuda *c = cuda_of(b);
    (void)cuda_ok(c, cudaMemsetAsync(dst, 0, bytes, c->stream), "fill_zero");
}

static void cuda_wait(struct taca_backend *b) {
    struct cuda *c = cuda_of(b);
    if (cuda_must_not_now(c)) return;
    if (cuda_ok(c, cudaStreamSynchronize(c->stream), "wait")) c->waits[b->lane]++;
}

static bool cuda_memory(struct taca_backend *, struct taca_device_memory *out) {
    size_t unused = 0;
    if (cudaMemGetInfo(&unused, &out->total_bytes) != cudaSuccess) {
        (void)cudaGetLastError(); /* whoever computes next will say what is wrong */
        return false;
    }
    out->used_bytes = out->total_bytes - unused;
    return true;
}

static size_t cuda_foreseen(const struct taca_backend *b) {
    const struct cuda *c = (const struct cuda *)b;
    return c->in.foreseen + c->out.foreseen + c->away.in.foreseen + c->away.out.foreseen +
           TACA_LANES * cuda_lt_bytes;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void cuda_close(struct taca_backend *b) {
    struct cuda *c = cuda_of(b);
    if (c->stream) (void)cudaStreamSynchronize(c->stream);
    if (c->away.stream) (void)cudaStreamSynchronize(c->away.stream);
    cuda_graphs_close(c);
    c->host->backend_finish(b);
    while (c->weights) {
        cuda_weight *w = c->weights;
        c->weights = w->next;
        w->close(c, w);
    }
    lt_close(c);
    for (int i = 0; i < c->n_blocks; i++) (void)cudaFree(c->blocks[i].p);
    free(c->blocks);
    cuda_lanes_close(c);
    free(c);
}

static const struct taca_backend_ops cuda_ops = {
    .name = "cuda",
    .counting = false,
    .close = cuda_close,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .fill_zero = cuda_fill_zero,
    .wait = cuda_wait,
    .memory = cuda_memory,
    .lane = cuda_lane,
    .mark_open = cuda_mark_open,
    .mark_close = cuda_mark_close,
    .mark_set = cuda_mark_set,
    .mark_done = cuda_mark_done,
    .mark_follow = cuda_mark_follow,
    .linear_open = cuda_linear_open,
    .linear_close = cuda_linear_close,
    .conv_open = cuda_conv_open,
    .linear = cuda_linear,
    .activate = cuda_activate,
    .layer_norm = cuda_layer_norm,
    .norm_modulate = cuda_norm_modulate,
    .gate_add = cuda_gate_add,
    .gate_norm = cuda_gate_norm,
    .add = cuda_add,
    .multiply = cuda_multiply,
    .rms_norm = cuda_rms_norm,
    .qk_norm_rope = cuda_qk_norm_rope,
    .attention = cuda_attention,
    .embed = cuda_embed,
    .time_features = cuda_time_features,
    .patchify = cuda_patchify,
    .unpatchify = cuda_unpatchify,
    .add_position = cuda_add_position,
    .cfg_euler = cuda_cfg_euler,
    .axpb = cuda_axpb,
    .axpby = cuda_axpby,
    .blend = cuda_blend,
    .chw_to_map = cuda_chw_to_map,
    .map_to_chw = cuda_map_to_chw,
    .conv2d = cuda_conv2d,
    .group_norm = cuda_group_norm,
    .upsample2 = cuda_upsample2,
    .map_to_rgb8 = cuda_map_to_rgb8,
    .replay = cuda_replay,
    .recorded = cuda_recorded,
    .replay_forget = cuda_replay_forget,
    .replay_count = cuda_replay_count,
    .weigh_linear = cuda_weigh_linear,
    .weigh_conv = cuda_weigh_conv,
    .foresee_linear = cuda_foresee_linear,
    .foresee_conv2d = cuda_foresee_conv2d,
    .foresee_attention = NULL,
    .foreseen = cuda_foreseen,
    .work = cuda_work,
    .reserve = cuda_reserve,
};

static int cuda_devices(const struct taca_module_host *host, struct taca_err *err) {
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    (void)cudaGetLastError();
    if (e == cudaSuccess && n > 0) return n;
    (void)host->fail(err, TACA_EUNSUPPORTED, "no CUDA device: %s",
                     e == cudaSuccess ? "the driver lists none" : cudaGetErrorString(e));
    return 0;
}

static enum taca_code start(struct cuda *c, struct taca_err *err) {
    cudaDeviceProp p;
    if (cuda_ok(c, cudaSetDevice(c->device), "device") &&
        cuda_ok(c, cudaGetDeviceProperties(&p, c->device), "device") && cuda_lanes_open(c) &&
        cuda_graphs_open(c)) {
        c->arch = 10 * p.major + p.minor;
        c->sms = p.multiProcessorCount;
        c->shared_bytes = p.sharedMemPerBlockOptin;
        if (c->arch < 80)
            return c->host->fail(err, TACA_EUNSUPPORTED,
                                 "cuda:%d: %.60s has compute capability %d.%d, wanted 8.0 or more",
                                 c->device, p.name, p.major, p.minor);
        const enum taca_code rc = lt_open(c, err);
        if (rc) return rc;
        if (c->base.narrow_type && !lt_has_narrow(c)) c->base.narrow_type = TACA_NARROW_NONE;
        if (c->base.error.code)
            return c->host->fail(err, c->base.error.code, "%s", c->base.error.text);
        snprintf(c->base.detail, sizeof c->base.detail, "%.40s, %s%s", p.name,
                 c->base.narrow_type              ? "fp8"
                 : c->base.precision == TACA_BF16 ? "bf16"
                                                  : "f32",
                 c->deterministic ? ", deterministic" : "");
        return cuda_attention_open(c, err);
    }
    return c->host->fail(err, c->base.error.code, "%s", c->base.error.text);
}

static enum taca_code cuda_open(struct taca_backend **out, int device,
                                const struct taca_backend_opts *opts,
                                const struct taca_module_host *host, struct taca_err *err) {
    struct cuda *c = (struct cuda *)calloc(1, sizeof *c);
    if (!c) return host->fail(err, TACA_ENOMEM, "cuda backend");
    c->base.ops = &cuda_ops;
    c->base.precision = opts->precision == TACA_BF16 ? TACA_BF16 : TACA_F32;
    c->host = host;
    c->device = device;
    c->deterministic = opts->deterministic;
    c->base.narrow_type = opts->narrow == TACA_NARROW_FP8 ? TACA_NARROW_FP8 : TACA_NARROW_NONE;
    enum taca_code rc = start(c, err);
    if (rc == TACA_OK)
        *out = &c->base;
    else
        cuda_close(&c->base);
    return rc;
}

extern "C" __attribute__((visibility("default"))) const struct taca_module *
taca_backend_module(void) {
    static const struct taca_module m = {TACA_MODULE_VERSION, sizeof(struct taca_backend_ops),
                                         sizeof(struct taca_backend), cuda_devices, cuda_open};
    return &m;
}
