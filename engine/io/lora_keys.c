/* lora_keys.c - the keys of adapter files: what they end in and what they begin with. Tables, for
 * every trainer has its own spelling. */
#include <string.h>

#include "engine/io/lora_parts.h"

static const struct {
    const char *text;
    enum lora_kind kind;
} suffixes[] = {
    {".lora_A.weight", LORA_DOWN},
    {".lora_A.default.weight", LORA_DOWN},
    {".lora_down.weight", LORA_DOWN},
    {".lora.down.weight", LORA_DOWN},
    {".lora_linear_layer.down.weight", LORA_DOWN},
    {"_lora.down.weight", LORA_DOWN}, /* XLabs; its stem keeps the part before the dot */
    {"_lora1.down.weight", LORA_DOWN},
    {"_lora2.down.weight", LORA_DOWN},
    {".lora_B.weight", LORA_UP},
    {".lora_B.default.weight", LORA_UP},
    {".lora_up.weight", LORA_UP},
    {".lora.up.weight", LORA_UP},
    {".lora_linear_layer.up.weight", LORA_UP},
    {"_lora.up.weight", LORA_UP},
    {"_lora1.up.weight", LORA_UP},
    {"_lora2.up.weight", LORA_UP},
    {".lora_B.bias", LORA_BIAS},
    {".lora_B.default.bias", LORA_BIAS},
    {".lora_up.bias", LORA_BIAS},
    {".lora.up.bias", LORA_BIAS},
    {".alpha", LORA_ALPHA},
    {".scale", LORA_GAIN},
    {".dora_scale", LORA_DORA},
    {".lora_magnitude_vector", LORA_DORA},
    {".lora_magnitude_vector.weight", LORA_DORA},
    {".lora_magnitude_vector.default", LORA_DORA},
    {".lora_magnitude_vector.default.weight", LORA_DORA},
    {".lora_mid.weight", LORA_TUCKER},
    {".diff", LORA_FULL},
    {".diff_b", LORA_FULL},
    {".w_norm", LORA_FULL},
    {".b_norm", LORA_FULL},
    {".set_weight", LORA_FULL},
    {".reshape_weight", LORA_FULL},
};

/* Kinds with many suffixes: what stands after the stem begins so. */
static const struct {
    const char *text;
    enum lora_kind kind;
} infixes[] = {
    {".lokr_", LORA_LOKR}, {".hada_", LORA_LOHA}, {".oft_", LORA_OFT}, {".boft_", LORA_OFT}};

enum lora_kind lora_kind_of(const char *key, size_t *stem_len) {
    const size_t len = strlen(key);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        const char *s = suffixes[i].text;
        const size_t cut = strlen(s);
        if (len <= cut || strcmp(key + len - cut, s) != 0) continue;
        *stem_len = s[0] == '_' ? len - cut + (size_t)(strchr(s, '.') - s) : len - cut;
        return suffixes[i].kind;
    }
    for (size_t i = 0; i < sizeof infixes / sizeof *infixes; i++) {
        const char *at = strstr(key, infixes[i].text);
        if (!at || at == key) continue;
        *stem_len = (size_t)(at - key);
        return infixes[i].kind;
    }
    *stem_len = len;
    return LORA_OTHER;
}

const char *lora_kind_text(enum lora_kind k) {
    static const char *const texts[LORA_OTHER + 1] = {[LORA_DORA] = "DoRA",
                                                      [LORA_LOKR] = "LoKr",
                                                      [LORA_LOHA] = "LoHa",
                                                      [LORA_OFT] = "OFT",
                                                      [LORA_TUCKER] = "a Tucker decomposition"};
    return texts[k] ? texts[k] : "no low-rank pair";
}

/* ---- what a stem begins with ----------------------------------------------------------------- */

/* Longer ones first where one begins with another. */
static const struct prefix {
    const char *text;
    bool flat, text_encoder;
    const char *naming;
} prefixes[] = {
    {"lora_unet_model_diffusion_model_", true, false, "kohya"},
    {"lora_unet_", true, false, "kohya"},
    {"lora_transformer_", true, false, "OneTrainer"},
    {"lycoris_", true, false, "LyCORIS"},
    {"lora_te", true, true, "kohya"},
    {"base_model.model.", false, false, "PEFT base_model"},
    {"transformer.", false, false, "diffusers"},
    {"model.diffusion_model.", false, false, "ComfyUI"},
    {"diffusion_model.", false, false, "ComfyUI"},
    {"text_encoder", false, true, "diffusers"},
    {"text_model.", false, true, "diffusers"},
};

static const struct prefix *prefix_of(const char *stem, size_t len) {
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (len > strlen(prefixes[i].text) &&
            memcmp(stem, prefixes[i].text, strlen(prefixes[i].text)) == 0)
            return &prefixes[i];
    return NULL;
}

/* XLabs names the processors of attention: the module whose work each part adds to. The qkv of a
 * single block is part of a wider matrix. */
static bool processor_core(struct lora_core *c) {
    static const struct {
        const char *from, *to;
    } map[] = {{"qkv_lora1", "img_attn.qkv"},   {"qkv_lora2", "txt_attn.qkv"},
               {"proj_lora1", "img_attn.proj"}, {"proj_lora2", "txt_attn.proj"},
               {"qkv_lora", "linear1"},         {"proj_lora", "linear2"}};
    static const char mark[] = ".processor.";
    char *at = strstr(c->name, mark);
    if (!at) return false;
    const char *part = at + strlen(mark);
    for (size_t i = 0; i < sizeof map / sizeof *map; i++)
        if (strcmp(part, map[i].from) == 0) {
            memcpy(at + 1, map[i].to, strlen(map[i].to) + 1); /* never longer than what was there */
            c->naming = "XLabs";
            return true;
        }
    return false;
}

bool lora_core_of(struct lora_core *out, const char *stem, size_t len) {
    *out = (struct lora_core){.naming = "bare"};
    const struct prefix *p;
    for (int depth = 0; depth < 3 && !out->flat && (p = prefix_of(stem, len)); depth++) {
        if (depth == 0) out->naming = p->naming;
        out->flat = p->flat;
        out->text_encoder = out->text_encoder || p->text_encoder;
        stem += strlen(p->text);
        len -= strlen(p->text);
    }
    while (out->flat && len && stem[len - 1] == '_') len--; /* some trainers leave one behind */
    if (len == 0 || len >= sizeof out->name) return false;
    memcpy(out->name, stem, len);
    if (!out->flat) processor_core(out);
    return true;
}

const char *lora_model_of(const char *stem) {
    static const struct {
        const char *text, *model;
    } tell[] = {{"joint_blocks", "SD3"},
                {"single_transformer_blocks", "FLUX"},
                {"double_blocks", "FLUX"},
                {"single_blocks", "FLUX"},
                {"down_blocks", "Stable Diffusion 1, 2 or XL"},
                {"up_blocks", "Stable Diffusion 1, 2 or XL"},
                {"mid_block", "Stable Diffusion 1, 2 or XL"},
                {"input_blocks", "Stable Diffusion 1, 2 or XL"},
                {"output_blocks", "Stable Diffusion 1, 2 or XL"}};
    for (size_t i = 0; i < sizeof tell / sizeof *tell; i++)
        if (strstr(stem, tell[i].text)) return tell[i].model;
    return NULL;
}
