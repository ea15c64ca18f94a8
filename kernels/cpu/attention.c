/* attention.c - joint attention of two ragged streams without an n x n matrix.
 *
 * A task is one tile of queries of one segment, head and stream. It walks the segment's image keys
 * and then its text keys in tiles, keeping a running maximum and sum per query (online softmax), so
 * memory is a few tiles per thread whatever the length. TACA is one number: the factor on the
 * scores of a tile is scale, or scale * gamma when image queries meet text keys; with gamma = 1 the
 * product is scale itself and the path is the same. Tiles are counted from the segment's start, so
 * what else is in the batch changes nothing. */
#include <math.h>

#include "kernels/cpu/cpu.h"

struct attn_job {
    struct cpu *c;
    const struct cpu_attn_kernels *k;
    struct taca_mat o[2];
    const struct taca_qkv *qkv[2]; /* by enum taca_stream */
    const struct taca_layout *l;
    const struct taca_attn *a;
    int64_t d, work;
    int64_t tiles; /* of queries, over all segments and both streams */
    float *buf;    /* per thread: q, o, max, sum, work */
};

static void stream_range(const struct taca_seg *s, int stream, int64_t *first, int64_t *n) {
    *first = stream == TACA_IMG ? s->img : s->txt;
    *n = stream == TACA_IMG ? s->n_img : s->n_txt;
}

static int64_t tiles(int64_t n) { return (n + CPU_ATTN_NQ - 1) / CPU_ATTN_NQ; }

static int64_t seg_tiles(const struct attn_job *j, int s) {
    int64_t n = tiles(j->l->segs[s].n_img);
    if (j->o[TACA_TXT].cols) n += tiles(j->l->segs[s].n_txt);
    return n;
}

static struct taca_mat head_of(struct taca_mat m, int64_t head, int64_t d, int64_t first,
                               int64_t n) {
    return taca_mat_rows(taca_mat_cols(m, head * d, d), first, n);
}

/* All keys of one stream of segment s, for the queries in t; q0 = the first query's place. */
static void walk(const struct attn_job *j, struct cpu_attn_tile *t, const struct taca_seg *s,
                 int stream, int64_t head, int64_t q0) {
    int64_t first, n;
    const float *bias = j->a->rel_bias.data ? cpu_row(j->a->rel_bias, head).p : NULL;
    if (j->qkv[stream]->q.cols == 0) return; /* left out of this attention */
    stream_range(s, stream, &first, &n);
    if (j->a->mask == TACA_MASK_CAUSAL && n > q0 + t->nq) n = q0 + t->nq;
    for (int64_t k0 = 0; k0 < n; k0 += CPU_ATTN_NK) {
        t->nk = n - k0 < CPU_ATTN_NK ? n - k0 : CPU_ATTN_NK;
        t->k = head_of(j->qkv[stream]->k, head, j->d, first + k0, t->nk);
        t->v = head_of(j->qkv[stream]->v, head, j->d, first + k0, t->nk);
        /* column n - 1 of the table is a key's own place */
        t->bias = bias ? bias + j->a->rel_bias.cols / 2 + q0 - k0 : NULL;
        t->causal = j->a->mask == TACA_MASK_CAUSAL ? q0 - k0 : INT64_MAX;
        j->k->tile(t);
    }
}

