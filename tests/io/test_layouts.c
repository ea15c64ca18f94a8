/* test_layouts.c - other spellings of a model: each tensor of the file with the reference's names
 * must come out of the file in the original layout, bit for bit, and nothing beside. */
#include "engine/io/checkpoint.h"
#include "engine/io/safetensors.h"
#include "tests/io/gguf_make.h"
#include "tests/test.h"

#define MODELS TACA_GOLDEN_DIR "/models/"

static void note(void *ctx, const char *name) {
    if ((*(int *)ctx)++ < 5) printf("        not asked for: %s\n", name);
}

static struct taca_ckpt *must_open(const char *path, int kind) {
    struct taca_ckpt *c = NULL;
    struct taca_err err = {0};
    if (kind < 0)
        CHECK_OK(taca_ckpt_open(&c, path, &err), err);
    else
        CHECK_OK(taca_ckpt_open_kind(&c, path, (enum taca_kind)kind, &err), err);
    return c;
}

struct walk {
    struct taca_ckpt *want, *got;
    double tol, worst;
    int n, bad;
};

static void compare(void *ctx, const char *name) {
    struct walk *w = ctx;
    const struct taca_tensor *shape = taca_ckpt_peek(w->want, name);
    struct taca_tensor a = {0}, b = {0};
    struct taca_err err = {0};
    w->n++;
    if (!shape) return;
    enum taca_code rc = taca_ckpt_get(w->got, &b, name, shape->rank, shape->dim, &err);
    if (!rc) rc = taca_ckpt_get(w->want, &a, name, shape->rank, shape->dim, &err);
    size_t n = rc ? 0 : (size_t)taca_tensor_count(&a);
    if (rc) {
        if (w->bad++ < 5) printf("        %s\n", err.text);
        return;
    }
    if (w->tol == 0 && a.dtype == b.dtype) {
        if (memcmp(a.data, b.data, n * taca_dtype_bytes(a.dtype)) != 0 && w->bad++ < 5)
            printf("        %s differs\n", name);
    } else {
        float *x = malloc((n + 1) * sizeof *x), *y = malloc((n + 1) * sizeof *y);
        taca_to_f32(x, a.data, a.dtype, n);
        taca_to_f32(y, b.data, b.dtype, n);
        for (size_t i = 0; i < n; i++)
            if (!(fabs((double)x[i] - (double)y[i]) <= w->worst))
                w->worst = fabs((double)x[i] - (double)y[i]);
        free(x);
        free(y);
    }
    taca_ckpt_drop(w->got);
    taca_ckpt_drop(w->want);
}

/* Every tensor of `want`, by its names, from `got`; at most `extra` of got remain. */
static void same(const char *want, int want_kind, const char *got, int got_kind, double tol,
                 int extra) {
    struct walk w = {
        .want = must_open(want, want_kind), .got = must_open(got, got_kind), .tol = tol};
    int left = 0;
    if (w.want && w.got) {
        taca_ckpt_unused(w.want, compare, &w);
        taca_ckpt_unused(w.got, note, &left);
        printf("    %s: %d tensors, worst %g\n", strrchr(got, '/') + 1, w.n, w.worst);
        CHECK(w.n > 0);
        CHECK_INT(w.bad, 0);
        CHECK(w.worst <= tol);
        CHECK_INT(left, extra);
    }
    taca_ckpt_close(w.want);
    taca_ckpt_close(w.got);
}

static void pair(const char *name, const char *original) {
    char want[512], got[512];
    snprintf(want, sizeof want, MODELS "%s.diffusers.safetensors", name);
    snprintf(got, sizeof got, MODELS "%s.%s.safetensors", name, original);
    same(want, -1, got, -1, 0, 0);
    same(want, TACA_DIT, got, TACA_DIT, 0, 0);
}

