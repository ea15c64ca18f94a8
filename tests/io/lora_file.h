/* lora_file.h - adapter files made by hand, and two small models to read them for. */
#ifndef TACA_TESTS_IO_LORA_FILE_H
#define TACA_TESTS_IO_LORA_FILE_H

#include "engine/io/lora.h"
#include "tests/io/tmp.h"

enum { W = 8, MAX_MADE = 24 };

/* A tensor of F32 values; value i is first + i / 64. */
struct made {
    const char *name;
    int rank;
    int64_t dim[4];
    float first;
};

#define DOWN(stem, rank, in, first)                                                                \
    { stem ".lora_down.weight", 2, {rank, in}, first }
#define UP(stem, out, rank, first)                                                                 \
    { stem ".lora_up.weight", 2, {out, rank}, first }
#define ALPHA(stem, value)                                                                         \
    { stem ".alpha", 0, {0}, value }
#define PAIR(stem, in, out) DOWN(stem, 2, in, 1), UP(stem, out, 2, 3)

/* Writes name: n tensors, and `meta` as the inside of __metadata__. Returns the path. */
__attribute__((unused)) static const char *lora_write(const char *name, const char *meta, int n,
                                                      const struct made *t) {
    static char header[1 << 14];
    static float data[1 << 14];
    size_t at = (size_t)snprintf(header, sizeof header, "{\"__metadata__\":{%s}", meta), used = 0;
    for (int i = 0; i < n; i++) {
        size_t count = 1, begin = used * sizeof *data;
        at += (size_t)snprintf(header + at, sizeof header - at,
                               ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", t[i].name);
        for (int k = 0; k < t[i].rank; k++) {
            count *= (size_t)t[i].dim[k];
            at += (size_t)snprintf(header + at, sizeof header - at, "%s%lld", k ? "," : "",
                                   (long long)t[i].dim[k]);
        }
        for (size_t k = 0; k < count; k++) data[used++] = t[i].first + (float)k / 64;
        at += (size_t)snprintf(header + at, sizeof header - at, "],\"data_offsets\":[%zu,%zu]}",
                               begin, used * sizeof *data);
    }
    header[at++] = '}';
    unsigned char *file = malloc(8 + at + used * sizeof *data);
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)((uint64_t)at >> 8 * i);
    memcpy(file + 8, header, at);
    memcpy(file + 8 + at, data, used * sizeof *data);
    const char *path = tmp_write(name, file, 8 + at + used * sizeof *data);
    free(file);
    return path;
}

static const struct taca_lora_module flux_modules[] = {
    {"x_embedder", 4, W, true},
    {"time_text_embed.guidance_embedder.linear_1", 16, W, false},
    {"transformer_blocks.0.norm1.linear", W, 6 * W, false},
    {"transformer_blocks.0.attn.to_q", W, W, false},
    {"transformer_blocks.0.attn.to_k", W, W, false},
    {"transformer_blocks.0.attn.to_v", W, W, false},
    {"transformer_blocks.0.attn.add_q_proj", W, W, false},
    {"transformer_blocks.0.attn.add_k_proj", W, W, false},
    {"transformer_blocks.0.attn.add_v_proj", W, W, false},
    {"transformer_blocks.0.attn.to_out.0", W, W, false},
    {"transformer_blocks.0.attn.norm_k", 0, 4, false},
    {"transformer_blocks.0.ff.net.0.proj", W, 4 * W, false},
    {"single_transformer_blocks.3.attn.to_q", W, W, false},
    {"single_transformer_blocks.3.attn.to_k", W, W, false},
    {"single_transformer_blocks.3.attn.to_v", W, W, false},
    {"single_transformer_blocks.3.proj_mlp", W, 4 * W, false},
    {"single_transformer_blocks.3.proj_out", 5 * W, W, false},
    {"norm_out.linear", W, 2 * W, false},
    {"proj_out", W, 4, false},
};
static const struct taca_lora_module sd3_modules[] = {
    {"pos_embed.proj", 4 * 2 * 2, W, false},
    {"context_embedder", 5, W, false},
    {"transformer_blocks.0.norm1_context.linear", W, 6 * W, false},
    {"transformer_blocks.0.attn.to_q", W, W, false},
    {"transformer_blocks.0.attn.to_k", W, W, false},
    {"transformer_blocks.0.attn.to_v", W, W, false},
    {"transformer_blocks.0.attn2.to_out.0", W, W, false},
    {"transformer_blocks.1.norm1_context.linear", W, 2 * W, false},
    {"transformer_blocks.1.attn.to_q", W, W, false},
    {"norm_out.linear", W, 2 * W, false},
};
static const struct taca_lora_model flux = {flux_modules,
                                            sizeof flux_modules / sizeof *flux_modules};
static const struct taca_lora_model sd3 = {sd3_modules, sizeof sd3_modules / sizeof *sd3_modules};

#endif
