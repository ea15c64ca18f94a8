/* test_single_file.c - a whole model in one file under the original names: what the demo's
 * directory makes, its parts in such a file must make too, bit for bit. The file is written here,
 * by a table of its own from the directory's names to the original ones. */
#include "base/mem.h"
#include "engine/core.h"
#include "engine/io/model_dir.h"
#include "engine/io/safetensors.h"
#include "engine/params.h"
#include "tests/io/gguf_make.h"
#include "tests/io/tmp.h"
#include "tests/test.h"

#define DEMO TACA_SOURCE_DIR "/models/demo"

/* ---- the file -------------------------------------------------------------------------------- */

enum { MAX_TENSORS = 1024, LAYERS = 8, LEVELS = 4 };
struct writer {
    struct taca_ckpt *from;
    const char *prefix;
    struct taca_arena arena;
    struct taca_tensor t[MAX_TENSORS];
    int n;
};

static struct taca_tensor get(struct writer *w, const char *name) {
    struct taca_tensor t = {0};
    struct taca_err err = {0};
    const struct taca_tensor *seen = taca_ckpt_peek(w->from, name);
    if (CHECK(seen != NULL))
        CHECK_OK(taca_ckpt_get(w->from, &t, name, seen->rank, seen->dim, &err), err);
    return t;
}

static size_t bytes_of(const struct taca_tensor *t) {
    return (size_t)taca_tensor_count(t) * taca_dtype_bytes(t->dtype);
}

/* A copy of the n tensors below each other, or of one with its halves changed. */
static void put(struct writer *w, const char *name, const struct taca_tensor *parts, int n,
                bool swap) {
    struct taca_tensor t = parts[0];
    char full[256];
    t.dim[0] *= n;
    const size_t one = bytes_of(parts), half = one / 2;
    unsigned char *data = taca_arena_alloc(&w->arena, one * (size_t)n + 1);
    for (int i = 0; i < n && !swap; i++) memcpy(data + (size_t)i * one, parts[i].data, one);
    if (swap) {
        memcpy(data, (const char *)t.data + half, half);
        memcpy(data + half, t.data, half);
    }
    snprintf(full, sizeof full, "%s%s", w->prefix, name);
    t.name = taca_arena_strndup(&w->arena, full, strlen(full));
    t.data = data;
    w->t[w->n++] = t;
}

/* "<head><tail>" with head replaced, false when name does not begin so. */
static bool renamed(char out[256], const char *name, const char *head, const char *with) {
    if (strncmp(name, head, strlen(head)) != 0) return false;
    snprintf(out, 256, "%s%s", with, name + strlen(head));
    return true;
}

static void fuse(struct writer *w, const char *name, const char *out, const char *const leaf[3]) {
    static const char *const kinds[] = {"weight", "bias"};
    const char *tail = strrchr(name, '.') + 1, *kind = kinds[strcmp(tail, "bias") == 0];
    struct taca_tensor part[3];
    char at[256];
    int stem = (int)(strstr(name, leaf[0]) - name);
    for (int i = 0; i < 3; i++) {
        snprintf(at, sizeof at, "%.*s%s.%s", stem, name, leaf[i], kind);
        part[i] = get(w, at);
    }
    snprintf(at, sizeof at, "%s.%s", out, kind);
    put(w, at, part, 3, false);
}