static void test_original_sd35_is_the_reference_bit_for_bit(void) { pair("sd35m_tiny", "orig"); }
static void test_original_flux_is_the_reference_bit_for_bit(void) {
    pair("flux_tiny_schnell", "bfl");
}

static void test_rows_of_a_fused_matrix_are_views(void) {
    struct taca_ckpt *c = must_open(MODELS "sd35m_tiny.orig.safetensors", -1);
    struct taca_err err = {0};
    struct taca_tensor q, k, v;
    if (!c) return;
    const int64_t dim[2] = {32, 32};
    CHECK_OK(taca_ckpt_get(c, &q, "transformer_blocks.1.attn.to_q.weight", 2, dim, &err), err);
    CHECK_OK(taca_ckpt_get(c, &k, "transformer_blocks.1.attn.to_k.weight", 2, dim, &err), err);
    CHECK_OK(taca_ckpt_get(c, &v, "transformer_blocks.1.attn.to_v.weight", 2, dim, &err), err);
    CHECK((const float *)k.data == (const float *)q.data + 1024);
    CHECK((const float *)v.data == (const float *)k.data + 1024);
    struct taca_stored raw;
    CHECK(taca_ckpt_raw(c, "transformer_blocks.1.attn.to_k.weight", &raw));
    CHECK(raw.data == k.data && raw.bytes == 4096 && raw.type == TACA_STORED_F32);
    CHECK(!taca_ckpt_raw(c, "norm_out.linear.weight", &raw)); /* halves changed places */
    taca_ckpt_close(c);
}

/* ---- other parts, written here --------------------------------------------------------------- */

enum { MAX_TENSORS = 64 };
struct maker {
    struct taca_tensor t[MAX_TENSORS];
    float *data[MAX_TENSORS];
    int n;
};

static void put(struct maker *m, const char *name, int rank, const int64_t *dim) {
    struct taca_tensor *t = &m->t[m->n];
    *t = (struct taca_tensor){.name = name, .dtype = TACA_F32, .rank = rank};
    memcpy(t->dim, dim, (size_t)rank * sizeof *dim);
    size_t n = (size_t)taca_tensor_count(t);
    t->data = m->data[m->n] = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) m->data[m->n][i] = (float)m->n * 1000 + (float)i;
    m->n++;
}
#define PUT1(m, name, a)          put(m, name, 1, (int64_t[]){a})
#define PUT2(m, name, a, b)       put(m, name, 2, (int64_t[]){a, b})
#define PUT4(m, name, a, b, c, d) put(m, name, 4, (int64_t[]){a, b, c, d})

static struct taca_ckpt *written(struct maker *m, const char *file, int kind) {
    struct taca_err err = {0};
    const char *path = tmp_path(file);
    CHECK_OK(taca_safetensors_write(path, m->t, (size_t)m->n, &err), err);
    for (int i = 0; i < m->n; i++) free(m->data[i]);
    return must_open(path, kind);
}

/* The tensor exists with these dims, and its first value is this. */
static void is(struct taca_ckpt *c, const char *name, int rank, const int64_t *dim, float first) {
    struct taca_err err = {0};
    struct taca_tensor t = {0};
    float x = -1;
    CHECK_OK(taca_ckpt_get(c, &t, name, rank, dim, &err), err);
    if (t.data) memcpy(&x, t.data, sizeof x);
    CHECK_NEAR(x, first, 0);
}

