/* derive.c - see derive.h. Shapes show widths and counts; the number of heads only where a norm
 * has the length of one, so published models' 64 per head stands in elsewhere. */
#include "engine/io/derive.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_LAYERS = 1024, HEAD = 64, GROUPS = 32 };

struct deriver {
    const struct taca_ckpt *c;
    json_t *sure, *guess;
    bool failed; /* out of memory */
};

static void put(struct deriver *d, json_t *to, const char *key, json_t *value) {
    if (json_object_set_new(to, key, value)) d->failed = true;
}

static void put_int(struct deriver *d, json_t *to, const char *key, int64_t value) {
    if (value > 0) put(d, to, key, json_integer(value)); /* else the tensor is not there */
}

/* Dimension k of a tensor, 0 when there is no such. */
static int64_t dim(const struct deriver *d, const char *name, int k) {
    const struct taca_tensor *t = taca_ckpt_peek(d->c, name);
    return t && k < t->rank ? t->dim[k] : 0;
}

/* How many numbers in a row, from 0, make a name that is there. */
__attribute__((format(printf, 2, 0))) static int64_t count(const struct deriver *d,
                                                           const char *fmt) {
    int n = 0;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    while (n < MAX_LAYERS && taca_ckpt_has(d->c, fmt, n)) n++;
#pragma GCC diagnostic pop
    return n;
}

/* ---- transformers ---------------------------------------------------------------------------- */

enum io_family io_family_of(const struct taca_ckpt *dit) {
    return taca_ckpt_has(dit, "single_transformer_blocks.0.attn.to_q.weight") ? IO_FLUX : IO_SD3;
}

/* Heads for sure when a norm is as long as one, else by the usual size. */
static void put_heads(struct deriver *d, int64_t width) {
    const int64_t head = dim(d, "transformer_blocks.0.attn.norm_q.weight", 0);
    json_t *to = head ? d->sure : d->guess;
    if (head || width % HEAD == 0) put_int(d, to, "attention_head_dim", head ? head : HEAD);
    if (head || width % HEAD == 0)
        put_int(d, to, "num_attention_heads", width / (head ? head : HEAD));
}

static void put_dual(struct deriver *d, int64_t layers) {
    json_t *list = json_array();
    for (int i = 0; i < layers; i++)
        if (taca_ckpt_has(d->c, "transformer_blocks.%d.attn2.to_q.weight", i))
            if (json_array_append_new(list, json_integer(i))) d->failed = true;
    put(d, d->sure, "dual_attention_layers", list);
}

static void derive_sd3(struct deriver *d) {
    static const char norm[] = "transformer_blocks.0.attn.norm_q.weight";
    const int64_t width = dim(d, "pos_embed.proj.weight", 0);
    const int64_t layers = count(d, "transformer_blocks.%d.attn.to_q.weight");
    const int64_t patch = dim(d, "pos_embed.proj.weight", 2);
    const int64_t side = (int64_t)lround(sqrt((double)dim(d, "pos_embed.pos_embed", 1)));
    put(d, d->sure, "_class_name", json_string("SD3Transformer2DModel"));
    put_int(d, d->sure, "caption_projection_dim", width);
    put_int(d, d->sure, "in_channels", dim(d, "pos_embed.proj.weight", 1));
    put_int(d, d->sure, "patch_size", patch);
    put_int(d, d->sure, "num_layers", layers);
    put_int(d, d->sure, "joint_attention_dim", dim(d, "context_embedder.weight", 1));
    put_int(d, d->sure, "pooled_projection_dim",
            dim(d, "time_text_embed.text_embedder.linear_1.weight", 1));
    put_int(d, d->sure, "pos_embed_max_size", side);
    if (patch) put_int(d, d->sure, "out_channels", dim(d, "proj_out.weight", 0) / patch / patch);
    put(d, d->sure, "qk_norm", taca_ckpt_has(d->c, norm) ? json_string("rms_norm") : json_null());
    put_dual(d, layers);
    put_heads(d, width);
    const bool small = patch && side && side <= 127 / patch;
    put_int(d, d->guess, "sample_size", small ? side * patch : 128);
}

