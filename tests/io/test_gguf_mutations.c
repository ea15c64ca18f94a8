/* test_gguf_mutations.c - twenty thousand broken variants of good files through fuzz_gguf.c. The
 * generator is fixed, so a failure repeats; MUTATIONS=n in the environment asks for more. */
#include "tests/io/gguf_make.h"
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

enum { MAX_SIZE = 8192 };

static uint64_t state = 88172645463325252u;
static unsigned draw(unsigned n) { /* 0 .. n - 1 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

/* Original names of each kind, so that rows are cut, halves changed and matrices turned. */
static void seed(unsigned which) {
    static const char *const names[][4] = {
        {"double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight",
         "final_layer.adaLN_modulation.1.weight", "img_in.bias"},
        {"joint_blocks.0.x_block.attn.qkv.weight",
         "joint_blocks.0.context_block.adaLN_modulation.1.weight",
         "joint_blocks.1.context_block.adaLN_modulation.1.bias", "pos_embed"},
        {"transformer.resblocks.0.attn.in_proj_weight", "text_projection", "ln_final.weight",
         "positional_embedding"},
        {"enc.blk.0.attn_q.weight", "token_embd.weight", "enc.blk.0.attn_rel_b.weight",
         "enc.output_norm.weight"},
    };
    static const struct {
        uint32_t id;
        unsigned block, bytes;
    } types[] = {{0, 1, 4}, {1, 1, 2}, {8, 32, 34}, {2, 32, 18}, {12, 256, 144}, {14, 256, 210}};
    const char *const *name = names[which % 4];
    size_t size[4], at = 0;
    gg_begin(2 + draw(2), 4, 3);
    gg_key_text("general.architecture", "flux");
    gg_key_u32("general.alignment", 32);
    gg_text("list");
    gg_int(9, 4), gg_int(8, 4), gg_int(2, 8);
    gg_text("a"), gg_text("b");
    for (int i = 0; i < 4; i++) {
        const unsigned t = draw(6), rows = i == 3 ? 0 : i == 1 ? 7 : 6;
        const unsigned cols = types[t].block == 1 ? 8 : types[t].block;
        gg_tensor(name[i], cols, rows, types[t].id, at);
        size[i] = (size_t)(rows ? rows : 1) * cols / types[t].block * types[t].bytes;
        at = (at + size[i] + 31) / 32 * 32;
    }
    for (int i = 0; i < 4; i++) {
        gg_pad(32);
        gg_data(size[i]);
    }
}

static size_t mutate(unsigned char *p, size_t len, size_t head) {
    static const uint64_t edges[] = {
        0, 1, UINT64_MAX, INT64_MAX, 1u << 31, UINT32_MAX, UINT64_C(1) << 60, 255, 33, 31};
    size_t at = draw((unsigned)(draw(8) ? head : len)), n;
    switch (draw(4)) {
    case 0: p[at] = (unsigned char)draw(256); return len;
    case 1: p[at] ^= (unsigned char)(1u << draw(8)); return len;
    case 2:
        for (n = 0; n < 8 && at + n < len; n++)
            p[at + n] = (unsigned char)(edges[draw(10)] >> 8 * n);
        return len;
    default:
        n = draw(9);
        if (n > len - at) n = len - at;
        memmove(p + at, p + at + n, len - at - n);
        return len - n;
    }
}

static void one_variant(unsigned i) {
    static unsigned char file[MAX_SIZE];
    seed(i);
    size_t len = gg.len < MAX_SIZE ? gg.len : MAX_SIZE;
    memcpy(file, gg.data, len);
    const size_t head = len < 420 ? len : 420;
    for (unsigned k = draw(4); k > 0 && len > 1; k--)
        len = mutate(file, len, head < len ? head : len);
    if (draw(16) == 0) len = draw((unsigned)len + 1);
    LLVMFuzzerTestOneInput(file, len); /* aborts when not well */
}

static void test_broken_variants_never_break_the_reader(void) {
    const char *more = getenv("MUTATIONS");
    long n = more ? strtol(more, NULL, 10) : 20000;
    for (long i = 0; i < n; i++) one_variant((unsigned)i);
    printf("    %ld variants\n", n);
    CHECK(n > 0);
}

int main(void) {
    TEST(test_broken_variants_never_break_the_reader);
    taca_buf_finish(&gg);
    return TEST_END();
}
