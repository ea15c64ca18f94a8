/* write.c - see write.h. */
#include "api/write.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void api_put_double(struct taca_buf *out, double v) {
    char text[40] = "0";
    for (int digits = 15; isfinite(v) && digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    taca_buf_puts(out, text);
}

void api_put_ms(struct taca_buf *out, double ms) {
    if (ms >= 0 && ms < 1e15)
        api_put_double(out, round(ms * 1000) / 1000);
    else
        taca_buf_puts(out, "null");
}

void api_put_string(struct taca_buf *out, const char *s) {
    if (s)
        taca_buf_json(out, s, strlen(s));
    else
        taca_buf_puts(out, "null");
}

/* sigma came from timestep / 1000, but sigma * 1000 may miss that timestep by an ulp or two. */
void api_put_timestep(struct taca_buf *out, double sigma) {
    double near = sigma * 1000;
    char text[40];
    snprintf(text, sizeof text, "%.15g", near);
    double nice = strtod(text, NULL);
    const double tries[] = {nice, near, nextafter(near, 0), nextafter(near, 2000)};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        if (tries[i] / 1000 != sigma) continue;
        api_put_double(out, tries[i]);
        return;
    }
    api_put_double(out, near);
}

void api_put_taca(struct taca_buf *out, const struct taca_window *w) {
    if (w->rule == TACA_WINDOW_OFF) {
        taca_buf_puts(out, "false");
        return;
    }
    taca_buf_puts(out, "{\"scale\":");
    api_put_double(out, w->gamma);
    if (w->rule == TACA_WINDOW_STEPS) {
        taca_buf_printf(out, ",\"steps\":[%d,%d]", w->first_step, w->end_step);
    } else if (w->rule == TACA_WINDOW_SIGMA) {
        taca_buf_puts(out, ",\"timestep_low\":");
        api_put_timestep(out, w->sigma_min);
        taca_buf_puts(out, ",\"timestep_high\":");
        api_put_timestep(out, w->sigma_max);
    } else {
        taca_buf_puts(out, ",\"fraction\":");
        api_put_double(out, w->fraction);
    }
    taca_buf_puts(out, "}");
}

static void put_text_member(struct taca_buf *out, const char *name, const char *s) {
    if (!s || !s[0]) return; /* absent and empty mean the same for these */
    taca_buf_printf(out, ",\"%s\":", name);
    api_put_string(out, s);
}

static void put_slg(struct taca_buf *out, const struct taca_slg *g) {
    const char *between = "";
    if (!g->layers) return;
    taca_buf_puts(out, ",\"skip_layer_guidance\":{\"layers\":[");
    for (int i = 0; i < 64; i++) {
        if (!(g->layers >> i & 1)) continue;
        taca_buf_printf(out, "%s%d", between, i);
        between = ",";
    }
    taca_buf_puts(out, "],\"scale\":");
    api_put_double(out, g->scale);
    taca_buf_puts(out, ",\"start\":");
    api_put_double(out, g->start);
    taca_buf_puts(out, ",\"stop\":");
    api_put_double(out, g->stop);
    taca_buf_puts(out, "}");
}

void api_put_loras(struct taca_buf *out, const struct taca_gen_params *p) {
    taca_buf_puts(out, "[");
    for (int i = 0; i < p->n_loras; i++) {
        taca_buf_puts(out, i ? ",{\"id\":" : "{\"id\":");
        api_put_string(out, p->loras[i].id);
        taca_buf_puts(out, ",\"scale\":");
        api_put_double(out, p->loras[i].scale);
        taca_buf_printf(out, ",\"window\":\"%s\"}",
                        p->loras[i].when == TACA_LORA_IN_WINDOW ? "taca" : "always");
    }
    taca_buf_puts(out, "]");
}

void api_put_params(struct taca_buf *out, const struct taca_gen_params *p,
                    const struct taca_model_info *m) {
    taca_buf_puts(out, "\"model\":");
    api_put_string(out, m->id);
    taca_buf_puts(out, ",\"prompt\":");
    api_put_string(out, p->prompt);
    put_text_member(out, "prompt_2", p->prompt_2);
    put_text_member(out, "prompt_3", p->prompt_3);
    put_text_member(out, "negative_prompt", p->negative_prompt);
    put_text_member(out, "negative_prompt_2", p->negative_prompt_2);
    put_text_member(out, "negative_prompt_3", p->negative_prompt_3);
    taca_buf_printf(out, ",\"width\":%d,\"height\":%d,\"steps\":%d,\"cfg_scale\":", p->width_px,
                    p->height_px, p->steps);
    api_put_double(out, p->cfg_scale);
    if (m->guidance_embeds) {
        taca_buf_puts(out, ",\"guidance_scale\":");
        api_put_double(out, p->guidance_scale);
    }
    if (p->sampler != TACA_EULER)
        taca_buf_printf(out, ",\"sampler\":\"%s\"", taca_sampler_names[p->sampler]);
    if (p->schedule != TACA_LEVELS_DEFAULT)
        taca_buf_printf(out, ",\"schedule\":\"%s\"", taca_levels_names[p->schedule]);
    if (p->shift > 0) {
        taca_buf_puts(out, ",\"shift\":");
        api_put_double(out, p->shift);
    }
    if (p->rng != TACA_NOISE_TORCH)
        taca_buf_printf(out, ",\"rng\":\"%s\"", taca_noise_names[p->rng]);
    put_slg(out, &p->slg);
    if (p->image) {
        taca_buf_puts(out, ",\"strength\":");
        api_put_double(out, p->strength);
    }
    if (p->clip_skip > 0) taca_buf_printf(out, ",\"clip_skip\":%d", p->clip_skip);
    if (p->max_sequence_length > 0)
        taca_buf_printf(out, ",\"max_sequence_length\":%d", p->max_sequence_length);
    taca_buf_printf(out, ",\"seed\":%llu,\"taca\":", (unsigned long long)p->seed);
    api_put_taca(out, &p->taca);
    if (p->n_loras > 0) {
        taca_buf_puts(out, ",\"loras\":");
        api_put_loras(out, p);
    }
}
