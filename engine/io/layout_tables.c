/* layout_tables.c - the spellings: data only. See layout.h. */
#include "engine/io/layout.h"

/* ---- transformers ---------------------------------------------------------------------------- */

#define QKV(have, q, k, v)                                                                         \
    {have, q, 0, 1, 3, 0}, {have, k, 1, 1, 3, 0}, { have, v, 2, 1, 3, 0 }
#define F_DOUBLE "double_blocks.#."
#define F_SINGLE "single_blocks.#."
#define D_BLOCK  "transformer_blocks.#."
#define D_SINGLE "single_transformer_blocks.#."
#define TIME     "time_text_embed."

static const struct io_rule flux_original[] = {
    {"time_in.in_layer.*", TIME "timestep_embedder.linear_1.*", 0, 0, 0, 0},
    {"time_in.out_layer.*", TIME "timestep_embedder.linear_2.*", 0, 0, 0, 0},
    {"guidance_in.in_layer.*", TIME "guidance_embedder.linear_1.*", 0, 0, 0, 0},
    {"guidance_in.out_layer.*", TIME "guidance_embedder.linear_2.*", 0, 0, 0, 0},
    {"vector_in.in_layer.*", TIME "text_embedder.linear_1.*", 0, 0, 0, 0},
    {"vector_in.out_layer.*", TIME "text_embedder.linear_2.*", 0, 0, 0, 0},
    {"txt_in.*", "context_embedder.*", 0, 0, 0, 0},
    {"img_in.*", "x_embedder.*", 0, 0, 0, 0},
    {F_DOUBLE "img_mod.lin.*", D_BLOCK "norm1.linear.*", 0, 0, 0, 0},
    {F_DOUBLE "txt_mod.lin.*", D_BLOCK "norm1_context.linear.*", 0, 0, 0, 0},
    QKV(F_DOUBLE "img_attn.qkv.*", D_BLOCK "attn.to_q.*", D_BLOCK "attn.to_k.*",
        D_BLOCK "attn.to_v.*"),
    QKV(F_DOUBLE "txt_attn.qkv.*", D_BLOCK "attn.add_q_proj.*", D_BLOCK "attn.add_k_proj.*",
        D_BLOCK "attn.add_v_proj.*"),
    /* .scale in the original, .weight in some conversions */
    {F_DOUBLE "img_attn.norm.query_norm.*", D_BLOCK "attn.norm_q.weight", 0, 0, 0, 0},
    {F_DOUBLE "img_attn.norm.key_norm.*", D_BLOCK "attn.norm_k.weight", 0, 0, 0, 0},
    {F_DOUBLE "txt_attn.norm.query_norm.*", D_BLOCK "attn.norm_added_q.weight", 0, 0, 0, 0},
    {F_DOUBLE "txt_attn.norm.key_norm.*", D_BLOCK "attn.norm_added_k.weight", 0, 0, 0, 0},
    {F_DOUBLE "img_attn.proj.*", D_BLOCK "attn.to_out.0.*", 0, 0, 0, 0},
    {F_DOUBLE "txt_attn.proj.*", D_BLOCK "attn.to_add_out.*", 0, 0, 0, 0},
    {F_DOUBLE "img_mlp.0.*", D_BLOCK "ff.net.0.proj.*", 0, 0, 0, 0},
    {F_DOUBLE "img_mlp.2.*", D_BLOCK "ff.net.2.*", 0, 0, 0, 0},
    {F_DOUBLE "txt_mlp.0.*", D_BLOCK "ff_context.net.0.proj.*", 0, 0, 0, 0},
    {F_DOUBLE "txt_mlp.2.*", D_BLOCK "ff_context.net.2.*", 0, 0, 0, 0},
    {F_SINGLE "modulation.lin.*", D_SINGLE "norm.linear.*", 0, 0, 0, 0},
    /* q, k, v and the mlp, which is four times as wide */
    {F_SINGLE "linear1.*", D_SINGLE "attn.to_q.*", 0, 1, 7, 0},
    {F_SINGLE "linear1.*", D_SINGLE "attn.to_k.*", 1, 1, 7, 0},
    {F_SINGLE "linear1.*", D_SINGLE "attn.to_v.*", 2, 1, 7, 0},
    {F_SINGLE "linear1.*", D_SINGLE "proj_mlp.*", 3, 4, 7, 0},
    {F_SINGLE "norm.query_norm.*", D_SINGLE "attn.norm_q.weight", 0, 0, 0, 0},
    {F_SINGLE "norm.key_norm.*", D_SINGLE "attn.norm_k.weight", 0, 0, 0, 0},
    {F_SINGLE "linear2.*", D_SINGLE "proj_out.*", 0, 0, 0, 0},
    {"final_layer.adaLN_modulation.1.*", "norm_out.linear.*", 0, 0, 0, IO_SWAP},
    {"final_layer.linear.*", "proj_out.*", 0, 0, 0, 0},
    {0},
};