static void derive_flux(struct deriver *d) {
    const int64_t width = dim(d, "x_embedder.weight", 0);
    const int64_t head = dim(d, "transformer_blocks.0.attn.norm_q.weight", 0);
    const bool guided = taca_ckpt_has(d->c, "time_text_embed.guidance_embedder.linear_1.weight");
    put(d, d->sure, "_class_name", json_string("FluxTransformer2DModel"));
    put(d, d->guess, "patch_size", json_integer(1));
    put_int(d, d->sure, "in_channels", dim(d, "x_embedder.weight", 1));
    put_int(d, d->sure, "out_channels", dim(d, "proj_out.weight", 0));
    put_int(d, d->sure, "num_layers", count(d, "transformer_blocks.%d.attn.to_q.weight"));
    put_int(d, d->sure, "num_single_layers",
            count(d, "single_transformer_blocks.%d.attn.to_q.weight"));
    put_int(d, d->sure, "joint_attention_dim", dim(d, "context_embedder.weight", 1));
    put_int(d, d->sure, "pooled_projection_dim",
            dim(d, "time_text_embed.text_embedder.linear_1.weight", 1));
    put(d, d->sure, "guidance_embeds", json_boolean(guided));
    put_heads(d, width);
    json_t *axes = json_array(); /* 16, 56, 56 of 128 */
    const int64_t size = head ? head : 128, first = size / 8, other = (size - first) / 2;
    if (json_array_append_new(axes, json_integer(first)) ||
        json_array_append_new(axes, json_integer(other)) ||
        json_array_append_new(axes, json_integer(other)))
        d->failed = true;
    put(d, d->guess, "axes_dims_rope", axes);
}

/* ---- autoencoder ----------------------------------------------------------------------------- */

static void derive_vae(struct deriver *d, enum io_family family) {
    char name[96];
    const int64_t levels = count(d, "decoder.up_blocks.%d.resnets.0.conv1.weight");
    const int64_t resnets = count(d, "decoder.up_blocks.0.resnets.%d.conv1.weight");
    json_t *widths = json_array();
    for (int64_t i = levels; i-- > 0;) {
        snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.0.conv1.weight", (int)i);
        if (json_array_append_new(widths, json_integer(dim(d, name, 0)))) d->failed = true;
    }
    put(d, d->sure, "_class_name", json_string("AutoencoderKL"));
    put(d, d->sure, "block_out_channels", widths);
    put_int(d, d->sure, "layers_per_block", resnets - 1);
    put_int(d, d->sure, "latent_channels", dim(d, "decoder.conv_in.weight", 1));
    put_int(d, d->sure, "in_channels", dim(d, "decoder.conv_out.weight", 0));
    put_int(d, d->sure, "out_channels", dim(d, "decoder.conv_out.weight", 0));
    put(d, d->sure, "use_quant_conv", json_boolean(taca_ckpt_has(d->c, "quant_conv.weight")));
    put(d, d->sure, "use_post_quant_conv",
        json_boolean(taca_ckpt_has(d->c, "post_quant_conv.weight")));
    put(d, d->sure, "mid_block_add_attention",
        json_boolean(taca_ckpt_has(d->c, "decoder.mid_block.attentions.0.group_norm.weight")));
    put_int(d, d->guess, "norm_num_groups", GROUPS);
    put(d, d->guess, "scaling_factor", json_real(family == IO_FLUX ? 0.3611 : 1.5305));
    put(d, d->guess, "shift_factor", json_real(family == IO_FLUX ? 0.1159 : 0.0609));
}

/* ---- text encoders --------------------------------------------------------------------------- */