static void query_tile(const struct attn_job *j, const struct taca_seg *s, int stream, int64_t head,
                       int64_t q0, int worker) {
    int64_t first, n;
    stream_range(s, stream, &first, &n);
    const int64_t d = j->d, nq = n - q0 < CPU_ATTN_NQ ? n - q0 : CPU_ATTN_NQ;
    float *q = j->buf + worker * j->work, *o = q + CPU_ATTN_NQ * d;
    struct cpu_attn_tile t = {.nq = nq, .d = d, .q = q, .o = o};
    t.max = o + CPU_ATTN_NQ * d;
    t.sum = t.max + CPU_ATTN_NQ;
    t.work = t.sum + CPU_ATTN_NQ;

    j->k->pack(q, head_of(j->qkv[stream]->q, head, d, first + q0, nq));
    for (int64_t i = 0; i < CPU_ATTN_NQ; i++) {
        t.max[i] = -INFINITY;
        t.sum[i] = 0;
    }
    memset(o, 0, (size_t)(nq * d) * sizeof *o);
    t.factor = j->a->scale;
    walk(j, &t, s, TACA_IMG, head, q0);
    if (stream == TACA_IMG) t.factor = j->a->scale * s->gamma;
    walk(j, &t, s, TACA_TXT, head, q0);

    struct taca_mat to = head_of(j->o[stream], head, d, first + q0, nq);
    for (int64_t i = 0; i < nq; i++) {
        struct cpu_run y = {o + i * d, TACA_F32};
        j->c->k->axpb(y.p, y.p, 1.0f / t.sum[i], 0.0f, d);
        j->c->k->convert(cpu_row(to, i), y, d);
    }
}

static void run_task(void *ctx, int64_t i, int worker) {
    const struct attn_job *j = ctx;
    const int64_t head = i / j->tiles; /* one head after the other: its keys stay in the cache */
    int64_t tile = i % j->tiles;
    int s = 0;
    while (tile >= seg_tiles(j, s)) tile -= seg_tiles(j, s++);
    const struct taca_seg *seg = &j->l->segs[s];
    const int64_t img = tiles(seg->n_img);
    if (tile < img)
        query_tile(j, seg, TACA_IMG, head, tile * CPU_ATTN_NQ, worker);
    else
        query_tile(j, seg, TACA_TXT, head, (tile - img) * CPU_ATTN_NQ, worker);
}

static bool all_bf16(const struct taca_qkv *x) {
    return x->q.cols == 0 ||
           (x->q.dtype == TACA_BF16 && x->k.dtype == TACA_BF16 && x->v.dtype == TACA_BF16);
}

/* Floats of one thread's work for heads of d columns. */
static int64_t work_of(int64_t d) {
    return ((int64_t)2 * CPU_ATTN_NQ * (d + 1) + cpu_attn_work(d) + 15) / 16 * 16;
}

void cpu_foresee_attention(struct taca_backend *b, const struct taca_qkv *img,
                           const struct taca_qkv *txt, const struct taca_layout *l,
                           const struct taca_attn *a) {
    struct cpu *c = cpu_of(b);
    const int64_t d = (l->img_rows ? img->q.cols : txt->q.cols) / a->heads;
    cpu_buf_foresee(&c->own, (size_t)(work_of(d) * c->threads) * sizeof(float));
}

void cpu_attention(struct taca_backend *b, struct taca_mat o_img, struct taca_mat o_txt,
                   const struct taca_qkv *img, const struct taca_qkv *txt,
                   const struct taca_layout *l, const struct taca_attn *a) {
    struct cpu *c = cpu_of(b);
    struct attn_job j = {.c = c, .o = {o_img, o_txt}, .qkv = {img, txt}, .l = l, .a = a};
    j.d = (l->img_rows ? img->q.cols : txt->q.cols) / a->heads;
    j.k = &c->k->attn;
    if (c->base.precision == TACA_BF16 && c->dnn && all_bf16(img) && all_bf16(txt) &&
        j.d % CPU_ATTN_BF16_D == 0)
        j.k = &cpu_attn_bf16;
    j.work = work_of(j.d);
    j.buf = cpu_buf_get(c, &c->own, (size_t)(j.work * c->threads) * sizeof(float), "attention");
    if (!j.buf) return;
    for (int s = 0; s < l->n_segs; s++) j.tiles += seg_tiles(&j, s);
    cpu_parallel(c->pool, j.tiles * a->heads, run_task, &j);
}