#define S_X "joint_blocks.#.x_block."
#define S_C "joint_blocks.#.context_block."

static const struct io_rule sd3_original[] = {
    {"pos_embed", "pos_embed.pos_embed", 0, 0, 0, 0},
    {"x_embedder.proj.*", "pos_embed.proj.*", 0, 0, 0, 0},
    {"t_embedder.mlp.0.*", TIME "timestep_embedder.linear_1.*", 0, 0, 0, 0},
    {"t_embedder.mlp.2.*", TIME "timestep_embedder.linear_2.*", 0, 0, 0, 0},
    {"y_embedder.mlp.0.*", TIME "text_embedder.linear_1.*", 0, 0, 0, 0},
    {"y_embedder.mlp.2.*", TIME "text_embedder.linear_2.*", 0, 0, 0, 0},
    {S_X "adaLN_modulation.1.*", D_BLOCK "norm1.linear.*", 0, 0, 0, 0},
    {S_C "adaLN_modulation.1.*", D_BLOCK "norm1_context.linear.*", 0, 0, 0, IO_SWAP_IN_LAST},
    QKV(S_X "attn.qkv.*", D_BLOCK "attn.to_q.*", D_BLOCK "attn.to_k.*", D_BLOCK "attn.to_v.*"),
    QKV(S_C "attn.qkv.*", D_BLOCK "attn.add_q_proj.*", D_BLOCK "attn.add_k_proj.*",
        D_BLOCK "attn.add_v_proj.*"),
    QKV(S_X "attn2.qkv.*", D_BLOCK "attn2.to_q.*", D_BLOCK "attn2.to_k.*", D_BLOCK "attn2.to_v.*"),
    {S_X "attn.ln_q.*", D_BLOCK "attn.norm_q.*", 0, 0, 0, 0},
    {S_X "attn.ln_k.*", D_BLOCK "attn.norm_k.*", 0, 0, 0, 0},
    {S_C "attn.ln_q.*", D_BLOCK "attn.norm_added_q.*", 0, 0, 0, 0},
    {S_C "attn.ln_k.*", D_BLOCK "attn.norm_added_k.*", 0, 0, 0, 0},
    {S_X "attn2.ln_q.*", D_BLOCK "attn2.norm_q.*", 0, 0, 0, 0},
    {S_X "attn2.ln_k.*", D_BLOCK "attn2.norm_k.*", 0, 0, 0, 0},
    {S_X "attn.proj.*", D_BLOCK "attn.to_out.0.*", 0, 0, 0, 0},
    {S_C "attn.proj.*", D_BLOCK "attn.to_add_out.*", 0, 0, 0, 0},
    {S_X "attn2.proj.*", D_BLOCK "attn2.to_out.0.*", 0, 0, 0, 0},
    {S_X "mlp.fc1.*", D_BLOCK "ff.net.0.proj.*", 0, 0, 0, 0},
    {S_X "mlp.fc2.*", D_BLOCK "ff.net.2.*", 0, 0, 0, 0},
    {S_C "mlp.fc1.*", D_BLOCK "ff_context.net.0.proj.*", 0, 0, 0, 0},
    {S_C "mlp.fc2.*", D_BLOCK "ff_context.net.2.*", 0, 0, 0, 0},
    {"final_layer.adaLN_modulation.1.*", "norm_out.linear.*", 0, 0, 0, IO_SWAP},
    {"final_layer.linear.*", "proj_out.*", 0, 0, 0, 0},
    {0}, /* context_embedder has its name */
};

/* ---- autoencoder ----------------------------------------------------------------------------- */

#define MID(side)                                                                                  \
    {side ".mid.block_1.*", side ".mid_block.resnets.0.*", 0, 0, 0, 0},                            \
        {side ".mid.block_2.*", side ".mid_block.resnets.1.*", 0, 0, 0, 0},                        \
        {side ".mid.attn_1.norm.*", side ".mid_block.attentions.0.group_norm.*", 0, 0, 0, 0},      \
        {side ".mid.attn_1.q.*", side ".mid_block.attentions.0.to_q.*", 0, 0, 0, IO_SQUEEZE},      \
        {side ".mid.attn_1.k.*", side ".mid_block.attentions.0.to_k.*", 0, 0, 0, IO_SQUEEZE},      \
        {side ".mid.attn_1.v.*", side ".mid_block.attentions.0.to_v.*", 0, 0, 0, IO_SQUEEZE},      \
        {side ".mid.attn_1.proj_out.*",                                                            \
         side ".mid_block.attentions.0.to_out.0.*",                                                \
         0,                                                                                        \
         0,                                                                                        \
         0,                                                                                        \
         IO_SQUEEZE},                                                                              \
    {                                                                                              \
        side ".norm_out.*", side ".conv_norm_out.*", 0, 0, 0, 0                                    \
    }