/* A tensor of block i of the transformer; `rest` is its name within. */
static void put_block(struct writer *w, const char *name, int i, const char *rest) {
    static const char *const img[] = {"to_q", "to_k", "to_v"};
    static const char *const txt[] = {"add_q_proj", "add_k_proj", "add_v_proj"};
    static const char *const names[][2] = {
        {"norm1.linear.", "x_block.adaLN_modulation.1."},
        {"norm1_context.linear.", "context_block.adaLN_modulation.1."},
        {"attn.norm_q.", "x_block.attn.ln_q."},
        {"attn.norm_k.", "x_block.attn.ln_k."},
        {"attn.norm_added_q.", "context_block.attn.ln_q."},
        {"attn.norm_added_k.", "context_block.attn.ln_k."},
        {"attn2.norm_q.", "x_block.attn2.ln_q."},
        {"attn2.norm_k.", "x_block.attn2.ln_k."},
        {"attn.to_out.0.", "x_block.attn.proj."},
        {"attn.to_add_out.", "context_block.attn.proj."},
        {"attn2.to_out.0.", "x_block.attn2.proj."},
        {"ff.net.0.proj.", "x_block.mlp.fc1."},
        {"ff.net.2.", "x_block.mlp.fc2."},
        {"ff_context.net.0.proj.", "context_block.mlp.fc1."},
        {"ff_context.net.2.", "context_block.mlp.fc2."},
    };
    char out[256], full[400], stem[64];
    snprintf(stem, sizeof stem, "joint_blocks.%d.", i);
    const bool swap = i == LAYERS - 1 && strncmp(rest, "norm1_context", 13) == 0;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        if (!renamed(out, rest, names[k][0], names[k][1])) continue;
        struct taca_tensor t = get(w, name);
        snprintf(full, sizeof full, "%s%s", stem, out);
        put(w, full, &t, 1, swap);
        return;
    }
    if (strncmp(rest, "attn.to_q.", 10) == 0 || strncmp(rest, "attn2.to_q.", 11) == 0) {
        snprintf(full, sizeof full, "%sx_block.%s.qkv", stem, rest[4] == '2' ? "attn2" : "attn");
        fuse(w, name, full, img);
    } else if (strncmp(rest, "attn.add_q_proj.", 16) == 0) {
        snprintf(full, sizeof full, "%scontext_block.attn.qkv", stem);
        fuse(w, name, full, txt);
    }
}

static void put_dit(void *ctx, const char *name) {
    static const char *const names[][2] = {
        {"pos_embed.pos_embed", "pos_embed"},
        {"pos_embed.proj.", "x_embedder.proj."},
        {"time_text_embed.timestep_embedder.linear_1.", "t_embedder.mlp.0."},
        {"time_text_embed.timestep_embedder.linear_2.", "t_embedder.mlp.2."},
        {"time_text_embed.text_embedder.linear_1.", "y_embedder.mlp.0."},
        {"time_text_embed.text_embedder.linear_2.", "y_embedder.mlp.2."},
        {"context_embedder.", "context_embedder."},
        {"norm_out.linear.", "final_layer.adaLN_modulation.1."},
        {"proj_out.", "final_layer.linear."},
    };
    struct writer *w = ctx;
    char out[256];
    int i = 0, used = 0;
    if (sscanf(name, "transformer_blocks.%1d.%n", &i, &used) == 1 && used) {
        put_block(w, name, i, name + used);
        return;
    }
    for (size_t k = 0; k < sizeof names / sizeof *names; k++)
        if (renamed(out, name, names[k][0], names[k][1])) {
            struct taca_tensor t = get(w, name);
            put(w, out, &t, 1, strncmp(name, "norm_out", 8) == 0);
            return;
        }
    printf("        no original name for %s\n", name);
    CHECK(false);
}

