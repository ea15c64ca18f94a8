/* lora_parts.h - what the files of the adapter reader share: keys taken apart, module names found,
 * alphas from metadata. Private to engine/io. */
#ifndef TACA_ENGINE_IO_LORA_PARTS_H
#define TACA_ENGINE_IO_LORA_PARTS_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/io/lora.h"
#include "engine/io/safetensors.h"

/* ---- lora_keys.c: "lora_unet_x.lora_down.weight" is a stem and a kind --------------------------
 */

enum lora_kind {
    LORA_DOWN,
    LORA_UP,
    LORA_BIAS,
    LORA_ALPHA,
    LORA_GAIN,
    LORA_DORA, /* from here on: not part of a plain low-rank change */
    LORA_LOKR,
    LORA_LOHA,
    LORA_OFT,
    LORA_TUCKER,
    LORA_FULL, /* a change of a whole tensor */
    LORA_OTHER
};
enum lora_kind lora_kind_of(const char *key, size_t *stem_len);
/* "DoRA", for kinds between LORA_DORA and LORA_FULL. */
const char *lora_kind_text(enum lora_kind k);

enum { LORA_NAME = 256 };
/* A stem without its prefix. */
struct lora_core {
    char name[LORA_NAME];
    bool flat;          /* dots were written as underscores */
    bool text_encoder;  /* of a text encoder's module */
    const char *naming; /* "kohya" */
};
/* false when the stem is too long to be any module's. */
bool lora_core_of(struct lora_core *out, const char *stem, size_t len);
/* What the stem's names are from: "FLUX", "SD3", "Stable Diffusion 1, 2 or XL"; NULL unknown. */
const char *lora_model_of(const char *stem);

/* ---- lora_names.c: module names of every spelling ---------------------------------------------
 */

/* A name stands for rows [row, row + out) of its matrix in a module. */
struct lora_place {
    const char *name; /* flat */
    int module;
    int64_t row;
    bool swapped; /* the halves of its rows come the other way round */
};
struct lora_names {
    struct lora_place *places; /* by name, then row */
    size_t n;
};
/* Memory comes from *a. */
enum taca_code lora_names_open(struct lora_names *out, const struct taca_lora_model *m,
                               struct taca_arena *a, struct taca_err *err) TACA_MUST_USE;
/* The places of a core, 0 of them when the model has no such module. */
size_t lora_names_find(const struct lora_names *n, const struct lora_core *core,
                       const struct lora_place **first);

/* ---- lora_alpha.c: alphas that are not tensors ------------------------------------------------
 */

struct lora_meta {
    json_t *json;       /* lora_adapter_metadata, NULL without */
    const char *prefix; /* of its keys */
    double alpha;       /* a plain "lora_alpha" and the like; NaN without */
};
enum taca_code lora_meta_open(struct lora_meta *out, const struct taca_safetensors *st,
                              const char *what, struct taca_err *err) TACA_MUST_USE;
void lora_meta_finish(struct lora_meta *m);
/* *scale = alpha / rank of the module `core`; 1 when nothing is said. */
enum taca_code lora_meta_scale(const struct lora_meta *m, const char *core, int64_t rank,
                               double *scale, struct taca_err *err) TACA_MUST_USE;

#endif
