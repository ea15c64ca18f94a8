/* side.c - what is done beside the steps, one at a time: a sequence is opened, or decoded.
 *
 * Both have two halves. The first queues work on the side lane and returns; the second waits for
 * it. Between them the host may run steps, on the other lane: a step of a sequence that is being
 * opened begins behind its opening, on the device. Where there are no lanes the first half waits as
 * well. */
#include <stdlib.h>

#include "engine/core.h"

bool taca_overlaps(const struct taca_engine *e) { return taca_has_lanes(e->b); }

static enum taca_code only_one(const struct taca_engine *e, struct taca_err *err) {
    return e->side.job ? taca_fail(err, TACA_EBUSY, "something is opened or decoded already")
                       : TACA_OK;
}

static bool has_rest(const struct engine_side *d) { return !d->rc && d->rest.encoding.under_way; }

/* On the side lane: what had to wait for the encoded image. */
static void go_on(struct taca_engine *e) {
    struct engine_side *d = &e->side;
    d->rc = seq_go_on(e, d->seq, &d->rest, &d->err);
    taca_mark_set(e->b, &d->mark);
}

/* Waits; whatever the job held is given back. */
static enum taca_code finish(struct taca_engine *e, struct taca_err *err) {
    struct engine_side *d = &e->side;
    const enum taca_lane last = taca_lane(e->b, TACA_LANE_SIDE);
    if (has_rest(d)) go_on(e);
    enum taca_code rc = d->rc;
    if (rc) (void)taca_fail(err, rc, "%s", d->err.text);
    const enum taca_code synced = taca_sync(e->b, rc ? NULL : err);
    if (!rc) rc = synced;
    seq_rest_finish(e, &d->rest);
    for (int i = 0; i < 2; i++) text_release(e->text, d->cond[i]);
    engine_side_scratch(e)->used = d->used;
    (void)taca_lane(e->b, last);
    *d = (struct engine_side){.mark = d->mark, .image = d->image};
    return rc;
}

/* The first half is over: what is queued gets its mark. */
static enum taca_code begun(struct taca_engine *e, enum engine_job job, struct taca_seq *s,
                            struct taca_err *err) {
    e->side.job = job;
    e->side.seq = s;
    taca_mark_set(e->b, &e->side.mark);
    return taca_queued(e->b, err);
}

bool taca_side_done(struct taca_engine *e) {
    struct engine_side *d = &e->side;
    if (!d->job) return true;
    if (!taca_mark_done(e->b, &d->mark)) return false;
    if (!has_rest(d)) return true;
    const enum taca_lane last = taca_lane(e->b, TACA_LANE_SIDE);
    go_on(e);
    (void)taca_lane(e->b, last);
    return d->rc || taca_mark_done(e->b, &d->mark);
}

enum taca_code side_precedes(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                             struct taca_err *err) {
    struct engine_side *d = &e->side;
    bool opens = false;
    for (int i = 0; i < n; i++) opens = opens || (d->job == SIDE_OPEN && d->seq == seqs[i]);
    if (!opens) return TACA_OK;
    if (has_rest(d)) {
        const enum taca_lane last = taca_lane(e->b, TACA_LANE_SIDE);
        go_on(e);
        (void)taca_lane(e->b, last);
    }
    if (d->rc) return taca_fail(err, d->rc, "%s", d->err.text);
    taca_mark_follow(e->b, &d->mark);
    return TACA_OK;
}

void side_abandon(struct taca_engine *e) {
    if (!e->side.job) return;
    (void)!finish(e, NULL);
    taca_image_finish(&e->side.image);
}

/* ---- opening --------------------------------------------------------------------------------- */

static void set_seed(struct taca_rng *rng, const struct taca_gen_params *p) {
    if (p->rng == TACA_NOISE_PHILOX)
        taca_rng_seed_philox(rng, p->seed);
    else
        taca_rng_seed(rng, p->seed);
}

static unsigned warnings_of(const struct text_cond *const cond[2], const char *negative) {
    unsigned warn = 0;
    if (cond[0]->cut) warn |= TACA_WARN_PROMPT_CUT;
    if (cond[1] && cond[1]->cut) warn |= TACA_WARN_NEGATIVE_CUT;
    if (cond[0]->clip_cut || (cond[1] && cond[1]->clip_cut)) warn |= TACA_WARN_CLIP_CUT;
    if (!cond[1] && *negative) warn |= TACA_WARN_NEGATIVE_IGNORED;
    return warn;
}

/* On the side lane; what is in e->side after a failure is given back by `finish`. */
static enum taca_code queue_opening(struct taca_engine *e, const struct taca_gen_params *p,
                                    struct taca_seq **out, unsigned *warnings,
                                    struct taca_err *err) {
    const char *negative = p->negative_prompt ? p->negative_prompt : "";
    const struct text_prompt prompts[SEQ_BRANCHES] = {{.prompt = p->prompt,
                                                       .prompt_2 = p->prompt_2,
                                                       .prompt_3 = p->prompt_3,
                                                       .clip_skip = p->clip_skip,
                                                       .t5_tokens = p->max_sequence_length},
                                                      {.prompt = negative,
                                                       .prompt_2 = p->negative_prompt_2,
                                                       .prompt_3 = p->negative_prompt_3,
                                                       .t5_tokens = p->max_sequence_length}};
    struct taca_scratch *scratch = engine_side_scratch(e);
    const struct text_cond **cond = e->side.cond;
    struct seq_text text[SEQ_BRANCHES] = {0};
    struct taca_rng rng;
    const int n = p->cfg_scale > 1 ? 2 : 1;
    enum taca_code rc = engine_reserve_side(e, text_scratch_bytes(e->text), err);
    for (int i = 0; i < n && !rc; i++) {
        rc = text_acquire(e->text, scratch, &prompts[i], &cond[i], err);
        if (!rc) text[i] = (struct seq_text){cond[i]->context, cond[i]->pooled};
    }
    if (rc) return rc;
    set_seed(&rng, p);
    const struct seq_given given = {.cond = &text[SEQ_COND],
                                    .uncond = n > 1 ? &text[SEQ_UNCOND] : NULL,
                                    .rng = &rng,
                                    .rest = &e->side.rest};
    rc = seq_open_with(e, p, &given, out, err);
    if (!rc && warnings) *warnings = warnings_of(cond, negative);
    return rc;
}

