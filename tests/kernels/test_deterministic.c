/* test_deterministic.c - in deterministic mode a row's result depends on the row alone, bit for
 * bit: the same requests alone, in pairs and in a crowd, in any order and on any number of threads.
 */
#include "tests/kernels/fixture.h"

enum { D = 48, HEADS = 3, FF = 96, REQUESTS = 5 };
static const int64_t lens[REQUESTS][2] = {{16, 7}, {1, 33}, {64, 32}, {37, 5}, {100, 1}};

/* One small block: norm, q k v, head norm, attention, projection, gate, norm, two linears. */
struct block {
    struct taca_linear *mod[2], *qkv[2], *out[2], *up[2], *down[2];
    struct taca_vec gain;
};

static struct taca_linear *linear(int64_t out, int64_t in) {
    struct taca_err err = {0};
    struct taca_linear *l = NULL;
    struct fx_tensor w = fx_tensor("w", 1 / sqrt((double)in), 2, (int64_t[]){out, in});
    struct fx_tensor b = fx_tensor("b", 0.5, 1, &out);
    CHECK_OK(taca_linear_open(fx, &l, &w.t, &b.t, 1, &err), err);
    free(w.f), free(b.f);
    return l;
}

static struct block open_block(void) {
    struct block k;
    fx_rng = 4242;
    for (int s = 0; s < 2; s++) {
        k.mod[s] = linear(6 * D, D);
        k.qkv[s] = linear(3 * D, D);
        k.out[s] = linear(D, D);
        k.up[s] = linear(FF, D);
        k.down[s] = linear(D, FF);
    }
    struct fx_tensor g = fx_tensor("g", 1, 1, (int64_t[]){D / HEADS});
    k.gain = fx_vec(&g);
    free(g.f);
    return k;
}

/* Row r of request i, the same whenever it is asked for. */
static void fill(double *row, int stream, int i, int64_t r) {
    fx_rng = (uint64_t)(1 + stream + 2 * i + 64 * r) * 0x9E3779B97F4A7C15u;
    for (int k = 0; k < 8; k++) (void)fx_uniform();
    for (int k = 0; k < D; k++) row[k] = fx_normal();
}

struct batch {
    struct fx_layout lay;
    struct fx_mat x[2], mod[2], c;
};

static void run_block(const struct block *k, struct batch *b) {
    struct taca_scratch sc = {.b = fx};
    struct taca_err err = {0};
    const enum taca_dtype p = taca_backend_precision(fx);
    CHECK_OK(taca_scratch_reserve(&sc, 4 << 20, &err), err);
    struct taca_qkv qkv[2];
    struct taca_mat o[2];
    for (int s = 0; s < 2; s++) {
        const struct taca_mat x = b->x[s].m;
        struct taca_mat h = taca_scratch_mat(&sc, p, x.rows, D);
        struct taca_mat all = taca_scratch_mat(&sc, TACA_F32, x.rows, 3 * D);
        o[s] = taca_scratch_mat(&sc, p, x.rows, D);
        taca_linear(fx, b->mod[s].m, b->c.m, k->mod[s], TACA_ACT_NONE);
        taca_norm_modulate(fx, h, x, b->mod[s].m, 0, D, &b->lay.l, (enum taca_stream)s, 1e-6f);
        taca_linear(fx, all, h, k->qkv[s], TACA_ACT_NONE);
        qkv[s] = (struct taca_qkv){taca_mat_cols(all, 0, D), taca_mat_cols(all, D, D),
                                   taca_mat_cols(all, 2 * D, D)};
        const struct taca_qk qk = {.gain_q = &k->gain, .gain_k = &k->gain, .eps = 1e-6f};
        taca_qk_norm_rope(fx, qkv[s].q, qkv[s].k, &qk);
    }
    const struct taca_attn a = {.heads = HEADS, .scale = 0.25f};
    taca_attention(fx, o[0], o[1], qkv[0], qkv[1], &b->lay.l, &a);
    for (int s = 0; s < 2; s++) {
        const struct taca_mat x = b->x[s].m;
        struct taca_mat y = taca_scratch_mat(&sc, TACA_F32, x.rows, D);
        struct taca_mat h = taca_scratch_mat(&sc, p, x.rows, D);
        struct taca_mat up = taca_scratch_mat(&sc, p, x.rows, FF);
        taca_linear(fx, y, o[s], k->out[s], TACA_ACT_NONE);
        taca_gate_add(fx, x, y, b->mod[s].m, 2 * D, &b->lay.l, (enum taca_stream)s);
        taca_norm_modulate(fx, h, x, b->mod[s].m, 3 * D, 4 * D, &b->lay.l, (enum taca_stream)s,
                           1e-6f);
        taca_linear(fx, up, h, k->up[s], TACA_ACT_GELU_TANH);
        taca_linear(fx, y, up, k->down[s], TACA_ACT_NONE);
        taca_gate_add(fx, x, y, b->mod[s].m, 5 * D, &b->lay.l, (enum taca_stream)s);
    }
    CHECK_OK(taca_sync(fx, &err), err);
    taca_scratch_finish(&sc);
}

