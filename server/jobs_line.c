/* jobs_line.c - the jobs as the scheduler sees them: one line of images with costs and deadlines,
 * and what can be told from it. See jobs.h. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "server/jobs_internal.h"
#include "server/metrics.h"

#define AIM 0.95 /* of the time to a deadline */

enum { SHORT_LINE = 64, ABOUT_MS = 20, PUBLISH_US = 20 * 1000 };

static bool grow(void *array, size_t n, size_t size) {
    void *p = realloc(*(void **)array, n * size);
    if (p) *(void **)array = p;
    return p != NULL;
}

static bool line_room(struct jobs *js, int n) {
    if (n <= js->line_cap) return true;
    size_t cap = (size_t)n * 2;
    if (!grow(&js->seqs, cap, sizeof *js->seqs) || !grow(&js->refs, cap, sizeof *js->refs) ||
        !grow(&js->start_ms, cap, sizeof(double)) || !grow(&js->finish_ms, cap, sizeof(double)) ||
        !grow(&js->next, cap, sizeof(bool)))
        return false;
    js->line_cap = (int)cap;
    return true;
}

/* FNV-1a. Two users of one key share a share: at 64 bits nobody will see it. */
uint64_t jobs_key(const char *user) {
    uint64_t h = 0xCBF29CE484222325u;
    if (!user) return 0;
    for (; *user; user++) h = (h ^ (unsigned char)*user) * 0x100000001B3u;
    return h;
}

double jobs_pixels(const struct job *job) {
    return (double)job->request.params.width_px * job->request.params.height_px;
}

const struct taca_model_info *jobs_model(const struct jobs *js, const struct job *job) {
    static const struct taca_model_info unknown = {0}; /* a restored job's, while it loads */
    const struct taca_model_info *m = models_info(&js->ports.status->models, job->request.model);
    return m ? m : &unknown;
}

struct sched_costs *jobs_costs(struct jobs *js, const struct op *op) {
    return &js->sched.devices[op->device].costs[op->model];
}

/* Before the worker has said it: patches of the picture and the text, for each side of CFG. */
static int guess_tokens(const struct jobs *js, const struct job *job) {
    const struct taca_gen_params *p = &job->request.params;
    const struct taca_model_info *m = jobs_model(js, job);
    int side = m->side_multiple_px > 0 ? m->side_multiple_px : 16;
    int t5 = p->max_sequence_length > 0 ? p->max_sequence_length : m->t5_tokens;
    int tokens = (p->width_px / side) * (p->height_px / side) + m->clip_tokens + t5;
    return p->cfg_scale > 1 ? 2 * tokens : tokens;
}

/* Where it is quickest: of the devices that serve the model, or of all while none does.
 *   *known  false: a guess */
static double quickest_ms(const struct jobs *js, const struct job *job, bool *known) {
    const int model = job->request.model, tokens = guess_tokens(js, job);
    double least[2] = {HUGE_VAL, HUGE_VAL};
    bool measured[2] = {false, false};
    for (int d = 0; d < js->sched.n_devices; d++) {
        const struct sched_costs *c = &js->sched.devices[d].costs[model];
        double ms = sched_isolated_ms(c, tokens, taca_gen_params_forwards(&job->request.params),
                                      jobs_pixels(job));
        int serves = js->sched.devices[d].serves >> model & 1;
        if (!(ms < least[serves])) continue;
        least[serves] = ms;
        measured[serves] = c->measured;
    }
    int from = least[1] < HUGE_VAL;
    *known = measured[from];
    return least[from];
}

static double image_ms(const struct jobs *js, const struct job *job) {
    bool known;
    return quickest_ms(js, job, &known);
}

double jobs_isolated_ms(const struct jobs *js, const struct job *job) {
    return job->request.n * image_ms(js, job);
}

/* The client's own, or a multiple of the time alone; a little earlier, because an answer also has
 * to travel. The latter stays as it was set with the first known costs: a machine that slows down
 * does not get more time. */
static double deadline_ms(const struct jobs *js, struct job *job) {
    double arrival_ms = (double)job->received_us / 1000;
    if (job->request.deadline_ms > 0) return arrival_ms + AIM * job->request.deadline_ms;
    if (job->deadline_us > 0) return (double)job->deadline_us / 1000;
    bool known;
    double alone_ms = job->request.n * quickest_ms(js, job, &known);
    double ms = (double)job->waits_since_us / 1000 + AIM * js->opts.deadline_factor * alone_ms;
    if (known) job->deadline_us = (int64_t)(ms * 1000);
    return ms;
}

