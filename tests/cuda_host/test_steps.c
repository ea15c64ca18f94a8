/* test_steps.c - steps of the engine on the CUDA backend: replayed graphs against plain launches,
 * bit for bit, whatever changes from step to step; and the memory they take. */
#include "engine/core.h"
#include "tests/cuda_host/faults.h"
#include "tests/test.h"

#define MODELS TACA_GOLDEN_DIR "/models/"

enum { JOINT = 40, POOLED = 64, MAX_TEXT = 12, STEPS = 4, MOST = 4 };

static const struct cuda_host_faults healthy = {-1, -1, 1ll << 30, 1, 0, 0, 0};
static enum taca_dtype precision = TACA_BF16;
static const struct taca_scheduler sd3 = {.shift = 3, .train_steps = 1000};

static enum taca_code open_part(struct taca_engine *e, const char *name, bool vae,
                                struct taca_err *err) {
    char path[512];
    json_t *config = NULL;
    struct taca_ckpt *ckpt = NULL;
    snprintf(path, sizeof path, MODELS "%s.config.json", name);
    enum taca_code rc = taca_json_load(&config, path, err);
    snprintf(path, sizeof path, MODELS "%s.diffusers.safetensors", name);
    if (!rc) rc = taca_ckpt_open(&ckpt, path, err);
    if (!rc)
        rc = vae ? vae_open(&e->vae, e->b, config, ckpt, err)
                 : dit_open(&e->dit, e->b, config, ckpt, err);
    taca_ckpt_close(ckpt);
    json_decref(config);
    return rc;
}

static struct taca_engine *open_engine(const char *transformer, const char *vae) {
    struct taca_engine *e = calloc(1, sizeof *e);
    struct taca_err err = {0};
    const struct taca_backend_opts opts = {.precision = precision};
    if (!e) abort();
    enum taca_code rc = taca_backend_open(&e->b, "cuda", &opts, &err);
    if (!rc) rc = open_part(e, transformer, false, &err);
    if (!rc && vae) rc = open_part(e, vae, true, &err);
    CHECK_OK(rc, err);
    if (rc) abort();
    e->scratch.b = e->b;
    e->scheduler = sd3;
    return e;
}

static void close_engine(struct taca_engine *e) {
    taca_engine_close(e);
    CHECK_INT(cuda_host_live_blocks(), 0);
}

/* Text of its own length for each k. */
static void make_text(struct taca_engine *e, int k, struct seq_text text[SEQ_BRANCHES]) {
    struct taca_err err = {0};
    struct taca_rng rng;
    float host[MAX_TEXT * JOINT + POOLED];
    taca_rng_seed(&rng, (uint64_t)k);
    for (int i = 0; i < SEQ_BRANCHES; i++) {
        float *p = taca_alloc(e->b, sizeof host, &err);
        if (!p) abort();
        taca_rng_randn(&rng, host, sizeof host / sizeof *host);
        taca_upload(e->b, p, host, sizeof host);
        text[i].context = (struct taca_mat){p, TACA_F32, 3 + 2 * k, JOINT, JOINT};
        text[i].pooled = (struct taca_mat){p + MAX_TEXT * JOINT, TACA_F32, 1, POOLED, POOLED};
    }
}

/* A request that has a bit of everything: a window that ends, a pair of branches. */
static struct taca_gen_params request(int k) {
    return (struct taca_gen_params){
        .width_px = 32 + 16 * k,
        .height_px = 32,
        .steps = STEPS,
        .cfg_scale = k == 1 ? 1 : 3,
        .taca = {.rule = TACA_WINDOW_STEPS, .gamma = 1.2, .end_step = STEPS / 2}};
}

static enum taca_code try_open(struct taca_engine *e, const struct taca_gen_params *p, int k,
                               struct taca_seq **out, struct taca_err *err) {
    struct seq_text text[SEQ_BRANCHES];
    struct taca_rng rng;
    make_text(e, k, text);
    taca_rng_seed(&rng, (uint64_t)(100 + k));
    const struct seq_given given = {
        .cond = &text[0], .uncond = p->cfg_scale > 1 ? &text[1] : NULL, .rng = &rng};
    const enum taca_code rc = seq_open_with(e, p, &given, out, err);
    for (int i = 0; i < SEQ_BRANCHES; i++) taca_free(e->b, text[i].context.data);
    return rc;
}

