/* open.c - which family a config is of, and a transformer's life. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dit/model.h"

static const char sd3[] = "SD3Transformer2DModel", flux[] = "FluxTransformer2DModel";

/* Configs without a class: by a field that only one family has. */
static const char *class_of_fields(const json_t *config) {
    static const char *const only_flux[] = {"num_single_layers", "axes_dims_rope",
                                            "guidance_embeds"};
    for (size_t i = 0; i < sizeof only_flux / sizeof *only_flux; i++)
        if (json_object_get(config, only_flux[i])) return flux;
    return sd3;
}

enum taca_code dit_open(struct dit **out, struct taca_backend *b, const json_t *config,
                        struct taca_ckpt *ckpt, struct taca_err *err) {
    const char *name;
    enum taca_code rc = taca_cfg_string(config, "_class_name", class_of_fields(config), &name, err);
    if (rc) return rc;
    if (strcmp(name, sd3) == 0) return dit_sd3_open(out, b, config, ckpt, err);
    if (strcmp(name, flux) == 0) return dit_flux_open(out, b, config, ckpt, err);
    return taca_fail(err, TACA_EUNSUPPORTED, "transformer class is %.64s, wanted %s or %s", name,
                     sd3, flux);
}

enum taca_code dit_alloc(struct dit **out, int64_t depth, int64_t singles, struct taca_err *err) {
    struct dit *d = calloc(1, sizeof *d);
    if (d) d->blocks = calloc((size_t)depth, sizeof *d->blocks);
    if (d && singles) d->singles = calloc((size_t)singles, sizeof *d->singles);
    if (!d || !d->blocks || (singles && !d->singles)) {
        dit_close(d);
        return taca_fail(err, TACA_ENOMEM, "transformer of %" PRId64 " layers", depth + singles);
    }
    *out = d;
    return TACA_OK;
}

void dit_close(struct dit *d) {
    if (!d) return;
    free(d->blocks);
    free(d->singles);
    free(d);
}

const struct dit_info *dit_get_info(const struct dit *d) { return &d->info; }