static void derive_clip(struct deriver *d, bool large) {
    const int64_t width = dim(d, "text_model.embeddings.token_embedding.weight", 1);
    const int64_t projection = dim(d, "text_projection.weight", 0);
    put(d, d->sure, "model_type", json_string("clip_text_model"));
    put_int(d, d->sure, "hidden_size", width);
    put_int(d, d->sure, "vocab_size", dim(d, "text_model.embeddings.token_embedding.weight", 0));
    put_int(d, d->sure, "max_position_embeddings",
            dim(d, "text_model.embeddings.position_embedding.weight", 0));
    put_int(d, d->sure, "num_hidden_layers",
            count(d, "text_model.encoder.layers.%d.layer_norm1.weight"));
    put_int(d, d->sure, "intermediate_size",
            dim(d, "text_model.encoder.layers.0.mlp.fc1.weight", 0));
    put_int(d, d->sure, "projection_dim", projection ? projection : width);
    if (width % HEAD == 0) put_int(d, d->guess, "num_attention_heads", width / HEAD);
    put(d, d->guess, "hidden_act", json_string(large ? "gelu" : "quick_gelu"));
    put(d, d->guess, "layer_norm_eps", json_real(1e-5));
}

static void derive_t5(struct deriver *d) {
    static const char bias[] =
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    const int64_t heads = dim(d, bias, 1);
    put(d, d->sure, "model_type", json_string("t5"));
    put_int(d, d->sure, "d_model", dim(d, "shared.weight", 1));
    put_int(d, d->sure, "vocab_size", dim(d, "shared.weight", 0));
    put_int(d, d->sure, "num_layers", count(d, "encoder.block.%d.layer.0.SelfAttention.q.weight"));
    put_int(d, d->sure, "d_ff", dim(d, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0));
    put_int(d, d->sure, "num_heads", heads);
    if (heads)
        put_int(d, d->sure, "d_kv",
                dim(d, "encoder.block.0.layer.0.SelfAttention.q.weight", 0) / heads);
    put_int(d, d->sure, "relative_attention_num_buckets", dim(d, bias, 0));
    put(d, d->guess, "relative_attention_max_distance", json_integer(128));
    put(d, d->guess, "feed_forward_proj", json_string("gated-gelu"));
    put(d, d->guess, "layer_norm_epsilon", json_real(1e-6));
}

/* ---- together -------------------------------------------------------------------------------- */

enum taca_code io_derive(json_t **out, const struct taca_ckpt *c, enum taca_kind kind,
                         enum io_family family, const json_t *given, struct taca_err *err) {
    struct deriver d = {.c = c, .sure = json_object(), .guess = json_object()};
    if (kind == TACA_DIT && family == IO_FLUX) derive_flux(&d);
    if (kind == TACA_DIT && family == IO_SD3) derive_sd3(&d);
    if (kind == TACA_AUTOENCODER) derive_vae(&d, family);
    if (kind == TACA_CLIP_L || kind == TACA_CLIP_G) derive_clip(&d, kind == TACA_CLIP_G);
    if (kind == TACA_T5) derive_t5(&d);
    if (given && json_object_update(d.guess, (json_t *)(uintptr_t)given)) d.failed = true;
    if (json_object_update(d.guess, d.sure)) d.failed = true;
    json_decref(d.sure);
    if (d.failed) {
        json_decref(d.guess);
        return taca_fail(err, TACA_ENOMEM, "out of memory for a config");
    }
    *out = d.guess;
    return TACA_OK;
}

enum taca_code io_derive_scheduler(json_t **out, const struct taca_ckpt *dit, enum io_family family,
                                   struct taca_err *err) {
    const bool guided = taca_ckpt_has(dit, "time_text_embed.guidance_embedder.linear_1.weight");
    struct deriver d = {.c = dit, .sure = json_object()};
    const bool shifted = family == IO_SD3 || guided, dynamic = family == IO_FLUX && guided;
    put(&d, d.sure, "_class_name", json_string("FlowMatchEulerDiscreteScheduler"));
    put(&d, d.sure, "num_train_timesteps", json_integer(1000));
    put(&d, d.sure, "shift", json_real(shifted ? 3 : 1));
    put(&d, d.sure, "use_dynamic_shifting", json_boolean(dynamic));
    if (dynamic) {
        put(&d, d.sure, "base_shift", json_real(0.5));
        put(&d, d.sure, "max_shift", json_real(1.15));
        put(&d, d.sure, "base_image_seq_len", json_integer(256));
        put(&d, d.sure, "max_image_seq_len", json_integer(4096));
    }
    if (d.failed) {
        json_decref(d.sure);
        return taca_fail(err, TACA_ENOMEM, "out of memory for a config");
    }
    *out = d.sure;
    return TACA_OK;
}