static void test_an_original_vae_counts_its_levels_from_the_other_end(void) {
    struct maker m = {0};
    PUT4(&m, "first_stage_model.decoder.mid.block_1.conv1.weight", 2, 2, 3, 3);
    PUT4(&m, "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight", 2, 3, 1, 1);
    PUT1(&m, "first_stage_model.decoder.up.2.block.1.norm1.weight", 2);
    PUT4(&m, "first_stage_model.decoder.up.1.upsample.conv.weight", 2, 2, 3, 3);
    PUT4(&m, "first_stage_model.decoder.mid.attn_1.q.weight", 2, 2, 1, 1);
    PUT1(&m, "first_stage_model.decoder.norm_out.bias", 2);
    PUT1(&m, "first_stage_model.encoder.down.1.block.0.nin_shortcut.bias", 2);
    PUT4(&m, "first_stage_model.encoder.down.0.downsample.conv.weight", 2, 2, 3, 3);
    PUT1(&m, "first_stage_model.decoder.conv_in.bias", 2);
    struct taca_ckpt *c = written(&m, "vae.safetensors", TACA_AUTOENCODER);
    if (!c) return;
    is(c, "decoder.up_blocks.2.resnets.0.conv_shortcut.weight", 4, (int64_t[]){2, 3, 1, 1}, 1000);
    is(c, "decoder.up_blocks.0.resnets.1.norm1.weight", 1, (int64_t[]){2}, 2000);
    is(c, "decoder.up_blocks.1.upsamplers.0.conv.weight", 4, (int64_t[]){2, 2, 3, 3}, 3000);
    is(c, "decoder.mid_block.attentions.0.to_q.weight", 2, (int64_t[]){2, 2}, 4000);
    is(c, "decoder.conv_norm_out.bias", 1, (int64_t[]){2}, 5000);
    is(c, "encoder.down_blocks.1.resnets.0.conv_shortcut.bias", 1, (int64_t[]){2}, 6000);
    is(c, "encoder.down_blocks.0.downsamplers.0.conv.weight", 4, (int64_t[]){2, 2, 3, 3}, 7000);
    is(c, "decoder.conv_in.bias", 1, (int64_t[]){2}, 8000);
    taca_ckpt_close(c);
}

static void test_open_clip_is_cut_and_turned(void) {
    struct maker m = {0};
    PUT2(&m, "conditioner.embedders.1.model.token_embedding.weight", 5, 4);
    PUT2(&m, "conditioner.embedders.1.model.positional_embedding", 3, 4);
    PUT2(&m, "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight", 12, 4);
    PUT1(&m, "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias", 12);
    PUT2(&m, "conditioner.embedders.1.model.text_projection", 4, 6);
    PUT2(&m, "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight", 8, 4);
    PUT1(&m, "conditioner.embedders.1.model.logit_scale", 1);
    struct taca_ckpt *c = written(&m, "g.safetensors", TACA_CLIP_G);
    if (!c) return;
    is(c, "text_model.embeddings.token_embedding.weight", 2, (int64_t[]){5, 4}, 0);
    is(c, "text_model.embeddings.position_embedding.weight", 2, (int64_t[]){3, 4}, 1000);
    is(c, "text_model.encoder.layers.0.self_attn.k_proj.weight", 2, (int64_t[]){4, 4}, 2016);
    is(c, "text_model.encoder.layers.0.self_attn.v_proj.bias", 1, (int64_t[]){4}, 3008);
    is(c, "text_model.encoder.layers.0.mlp.fc1.weight", 2, (int64_t[]){8, 4}, 5000);
    struct taca_tensor t;
    struct taca_err err = {0};
    CHECK_OK(taca_ckpt_get(c, &t, "text_projection.weight", 2, (int64_t[]){6, 4}, &err), err);
    const float *p = t.data;
    CHECK(p[0] == 4000 && p[1] == 4006 && p[4] == 4001 && p[23] == 4023);
    taca_ckpt_close(c);
}

