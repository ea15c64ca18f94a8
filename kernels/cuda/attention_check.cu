/* attention_check.cu - which attention kernel heads of 64 and 128 get on this device, found out
 * when a backend opens.
 *
 * attention_wgmma.cu was never run on a GPU by its authors. So a device has to show first that it
 * gives what a plain sum in double gives, on a made-up problem, and then, unless results must not
 * depend on time, that it is not slower there than attention_mma.cu. TACA_CUDA_ATTENTION=mma asks
 * for neither, =wgmma for the first alone: for measurements, and for a device that this crashes:
 * its error stays until the process ends, so the way round must be asked for, and the message says
 * how. */
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/attention.cuh"

enum { KINDS = 2, ROUNDS = 3, TXT = 140, STEP = 3 /* between rows that are looked at */ };
static const int dims[KINDS] = {64, 128};
static const float LARGEST = 1.5f; /* of the values */

/* ---- a problem: one segment's image queries -------------------------------------------------- */

/* Device memory: the segment, q, k and v packed, the output. */
struct trial {
    char *memory;
    struct taca_seg seg;
    struct taca_layout layout;
    attention_call call;
    size_t in_bytes, out_bytes;
};

static const size_t HEAD = 256;

/* Numbers within LARGEST that look random: the top bits of a hash of the index. */
static __global__ void fill_kernel(bf16 *x, int64_t n) {
    const int64_t i = my_value();
    uint32_t h = (uint32_t)i * 2654435761u;
    h = (h ^ h >> 15) * 2246822519u;
    if (i < n) x[i] = from_float<bf16>(((float)(h >> 8) * 0x1p-23f - 1) * LARGEST);
}

/* The views of stream s: q, k and v side by side from row `row` on. */
static void place(trial *t, int s, int64_t row, int64_t rows, int64_t width) {
    bf16 *at = (bf16 *)(t->memory + HEAD) + row * 3 * width;
    t->call.q[s] = {at, TACA_BF16, rows, width, 3 * width};
    t->call.k[s] = {at + width, TACA_BF16, rows, width, 3 * width};
    t->call.v[s] = {at + 2 * width, TACA_BF16, rows, width, 3 * width};
}

/* t's segment is set; the output is NaN. */
static bool trial_open(struct cuda *c, trial *t, int heads, int d, struct taca_err *err) {
    const int64_t width = heads * d, img = t->seg.n_img, txt = t->seg.n_txt;
    const int64_t values = (img + txt) * 3 * width;
    t->in_bytes = ((size_t)values * sizeof(bf16) + 255) / 256 * 256;
    t->out_bytes = (size_t)(img * width) * sizeof(float);
    t->memory =
        (char *)cuda_weight_alloc(c, HEAD + t->in_bytes + t->out_bytes, "attention's check", err);
    if (!t->memory) return false;
    t->layout.segs = &t->seg;
    t->layout.n_segs = 1;
    t->layout.img_rows = img;
    t->layout.txt_rows = txt;
    t->layout.device = t->memory;
    t->call.segs = (const taca_seg *)t->memory;
    t->call.n_segs = 1;
    t->call.heads = heads;
    t->call.head_dim = d;
    t->call.scale = 0.25f; /* scores of a few: neither one key nor the mean of all */
    place(t, TACA_IMG, 0, img, width);
    if (txt) place(t, TACA_TXT, img, txt, width);
    t->call.o[TACA_IMG] = {t->memory + HEAD + t->in_bytes, TACA_F32, img, width, width};
    cuda_stage_upload(c, t->memory, &t->seg, sizeof t->seg);
    launch(fill_kernel, blocks_for(values, 256), 256, 0, c->stream, (bf16 *)(t->memory + HEAD),
           values);
    return cuda_launched(c, "attention") &&
           cuda_ok(c, cudaMemsetAsync(t->call.o[TACA_IMG].data, 0xff, t->out_bytes, c->stream),
                   "attention");
}

static void trial_close(struct cuda *c, trial *t) {
    if (t->memory) (void)cuda_ok(c, cudaFree(t->memory), "attention");
}

/* ---- right? ---------------------------------------------------------------------------------- */

/* out[i] of query `row` is the weighted sum of values; qkv: all rows of the one head, image first.
 * Weights sum to 1 and are rounded to bf16 once. */
static bool row_is_right(const trial *t, const bf16 *qkv, const float *out, int64_t row) {
    const int d = t->call.head_dim;
    const int64_t n = t->seg.n_img + t->seg.n_txt;
    double sum = 0, want[128] = {};
    for (int64_t j = 0; j < n; j++) {
        const bf16 *key = qkv + j * 3 * d + d, *value = key + d;
        double z = 0;
        for (int i = 0; i < d; i++)
            z += (double)__bfloat162float(qkv[row * 3 * d + i]) * (double)__bfloat162float(key[i]);
        z *= (double)t->call.scale * (j < t->seg.n_img ? 1 : (double)t->seg.gamma);
        const double p = exp(z); /* within e^+-72: |z| is less than 0.25 * 128 * LARGEST^2 */
        sum += p;
        for (int i = 0; i < d; i++) want[i] += p * (double)__bfloat162float(value[i]);
    }
    for (int i = 0; i < d; i++)
        if (!(fabs((double)out[row * d + i] - want[i] / sum) <= (double)LARGEST * (0x1p-9 + 1e-3)))
            return false;
    return true;
}

