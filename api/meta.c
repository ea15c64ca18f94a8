/* meta.c - the parameters of an image as its file carries them; see image_write.h. */
#include "api/image_write.h"
#include "api/write.h"

static void put_window(struct taca_buf *out, const struct taca_window *w) {
    if (w->rule == TACA_WINDOW_OFF) return;
    taca_buf_puts(out, ", TACA: ");
    api_put_double(out, w->gamma);
    taca_buf_puts(out, ", TACA window: ");
    if (w->rule == TACA_WINDOW_STEPS) {
        taca_buf_printf(out, "steps %d-%d", w->first_step, w->end_step);
    } else if (w->rule == TACA_WINDOW_SIGMA) {
        taca_buf_puts(out, "timestep ");
        api_put_timestep(out, w->sigma_min);
        taca_buf_puts(out, "-");
        api_put_timestep(out, w->sigma_max);
    } else {
        taca_buf_puts(out, "fraction ");
        api_put_double(out, w->fraction);
    }
}

/* "<lora:style:0.8>" behind the prompt, as other programs write it. */
static void put_loras(struct taca_buf *out, const struct taca_gen_params *p) {
    for (int i = 0; i < p->n_loras; i++) {
        taca_buf_printf(out, " <lora:%s:", p->loras[i].id);
        api_put_double(out, p->loras[i].scale);
        taca_buf_puts(out, ">");
    }
}

/* Which of them follow the window is not in that form. */
static void put_windowed(struct taca_buf *out, const struct taca_gen_params *p) {
    const char *const first = ", TACA LoRA: \"", *before = first;
    for (int i = 0; i < p->n_loras; i++) {
        if (p->loras[i].when != TACA_LORA_IN_WINDOW) continue;
        taca_buf_printf(out, "%s%s", before, p->loras[i].id);
        before = ", ";
    }
    if (before != first) taca_buf_puts(out, "\"");
}

/* As other programs write it into their pictures. */
const char *api_sampler_title(enum taca_sampler s) {
    static const char *const names[] = {"Euler", "Heun", "DPM++ 2M", "Euler a", "LCM"};
    return names[s];
}

/* Three parts, each on its own line: the prompt, "Negative prompt: ..." and "Steps: ...". */
void api_image_parameters(struct taca_buf *out, const struct taca_gen_params *p,
                          const struct taca_model_info *m) {
    taca_buf_puts(out, p->prompt);
    put_loras(out, p);
    if (p->negative_prompt && p->negative_prompt[0]) {
        taca_buf_puts(out, "\nNegative prompt: ");
        taca_buf_puts(out, p->negative_prompt);
    }
    taca_buf_printf(out, "\nSteps: %d, Sampler: %s", p->steps, api_sampler_title(p->sampler));
    if (p->schedule != TACA_LEVELS_DEFAULT)
        taca_buf_printf(out, ", Schedule type: %s", taca_levels_names[p->schedule]);
    taca_buf_puts(out, ", CFG scale: ");
    api_put_double(out, p->cfg_scale);
    if (m->guidance_embeds) {
        taca_buf_puts(out, ", Distilled CFG Scale: ");
        api_put_double(out, p->guidance_scale);
    }
    taca_buf_printf(out, ", Seed: %llu, Size: %dx%d, Model: %s", (unsigned long long)p->seed,
                    p->width_px, p->height_px, m->id);
    if (p->shift > 0) {
        taca_buf_puts(out, ", Shift: ");
        api_put_double(out, p->shift);
    }
    if (p->image) {
        taca_buf_puts(out, ", Denoising strength: ");
        api_put_double(out, p->strength);
    }
    put_window(out, &p->taca);
    put_windowed(out, p);
    taca_buf_puts(out, ", Version: taca " TACA_VERSION);
}

void api_image_json(struct taca_buf *out, const struct taca_gen_params *p,
                    const struct taca_model_info *m) {
    taca_buf_puts(out, "{");
    api_put_params(out, p, m);
    taca_buf_puts(out, "}");
}