static void test_clip_may_lack_its_first_word(void) {
    struct maker m = {0};
    PUT2(&m, "embeddings.token_embedding.weight", 5, 4);
    PUT1(&m, "encoder.layers.1.layer_norm1.bias", 4);
    PUT1(&m, "final_layer_norm.bias", 4);
    PUT2(&m, "text_projection.weight", 4, 4);
    struct taca_ckpt *c = written(&m, "l.safetensors", TACA_CLIP_L);
    if (!c) return;
    is(c, "text_model.embeddings.token_embedding.weight", 2, (int64_t[]){5, 4}, 0);
    is(c, "text_model.encoder.layers.1.layer_norm1.bias", 1, (int64_t[]){4}, 1000);
    is(c, "text_model.final_layer_norm.bias", 1, (int64_t[]){4}, 2000);
    CHECK_INT(taca_ckpt_parameters(c), 20 + 4 + 4 + 16);
    taca_ckpt_hide(c, "text_projection.weight");
    taca_ckpt_hide(c, "text_projection.weight");
    CHECK(!taca_ckpt_has(c, "text_projection.weight"));
    CHECK_INT(taca_ckpt_parameters(c), 20 + 4 + 4);
    is(c, "text_model.final_layer_norm.bias", 1, (int64_t[]){4}, 2000);
    taca_ckpt_close(c);
}

static void test_t5_has_one_table_under_two_names(void) {
    static const char q[] = "encoder.block.0.layer.0.SelfAttention.q.weight";
    struct maker m = {0};
    PUT2(&m, "encoder.embed_tokens.weight", 5, 4);
    PUT2(&m, q, 4, 4);
    struct taca_ckpt *c = written(&m, "t5a.safetensors", TACA_T5);
    if (!c) return;
    is(c, "shared.weight", 2, (int64_t[]){5, 4}, 0);
    is(c, "encoder.embed_tokens.weight", 2, (int64_t[]){5, 4}, 0);
    CHECK_INT(taca_ckpt_parameters(c), 36); /* counted once */
    taca_ckpt_close(c);
    m.n = 0;
    PUT2(&m, "encoder.embed_tokens.weight", 5, 4);
    PUT2(&m, "shared.weight", 5, 4);
    PUT2(&m, q, 4, 4);
    c = written(&m, "t5b.safetensors", TACA_T5);
    if (!c) return;
    is(c, "shared.weight", 2, (int64_t[]){5, 4}, 1000); /* its own */
    taca_ckpt_close(c);
}

static void test_t5_may_have_the_names_of_llama_cpp(void) {
    static const char *const names[][2] = {
        {"token_embd.weight", "shared.weight"},
        {"enc.blk.0.attn_q.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"},
        {"enc.blk.1.attn_k.weight", "encoder.block.1.layer.0.SelfAttention.k.weight"},
        {"enc.blk.1.attn_v.weight", "encoder.block.1.layer.0.SelfAttention.v.weight"},
        {"enc.blk.1.attn_o.weight", "encoder.block.1.layer.0.SelfAttention.o.weight"},
        {"enc.blk.0.attn_rel_b.weight",
         "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"},
        {"enc.blk.23.attn_norm.weight", "encoder.block.23.layer.0.layer_norm.weight"},
        {"enc.blk.1.ffn_gate.weight", "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"},
        {"enc.blk.1.ffn_up.weight", "encoder.block.1.layer.1.DenseReluDense.wi_1.weight"},
        {"enc.blk.1.ffn_down.weight", "encoder.block.1.layer.1.DenseReluDense.wo.weight"},
        {"enc.blk.1.ffn_norm.weight", "encoder.block.1.layer.1.layer_norm.weight"},
        {"enc.output_norm.weight", "encoder.final_layer_norm.weight"},
    };
    enum { N = sizeof names / sizeof *names };
    gg_begin(3, N, 1);
    gg_key_text("general.architecture", "t5encoder");
    for (uint64_t i = 0; i < N; i++) gg_tensor(names[i][0], 8, 2, 0, 64 * i); /* f32 [2, 8] */
    gg_pad(32);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < 16; k++) {
            float x = (float)(1000 * i + k);
            taca_buf_put(&gg, &x, sizeof x);
        }
    struct taca_ckpt *c = must_open(gg_end("t5.gguf"), TACA_T5);
    taca_buf_finish(&gg);
    if (!c) return;
    for (int i = 0; i < N; i++) is(c, names[i][1], 2, (int64_t[]){2, 8}, (float)(1000 * i));
    CHECK_INT(taca_ckpt_parameters(c), 16 * N);
    taca_ckpt_close(c);
}

