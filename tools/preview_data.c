/* preview_data.c - what tools/fit_preview.py fits to: final latents of a model and its pictures,
 * averaged over the pixels that one latent stands for. Not part of the service.
 *
 *     preview_data MODEL OUT.safetensors IMAGES STEPS < PROMPTS      (a prompt a line, repeated) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core.h"
#include "engine/io/safetensors.h"

enum { MAX_PROMPTS = 1024, LONGEST = 512 };

struct data {
    int images, prompts;
    char prompt[MAX_PROMPTS][LONGEST];
    int64_t c, h, w;
    float *latent, *rgb; /* [images, c, h, w], [images, h, w, 3] in -1..1 */
};

static void read_prompts(struct data *d) {
    while (d->prompts < MAX_PROMPTS && fgets(d->prompt[d->prompts], LONGEST, stdin)) {
        char *line = d->prompt[d->prompts];
        line[strcspn(line, "\n")] = 0;
        d->prompts += line[0] != 0;
    }
}

/* One mean of rgb for each latent, -1..1. */
static void average(float *out, const struct taca_image *img, const struct data *d) {
    const int64_t f = img->height_px / d->h;
    for (int64_t i = 0; i < d->h * d->w * 3; i++) {
        int64_t y = i / 3 / d->w * f, x = i / 3 % d->w * f, sum = 0;
        for (int64_t k = 0; k < f * f; k++)
            sum += img->rgb[((y + k / f) * img->width_px + x + k % f) * 3 + i % 3];
        out[i] = (float)((double)sum / (double)(f * f) / 255 * 2 - 1);
    }
}

static enum taca_code make_one(struct taca_engine *e, struct data *d, int i, int steps,
                               struct taca_err *err) {
    struct taca_gen_params p;
    struct taca_seq *s = NULL;
    struct taca_image img = {0};
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = d->prompt[i % d->prompts];
    p.seed = (uint64_t)i;
    p.steps = steps;
    enum taca_code rc = taca_seq_open(e, &p, &s, NULL, err);
    while (!rc && !taca_seq_done(s)) rc = taca_step(e, &s, 1, err);
    if (!rc) rc = seq_latent_read(e, s, d->latent + i * d->c * d->h * d->w, err);
    if (!rc) rc = taca_decode(e, &s, 1, &img, err);
    if (!rc) average(d->rgb + i * d->h * d->w * 3, &img, d);
    taca_image_finish(&img);
    taca_seq_close(e, s);
    return rc;
}

static enum taca_code make_all(struct data *d, const char *model, const char *out, int steps,
                               struct taca_err *err) {
    struct taca_engine *e = NULL;
    enum taca_code rc = taca_engine_open(&e, &(struct taca_engine_opts){.model_path = model}, err);
    if (rc) return rc;
    const struct vae_info *v = vae_get_info(e->vae);
    d->c = v->latent_channels;
    d->h = taca_engine_info(e)->default_height_px / v->factor;
    d->w = taca_engine_info(e)->default_width_px / v->factor;
    d->latent = calloc((size_t)(d->images * d->c * d->h * d->w), sizeof *d->latent);
    d->rgb = calloc((size_t)(d->images * d->h * d->w * 3), sizeof *d->rgb);
    if (!d->latent || !d->rgb) rc = taca_fail(err, TACA_ENOMEM, "%d images", d->images);
    for (int i = 0; i < d->images && !rc; i++) {
        rc = make_one(e, d, i, steps, err);
        fprintf(stderr, "\r%d / %d", i + 1, d->images);
    }
    fputc('\n', stderr);
    const struct taca_tensor tensors[] = {
        {"latent", d->latent, TACA_F32, 4, {d->images, d->c, d->h, d->w}},
        {"rgb", d->rgb, TACA_F32, 4, {d->images, d->h, d->w, 3}},
    };
    if (!rc) rc = taca_safetensors_write(out, tensors, 2, err);
    taca_engine_close(e);
    return rc;
}

int main(int argc, char **argv) {
    struct data *d = calloc(1, sizeof *d);
    struct taca_err err = {0};
    if (!d || argc != 5) {
        fprintf(stderr, "usage: preview_data MODEL OUT.safetensors IMAGES STEPS < PROMPTS\n");
        free(d);
        return 2;
    }
    read_prompts(d);
    d->images = (int)strtol(argv[3], NULL, 10);
    enum taca_code rc = TACA_OK;
    if (d->prompts == 0 || d->images < 1 || d->images > 100000)
        rc = taca_fail(&err, TACA_EINVAL, "wanted prompts on stdin and 1..100000 images");
    if (!rc) rc = make_all(d, argv[1], argv[2], (int)strtol(argv[4], NULL, 10), &err);
    if (rc) fprintf(stderr, "preview_data: %s\n", err.text);
    free(d->latent);
    free(d->rgb);
    free(d);
    return rc ? 1 : 0;
}