/* Runs the requests in `who` together; out[i][stream] gets request i's rows. */
static void run_together(const struct block *k, const int *who, int n, double *out[][2]) {
    struct batch b = {0};
    int64_t rows[8][2];
    float gamma[8];
    for (int i = 0; i < n; i++) {
        memcpy(rows[i], lens[who[i]], sizeof rows[i]);
        gamma[i] = who[i] % 2 ? 1.2f : 1;
    }
    fx_layout(&b.lay, n, rows, gamma);
    b.c = fx_new(TACA_F32, n, D, 0, 1);
    for (int s = 0; s < 2; s++) {
        b.x[s] = fx_new(TACA_F32, s ? b.lay.l.txt_rows : b.lay.l.img_rows, D, 0, 1);
        b.mod[s] = fx_new(TACA_F32, n, 6 * D, 0, 1);
        int64_t at = 0;
        for (int i = 0; i < n; i++) {
            for (int64_t r = 0; r < rows[i][s]; r++) fill(b.x[s].v + at++ * D, s, who[i], r);
            fill(b.c.v + i * D, 2, who[i], 0);
        }
        fx_send(&b.x[s]);
    }
    fx_send(&b.c);
    run_block(k, &b);
    for (int s = 0; s < 2; s++) {
        fx_fetch(&b.x[s]);
        double *from = b.x[s].v;
        for (int i = 0; i < n; i++) {
            const size_t count = (size_t)(rows[i][s] * D);
            out[i][s] = malloc(count * sizeof(double));
            memcpy(out[i][s], from, count * sizeof(double));
            from += count;
        }
        fx_free(&b.x[s]), fx_free(&b.mod[s]);
    }
    fx_free(&b.c);
    taca_layout_finish(&b.lay.l);
}

static const int together[][6] = {/* how many, who */
                                  {2, 0, 1},          {2, 1, 0},          {3, 2, 3, 4},
                                  {5, 0, 1, 2, 3, 4}, {5, 4, 3, 2, 1, 0}, {4, 3, 0, 3, 2}};

/* How many of the requests in the batches above differ in any bit from a run alone. */
static int differences(void) {
    const struct block k = open_block();
    double *alone[REQUESTS][2], *got[6][2];
    int differ = 0;
    for (int i = 0; i < REQUESTS; i++) run_together(&k, &i, 1, &alone[i]);
    CHECK(isfinite(alone[0][0][0]) && alone[0][0][0] != alone[1][0][0]); /* something is compared */
    for (size_t c = 0; c < sizeof together / sizeof *together; c++) {
        const int n = together[c][0], *who = together[c] + 1;
        run_together(&k, who, n, got);
        for (int i = 0; i < n; i++)
            for (int s = 0; s < 2; s++) {
                const size_t bytes = (size_t)(lens[who[i]][s] * D) * sizeof(double);
                differ += memcmp(got[i][s], alone[who[i]][s], bytes) != 0;
                free(got[i][s]);
            }
    }
    for (int i = 0; i < REQUESTS; i++) free(alone[i][0]), free(alone[i][1]);
    return differ;
}

static int differences_with(int threads, enum taca_dtype precision, bool deterministic) {
    struct taca_err err = {0};
    const struct taca_backend_opts o = {
        .threads = threads, .precision = precision, .deterministic = deterministic};
    CHECK_OK(taca_cpu_open(&fx, &o, &err), err);
    fx_name = taca_backend_detail(fx);
    const int n = differences();
    printf("    %-44s %d of 42 results differ\n", fx_name, n);
    taca_backend_close(fx);
    return n;
}

static void test_a_request_does_not_notice_its_companions(void) {
    for (int threads = 1; threads <= 3; threads++) {
        CHECK_INT(differences_with(threads, TACA_F32, true), 0);
        CHECK_INT(differences_with(threads, TACA_BF16, true), 0);
    }
}

/* Without the mode this is not promised; printed, so that a change is seen. */
static void test_without_the_mode_nothing_is_promised(void) {
    (void)differences_with(2, TACA_F32, false);
    (void)differences_with(2, TACA_BF16, false);
    CHECK(true);
}

/* The same request on 1, 2 and 3 threads. */
static void test_threads_do_not_matter(void) {
    double *out[3][1][2];
    const int who = 2;
    for (int t = 0; t < 3; t++) {
        struct taca_err err = {0};
        const struct taca_backend_opts o = {.threads = t + 1, .deterministic = true};
        CHECK_OK(taca_cpu_open(&fx, &o, &err), err);
        const struct block k = open_block();
        run_together(&k, &who, 1, out[t]);
        taca_backend_close(fx);
    }
    for (int s = 0; s < 2; s++) {
        const size_t bytes = (size_t)(lens[who][s] * D) * sizeof(double);
        CHECK(memcmp(out[0][0][s], out[1][0][s], bytes) == 0);
        CHECK(memcmp(out[0][0][s], out[2][0][s], bytes) == 0);
        for (int t = 0; t < 3; t++) free(out[t][0][s]);
    }
}

int main(void) {
    TEST(test_a_request_does_not_notice_its_companions);
    TEST(test_without_the_mode_nothing_is_promised);
    TEST(test_threads_do_not_matter);
    return TEST_END();
}