/* ---- whole published forms, when the large folder is there ----------------------------------- */

static void test_single_files_are_their_directories(void) {
    const char *extra = getenv("TACA_GOLDEN_EXTRA");
    static const struct {
        const char *dir, *file;
        enum taca_kind kind;
        double tol;
        int extra; /* tensors that the directory does not have */
    } cases[] = {
        {"sd35_tiny/transformer", "sd35_tiny_incl_clips_t5xxlfp8scaled.safetensors", TACA_DIT, 0,
         0},
        {"sd35_tiny/vae", "sd35_tiny_incl_clips_t5xxlfp8scaled.safetensors", TACA_AUTOENCODER, 0,
         0},
        {"sd35_tiny/text_encoder_2", "sd35_tiny_incl_clips_t5xxlfp8scaled.safetensors", TACA_CLIP_G,
         0, 0},
        {"sd35_tiny/text_encoder_3", "sd35_tiny_incl_clips_t5xxlfp8scaled.safetensors", TACA_T5, 0,
         0},
        {"flux_tiny/transformer", "flux_tiny.safetensors", TACA_DIT, 0, 0},
        {"flux_tiny/vae", "ae.safetensors", TACA_AUTOENCODER, 0, 0},
        {"flux_tiny/text_encoder", "clip_l.safetensors", TACA_CLIP_L, 0, 1},
        {"flux_tiny/text_encoder_2", "t5xxl_fp8_e4m3fn.safetensors", TACA_T5, 0, 0},
        {"flux_tiny/transformer", "flux_tiny_fp8_e4m3fn.safetensors", TACA_DIT, 0.1, 0},
        {"flux_tiny/transformer", "flux_tiny-Q8_0.gguf", TACA_DIT, 0.02, 0},
        {"flux_tiny/transformer", "flux_tiny-Q4_K_M.gguf", TACA_DIT, 0.2, 0},
    };
    if (!extra) {
        SKIP("TACA_GOLDEN_EXTRA names no folder with pipelines/single");
        return;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[512], got[512];
        snprintf(want, sizeof want, "%s/pipelines/%s", extra, cases[i].dir);
        snprintf(got, sizeof got, "%s/pipelines/single/%s", extra, cases[i].file);
        same(want, (int)cases[i].kind, got, (int)cases[i].kind, cases[i].tol, cases[i].extra);
    }
    char want[512], got[512];
    static const char *const pairs[][2] = {{"sd3_tiny", "orig"},
                                           {"sd35m_tiny", "orig"},
                                           {"flux_tiny_dev", "bfl"},
                                           {"flux_tiny_schnell", "bfl"}};
    for (int i = 0; i < 4; i++) {
        snprintf(want, sizeof want, "%s/models/%s.diffusers.safetensors", extra, pairs[i][0]);
        snprintf(got, sizeof got, "%s/models/%s.%s.safetensors", extra, pairs[i][0], pairs[i][1]);
        same(want, TACA_DIT, got, TACA_DIT, 0, 0);
    }
}

int main(void) {
    tmp_begin();
    TEST(test_original_sd35_is_the_reference_bit_for_bit);
    TEST(test_original_flux_is_the_reference_bit_for_bit);
    TEST(test_rows_of_a_fused_matrix_are_views);
    TEST(test_an_original_vae_counts_its_levels_from_the_other_end);
    TEST(test_open_clip_is_cut_and_turned);
    TEST(test_clip_may_lack_its_first_word);
    TEST(test_t5_has_one_table_under_two_names);
    TEST(test_t5_may_have_the_names_of_llama_cpp);
    TEST(test_single_files_are_their_directories);
    tmp_end();
    return TEST_END();
}
