/* test_io_nomem.c - every open of engine/io with each of its allocations failing in turn. */
#include "engine/io/checkpoint.h"
#include "engine/io/gguf.h"
#include "engine/io/model_dir.h"
#include "engine/io/safetensors.h"
#include "tests/io/gguf_make.h"
#include "tests/io/lora_file.h"
#include "tests/nomem.h"

static enum taca_code open_safetensors(void *path, struct taca_err *err) {
    struct taca_safetensors *st = NULL;
    enum taca_code rc = taca_safetensors_open(&st, path, err);
    CHECK((rc == TACA_OK) == (st != NULL));
    taca_safetensors_close(st);
    return rc;
}

static enum taca_code open_ckpt(void *path, struct taca_err *err) {
    struct taca_ckpt *c = NULL;
    enum taca_code rc = taca_ckpt_open(&c, path, err);
    CHECK((rc == TACA_OK) == (c != NULL));
    taca_ckpt_close(c);
    return rc;
}

static enum taca_code open_model_dir(void *path, struct taca_err *err) {
    struct taca_model_dir d = {0};
    enum taca_code rc = taca_model_open(&d, &(struct taca_model_paths){.model = path}, err);
    CHECK((rc == TACA_OK) == (d.path != NULL));
    if (rc == TACA_OK) taca_model_dir_finish(&d);
    return rc;
}

static enum taca_code open_gguf(void *path, struct taca_err *err) {
    struct taca_gguf *g = NULL;
    enum taca_code rc = taca_gguf_open(&g, path, err);
    CHECK((rc == TACA_OK) == (g != NULL));
    taca_gguf_close(g);
    return rc;
}

/* Opens the transformer in it and asks for a quantised or rearranged tensor. */
static enum taca_code open_part(void *path, struct taca_err *err) {
    struct taca_ckpt *c = NULL;
    struct taca_tensor t;
    enum taca_code rc = taca_ckpt_open_kind(&c, path, TACA_DIT, err);
    CHECK((rc == TACA_OK) == (c != NULL));
    if (!rc) rc = taca_ckpt_get(c, &t, "norm_out.linear.weight", 2, (int64_t[]){-1, -1}, err);
    taca_ckpt_close(c);
    return rc;
}

static enum taca_code open_single(void *path, struct taca_err *err) {
    const struct taca_model_paths paths = {.model = path, .partial = true};
    struct taca_model_dir d = {0};
    enum taca_code rc = taca_model_open(&d, &paths, err);
    CHECK((rc == TACA_OK) == (d.path != NULL));
    if (rc == TACA_OK) taca_model_dir_finish(&d);
    return rc;
}

static enum taca_code read_lora(const char *path, const struct taca_lora_model *m,
                                struct taca_err *err) {
    struct taca_lora_file f = {0};
    enum taca_code rc = taca_lora_read(&f, path, m, NULL, err);
    CHECK((rc == TACA_OK) == (f.n_deltas > 0));
    taca_lora_file_finish(&f);
    return rc;
}
static enum taca_code read_flux_lora(void *path, struct taca_err *err) {
    return read_lora(path, &flux, err);
}
static enum taca_code read_sd3_lora(void *path, struct taca_err *err) {
    return read_lora(path, &sd3, err);
}

static enum taca_code write_one(void *path, struct taca_err *err) {
    static const float x[2] = {1, 2};
    const struct taca_tensor t = {"a", x, TACA_F32, 1, {2}};
    unlink(path);
    enum taca_code rc = taca_safetensors_write(path, &t, 1, err);
    CHECK((rc == TACA_OK) == (access(path, F_OK) == 0));
    return rc;
}

static void sweep(const char *what, enum taca_code (*fn)(void *path, struct taca_err *err),
                  const char *path) {
    nomem_sweep(what, fn, (void *)(uintptr_t)path, 1);
}

static void test_safetensors_open_survives_every_failed_allocation(void) {
    sweep("safetensors", open_safetensors,
          tmp_tensors("a.safetensors",
                      "{\"__metadata__\":{\"k\":\"v\"},"
                      "\"a\":{\"dtype\":\"U8\",\"shape\":[2,1],\"data_offsets\":[0,2]},"
                      "\"b\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[2,10]}}",
                      10));
}

static void test_ckpt_open_survives_every_failed_allocation(void) {
    tmp_tensors("c/model-1-of-2.safetensors",
                "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    tmp_tensors("c/model-2-of-2.safetensors",
                "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3);
    tmp_text("c/model.safetensors.index.json",
             "{\"weight_map\":{\"a\":\"model-1-of-2.safetensors\","
             "\"b\":\"model-2-of-2.safetensors\"}}");
    sweep("sharded ckpt", open_ckpt, tmp_path("c"));
    tmp_tensors("d/model.fp16.safetensors", "{}", 0);
    sweep("variant ckpt", open_ckpt, tmp_path("d"));
}

static void test_model_dir_open_survives_every_failed_allocation(void) {
    sweep("model_dir", open_model_dir, TACA_SOURCE_DIR "/models/demo");
}

static void test_gguf_open_survives_every_failed_allocation(void) {
    gg_begin(3, 2, 1);
    gg_key_text("general.architecture", "flux");
    gg_tensor("double_blocks.0.img_attn.qkv.weight", 32, 3, 8, 0);
    gg_tensor("final_layer.adaLN_modulation.1.weight", 32, 2, 8, 128);
    gg_pad(32);
    gg_data(102);
    gg_pad(32);
    gg_data(68);
    const char *path = gg_end("q.gguf");
    sweep("gguf", open_gguf, path);
    sweep("gguf, one part", open_part, path);
    sweep("gguf, a model", open_single, path);
    taca_buf_finish(&gg);
}

static void test_original_names_survive_every_failed_allocation(void) {
    sweep("original sd3", open_part, TACA_GOLDEN_DIR "/models/sd35m_tiny.orig.safetensors");
    sweep("single file", open_single, TACA_GOLDEN_DIR "/models/sd35m_tiny.orig.safetensors");
}

static void test_adapters_survive_every_failed_allocation(void) {
    const struct made t[] = {PAIR("lora_unet_single_blocks_3_linear1", W, 7 * W),
                             ALPHA("lora_unet_single_blocks_3_linear1", 3),
                             {"double_blocks.0.img_attn.norm.key_norm.scale", 1, {4}, 5}};
    const struct made u[] = {PAIR("diffusion_model.final_layer.adaLN_modulation.1", W, 2 * W)};
    sweep("flux adapter", read_flux_lora, lora_write("f.safetensors", "", sizeof t / sizeof *t, t));
    sweep(
        "sd3 adapter", read_sd3_lora,
        lora_write("s.safetensors", "\"lora_adapter_metadata\":\"{\\\"lora_alpha\\\":4}\"", 2, u));
}

static void test_write_survives_every_failed_allocation(void) {
    const char *path = tmp_path("w.safetensors");
    sweep("write", write_one, path);
}

int main(void) {
    tmp_begin();
    TEST(test_safetensors_open_survives_every_failed_allocation);
    TEST(test_ckpt_open_survives_every_failed_allocation);
    TEST(test_model_dir_open_survives_every_failed_allocation);
    TEST(test_gguf_open_survives_every_failed_allocation);
    TEST(test_original_names_survive_every_failed_allocation);
    TEST(test_adapters_survive_every_failed_allocation);
    TEST(test_write_survives_every_failed_allocation);
    tmp_end();
    return TEST_END();
}