static struct taca_seq *open_seq(struct taca_engine *e, const struct taca_gen_params *p, int k) {
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    CHECK_OK(try_open(e, p, k, &s, &err), err);
    if (!s) abort();
    return s;
}

/* ---- replayed against plain ------------------------------------------------------------------ */

/* Sequences that are opened together; at step i those step whose bit is in set[i]. Ends when one
 * of the steps is not asked for (0). */
struct course {
    const struct taca_gen_params *params;
    int n;
    unsigned set[4 * STEPS];
};

/* All latents, one after the other; free() them. Launches of the last step into *launches. */
static float *go(struct taca_engine *e, const struct course *c, bool replay, size_t *n,
                 long long *launches) {
    struct taca_seq *seqs[MOST], *batch[MOST];
    struct taca_err err = {0};
    taca_backend_replay(e->b, replay);
    for (int k = 0; k < c->n; k++) seqs[k] = open_seq(e, &c->params[k], k);
    for (int i = 0; c->set[i]; i++) {
        int members = 0;
        for (int k = 0; k < c->n; k++)
            if (c->set[i] >> k & 1) batch[members++] = seqs[k];
        const long long before = cuda_host_counted().launches;
        CHECK_OK(taca_step(e, batch, members, &err), err);
        *launches = cuda_host_counted().launches - before;
    }
    size_t total = 0;
    float *all = NULL;
    for (int k = 0; k < c->n; k++) {
        const size_t m = (size_t)(seqs[k]->latent.c * seqs[k]->latent.h * seqs[k]->latent.w);
        all = realloc(all, (total + m) * sizeof *all);
        if (!all) abort();
        CHECK_OK(seq_latent_read(e, seqs[k], all + total, &err), err);
        total += m;
        taca_seq_close(e, seqs[k]);
    }
    *n = total;
    return all;
}

/* What was counted in the replayed run; both runs give the same bits. */
static struct taca_replay_counts compare(struct taca_engine *e, const struct course *c,
                                         long long launches[2]) {
    size_t n, m;
    const struct taca_replay_counts before = taca_replay_count(e->b);
    float *plain = go(e, c, false, &n, &launches[0]);
    float *replayed = go(e, c, true, &m, &launches[1]);
    CHECK(n == m && memcmp(plain, replayed, n * sizeof *plain) == 0);
    for (size_t i = 0; i < n; i++)
        if (!CHECK(isfinite(plain[i]))) break;
    free(plain);
    free(replayed);
    struct taca_replay_counts got = taca_replay_count(e->b);
    got.plain -= before.plain;
    got.recorded -= before.recorded;
    got.replayed -= before.replayed;
    got.failed -= before.failed;
    CHECK_INT(got.failed, 0);
    return got;
}

/* A window that ends changes gamma, no launch. */
static void test_steps_of_a_picture_are_replayed_through_its_window(void) {
    struct taca_engine *e = open_engine("sd35m_tiny", NULL);
    const struct taca_gen_params p = request(0);
    const struct course c = {&p, 1, {1, 1, 1, 1}};
    long long launches[2];
    const struct taca_replay_counts n = compare(e, &c, launches);
    CHECK_INT(n.plain, 1);
    CHECK_INT(n.recorded, 1);
    CHECK_INT(n.replayed, STEPS - 2);
    CHECK(launches[1] * 4 < launches[0]);
    printf("    %lld launches a step, replayed %lld and a graph\n", launches[0], launches[1]);
    const struct taca_replay_counts next = compare(e, &c, launches); /* the next picture */
    CHECK_INT(next.plain + next.recorded, 0);
    CHECK_INT(next.replayed, STEPS);
    close_engine(e);
}

static void test_pictures_that_come_and_go_have_graphs_of_their_own(void) {
    struct taca_engine *e = open_engine("sd35m_tiny", NULL);
    const struct taca_gen_params p[] = {request(0), request(1), request(2)};
    const struct course c = {p, 3, {1, 7, 7, 7, 2}};
    long long launches[2];
    const struct taca_replay_counts n = compare(e, &c, launches);
    CHECK_INT(n.plain, 3); /* the first alone, all three, the second alone */
    CHECK_INT(n.recorded, 1);
    CHECK_INT(n.replayed, 1);
    CHECK_INT(n.kept, 1);
    close_engine(e);
}

