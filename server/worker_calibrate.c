/* worker_calibrate.c - see worker_calibrate.h. Everything is done twice and the better time counts:
 * the first step of a size makes kernels and pages that later ones find. */
#include "server/worker_calibrate.h"

#include <stdio.h>

#include "base/clock.h"

enum { ROUNDS = 2, MAX_ROWS = 4 };

struct calibration {
    struct taca_engine *e;
    struct wire_calibrated *out;
    double end_ms;
    int prompts; /* a text that was seen before may cost nothing */
};

static enum taca_code open_one(struct calibration *c, int width_px, int height_px,
                               struct taca_seq **out, struct taca_err *err) {
    struct taca_gen_params p;
    char prompt[32];
    taca_gen_params_init(&p, taca_engine_info(c->e));
    snprintf(prompt, sizeof prompt, "calibration %d", c->prompts++);
    p.prompt = prompt;
    p.width_px = width_px;
    p.height_px = height_px;
    p.steps = ROUNDS;
    double start = taca_now_ms();
    enum taca_code rc = taca_seq_open(c->e, &p, out, NULL, err);
    if (!rc) c->out->open_ms = taca_now_ms() - start; /* the last one: by now it is warm */
    return rc;
}

static enum taca_code decode_one(struct calibration *c, struct taca_seq *s, struct taca_err *err) {
    struct taca_image img = {0};
    double start = taca_now_ms();
    enum taca_code rc = taca_decode(c->e, &s, 1, &img, err);
    if (!rc) {
        c->out->decode_ms = taca_now_ms() - start;
        c->out->decode_pixels = (double)img.width_px * img.height_px;
    }
    taca_image_finish(&img);
    return rc;
}

/* Joint steps of `rows` pictures of one size, and the decoding of one of them. */
static enum taca_code measure(struct calibration *c, int width_px, int height_px, int rows,
                              struct taca_err *err) {
    struct taca_seq *seqs[MAX_ROWS] = {NULL};
    enum taca_code rc = TACA_OK;
    double best = 0;
    for (int i = 0; i < rows && !rc; i++) rc = open_one(c, width_px, height_px, &seqs[i], err);
    for (int round = 0; round < ROUNDS && !rc; round++) {
        double start = taca_now_ms();
        rc = taca_step(c->e, seqs, rows, err);
        double ms = taca_now_ms() - start;
        if (round == 0 || ms < best) best = ms;
        if (ms > c->end_ms - taca_now_ms()) break; /* slow enough to be measured well by one */
    }
    if (!rc && c->out->n < WIRE_MAX_SIGHTS)
        c->out->steps[c->out->n++] =
            (struct wire_sight){rows, taca_seq_tokens(c->e, seqs[0]), best};
    if (!rc && rows == 1 && taca_seq_done(seqs[0])) rc = decode_one(c, seqs[0], err);
    for (int i = 0; i < rows; i++) taca_seq_close(c->e, seqs[i]);
    return rc;
}

/* What the next measurement will take, told by the last one: in proportion to its pixels. */
static bool affordable(const struct calibration *c, double pixels, double last_pixels) {
    double last_ms = c->out->n > 0 ? c->out->steps[c->out->n - 1].ms : 0;
    double each = (last_ms + c->out->decode_ms) * pixels / last_pixels;
    return taca_now_ms() + ROUNDS * each + c->out->open_ms <= c->end_ms;
}

enum taca_code worker_calibrate(struct taca_engine *e, const struct wire_calibrate *cmd,
                                struct wire_calibrated *out, struct taca_err *err) {
    const struct taca_model_info *m = taca_engine_info(e);
    struct calibration c = {.e = e, .out = out, .end_ms = taca_now_ms() + (double)cmd->budget_ms};
    int side = (m->min_side_px + m->side_multiple_px - 1) / m->side_multiple_px;
    side *= m->side_multiple_px;
    int w = m->default_width_px, h = m->default_height_px;
    const struct {
        int width_px, height_px, rows;
    } plan[] = {{side, side, 1}, {side, side, MAX_ROWS}, {w, h, 1}, {2 * w, 2 * h, 1}};
    double last = 0;
    for (size_t i = 0; i < sizeof plan / sizeof *plan; i++) {
        double pixels = (double)plan[i].width_px * plan[i].height_px;
        bool possible = plan[i].width_px <= m->max_side_px && plan[i].height_px <= m->max_side_px;
        if (!possible || (i > 0 && !affordable(&c, pixels * plan[i].rows, last))) continue;
        enum taca_code rc = measure(&c, plan[i].width_px, plan[i].height_px, plan[i].rows, err);
        if (rc) return rc;
        last = pixels * plan[i].rows;
    }
    return TACA_OK;
}
