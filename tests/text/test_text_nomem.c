/* test_text_nomem.c - tokenizer, encoders and prompts with their allocations failing in turn; what
 * was opened before must go on working. */
#include <unistd.h>

#include "engine/text/text.h"
#include "engine/text/tok_bpe.h"
#include "engine/text/tok_t5.h"
#include "tests/nomem.h"
#include "tests/text/made_dir.h"

static enum taca_code open_tok(void *ctx, struct taca_err *err) {
    struct tok_bpe *t = NULL;
    enum taca_code rc = tok_bpe_open(&t, ctx, err);
    CHECK((rc == TACA_OK) == (t != NULL));
    tok_bpe_close(t);
    return rc;
}

static void test_tokenizer_open_survives_every_failed_allocation(void) {
    struct made m;
    make_dir(&m);
    write_file(&m, "vocab.json",
               "{\"a\":0,\"b\":1,\"b</w>\":2,\"ab</w>\":3,\"<|startoftext|>\":4,"
               "\"<|endoftext|>\":5}");
    write_file(&m, "merges.txt", "#version: 0.2\na b</w>\n");
    write_file(&m, "tokenizer_config.json",
               "{\"bos_token\":{\"content\":\"<|startoftext|>\",\"normalized\":true},"
               "\"added_tokens_decoder\":{\"4\":{\"content\":\"<|startoftext|>\"}}}");
    nomem_sweep("open", open_tok, m.dir, 1);
    remove_dir(&m);
}

static enum taca_code encode(void *ctx, struct taca_err *err) {
    static const char text[] =
        "a photo of a pneumonoultramicroscopicsilicovolcanoconiosis-"
        "pneumonoultramicroscopicsilicovolcanoconiosisandmorethansixtyfourbytes, "
        "a\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81"
        "\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81"
        "\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81"
        "\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3\xCC\x81";
    int32_t ids[77];
    return tok_bpe_encode(ctx, text, ids, 77, NULL, err);
}

static void test_encode_survives_every_failed_allocation(void) {
    struct taca_err err = {0};
    struct tok_bpe *t = NULL;
    CHECK_OK(tok_bpe_open(&t, TACA_SOURCE_DIR "/models/demo/tokenizer", &err), err);
    if (t) nomem_sweep("encode", encode, t, 1);
    tok_bpe_close(t);
}

/* ---- T5 -------------------------------------------------------------------------------------- */

#define SMALL TACA_SOURCE_DIR "/tests/text/t5_small"

static enum taca_code open_t5(void *ctx, struct taca_err *err) {
    struct tok_t5 *t = NULL;
    enum taca_code rc = tok_t5_open(&t, ctx, err);
    CHECK((rc == TACA_OK) == (t != NULL));
    tok_t5_close(t);
    return rc;
}

/* A folder that has spiece.model alone: a link to the small one. */
static void test_t5_tokenizer_open_survives_every_failed_allocation(void) {
    struct made m;
    char path[256];
    make_dir(&m);
    snprintf(path, sizeof path, "%s/spiece.model", m.dir);
    CHECK_INT(symlink(SMALL "/spiece.model", path), 0);
    write_file(&m, "tokenizer_config.json",
               "{\"extra_ids\":2,\"added_tokens_decoder\":{\"90\":{\"content\":\"<new>\"}},"
               "\"model_max_length\":1000000000000000019884624838656}");
    nomem_sweep("spiece", open_t5, m.dir, 1);
    remove_dir(&m);
    nomem_sweep("json", open_t5, (void *)(uintptr_t)SMALL, 1); /* tokenizer.json comes first */
}

static enum taca_code encode_t5(void *ctx, struct taca_err *err) {
    static const char text[] = "a cat </s> sat\xFF on the \xEF\xAC\x81 mat <extra_id_0>  cats  ";
    int32_t ids[16];
    return tok_t5_encode(ctx, text, ids, 16, NULL, err);
}

static void test_t5_encode_survives_every_failed_allocation(void) {
    struct taca_err err = {0};
    struct tok_t5 *t = NULL;
    CHECK_OK(tok_t5_open(&t, SMALL, &err), err);
    if (t) nomem_sweep("encode T5", encode_t5, t, 1);
    tok_t5_close(t);
}

struct bench {
    struct taca_backend *b;
    struct taca_model_dir dir;
    struct text *t;
    struct taca_scratch s;
    const struct text_opts *opts;
};
/* nothing is kept: every call encodes */
static const struct text_opts demo = {.joint_width = 256, .pooled_width = 256};
static const struct text_opts with_t5 = {.joint_width = 40, .pooled_width = 48, .t5_tokens = 16};

static enum taca_code open_text(void *ctx, struct taca_err *err) {
    struct bench *k = ctx;
    struct text *t = NULL;
    enum taca_code rc = text_open(&t, k->b, &k->dir, k->opts, err);
    CHECK((rc == TACA_OK) == (t != NULL));
    text_close(t);
    return rc;
}

static enum taca_code acquire(void *ctx, struct taca_err *err) {
    struct bench *k = ctx;
    const struct text_cond *c = NULL;
    const struct text_prompt p = {.prompt = "a red cube"};
    enum taca_code rc = text_acquire(k->t, &k->s, &p, &c, err);
    CHECK((rc == TACA_OK) == (c != NULL));
    CHECK_INT(text_stats(k->t).entries, rc == TACA_OK);
    text_release(k->t, c);
    return rc;
}

static void sweep_text(const char *path, const struct text_opts *opts, long stride) {
    struct bench k = {.opts = opts};
    struct taca_err err = {0};
    const struct taca_backend_opts o = {.threads = 1};
    CHECK_OK(taca_cpu_open(&k.b, &o, &err), err);
    CHECK_OK(taca_model_open(&k.dir, &(struct taca_model_paths){.model = path}, &err), err);
    nomem_keeps = true; /* weights and work memory live as long as the backend */
    nomem_sweep("open text", open_text, &k, stride);
    CHECK_OK(text_open(&k.t, k.b, &k.dir, opts, &err), err);
    k.s.b = k.b;
    if (k.t) {
        CHECK_OK(taca_scratch_reserve(&k.s, text_scratch_bytes(k.t), &err), err);
        nomem_sweep("acquire", acquire, &k, 1);
    }
    nomem_keeps = false;
    text_close(k.t);
    taca_scratch_finish(&k.s);
    taca_model_dir_finish(&k.dir);
    taca_backend_close(k.b);
}

static void test_text_survives_failed_allocations(void) {
    sweep_text(TACA_SOURCE_DIR "/models/demo", &demo, 97);
}
/* Three vocabularies are 130,000 allocations; few enough of them fail here. */
static void test_text_with_t5_survives_failed_allocations(void) {
    sweep_text(TACA_GOLDEN_DIR "/pipelines/sd35_tiny_t5", &with_t5, 20011);
}

int main(void) {
    TEST(test_tokenizer_open_survives_every_failed_allocation);
    TEST(test_encode_survives_every_failed_allocation);
    TEST(test_t5_tokenizer_open_survives_every_failed_allocation);
    TEST(test_t5_encode_survives_every_failed_allocation);
    TEST(test_text_survives_failed_allocations);
    TEST(test_text_with_t5_survives_failed_allocations);
    return TEST_END();
}