static void put_vae(void *ctx, const char *name) {
    struct writer *w = ctx;
    struct taca_tensor t = get(w, name);
    char out[256], side[16] = "", rest[160] = "";
    int i, k;
    const char *leaf;
    snprintf(out, sizeof out, "%s", name);
    if (sscanf(name, "decoder.up_blocks.%d.resnets.%d.%159s", &i, &k, rest) == 3)
        snprintf(out, sizeof out, "decoder.up.%d.block.%d.%s", LEVELS - 1 - i, k, rest);
    else if (sscanf(name, "decoder.up_blocks.%d.upsamplers.0.%159s", &i, rest) == 2)
        snprintf(out, sizeof out, "decoder.up.%d.upsample.%s", LEVELS - 1 - i, rest);
    else if (sscanf(name, "encoder.down_blocks.%d.resnets.%d.%159s", &i, &k, rest) == 3)
        snprintf(out, sizeof out, "encoder.down.%d.block.%d.%s", i, k, rest);
    else if (sscanf(name, "encoder.down_blocks.%d.downsamplers.0.%159s", &i, rest) == 2)
        snprintf(out, sizeof out, "encoder.down.%d.downsample.%s", i, rest);
    else if (sscanf(name, "%7[a-z].mid_block.resnets.%d.%159s", side, &k, rest) == 3)
        snprintf(out, sizeof out, "%s.mid.block_%d.%s", side, k + 1, rest);
    else if (sscanf(name, "%7[a-z].mid_block.attentions.0.%159s", side, rest) == 2) {
        static const char *const names[][2] = {{"group_norm.", "norm."},
                                               {"to_q.", "q."},
                                               {"to_k.", "k."},
                                               {"to_v.", "v."},
                                               {"to_out.0.", "proj_out."}};
        char end[256] = "?";
        for (int n = 0; n < 5; n++)
            if (renamed(end, rest, names[n][0], names[n][1])) break;
        snprintf(out, sizeof out, "%s.mid.attn_1.%.100s", side, end);
        if (t.rank == 2) t.rank = 4, t.dim[2] = t.dim[3] = 1; /* a 1 x 1 convolution */
    } else if (sscanf(name, "%7[a-z].conv_norm_out.%159s", side, rest) == 2)
        snprintf(out, sizeof out, "%s.norm_out.%s", side, rest);
    if ((leaf = strstr(out, "conv_shortcut"))) {
        snprintf(rest, sizeof rest, "nin_shortcut%s", leaf + strlen("conv_shortcut"));
        snprintf(out + (leaf - out), 64, "%.60s", rest);
    }
    put(w, out, &t, 1, false);
}

static void put_as_is(void *ctx, const char *name) {
    struct writer *w = ctx;
    struct taca_tensor t = get(w, name);
    put(w, name, &t, 1, false);
}

/* The demo in one file. */
static const char *write_demo(const char *file) {
    static const struct {
        const char *dir, *prefix;
        void (*put)(void *ctx, const char *name);
    } parts[] = {
        {DEMO "/transformer", "model.diffusion_model.", put_dit},
        {DEMO "/vae", "first_stage_model.", put_vae},
        {DEMO "/text_encoder", "text_encoders.clip_l.transformer.", put_as_is},
        {DEMO "/text_encoder_2", "text_encoders.clip_g.transformer.", put_as_is},
    };
    struct writer *w = calloc(1, sizeof *w);
    struct taca_ckpt *open[4] = {0};
    struct taca_err err = {0};
    const char *path = tmp_path(file);
    for (int i = 0; w && i < 4; i++) {
        CHECK_OK(taca_ckpt_open(&open[i], parts[i].dir, &err), err);
        w->from = open[i];
        w->prefix = parts[i].prefix;
        if (open[i]) taca_ckpt_unused(open[i], parts[i].put, w);
    }
    CHECK_OK(taca_safetensors_write(path, w->t, (size_t)w->n, &err), err);
    for (int i = 0; i < 4; i++) taca_ckpt_close(open[i]);
    taca_arena_finish(&w->arena);
    free(w);
    return path;
}

/* ---- what it makes --------------------------------------------------------------------------- */

enum { STEPS = 3, LATENT = 16 * 8 * 8 };

/* Latent after three steps; zeros on failure. */
static void run(const struct taca_engine_opts *opts, float latent[LATENT], int64_t *parameters) {
    struct taca_engine *e = NULL;
    struct taca_seq *s = NULL;
    struct taca_gen_params p;
    struct taca_err err = {0};
    memset(latent, 0, LATENT * sizeof *latent);
    CHECK_OK(taca_engine_open(&e, opts, &err), err);
    if (!e) return;
    *parameters = taca_engine_info(e)->parameters;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = "a red cube to the left of a blue ball";
    p.width_px = p.height_px = 64;
    p.steps = STEPS;
    p.seed = 7;
    CHECK_OK(taca_seq_open(e, &p, &s, NULL, &err), err);
    for (int i = 0; s && i < STEPS; i++) CHECK_OK(taca_step(e, &s, 1, &err), err);
    if (s) CHECK_OK(seq_latent_read(e, s, latent, &err), err);
    taca_seq_close(e, s);
    taca_engine_close(e);
}