/* The command for it that is out on its device; NULL = none. */
static const struct op *command_for(const struct jobs *js, const struct job *job, int index) {
    if (!job->images || !job->images[index].seq) return NULL; /* a newcomer */
    const int device = job->images[index].device;
    for (int k = 0; k < OP_KINDS && js->overlaps[device]; k++) {
        const struct op *op = &js->ops[device][k];
        for (int i = 0; op->active && i < op->n; i++)
            if (op->refs[i].job == job && op->refs[i].index == index) return op;
    }
    return NULL;
}

/* Of several images the earlier ones are due earlier, each by the time of one: so that who can no
 * longer make it is known before the last one starts. */
static void describe(const struct jobs *js, struct job *job, int index, struct sched_seq *out) {
    const struct taca_gen_params *p = &job->request.params;
    static const struct job_image none = {.preview_due = -1}; /* it is not in the table yet */
    const struct job_image *im = job->images ? &job->images[index] : &none;
    bool opened = im->stage != IMAGE_WAITING;
    int behind = job->request.n - 1 - index;
    const struct op *op = command_for(js, job, index);
    *out = (struct sched_seq){
        .stage = im->stage == IMAGE_WAITING ? SCHED_WAITING
                 : im->stage == IMAGE_OPEN  ? SCHED_OPEN
                                            : SCHED_FINISHED,
        .model = job->request.model,
        .device = im->seq ? im->device : -1,
        .tokens = opened ? im->tokens : guess_tokens(js, job),
        .steps_left = opened ? im->steps - im->step : taca_gen_params_forwards(p),
        .pixels = jobs_pixels(job),
        .preview_due = im->preview_due >= 0,
        .stepping = op && op_kind(op->type) == OP_STEP,
        .beside = op && op_kind(op->type) == OP_BESIDE,
        .alone = job->alone || job->attempts >= 2,
        .arrival_ms = (double)job->received_us / 1000,
        .deadline_ms = deadline_ms(js, job) - (behind ? behind * image_ms(js, job) : 0),
        .priority = job->request.priority,
        .key = job->flow,
    };
}

void jobs_describe_newcomer(struct jobs *js, struct job *job, struct sched_newcomer *out) {
    const int own_ms = job->request.deadline_ms;
    *out = (struct sched_newcomer){.images = job->request.n,
                                   .due_ms = own_ms > 0 ? (double)job->received_us / 1000 + own_ms
                                                        : HUGE_VAL,
                                   .queued = jobs_queued_behind(js)};
    describe(js, job, job->request.n - 1, &out->seq);
}

static void see_devices(struct jobs *js) {
    for (int d = 0; d < js->sched.n_devices; d++) {
        bool all = true;
        js->sched.devices[d].serves = 0;
        for (int m = 0; m < SCHED_MODELS; m++) {
            if (!fleet_serves(js->ports.fleet, d, m)) continue;
            js->sched.devices[d].serves |= UINT32_C(1) << m;
            all = all && pool_overlaps(fleet_worker(js->ports.fleet, d, m));
        }
        js->overlaps[d] = all && js->sched.devices[d].serves != 0;
    }
}

/* Will it be described like this until it begins? With several images it follows the costs. */
static bool is_settled(const struct job *job) {
    return job->state == JOB_QUEUED && job->request.n == 1 &&
           (job->request.deadline_ms > 0 || job->deadline_us > 0);
}

static void line_up(struct jobs *js, struct job *job, int index, const struct sched_seq *seq) {
    js->seqs[js->n_line] = *seq;
    js->seqs[js->n_line].id = js->n_line;
    js->refs[js->n_line++] = (struct image_ref){job, index};
}

/* Most of a long line waits and is as it was: that is all that is read of it. */
static bool line_up_as_before(struct jobs *js, struct job *job) {
    const struct models *all = &js->ports.status->models;
    if (!job->lined_for || job->lined_for != models_info(all, job->lined.model)) return false;
    line_up(js, job, 0, &job->lined);
    return true;
}

static void line_up_images(struct jobs *js, struct job *job) {
    const bool settled = is_settled(job);
    struct sched_seq seq;
    for (int i = 0; i < job->request.n; i++) {
        if (job->images[i].stage >= IMAGE_ENCODING) continue;
        describe(js, job, i, &seq);
        line_up(js, job, i, &seq);
        job->lined = seq;
        job->lined_for = settled ? models_info(&js->ports.status->models, seq.model) : NULL;
    }
}