/* Blocks left out are a second forward with a graph of its own. */
static void test_skipped_blocks_have_a_graph_of_their_own(void) {
    struct taca_engine *e = open_engine("sd35m_tiny", NULL);
    struct taca_gen_params p = request(0);
    p.slg = (struct taca_slg){.layers = 0x6, .scale = 2, .start = 0.1, .stop = 0.8};
    const struct course c = {&p, 1, {1, 1, 1, 1}};
    long long launches[2];
    const struct taca_replay_counts n = compare(e, &c, launches);
    CHECK_INT(n.plain, 2);
    CHECK_INT(n.recorded, 2);
    CHECK(n.replayed >= STEPS - 2);
    close_engine(e);
}

/* On inside the window and off after it: other launches, another graph. Its weights go with it. */
static void test_adapters_and_their_windows_are_told_apart(void) {
    struct taca_engine *e = open_engine("sd35m_tiny", NULL);
    struct taca_err err = {0};
    const char *const file = TACA_GOLDEN_DIR "/lora/lora_sd35m_tiny_peft.safetensors";
    struct taca_gen_params p = request(0);
    const struct course c = {&p, 1, {1, 1, 1, 1}};
    long long launches[2];
    CHECK_OK(taca_lora_open(e, "a", file, NULL, NULL, &err), err);
    p.loras[p.n_loras++] = (struct taca_lora_use){"a", 0.5, TACA_LORA_IN_WINDOW};
    struct taca_replay_counts n = compare(e, &c, launches);
    CHECK_INT(n.plain, 2);
    CHECK_INT(n.recorded, 2);
    p.loras[0].scale = 0.75; /* a scalar of its launches; the steps after the window are known */
    n = compare(e, &c, launches);
    CHECK_INT(n.plain, 1);
    CHECK_INT(n.replayed, STEPS / 2);
    CHECK_OK(taca_lora_close(e, "a", &err), err);
    CHECK_INT(taca_replay_count(e->b).kept, 0);
    p.n_loras = 0;
    n = compare(e, &c, launches);
    CHECK_INT(n.plain, 0); /* known, to be recorded again */
    CHECK_INT(n.recorded, 1);
    close_engine(e);
}

/* At any call of a replayed step: the step says so and has not happened. (A real device would not
 * come back; here it does, to save time.) */