#define UP   "decoder.up.#.block.#."
#define DOWN "encoder.down.#.block.#."

static const struct io_rule vae_original[] = {
    MID("decoder"),
    MID("encoder"),
    {UP "nin_shortcut.*", "decoder.up_blocks.#.resnets.#.conv_shortcut.*", 0, 0, 0, IO_FROM_TOP},
    {UP "*", "decoder.up_blocks.#.resnets.#.*", 0, 0, 0, IO_FROM_TOP},
    {"decoder.up.#.upsample.conv.*", "decoder.up_blocks.#.upsamplers.0.conv.*", 0, 0, 0,
     IO_FROM_TOP},
    {DOWN "nin_shortcut.*", "encoder.down_blocks.#.resnets.#.conv_shortcut.*", 0, 0, 0, 0},
    {DOWN "*", "encoder.down_blocks.#.resnets.#.*", 0, 0, 0, 0},
    {"encoder.down.#.downsample.conv.*", "encoder.down_blocks.#.downsamplers.0.conv.*", 0, 0, 0, 0},
    {0}, /* conv_in, conv_out, quant_conv and post_quant_conv have their names */
};

/* ---- text encoders --------------------------------------------------------------------------- */

static const struct io_rule clip_flat[] = {
    {"embeddings.*", "text_model.embeddings.*", 0, 0, 0, 0},
    {"encoder.*", "text_model.encoder.*", 0, 0, 0, 0},
    {"final_layer_norm.*", "text_model.final_layer_norm.*", 0, 0, 0, 0},
    {0},
};

#define O_BLOCK "transformer.resblocks.#."
#define H_LAYER "text_model.encoder.layers.#."

static const struct io_rule open_clip[] = {
    {"token_embedding.weight", "text_model.embeddings.token_embedding.weight", 0, 0, 0, 0},
    {"positional_embedding", "text_model.embeddings.position_embedding.weight", 0, 0, 0, 0},
    {"ln_final.*", "text_model.final_layer_norm.*", 0, 0, 0, 0},
    {O_BLOCK "ln_1.*", H_LAYER "layer_norm1.*", 0, 0, 0, 0},
    {O_BLOCK "ln_2.*", H_LAYER "layer_norm2.*", 0, 0, 0, 0},
    QKV(O_BLOCK "attn.in_proj_weight", H_LAYER "self_attn.q_proj.weight",
        H_LAYER "self_attn.k_proj.weight", H_LAYER "self_attn.v_proj.weight"),
    QKV(O_BLOCK "attn.in_proj_bias", H_LAYER "self_attn.q_proj.bias",
        H_LAYER "self_attn.k_proj.bias", H_LAYER "self_attn.v_proj.bias"),
    {O_BLOCK "attn.out_proj.*", H_LAYER "self_attn.out_proj.*", 0, 0, 0, 0},
    {O_BLOCK "mlp.c_fc.*", H_LAYER "mlp.fc1.*", 0, 0, 0, 0},
    {O_BLOCK "mlp.c_proj.*", H_LAYER "mlp.fc2.*", 0, 0, 0, 0},
    {"text_projection", "text_projection.weight", 0, 0, 0, IO_TRANSPOSE}, /* used as x P there */
    {0},
};

static const struct io_rule t5_names[] = {
    {"encoder.embed_tokens.weight", "encoder.embed_tokens.weight", 0, 0, 0, 0},
    {"encoder.embed_tokens.weight", "shared.weight", 0, 0, 0, IO_ALIAS},
    {0},
};

#define G_BLOCK "enc.blk.#."
#define T_BLOCK "encoder.block.#.layer."