static const struct taca_engine_opts base = {
    .threads = 1, .precision = TACA_PRECISION_F32, .deterministic = true};

static void same_latent(const struct taca_engine_opts *opts) {
    static float want[LATENT], got[LATENT];
    static int64_t parameters;
    struct taca_engine_opts dir = base;
    int64_t n = 0;
    dir.model_path = DEMO;
    if (!parameters) run(&dir, want, &parameters);
    run(opts, got, &n);
    CHECK(want[0] != 0 && memcmp(want, got, sizeof want) == 0);
    CHECK_INT(n, parameters);
}

static void test_one_file_makes_what_its_directory_makes(void) {
    struct taca_engine_opts o = base;
    o.model_path = tmp_path("demo.safetensors");
    o.config = DEMO;
    same_latent(&o);
}

static void test_parts_may_come_from_anywhere(void) {
    struct taca_engine_opts o = base;
    /* a directory with its transformer replaced by the file's */
    o.model_path = DEMO;
    o.transformer = tmp_path("demo.safetensors");
    same_latent(&o);
    /* the file's transformer alone, the rest from folders and files */
    o.model_path = NULL;
    o.vae = DEMO "/vae/diffusion_pytorch_model.safetensors";
    o.clip_l = DEMO "/text_encoder";
    o.clip_g = tmp_path("demo.safetensors");
    o.t5 = "none";
    o.config = DEMO;
    same_latent(&o);
}

/* Without a word about it, the projection of CLIP-L is not applied. */
static void test_the_projection_of_clip_l_waits_for_a_config(void) {
    static const char name[] = "text_projection.weight";
    struct taca_model_paths paths = {.model = tmp_path("demo.safetensors"), .partial = true};
    for (int i = 0; i < 2; i++) {
        struct taca_model_dir d = {0};
        struct taca_ckpt *l = NULL, *g = NULL;
        struct taca_err err = {0};
        CHECK_OK(taca_model_open(&d, &paths, &err), err);
        CHECK_OK(taca_model_weights(&d, TACA_TEXT_ENCODER, &l, &err), err);
        CHECK_OK(taca_model_weights(&d, TACA_TEXT_ENCODER_2, &g, &err), err);
        CHECK(l && taca_ckpt_has(l, name) == (i == 1));
        CHECK(g && taca_ckpt_has(g, name));
        taca_ckpt_close(l);
        taca_ckpt_close(g);
        taca_model_dir_finish(&d);
        paths.config = DEMO;
    }
}

/* Everything that --model-config gave, in a file beside it; only the tokenizers cannot be there. */
static void test_configs_may_lie_beside_the_file(void) {
    struct taca_model_dir d = {0};
    struct taca_err err = {0};
    json_t *all = json_object(), *j;
    CHECK_OK(taca_model_open(&d, &(struct taca_model_paths){.model = DEMO}, &err), err);
    for (int i = TACA_TRANSFORMER; i <= TACA_TEXT_ENCODER_2; i++)
        json_object_set(all, taca_component_name((enum taca_component)i), d.config[i]);
    json_object_set(all, "scheduler", d.scheduler);
    json_object_set(all, "taca", d.taca);
    taca_model_dir_finish(&d);
    CHECK(json_dump_file(all, tmp_path("demo.config.json"), 0) == 0);
    json_decref(all);
    const struct taca_model_paths paths = {.model = tmp_path("demo.safetensors")};
    setenv("TACA_DATA", TACA_SOURCE_DIR "/models", 1);
    CHECK_OK(taca_model_open(&d, &paths, &err), err);
    unlink(tmp_path("demo.config.json"));
    if (err.code) return;
    CHECK_STR(d.class_name, "StableDiffusion3Pipeline");
    CHECK_INT(json_integer_value(json_object_get(d.config[TACA_VAE], "norm_num_groups")), 8);
    j = d.config[TACA_TEXT_ENCODER_2];
    CHECK_INT(json_integer_value(json_object_get(j, "num_attention_heads")), 4);
    CHECK_INT(json_integer_value(json_object_get(d.taca, "width")), 128);
    CHECK_NEAR(json_number_value(json_object_get(d.scheduler, "shift")), 1, 0);
    CHECK_STR(d.dir[TACA_TOKENIZER_2], TACA_SOURCE_DIR "/models/tokenizers/clip_g");
    CHECK_STR(d.dir[TACA_VAE], tmp_path("demo.safetensors"));
    char id[64];
    taca_model_dir_id(&d, id, sizeof id);
    CHECK_STR(id, "demo");
    taca_model_dir_finish(&d);
}