static void test_a_device_may_be_lost_in_a_replayed_step(void) {
    struct taca_engine *e = open_engine("sd35m_tiny", NULL);
    struct taca_gen_params p = request(1);
    struct taca_err err = {0};
    p.steps = 8;
    struct taca_seq *s = open_seq(e, &p, 0);
    for (int i = 0; i < 2; i++) CHECK_OK(taca_step(e, &s, 1, &err), err);
    cuda_host_set_faults(&healthy);
    CHECK_OK(taca_step(e, &s, 1, &err), err);
    CHECK_INT(cuda_host_counted().graph_launches, 1);
    const long long calls = cuda_host_calls();
    for (long long at = 0; at < calls; at++) {
        struct cuda_host_faults f = healthy;
        f.lost_at = at;
        cuda_host_set_faults(&f);
        struct taca_err lost = {0};
        CHECK_INT(taca_step(e, &s, 1, &lost), TACA_EDEVICE);
        CHECK_INT(taca_seq_step(s), 3);
    }
    printf("    lost at each of %lld calls\n", calls);
    cuda_host_set_faults(&healthy);
    CHECK_OK(taca_step(e, &s, 1, &err), err);
    taca_seq_close(e, s);
    close_engine(e);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Steps of all until they are done, and their pictures. Allocations meanwhile. */
static long long finish_all(struct taca_engine *e, struct taca_seq **seqs, int n) {
    const long long before = cuda_host_counted().allocations;
    struct taca_err err = {0};
    for (int i = 0; i < STEPS; i++) CHECK_OK(taca_step(e, seqs, n, &err), err);
    for (int i = 0; i < n; i++) {
        struct taca_image image = {0};
        if (e->vae) CHECK_OK(taca_decode(e, &seqs[i], 1, &image, &err), err);
        taca_image_finish(&image);
        taca_seq_close(e, seqs[i]);
    }
    return cuda_host_counted().allocations - before;
}

static void test_nothing_is_allocated_between_admission_and_picture(void) {
    struct taca_seq *seqs[MOST];
    struct taca_err err = {0};
    for (int precise = 0; precise < 2; precise++) {
        precision = precise ? TACA_F32 : TACA_BF16;
        struct taca_engine *e = open_engine("pipe_sd3.transformer", "vae_tiny_sd3");
        struct taca_gen_params p = request(0);
        p.slg = (struct taca_slg){.layers = 0x2, .scale = 2, .stop = 0.8};
        const long long before = cuda_host_counted().allocations;
        seqs[0] = open_seq(e, &p, 0);
        CHECK(cuda_host_counted().allocations > before);
        CHECK_INT(finish_all(e, seqs, 1), 0);
        for (int k = 0; k < 3; k++) {
            p = request(k);
            seqs[k] = open_seq(e, &p, k);
        }
        CHECK_INT(finish_all(e, seqs, 3), 0);
        close_engine(e);
    }
    precision = TACA_BF16;
    struct taca_engine *e = open_engine("sd35m_tiny", NULL);
    const char *const file = TACA_GOLDEN_DIR "/lora/lora_sd35m_tiny_kohya_full.safetensors";
    CHECK_OK(taca_lora_open(e, "a", file, NULL, NULL, &err), err);
    struct taca_gen_params p = request(0);
    p.loras[p.n_loras++] = (struct taca_lora_use){"a", 0.5, TACA_LORA_ALWAYS};
    seqs[0] = open_seq(e, &p, 0);
    CHECK_INT(finish_all(e, seqs, 1), 0);
    close_engine(e);
}

/* At every allocation of an admission, and for want of memory: those that are open go on, to the
 * same bits; the one that was refused is admitted when there is memory. */
static void test_an_admission_without_memory_hurts_nobody(void) {
    struct taca_engine *e = open_engine("pipe_sd3.transformer", "vae_tiny_sd3");
    const struct taca_gen_params p = request(0), large = request(3);
    struct taca_seq *s = open_seq(e, &p, 0), *more = NULL;
    const size_t n = (size_t)(s->latent.c * s->latent.h * s->latent.w);
    float want[4096], got[4096];
    struct taca_err err = {0};
    for (int i = 0; i < STEPS; i++) CHECK_OK(taca_step(e, &s, 1, &err), err);
    if (!CHECK(n <= sizeof want / sizeof *want)) return;
    CHECK_OK(seq_latent_read(e, s, want, &err), err);
    taca_seq_close(e, s);
    s = open_seq(e, &p, 0);
    int failed = 0;
    for (int at = 0; at < STEPS - 1; at++) {
        struct cuda_host_faults f = healthy;
        struct taca_device_memory m = {0};
        struct taca_err no = {0};
        CHECK(taca_backend_memory(e->b, &m));
        if (at == 0)
            f.memory = (long long)m.used_bytes + 4096; /* in truth */
        else
            f.fail_alloc = at; /* 0 is the text's, of the test */
        cuda_host_set_faults(&f);
        const enum taca_code rc = try_open(e, &large, 3, &more, &no);
        cuda_host_set_faults(&healthy);
        failed += rc != TACA_OK;
        if (rc) CHECK_INT(rc, TACA_ENOMEM);
        if (at == 0) {
            CHECK_HAS(no.text, "no memory for one more picture: ");
            CHECK_HAS(no.text, "with the 1 that are open");
            CHECK_HAS(no.text, "free");
            printf("    %s\n", no.text);
        }
        if (!rc) taca_seq_close(e, more);
        CHECK_INT(e->open_seqs, 1);
        CHECK_OK(taca_step(e, &s, 1, &err), err);
    }
    CHECK(failed > 1);
    CHECK_OK(try_open(e, &large, 3, &more, &err), err);
    taca_seq_close(e, more);
    CHECK_OK(taca_step(e, &s, 1, &err), err);
    CHECK_OK(seq_latent_read(e, s, got, &err), err);
    CHECK(memcmp(got, want, n * sizeof *got) == 0);
    taca_seq_close(e, s);
    close_engine(e);
}

int main(void) {
    cuda_host_set_faults(&healthy);
    TEST(test_steps_of_a_picture_are_replayed_through_its_window);
    TEST(test_pictures_that_come_and_go_have_graphs_of_their_own);
    TEST(test_skipped_blocks_have_a_graph_of_their_own);
    TEST(test_adapters_and_their_windows_are_told_apart);
    TEST(test_a_device_may_be_lost_in_a_replayed_step);
    TEST(test_nothing_is_allocated_between_admission_and_picture);
    TEST(test_an_admission_without_memory_hurts_nobody);
    return TEST_END();
}