static bool rows_are_right(struct cuda *c, const trial *t) {
    char *host = (char *)malloc(t->in_bytes + t->out_bytes);
    bool right = host && cuda_ok(c,
                                 cudaMemcpyAsync(host, t->memory + HEAD, t->in_bytes + t->out_bytes,
                                                 cudaMemcpyDeviceToHost, c->stream),
                                 "attention's check");
    right = cuda_ok(c, cudaStreamSynchronize(c->stream), "attention's check") && right;
    for (int64_t r = 0; right && r < t->seg.n_img; r += STEP)
        right = row_is_right(t, (const bf16 *)host, (const float *)(host + t->in_bytes), r);
    free(host);
    return right;
}

/* Tiles of keys of both streams, whole and cut, more than fit at once; rows for each warpgroup.
 * False also when the kernel cannot be launched; a lost device is the backend's error. */
static bool is_right(struct cuda *c, int d, struct taca_err *err) {
    trial t = {};
    bool right = false;
    t.seg = {0, d == 64 ? 164 : 100, 0, TXT, 1.25f};
    if (trial_open(c, &t, 1, d, err) && attend_wgmma(c, t.call, &t.layout)) {
        const bool launched = cudaGetLastError() == cudaSuccess;
        right = rows_are_right(c, &t) && launched;
    }
    trial_close(c, &t);
    return right && !c->base.error.code;
}

/* ---- faster? --------------------------------------------------------------------------------- */

/* Milliseconds of one run. */
static float time_of(struct cuda *c, const trial *t, decltype(attend_mma) *attend,
                     cudaEvent_t (&at)[2]) {
    float ms = 0;
    (void)cudaEventRecord(at[0], c->stream);
    (void)attend(c, t->call, &t->layout);
    (void)cudaEventRecord(at[1], c->stream);
    if (cuda_launched(c, "attention") && cuda_ok(c, cudaEventSynchronize(at[1]), "attention"))
        (void)cuda_ok(c, cudaEventElapsedTime(&ms, at[0], at[1]), "attention");
    return ms;
}

/* In turns, the least of each; the first round warms up. */
static bool wins(struct cuda *c, const trial *t, cudaEvent_t (&at)[2]) {
    float mma = INFINITY, wgmma = INFINITY;
    for (int i = 0; i < ROUNDS && !c->base.error.code; i++) {
        mma = fminf(mma, time_of(c, t, attend_mma, at));
        wgmma = fminf(wgmma, time_of(c, t, attend_wgmma, at));
    }
    return wgmma <= mma;
}

/* About a wave of blocks on a large GPU, keys as many as a picture of 1024 x 1024 has. */
static bool is_faster(struct cuda *c, int d, struct taca_err *err) {
    trial t = {};
    cudaEvent_t at[2] = {};
    t.seg = {0, 32 * c->sms, 0, 0, 1};
    const bool faster = trial_open(c, &t, c->sms / 33 + 1, d, err) &&
                        cuda_ok(c, cudaEventCreateWithFlags(&at[0], 0), "event") &&
                        cuda_ok(c, cudaEventCreateWithFlags(&at[1], 0), "event") && wins(c, &t, at);
    for (int i = 0; i < 2; i++)
        if (at[i]) (void)cudaEventDestroy(at[i]);
    trial_close(c, &t);
    return faster && !c->base.error.code;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Into the words about this backend: which kernel it is to be, and why not the other. */
static void note(struct cuda *c, const char *const why[KINDS]) {
    char *text = c->base.detail + strlen(c->base.detail);
    const size_t room = sizeof c->base.detail - strlen(c->base.detail);
    if (c->wgmma[0] && c->wgmma[1])
        snprintf(text, room, ", attention: wgmma");
    else if (c->wgmma[0] || c->wgmma[1])
        snprintf(text, room, ", attention: wgmma (%d: %s)", dims[c->wgmma[0]], why[c->wgmma[0]]);
    else
        snprintf(text, room, ", attention: mma (wgmma: %s)", why[1]);
}

/* A device that is lost here is lost to this process, whatever it asks for next. */
static enum taca_code failed(struct cuda *c, const struct taca_err *why, struct taca_err *err) {
    const struct taca_err *e = why->code ? why : &c->base.error;
    const bool lost = e->code == TACA_EDEVICE;
    return c->host->fail(err, e->code, "%s%s", e->text,
                         lost ? "; with TACA_CUDA_ATTENTION=mma in the environment the check of "
                                "attention by wgmma is left out"
                              : "");
}

enum taca_code cuda_attention_open(struct cuda *c, struct taca_err *err) {
    struct taca_err trouble = {};
    const char *asked = getenv("TACA_CUDA_ATTENTION"), *why[KINDS] = {};
    const bool never = asked && strcmp(asked, "mma") == 0;
    const bool always = c->deterministic || (asked && strcmp(asked, "wgmma") == 0);
    if (c->base.precision != TACA_BF16 || c->arch != 90) return TACA_OK;
    for (int i = 0; i < KINDS; i++) {
        const bool right = !never && is_right(c, dims[i], &trouble);
        c->wgmma[i] = right && (always || is_faster(c, dims[i], &trouble));
        why[i] = never ? "not asked for" : right ? "slower" : "wrong";
        if (trouble.code || c->base.error.code) return failed(c, &trouble, err);
    }
    note(c, why);
    return TACA_OK;
}
