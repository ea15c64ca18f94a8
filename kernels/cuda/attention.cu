/* attention.cu - ragged attention with TACA's gamma: the plain kernel, the oracle of the fast ones.
 *
 * One block per query row and head. Keys pass in chunks: a thread works out the logits of its
 * keys, then the block's running maximum, sum and output move on (online softmax), so that no more
 * than a chunk of logits is ever stored. */
#include "kernels/cuda/attention.cuh"

enum { THREADS = 128, MAX_DIM = 512 };
static const int64_t CHUNK = 512;

struct plain_shared {
    float q[MAX_DIM], logit[CHUNK], part[THREADS / 32];
};

/* The sum or the maximum over a block, in every thread. */
template <bool MAX> static __device__ float block_reduce(float x, plain_shared *s) {
    x = MAX ? warp_max(x) : warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s->part[threadIdx.x / 32] = x;
    __syncthreads();
    float y = s->part[0];
    for (int i = 1; i < THREADS / 32; i++) y = MAX ? fmaxf(y, s->part[i]) : y + s->part[i];
    return y;
}

template <class T> struct key_view {
    const T *k, *v;
    int64_t k_ld, v_ld, n;
    float factor; /* gamma_s * scale where TACA applies */
};

template <class T>
static __device__ key_view<T> keys_of(const attention_call &a, const taca_seg &s, int from, int of,
                                      int head) {
    const taca_mat &k = a.k[of], &v = a.v[of];
    const bool taca = from == TACA_IMG && of == TACA_TXT;
    if (k.cols == 0) return {NULL, NULL, 0, 0, 0, 0};
    const int64_t first = seg_first(s, of), at = (int64_t)head * a.head_dim;
    return {(const T *)k.data + first * k.ld + at,
            (const T *)v.data + first * v.ld + at,
            k.ld,
            v.ld,
            seg_rows(s, of),
            taca ? s.gamma * a.scale : a.scale};
}

/* What a thread carries from chunk to chunk: the block's maximum and sum, its output columns. */
struct running {
    float top, sum, out[MAX_DIM / THREADS];
};

/* i: the query's place in its segment, or -1 where neither mask nor bias asks for it */
template <class T>
static __device__ void take_chunk(const attention_call &a, const key_view<T> &kv, int64_t first,
                                  int64_t n, int64_t i, int head, plain_shared *s, running *r) {
    float top = r->top, sum = 0;
    for (int64_t j = threadIdx.x; j < n; j += THREADS) {
        const T *key = kv.k + (first + j) * kv.k_ld;
        float z = 0;
        for (int d = 0; d < a.head_dim; d++) z += s->q[d] * to_float(key[d]);
        z *= kv.factor;
        if (a.rel_bias) z += a.rel_bias[head * a.bias_ld + a.bias_zero + i - (first + j)];
        s->logit[j] = z;
        top = fmaxf(top, z);
    }
    top = block_reduce<true>(top, s);
    const float keep = expf(r->top - top);
    for (int64_t j = threadIdx.x; j < n; j += THREADS) sum += s->logit[j] = expf(s->logit[j] - top);
    sum = block_reduce<false>(sum, s); /* its barriers also publish the weights */
    r->sum = r->sum * keep + sum;
    r->top = top;
    for (int k = 0; k < MAX_DIM / THREADS; k++) {
        const int d = k * THREADS + (int)threadIdx.x;
        if (d >= a.head_dim) break;
        float out = r->out[k] * keep;
        for (int64_t j = 0; j < n; j++)
            out += s->logit[j] * to_float(kv.v[(first + j) * kv.v_ld + d]);
        r->out[k] = out;
    }
    __syncthreads(); /* the weights have been read */
}

/* blockIdx.x: query row of `stream`, blockIdx.y: head */
template <class O, class T>
static __global__ void attention_plain_kernel(attention_call a, int stream,
                                              const int32_t *seg_of_row) {
    plain_shared *s = dynamic_shared<plain_shared>();
    const int64_t row = blockIdx.x;
    const int head = (int)blockIdx.y;
    const taca_seg seg = a.segs[seg_of_row[row]];
    const T *q = (const T *)a.q[stream].data + row * a.q[stream].ld + (int64_t)head * a.head_dim;
    const int64_t i = row - seg_first(seg, stream);
    running r = {-INFINITY, 0, {}};
    for (int d = (int)threadIdx.x; d < a.head_dim; d += THREADS) s->q[d] = to_float(q[d]);
    __syncthreads();
    for (int of = TACA_IMG; of <= TACA_TXT; of++) {
        const key_view<T> kv = keys_of<T>(a, seg, stream, of, head);
        const int64_t n = a.causal && i + 1 < kv.n ? i + 1 : kv.n;
        for (int64_t first = 0; first < n; first += CHUNK)
            take_chunk(a, kv, first, n - first < CHUNK ? n - first : CHUNK, i, head, s, &r);
    }
    O *o = (O *)a.o[stream].data + row * a.o[stream].ld + (int64_t)head * a.head_dim;
    for (int k = 0; k < MAX_DIM / THREADS; k++) {
        const int d = k * THREADS + (int)threadIdx.x;
        if (d < a.head_dim) o[d] = from_float<O>(r.out[k] / r.sum);
    }
}

/* ---- op -------------------------------------------------------------------------------------- */

static void attend_plain(struct cuda *c, const attention_call &a, int stream,
                         const struct taca_layout *l) {
    by_dtypes(a.o[stream].dtype, a.q[stream].dtype, [&](auto *p, auto *q) {
        launch(attention_plain_kernel<element<decltype(p)>, element<decltype(q)>>,
               dim3((unsigned)a.o[stream].rows, (unsigned)a.heads), THREADS, sizeof(plain_shared),
               c->stream, a, stream, taca_layout_seg_of_row(l, (enum taca_stream)stream));
    });
}

void cuda_attention(struct taca_backend *b, struct taca_mat o_img, struct taca_mat o_txt,
                    const struct taca_qkv *img, const struct taca_qkv *txt,
                    const struct taca_layout *l, const struct taca_attn *m) {
    struct cuda *c = cuda_of(b);
    const struct taca_mat &some = img->q.cols ? img->q : txt->q;
    attention_call a = {{img->q, txt->q},
                        {img->k, txt->k},
                        {img->v, txt->v},
                        {o_img, o_txt},
                        taca_layout_segs(l),
                        l->n_segs,
                        m->heads,
                        (int)(some.cols / m->heads),
                        m->scale,
                        m->mask == TACA_MASK_CAUSAL,
                        (const float *)m->rel_bias.data,
                        m->rel_bias.ld,
                        m->rel_bias.cols / 2};
    if (a.head_dim > MAX_DIM) {
        c->host->backend_fail(b, TACA_EUNSUPPORTED, "attention: heads of %d, at most %d",
                              a.head_dim, (int)MAX_DIM);
        return;
    }
    const bool done = (c->wgmma[a.head_dim == 128] && attend_wgmma(c, a, l)) ||
                      attend_mma(c, a, l) || attend_wide(c, a, l);
    for (int s = TACA_IMG; s <= TACA_TXT && !done; s++)
        if (a.o[s].cols && a.o[s].rows) attend_plain(c, a, s, l);
    (void)cuda_launched(c, "attention");
}