enum taca_code taca_seq_open_begin(struct taca_engine *e, const struct taca_gen_params *p,
                                   struct taca_seq **out, unsigned *warnings,
                                   struct taca_err *err) {
    struct taca_seq *s = NULL;
    enum taca_code rc = taca_gen_params_check(p, &e->info, err);
    if (!rc) rc = only_one(e, err);
    if (rc) return rc;
    const enum taca_lane last = taca_lane(e->b, TACA_LANE_SIDE);
    e->side.used = engine_side_scratch(e)->used;
    rc = queue_opening(e, p, &s, warnings, err);
    if (!rc) rc = begun(e, SIDE_OPEN, s, err);
    if (rc || !taca_overlaps(e)) {
        const enum taca_code ended = finish(e, rc ? NULL : err);
        if (!rc) rc = ended;
        if (!rc) e->side.job = SIDE_OPEN;
    }
    (void)taca_lane(e->b, last);
    if (rc && s) seq_free(e, s);
    if (!rc) *out = e->side.seq = s;
    return rc;
}

enum taca_code taca_seq_open_end(struct taca_engine *e, struct taca_err *err) {
    struct taca_seq *s = e->side.seq;
    if (e->side.job != SIDE_OPEN) return taca_fail(err, TACA_EINVAL, "nothing is being opened");
    const enum taca_code rc = finish(e, err);
    if (rc) seq_free(e, s);
    return rc;
}

enum taca_code taca_seq_open(struct taca_engine *e, const struct taca_gen_params *p,
                             struct taca_seq **out, unsigned *warnings, struct taca_err *err) {
    struct taca_seq *s;
    unsigned warn = 0;
    enum taca_code rc = taca_seq_open_begin(e, p, &s, &warn, err);
    if (!rc) rc = taca_seq_open_end(e, err);
    if (rc) return rc;
    if (warnings) *warnings = warn;
    *out = s;
    return TACA_OK;
}

void taca_seq_close(struct taca_engine *e, struct taca_seq *s) {
    if (!s) return;
    if (e->side.seq == s) side_abandon(e);
    for (int i = 0; i < e->step.n; i++) {
        if (e->step.seqs[i] != s) continue;
        (void)!taca_sync(e->b, NULL);
        e->step.seqs[i] = NULL;
    }
    seq_free(e, s);
}

/* ---- decoding -------------------------------------------------------------------------------- */

static enum taca_code read_picture(struct taca_engine *e, struct taca_err *err) {
    struct engine_side *d = &e->side;
    const enum taca_lane last = taca_lane(e->b, TACA_LANE_SIDE);
    const enum taca_code rc =
        seq_picture_read(e, d->pixels, d->seq->width_px, d->seq->height_px, &d->image, err);
    (void)taca_lane(e->b, last);
    return rc;
}

enum taca_code taca_decode_begin(struct taca_engine *e, struct taca_seq *s, struct taca_err *err) {
    struct taca_scratch *scratch = engine_side_scratch(e);
    enum taca_code rc = only_one(e, err);
    for (int i = 0; i < e->step.n && !rc; i++)
        if (e->step.seqs[i] == s) rc = taca_fail(err, TACA_EBUSY, "a step of it is at work");
    if (rc) return rc;
    const enum taca_lane last = taca_lane(e->b, TACA_LANE_SIDE);
    e->side.used = scratch->used;
    const struct taca_map image =
        taca_scratch_map(scratch, TACA_F32, 1, s->height_px, s->width_px, 3);
    vae_decode(e->vae, e->b, scratch, image, s->latent, false);
    e->side.pixels = seq_picture_queue(e, scratch, image);
    rc = begun(e, SIDE_DECODE, s, err);
    if (!rc && !taca_overlaps(e)) rc = read_picture(e, err);
    if (rc) (void)!finish(e, NULL);
    (void)taca_lane(e->b, last);
    return rc;
}

enum taca_code taca_decode_end(struct taca_engine *e, struct taca_image *out,
                               struct taca_err *err) {
    struct engine_side *d = &e->side;
    if (d->job != SIDE_DECODE) return taca_fail(err, TACA_EINVAL, "nothing is being decoded");
    enum taca_code rc = d->image.rgb ? TACA_OK : read_picture(e, err);
    const enum taca_code ended = finish(e, rc ? NULL : err);
    if (!rc) rc = ended;
    if (rc)
        taca_image_finish(&d->image);
    else
        *out = d->image;
    d->image = (struct taca_image){0};
    return rc;
}

enum taca_code taca_decode(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                           struct taca_image *out, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    int done = 0;
    for (; done < n && !rc; done++) {
        rc = taca_decode_begin(e, seqs[done], err);
        if (!rc) rc = taca_decode_end(e, &out[done], err);
    }
    if (rc) /* the failed one left nothing */
        for (int i = 0; i < done - 1; i++) taca_image_finish(&out[i]);
    return rc;
}
