/* sampler.c - see sampler.h. In all of it x0 = x - sigma v, s is the level of the evaluation and t
 * the next one. */
#include "engine/sample/sampler.h"

#include <math.h>

bool sampler_keeps(enum taca_sampler kind) { return kind != TACA_EULER; }

bool sampler_draws(enum taca_sampler kind) {
    return kind == TACA_EULER_ANCESTRAL || kind == TACA_LCM;
}

int sampler_done(const struct sampler *w, int end) {
    const int steps = w->step - w->first;
    if (w->kind != TACA_HEUN) return steps;
    /* the last step has no second evaluation */
    return 2 * steps + (w->second ? 1 : 0) - (w->step == end && steps > 0 ? 1 : 0);
}

/* A straight step; v becomes x0. */
static void euler(struct taca_backend *b, struct taca_chw x, struct taca_chw v, float s, float t) {
    taca_cfg_euler(b, x, v, (struct taca_chw){0}, 1, t - s);
    taca_axpby(b, v, x, 1, -t);
}

/* From s to t along the mean of the velocities at both ends: first to t, then by half of the
 * difference. */
static void heun(struct sampler *w, struct taca_backend *b, const float *sigma, struct taca_chw x,
                 struct taca_chw v) {
    const float s = sigma[w->step], t = sigma[w->step + 1];
    if (!w->second) {
        taca_axpb(b, w->keep, v, 1, 0);
        euler(b, x, v, s, t);
        return;
    }
    const float half = (t - s) / 2;
    taca_axpby(b, x, w->keep, -half, 1);
    taca_axpby(b, x, v, half, 1);
    taca_axpby(b, v, x, 1, -t);
}

/* Linear multistep in -ln s: the guess is extrapolated from this and the last one, except in the
 * first step, which has no last one, and in the last, whose length is infinite. v is x0. */
static void dpmpp_2m(struct sampler *w, struct taca_backend *b, const float *sigma,
                     struct taca_chw x, struct taca_chw v) {
    const double s = (double)sigma[w->step], t = (double)sigma[w->step + 1];
    double ahead = 0; /* 1 / (2r), r = last step / this one */
    if (w->step > w->first && t > 0) {
        const double last = (double)sigma[w->step - 1];
        ahead = log(s / t) / (2 * log(last / s));
    }
    const double keep = t / s, take = 1 - keep;
    taca_axpby(b, x, v, (float)(take * (1 + ahead)), (float)keep);
    if (ahead > 0) taca_axpby(b, x, w->keep, (float)(-take * ahead), 1);
    taca_axpb(b, w->keep, v, 1, 0);
}

static void add_noise(struct sampler *w, struct taca_backend *b, struct taca_chw x, float scale) {
    const size_t n = (size_t)(x.c * x.h * x.w);
    taca_rng_randn(&w->rng, w->draw, n);
    taca_upload(b, w->keep.data, w->draw, n * sizeof *w->draw);
    taca_axpby(b, x, w->keep, scale, 1);
}

/* Below t, to a level from which noise leads back to t. v is x0. */
static void euler_ancestral(struct sampler *w, struct taca_backend *b, const float *sigma,
                            struct taca_chw x, struct taca_chw v) {
    const double s = (double)sigma[w->step], t = (double)sigma[w->step + 1];
    const double down = t * t / s;
    const double up = (1 - t) / (1 - down); /* of the image's share */
    taca_axpby(b, x, v, (float)((1 - down / s) * up), (float)(down / s * up));
    if (t > 0) add_noise(w, b, x, (float)sqrt(t * t - down * down * up * up));
}

static void lcm(struct sampler *w, struct taca_backend *b, const float *sigma, struct taca_chw x,
                struct taca_chw v) {
    const float t = sigma[w->step + 1];
    taca_axpb(b, x, v, 1 - t, 0);
    if (t > 0) add_noise(w, b, x, t);
}

void sampler_move(struct sampler *w, struct taca_backend *b, const float *sigma, struct taca_chw x,
                  struct taca_chw v) {
    const float s = sigma[w->step], t = sigma[w->step + 1];
    if (w->kind == TACA_EULER) {
        euler(b, x, v, s, t);
        return;
    }
    if (w->kind == TACA_HEUN) {
        heun(w, b, sigma, x, v);
        return;
    }
    taca_axpby(b, v, x, 1, -s);
    switch (w->kind) {
    case TACA_DPMPP_2M: dpmpp_2m(w, b, sigma, x, v); break;
    case TACA_EULER_ANCESTRAL: euler_ancestral(w, b, sigma, x, v); break;
    case TACA_LCM: lcm(w, b, sigma, x, v); break;
    case TACA_EULER:
    case TACA_HEUN: break;
    }
}

void sampler_next(struct sampler *w, int end) {
    if (w->kind == TACA_HEUN && !w->second && w->step + 1 < end) {
        w->second = true;
        return;
    }
    w->second = false;
    w->step++;
}