/* Each derived config, where shapes tell, must be the directory's own. */
static void test_shapes_tell_most_of_a_config(void) {
    static const char *const guessed[] = {"norm_num_groups", "scaling_factor", "shift_factor",
                                          "num_attention_heads", "sample_size"};
    struct taca_model_dir d = {0}, dir = {0};
    struct taca_err err = {0};
    const struct taca_model_paths paths = {.model = tmp_path("demo.safetensors")};
    int compared = 0;
    CHECK_OK(taca_model_open(&dir, &(struct taca_model_paths){.model = DEMO}, &err), err);
    CHECK_OK(taca_model_open(&d, &paths, &err), err);
    if (err.code) return;
    for (int i = TACA_TRANSFORMER; i <= TACA_TEXT_ENCODER_2; i++) {
        const char *key;
        json_t *v;
        json_object_foreach(d.config[i], key, v) {
            const json_t *want = json_object_get(dir.config[i], key);
            bool guess = false;
            for (size_t k = 0; k < sizeof guessed / sizeof *guessed; k++)
                guess |= strcmp(key, guessed[k]) == 0 && i != TACA_TRANSFORMER;
            if (!want || guess || strcmp(key, "sample_size") == 0) continue;
            compared++;
            if (!CHECK(json_equal(v, want)))
                printf("        %s.%s\n", taca_component_name((enum taca_component)i), key);
        }
    }
    CHECK(compared >= 30);
    CHECK_NEAR(json_number_value(json_object_get(d.config[TACA_VAE], "scaling_factor")), 1.5305, 0);
    CHECK_NEAR(json_number_value(json_object_get(d.scheduler, "shift")), 3, 0);
    taca_model_dir_finish(&d);
    taca_model_dir_finish(&dir);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void refuse(const struct taca_model_paths *paths, enum taca_code code, const char *words) {
    struct taca_model_dir d = {.path = tmp_root};
    struct taca_err err = {0};
    CHECK_INT(taca_model_open(&d, paths, &err), code);
    CHECK(d.path == tmp_root);
    CHECK_HAS(err.text, words);
}

static void test_a_wrong_part_is_answered_by_what_it_is(void) {
    static const char vae[] = DEMO "/vae/diffusion_pytorch_model.safetensors";
    static const char clip[] = DEMO "/text_encoder/model.safetensors";
    const char *whole = tmp_path("demo.safetensors");
    const char *lora = tmp_tensors("lora.safetensors",
                                   "{\"transformer.transformer_blocks.0.attn.to_q.lora_A.weight\":"
                                   "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                                   1);
    const char *llama = tmp_write("llama.gguf",
                                  "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"
                                  "\x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0"
                                  "\5\0\0\0\0\0\0\0llama",
                                  24 + 8 + 20 + 4 + 8 + 5);
    const char *lfs = tmp_text("lfs.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    const struct {
        enum taca_kind kind;
        const char *path, *words;
    } cases[] = {
        {TACA_DIT, vae, "wanted a FLUX or SD3 transformer, this is a VAE; give it with --vae"},
        {TACA_AUTOENCODER, DEMO "/transformer",
         "wanted a VAE, this is an SD3 transformer; give it with --transformer"},
        {TACA_T5, clip,
         "wanted a T5 text encoder, this is a CLIP text encoder; give it with --clip-l or "
         "--clip-g"},
        {TACA_DIT, lora, "this is a LoRA adapter"},
        {TACA_T5, whole, "several parts are in it, give it with --model"},
        {TACA_DIT, llama, "this is a GGUF file of architecture llama"},
        {TACA_CLIP_L, lfs, "a Git LFS pointer"},
        {TACA_AUTOENCODER, tmp_path("none.safetensors"), "No such file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct taca_model_paths paths = {.model = DEMO};
        paths.part[cases[i].kind] = cases[i].path;
        refuse(&paths, strstr(cases[i].words, "No such") ? TACA_ENOTFOUND : TACA_EFORMAT,
               cases[i].words);
    }
    refuse(&(struct taca_model_paths){.model = lora}, TACA_EFORMAT, "this is a LoRA adapter");
    refuse(&(struct taca_model_paths){.model = vae}, TACA_EFORMAT, "give it with --vae");
    refuse(&(struct taca_model_paths){0}, TACA_EINVAL, "give --model or --transformer");
    const char *absurd = tmp_tensors("absurd.safetensors", /* no patch has so many rows */
                                     "{\"pos_embed.proj.weight\":{\"dtype\":\"F32\","
                                     "\"shape\":[0,0,4294967296,1],\"data_offsets\":[0,0]}}",
                                     0);
    refuse(&(struct taca_model_paths){.model = absurd}, TACA_EFORMAT, "attention heads");
    refuse(&(struct taca_model_paths){.model = NULL, .part = {[TACA_DIT] = DEMO "/transformer"}},
           TACA_ENOTFOUND, "no vae in it; give one with --vae");
}

/* Its shapes are those of dev: told by the file's name, or by what it says of itself. */
static void test_kontext_is_refused_by_its_name(void) {
    static const char flux[] = TACA_GOLDEN_DIR "/models/flux_tiny_schnell.bfl.safetensors";
    static const char words[] = "this is FLUX.1 Kontext, which is given a picture to change";
    const char *named = tmp_path("flux1-Kontext-dev.safetensors");
    CHECK_INT(symlink(flux, named), 0);
    refuse(&(struct taca_model_paths){.part = {[TACA_DIT] = named}}, TACA_EUNSUPPORTED, words);
    const char *titled =
        tmp_tensors("a.safetensors",
                    "{\"__metadata__\":{\"modelspec.title\":\"FLUX.1 kontext [dev]\"},"
                    "\"double_blocks.0.img_attn.qkv.weight\":"
                    "{\"dtype\":\"U8\",\"shape\":[3,1],\"data_offsets\":[0,3]},"
                    "\"single_blocks.0.linear1.weight\":"
                    "{\"dtype\":\"U8\",\"shape\":[7,1],\"data_offsets\":[3,10]}}",
                    10);
    refuse(&(struct taca_model_paths){.model = titled}, TACA_EUNSUPPORTED, words);
    gg_begin(3, 2, 2);
    gg_key_text("general.architecture", "flux");
    gg_key_text("general.name", "Flux1 Kontext Dev");
    gg_tensor("double_blocks.0.img_attn.qkv.weight", 32, 3, 8, 0);
    gg_tensor("single_blocks.0.linear1.weight", 32, 7, 8, 128);
    gg_pad(32);
    gg_data(102);
    gg_pad(32);
    gg_data(7 * 34);
    refuse(&(struct taca_model_paths){.model = gg_end("b.gguf")}, TACA_EUNSUPPORTED, words);
    taca_buf_finish(&gg);
    /* looking is not running */
    struct taca_model_dir d = {0};
    struct taca_err err = {0};
    CHECK_OK(
        taca_model_open(
            &d, &(struct taca_model_paths){.part = {[TACA_DIT] = named}, .partial = true}, &err),
        err);
    taca_model_dir_finish(&d);
}

static void test_what_would_be_ignored_is_refused(void) {
    static const char flux[] = TACA_GOLDEN_DIR "/models/flux_tiny_schnell.bfl.safetensors";
    refuse(
        &(struct taca_model_paths){.model = flux, .part = {[TACA_CLIP_G] = DEMO "/text_encoder_2"}},
        TACA_EINVAL, "a FluxPipeline has no place for what --clip-g gives");
    refuse(&(struct taca_model_paths){.model = DEMO, .config = DEMO "/nowhere"}, TACA_EINVAL,
           "--model-config " DEMO "/nowhere: no such directory");
    const struct taca_model_paths paths = {.model = tmp_path("demo.safetensors")};
    tmp_text("demo.config.json", "{\"text_encoder_1\":{}}");
    refuse(&paths, TACA_EFORMAT, "text_encoder_1 is no component");
    tmp_text("demo.config.json", "{\"vae\":3}");
    refuse(&paths, TACA_EFORMAT, "vae is no object");
    tmp_text("demo.config.json", "{\"taca\":[]}");
    refuse(&paths, TACA_EFORMAT, "taca is no object");
    tmp_text("demo.config.json", "[");
    refuse(&paths, TACA_EFORMAT, "not valid JSON");
    unlink(tmp_path("demo.config.json"));
}

static void test_a_cut_download_is_told(void) {
    const char *whole = tmp_path("demo.safetensors");
    FILE *f = fopen(whole, "rb");
    static char head[200000];
    size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f) fclose(f);
    const char *cut = tmp_write("cut.safetensors", head, n);
    refuse(&(struct taca_model_paths){.model = cut}, TACA_EFORMAT, "truncated");
}

static void test_published_sizes_tell_the_clips_apart(void) {
    const char *g = tmp_tensors("g.safetensors",
                                "{\"text_model.embeddings.token_embedding.weight\":{\"dtype\":"
                                "\"U8\",\"shape\":[1,1280],\"data_offsets\":[0,1280]}}",
                                1280);
    struct taca_model_paths paths = {.model = DEMO, .part = {[TACA_CLIP_L] = g}};
    refuse(&paths, TACA_EFORMAT,
           "wanted a CLIP-L text encoder, this is a CLIP-G; give it with "
           "--clip-g");
}

static void test_heads_that_do_not_show_are_asked_for(void) {
    static const char tiny[] = "{\"text_model.embeddings.token_embedding.weight\":{\"dtype\":"
                               "\"U8\",\"shape\":[1,16],\"data_offsets\":[0,16]}}";
    const char *path = tmp_tensors("tiny.safetensors", tiny, 16);
    struct taca_model_paths paths = {.model = tmp_path("demo.safetensors"),
                                     .part = {[TACA_CLIP_L] = path}};
    refuse(&paths, TACA_EFORMAT, "the number of attention heads does not show");
}

int main(void) {
    tmp_begin();
    setenv("TACA_DATA", TACA_SOURCE_DIR "/models", 1);
    write_demo("demo.safetensors");
    TEST(test_one_file_makes_what_its_directory_makes);
    TEST(test_parts_may_come_from_anywhere);
    TEST(test_the_projection_of_clip_l_waits_for_a_config);
    TEST(test_configs_may_lie_beside_the_file);
    TEST(test_shapes_tell_most_of_a_config);
    TEST(test_a_wrong_part_is_answered_by_what_it_is);
    TEST(test_kontext_is_refused_by_its_name);
    TEST(test_what_would_be_ignored_is_refused);
    TEST(test_a_cut_download_is_told);
    TEST(test_published_sizes_tell_the_clips_apart);
    TEST(test_heads_that_do_not_show_are_asked_for);
    tmp_end();
    return TEST_END();
}