static const struct io_rule t5_gguf[] = {
    {"token_embd.weight", "shared.weight", 0, 0, 0, 0},
    {G_BLOCK "attn_q.weight", T_BLOCK "0.SelfAttention.q.weight", 0, 0, 0, 0},
    {G_BLOCK "attn_k.weight", T_BLOCK "0.SelfAttention.k.weight", 0, 0, 0, 0},
    {G_BLOCK "attn_v.weight", T_BLOCK "0.SelfAttention.v.weight", 0, 0, 0, 0},
    {G_BLOCK "attn_o.weight", T_BLOCK "0.SelfAttention.o.weight", 0, 0, 0, 0},
    {G_BLOCK "attn_rel_b.weight", T_BLOCK "0.SelfAttention.relative_attention_bias.weight", 0, 0, 0,
     0},
    {G_BLOCK "attn_norm.weight", T_BLOCK "0.layer_norm.weight", 0, 0, 0, 0},
    {G_BLOCK "ffn_gate.weight", T_BLOCK "1.DenseReluDense.wi_0.weight", 0, 0, 0, 0},
    {G_BLOCK "ffn_up.weight", T_BLOCK "1.DenseReluDense.wi_1.weight", 0, 0, 0, 0},
    {G_BLOCK "ffn_down.weight", T_BLOCK "1.DenseReluDense.wo.weight", 0, 0, 0, 0},
    {G_BLOCK "ffn_norm.weight", T_BLOCK "1.layer_norm.weight", 0, 0, 0, 0},
    {"enc.output_norm.weight", "encoder.final_layer_norm.weight", 0, 0, 0, 0},
    {0},
};

/* ---- all of them ----------------------------------------------------------------------------- */

/* Those that cannot be read stand first among their like: a Chroma file has FLUX's blocks too. */
const struct io_layout io_layouts[] = {
    {"a Chroma transformer, which is not supported", TACA_KINDS,
     "distilled_guidance_layer.in_proj.weight", NULL, NULL},
    {"a FLUX.2 transformer, which is not supported", TACA_KINDS,
     "single_stream_modulation.lin.weight", NULL, NULL},
    {"a UNet of the SD 1, SD 2 or SDXL family, which is not supported", TACA_KINDS,
     "input_blocks.0.0.weight", NULL, NULL},
    {"a UNet of the SD 1, SD 2 or SDXL family, which is not supported", TACA_KINDS,
     "down_blocks.0.resnets.0.time_emb_proj.weight", NULL, NULL},
    {"a ControlNet, which is not supported", TACA_KINDS, "controlnet_blocks.0.weight", NULL, NULL},
    {"a FLUX transformer (original names)", TACA_DIT, "double_blocks.0.img_attn.qkv.weight",
     flux_original, NULL},
    {"an SD3 transformer (original names)", TACA_DIT, "joint_blocks.0.x_block.attn.qkv.weight",
     sd3_original, "joint_blocks.#.*"},
    {"an SD3 transformer", TACA_DIT, "pos_embed.proj.weight", NULL, NULL},
    {"a FLUX transformer", TACA_DIT, "single_transformer_blocks.0.attn.to_q.weight", NULL, NULL},
    {"a VAE (original names)", TACA_AUTOENCODER, "decoder.mid.block_1.conv1.weight", vae_original,
     "decoder.up.#.*"},
    {"a VAE", TACA_AUTOENCODER, "decoder.mid_block.resnets.0.conv1.weight", NULL, NULL},
    {"a CLIP text encoder", TACA_CLIP_L, "text_model.embeddings.token_embedding.weight", NULL,
     NULL},
    {"a CLIP text encoder (short names)", TACA_CLIP_L, "embeddings.token_embedding.weight",
     clip_flat, NULL},
    {"a CLIP text encoder (OpenCLIP names)", TACA_CLIP_L,
     "transformer.resblocks.0.attn.in_proj_weight", open_clip, NULL},
    {"a T5 text encoder", TACA_T5, "encoder.block.0.layer.0.SelfAttention.q.weight", t5_names,
     NULL},
    {"a T5 text encoder (llama.cpp names)", TACA_T5, "enc.blk.0.attn_q.weight", t5_gguf, NULL},
};
const size_t io_n_layouts = sizeof io_layouts / sizeof *io_layouts;

const char *const *io_prefixes(enum taca_kind kind) {
    static const char *const lists[TACA_KINDS + 1][6] = {
        [TACA_DIT] = {"model.diffusion_model.", "diffusion_model.", ""},
        [TACA_AUTOENCODER] = {"first_stage_model.", "vae.", ""},
        [TACA_CLIP_L] = {"text_encoders.clip_l.transformer.", "clip_l.transformer.",
                         "cond_stage_model.transformer.", "conditioner.embedders.0.transformer.",
                         ""},
        [TACA_CLIP_G] = {"text_encoders.clip_g.transformer.", "clip_g.transformer.",
                         "conditioner.embedders.1.model.", ""},
        [TACA_T5] = {"text_encoders.t5xxl.transformer.", "t5xxl.transformer.", ""},
        [TACA_KINDS] = {"model.diffusion_model.", "diffusion_model.", ""},
    };
    return lists[kind];
}