bool jobs_line_up(struct jobs *js) {
    js->n_line = js->behind = 0;
    see_devices(js);
    for (struct job *job = js->first; job; job = job->next) {
        if (!line_room(js, js->n_line + (job->lined_for ? 1 : job->request.n))) return false;
        if (!line_up_as_before(js, job) && !job->unplaced) line_up_images(js, job);
    }
    sched_order(&js->sched, js->seqs, js->n_line, taca_now_ms());
    return true;
}

bool jobs_line_about(struct jobs *js) {
    bool good = js->behind * 64 <= js->n_line && taca_now_ms() - js->sched.now_ms < ABOUT_MS;
    return good || jobs_line_up(js);
}

const struct image_ref *jobs_ref(const struct jobs *js, int place) {
    return &js->refs[js->seqs[place].id];
}

/* ---- what can be told ------------------------------------------------------------------------ */

static void estimate(struct jobs *js) {
    int position = 1;
    sched_eta(&js->sched, js->start_ms, js->finish_ms, js->seqs, js->n_line);
    for (struct job *job = js->first; job; job = job->next) job->finish_ms = 0;
    for (int i = 0; i < js->n_line; i++) {
        const struct image_ref *r = jobs_ref(js, i);
        if (js->finish_ms[i] > r->job->finish_ms) r->job->finish_ms = js->finish_ms[i];
        if (r->index > 0) continue; /* the first image of a job that waits is before its others */
        r->job->position = position;
        position += r->job->state == JOB_QUEUED;
    }
}

bool jobs_estimate(struct jobs *js) {
    int64_t begun_us = taca_now_us();
    if (begun_us - js->estimated_us < 4 * js->estimate_took_us) return true;
    if (!jobs_line_up(js)) return false;
    estimate(js);
    js->estimated_us = taca_now_us();
    /* a short line is always worth it */
    js->estimate_took_us = js->n_line < SHORT_LINE ? 0 : js->estimated_us - begun_us;
    return true;
}

/* Does a device have a place in its next step that nobody takes? */
static bool place_is_left(struct jobs *js) {
    bool left = false;
    for (int i = 0; i < js->n_line; i++) js->next[i] = false;
    for (int d = 0; d < js->sched.n_devices; d++) {
        int picked[SCHED_MAX_BATCH];
        int n = sched_pick(&js->sched, d, picked, js->seqs, js->n_line);
        for (int i = 0; i < n; i++) js->next[picked[i]] = true;
        left = left || n < js->opts.limits.batch_images;
    }
    return left;
}

int jobs_queued_behind(struct jobs *js) {
    int queued = js->queued, behind = 0;
    if (js->behind > 0) return queued; /* the line is long, and its refs are not to be used */
    bool place = place_is_left(js);
    for (int i = 0; i < js->n_line; i++) {
        const struct image_ref *r = jobs_ref(js, i);
        if (js->next[i])
            queued -= r->job->state == JOB_QUEUED && r->index == 0;
        else
            behind += js->seqs[i].stage != SCHED_FINISHED;
    }
    return behind == 0 && place ? -1 : queued;
}

static void publish_models(const struct jobs *js) {
    double backlog_ms[MODELS_MAX] = {0};
    for (int i = 0; i < js->n_line; i++) backlog_ms[js->seqs[i].model] += js->seqs[i].left_ms;
    for (int m = 0; m < atomic_load(&js->ports.status->models.n); m++) {
        const int waiting = js->queued_of_model[m];
        metric_set_of(METRIC_WAITING, m, waiting);
        metric_set_of(METRIC_RUNNING, m, js->of_model[m] - waiting + js->ending[m]);
        metric_set_of(METRIC_BACKLOG_SECONDS, m, backlog_ms[m] / 1000);
    }
}

/* With many jobs not after every event. */
void jobs_publish(struct jobs *js) {
    int running = js->count - js->queued;
    atomic_store(&js->ports.status->waiting, js->queued);
    for (int m = 0; m < MODELS_MAX; m++) running += js->ending[m];
    atomic_store(&js->ports.status->running, running);
    js->unpublished = js->count > SHORT_LINE && taca_now_us() - js->published_us < PUBLISH_US;
    if (js->unpublished) return;
    js->published_us = taca_now_us();
    publish_models(js);
    metric_set(METRIC_STORED_JOBS, store_kept(js->store));
    metric_set(METRIC_STORED_BYTES, (double)store_bytes(js->store));
}
