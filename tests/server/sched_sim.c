/* sched_sim.c - replays invented traffic through the real scheduler on a modelled device and prints
 * which load each policy carries.
 *
 *     sched_sim [SEEDS [REQUESTS]]        (a full table: 3 and 700, some minutes)
 *
 * A device is one H100 with FLUX.1 [dev], 28 steps: a step takes 4 ms and the larger of 7.9 ms
 * (reading the weights) and its operations at 680 TFLOP/s; text and pixels take 30 and 10 ms, in
 * line with the steps, whatever the policy. Goodput is the highest rate, as a share of what a
 * serial server can do, at which 95 of 100 requests are done within k times their time alone. The
 * third table has several devices, some of which take longer; at four times they can be of no use.
 * The fourth has a device that opens and decodes beside its steps, as if neither slowed the other
 * down: the most that there is to gain.
 *
 * The last table asks for ever more of a service whose line is bounded: what is in time by count,
 * and that is checked, too: at ten times its load at least 95 % of the best, by deadlines. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/sched.h"

#include "tests/test.h"

enum { STEPS = 28, N_SIZES = 3, MAX_REQUESTS = 20000 };
#define OPEN_MS   30.0
#define DECODE_MS 10.0

static const struct size {
    const char *name;
    int tokens, side_px;
    double flop_ms;
} sizes[N_SIZES] = {
    {"256", 768, 256, 15.26}, {"512", 1536, 512, 31.57}, {"1024", 4608, 1024, 109.14}};

static const struct mix {
    const char *name;
    double share[N_SIZES];
    int burst; /* requests that come together */
} mixes[] = {{"30/40/30 %", {.3, .4, .3}, 1},
             {"30/40/30 %, in pairs", {.3, .4, .3}, 2},
             {"only 256", {1, 0, 0}, 1},
             {"only 512", {0, 1, 0}, 1},
             {"only 1024", {0, 0, 1}, 1}};

static const struct mode {
    const char *name;
    enum sched_policy policy;
    int batch_images;
    bool overlaps;
} modes[] = {{"fcfs, one row", SCHED_FCFS, 1, false},
             {"fcfs, fill", SCHED_FCFS, 8, false},
             {"edf, one row", SCHED_EDF, 1, false},
             {"edf, fill", SCHED_EDF, 8, false}};
static const struct mode beside = {"edf, fill, beside", SCHED_EDF, 8, true};
enum { N_MIXES = sizeof mixes / sizeof *mixes, N_MODES = sizeof modes / sizeof *modes };

static uint64_t rng_state;
static double random_unit(void) {
    rng_state ^= rng_state << 13, rng_state ^= rng_state >> 7, rng_state ^= rng_state << 17;
    return ((double)(rng_state >> 11) + 0.5) / 9007199254740992.0;
}

/* ---- the device ------------------------------------------------------------------------------ */

static double step_ms(double flop_ms) { return 4 + fmax(7.9, flop_ms); }
static double isolated_ms(int size) {
    return OPEN_MS + STEPS * step_ms(sizes[size].flop_ms) + DECODE_MS;
}

static double serial_capacity(const struct mix *m) {
    double mean = 0;
    for (int i = 0; i < N_SIZES; i++) mean += m->share[i] * isolated_ms(i);
    return 1000 / mean;
}

static void calibrate(struct sched_costs *c, double slowness) {
    for (int i = 0; i < N_SIZES; i++)
        sched_saw_step(c, &sizes[i].tokens, 1, slowness * step_ms(sizes[i].flop_ms));
    int four[4] = {768, 768, 768, 768};
    sched_saw_step(c, four, 4, slowness * step_ms(4 * sizes[0].flop_ms));
    sched_saw_open(c, slowness * OPEN_MS);
    sched_saw_decode(c, 512 * 512, slowness * DECODE_MS);
    c->encode_ms_per_pixel = 0;
}

/* ---- a run ----------------------------------------------------------------------------------- */

struct request {
    double arrival_ms;
    int size;
};
struct farm {
    const char *name;
    int n;
    double slowness[SCHED_DEVICES];
};
static const struct farm single = {"one", 1, {1}};

/* What is out on a device that overlaps, by ids; it happens when it ends. */
struct lanes {
    int stepping[SCHED_MAX_BATCH], n;
    int opened; /* or decoded; -1 = nobody */
    double step_until, beside_until, step_ms;
};

/* What another device does happens when it begins; it is busy until then. */
struct run {
    const struct request *requests;
    const struct farm *farm;
    double busy_until[SCHED_DEVICES];
    struct lanes lanes[SCHED_DEVICES];
    bool overlaps;
    int n, next, done, in_time, line;
    struct sched_seq *seqs;
    double now, k, worst;
    double *slowdown;
    int in_time_of[N_SIZES], of[N_SIZES];
    int queue, refused; /* places in line, 0 = no end */
};

static void trace(struct request *out, int n, const struct mix *m, double rate) {
    double at = 0;
    for (int i = 0; i < n; i++) {
        if (i % m->burst == 0) at -= log(random_unit()) * 1000 / rate * m->burst;
        double u = random_unit();
        int size = 0;
        while (size < N_SIZES - 1 && u > m->share[size]) u -= m->share[size++];
        out[i] = (struct request){at, size};
    }
}

static bool admitted(struct run *r, struct sched *s, const struct sched_seq *q) {
    struct sched_newcomer c = {.seq = *q, .images = 1, .due_ms = HUGE_VAL};
    if (r->queue == 0) return true;
    for (int i = 0; i < r->line; i++) c.queued += r->seqs[i].stage == SCHED_WAITING;
    sched_order(s, r->seqs, r->line, r->now);
    bool taken = sched_admit(s, &c, r->seqs, r->line).verdict == SCHED_TAKE;
    r->refused += !taken;
    return taken;
}

static void arrive(struct run *r, struct sched *s) {
    for (; r->next < r->n && r->requests[r->next].arrival_ms <= r->now; r->next++) {
        const struct request *q = &r->requests[r->next];
        const struct size *z = &sizes[q->size];
        const struct sched_seq seq = {.id = r->next,
                                      .stage = SCHED_WAITING,
                                      .device = -1,
                                      .tokens = z->tokens,
                                      .steps_left = STEPS,
                                      .pixels = 512 * 512,
                                      .arrival_ms = q->arrival_ms,
                                      .deadline_ms = q->arrival_ms + r->k * isolated_ms(q->size)};
        if (admitted(r, s, &seq)) r->seqs[r->line++] = seq;
    }
}

static void leave(struct run *r, int at, double when) {
    int id = r->seqs[at].id, size = r->requests[id].size;
    double slowdown = (when - r->requests[id].arrival_ms) / isolated_ms(size);
    r->slowdown[r->done++] = slowdown;
    r->of[size]++;
    r->in_time += slowdown <= r->k;
    r->in_time_of[size] += slowdown <= r->k;
    memmove(r->seqs + at, r->seqs + at + 1, (size_t)(--r->line - at) * sizeof *r->seqs);
}

static double step_takes(const struct run *r, int d, const struct sched_plan *plan) {
    double flop_ms = 0;
    for (int i = 0; i < plan->n; i++)
        flop_ms += sizes[r->requests[r->seqs[plan->picked[i]].id].size].flop_ms;
    return r->farm->slowness[d] * step_ms(flop_ms);
}

static void stepped(struct run *r, struct sched *s, int d, const int *at, int n, double ms) {
    int tokens[SCHED_MAX_BATCH];
    uint64_t keys[SCHED_MAX_BATCH];
    for (int i = 0; i < n; i++) {
        struct sched_seq *q = &r->seqs[at[i]];
        tokens[i] = q->tokens;
        keys[i] = q->key;
        q->stepping = false;
        if (--q->steps_left == 0) q->stage = SCHED_FINISHED;
    }
    s->devices[d].turn = (struct sched_turn){0};
    sched_stepped(s, d, &(struct sched_step){.rows = n, .tokens = tokens, .keys = keys, .ms = ms});
}

static void give_up(struct sched_seq *q) {
    q->stage = SCHED_WAITING;
    q->steps_left = STEPS;
    q->device = -1;
}

/* False when the device has nothing to do. */
static bool act(struct run *r, struct sched *s, int d) {
    sched_order(s, r->seqs, r->line, r->now);
    struct sched_plan plan = sched_next(s, d, r->seqs, r->line, 1);
    struct sched_seq *q = &r->seqs[plan.picked[0]];
    double slowness = r->farm->slowness[d], ms = 0;
    switch (plan.act) {
    case SCHED_DO_NOTHING: return false;
    case SCHED_DO_OPEN:
        ms = slowness * OPEN_MS;
        s->devices[d].turn.open_ms += ms;
        q->stage = SCHED_OPEN;
        q->device = d;
        break;
    case SCHED_DO_EVICT: give_up(q); break;
    case SCHED_DO_STEP:
        ms = step_takes(r, d, &plan);
        stepped(r, s, d, plan.picked, plan.n, ms);
        break;
    case SCHED_DO_DECODE:
        ms = slowness * DECODE_MS;
        s->devices[d].turn.decodes++;
        leave(r, plan.picked[0], r->now + ms);
        break;
    case SCHED_DO_PREVIEW: break;
    }
    r->busy_until[d] = r->now + ms;
    return true;
}

static int place_of(const struct run *r, int id) {
    int at = 0;
    while (r->seqs[at].id != id) at++;
    return at;
}

static void end_lanes(struct run *r, struct sched *s, int d) {
    struct lanes *l = &r->lanes[d];
    if (l->n > 0 && l->step_until <= r->now) {
        for (int i = 0; i < l->n; i++) l->stepping[i] = place_of(r, l->stepping[i]);
        stepped(r, s, d, l->stepping, l->n, l->step_ms);
        l->n = 0;
    }
    if (l->opened < 0 || l->beside_until > r->now) return;
    const int at = place_of(r, l->opened);
    l->opened = -1;
    r->seqs[at].beside = false;
    if (r->seqs[at].stage == SCHED_WAITING)
        r->seqs[at].stage = SCHED_OPEN;
    else
        leave(r, at, r->now);
}

static void begin_step(struct run *r, int d, const struct sched_plan *plan) {
    struct lanes *l = &r->lanes[d];
    for (int i = 0; i < plan->n; i++) {
        r->seqs[plan->picked[i]].stepping = true;
        l->stepping[i] = r->seqs[plan->picked[i]].id;
    }
    l->n = plan->n;
    l->step_ms = step_takes(r, d, plan);
    l->step_until = r->now + l->step_ms;
}

static void begin_beside(struct run *r, int d, struct sched_seq *q, double ms) {
    struct lanes *l = &r->lanes[d];
    q->beside = true;
    q->device = d;
    l->opened = q->id;
    l->beside_until = r->now + r->farm->slowness[d] * ms;
}

/* The same as act for one that overlaps: at most a step and one thing beside it. */
static bool act_beside(struct run *r, struct sched *s, int d) {
    const struct lanes *l = &r->lanes[d];
    struct sched_plan plan = {.act = SCHED_DO_NOTHING};
    end_lanes(r, s, d);
    sched_order(s, r->seqs, r->line, r->now);
    if (l->n == 0) plan = sched_next_step(s, d, r->seqs, r->line, 1, l->opened < 0 ? -1 : 0);
    if (plan.act == SCHED_DO_NOTHING && l->opened < 0)
        plan = sched_next_beside(s, d, r->seqs, r->line, 1, l->n == 0 ? -1 : 0);
    struct sched_seq *q = &r->seqs[plan.picked[0]];
    switch (plan.act) {
    case SCHED_DO_NOTHING: return false;
    case SCHED_DO_OPEN: begin_beside(r, d, q, OPEN_MS); break;
    case SCHED_DO_EVICT: give_up(q); break;
    case SCHED_DO_STEP: begin_step(r, d, &plan); break;
    case SCHED_DO_DECODE: begin_beside(r, d, q, DECODE_MS); break;
    case SCHED_DO_PREVIEW: break;
    }
    return true;
}

static double next_end(const struct run *r, int d) {
    const struct lanes *l = &r->lanes[d];
    double next = r->busy_until[d] > r->now ? r->busy_until[d] : HUGE_VAL;
    if (l->n > 0) next = fmin(next, l->step_until);
    return l->opened >= 0 ? fmin(next, l->beside_until) : next;
}

/* Every device that is free does something, or there is nothing for it; then time goes on. */
static void turn(struct run *r, struct sched *s) {
    arrive(r, s);
    for (bool busy = true; busy;) {
        busy = false;
        for (int d = 0; d < s->n_devices; d++)
            if (r->overlaps ? act_beside(r, s, d) : r->busy_until[d] <= r->now && act(r, s, d))
                busy = true;
    }
    double next = r->next < r->n ? r->requests[r->next].arrival_ms : HUGE_VAL;
    for (int d = 0; d < s->n_devices; d++) next = fmin(next, next_end(r, d));
    r->now = next;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Plays `n` requests; gives up as soon as more than `misses` are late. */
static void play(struct run *r, const struct mode *mode, const struct request *q, int n, double k,
                 int misses) {
    const struct farm *farm = r->farm;
    struct sched_limits limits;
    struct sched s;
    sched_limits_init(&limits, mode->batch_images);
    limits.open_images = 64;
    if (r->queue > 0) limits.queue = r->queue;
    if (!sched_init(&s, mode->policy, &limits, farm->n)) abort();
    for (int d = 0; d < farm->n; d++) calibrate(s.devices[d].costs, farm->slowness[d]);
    struct sched_seq *seqs = r->seqs;
    double *slowdown = r->slowdown;
    const int queue = r->queue;
    *r = (struct run){.requests = q,
                      .farm = farm,
                      .n = n,
                      .seqs = seqs,
                      .slowdown = slowdown,
                      .k = k,
                      .queue = queue,
                      .overlaps = mode->overlaps};
    for (int d = 0; d < farm->n; d++) r->lanes[d].opened = -1;
    while (r->done + r->refused < n && r->done - r->in_time <= misses) turn(r, &s);
    qsort(r->slowdown, (size_t)r->done, sizeof *r->slowdown, by_value);
    sched_finish(&s);
}

static struct run run;
static struct request requests[MAX_REQUESTS];

static bool carries(const struct mix *m, const struct mode *mode, double rate, double k,
                    const int *effort) {
    int late = 0;
    for (int seed = 1; seed <= effort[0]; seed++) {
        rng_state = 0x9E3779B97F4A7C15u * (uint64_t)seed;
        trace(requests, effort[1], m, rate);
        play(&run, mode, requests, effort[1], k, effort[0] * effort[1] / 20);
        late += run.done - run.in_time;
    }
    return late <= effort[0] * effort[1] / 20;
}

static double goodput(const struct mix *m, const struct mode *mode, double k, const int *effort) {
    double capacity = serial_capacity(m), lo = 0, hi = 2 * run.farm->n;
    while (hi - lo > 0.005) {
        double mid = (lo + hi) / 2;
        *(carries(m, mode, mid * capacity, k, effort) ? &lo : &hi) = mid;
    }
    return lo;
}

static void print_goodput(const int *effort) {
    printf("highest load with 95 of 100 in k times their time alone, 1 = a serial server's most\n");
    for (int i = 0; i < N_MIXES; i++) {
        for (int k = 2; k <= 3; k++) {
            double base = 0;
            printf("%-22s k=%d", mixes[i].name, k);
            for (int j = 0; j < N_MODES; j++) {
                double g = goodput(&mixes[i], &modes[j], k, effort);
                if (j == 0) base = g;
                printf("  %s %.2f", modes[j].name, g);
                if (base > 0) printf(" (%.2fx)", g / base);
                fflush(stdout);
            }
            printf("\n");
        }
    }
}

static void print_tails(const int *effort) {
    static const double loads[] = {0.2, 0.5, 0.8, 1.0, 1.1};
    const struct mix *m = &mixes[0];
    printf("\nslowdown at a given load, %s, k = 3: p50 p99, and who was in time (256/512/1024)\n",
           m->name);
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
        for (int j = 0; j < N_MODES; j++) {
            rng_state = 77;
            trace(requests, effort[1], m, loads[i] * serial_capacity(m));
            play(&run, &modes[j], requests, effort[1], 3, effort[1]);
            printf("%.1f %-14s %6.2f %7.2f   %.3f  (", loads[i], modes[j].name,
                   run.slowdown[run.done / 2], run.slowdown[(int)(run.done * 0.99)],
                   (double)run.in_time / run.done);
            for (int z = 0; z < N_SIZES; z++)
                printf("%s%.2f", z ? "/" : "", (double)run.in_time_of[z] / run.of[z]);
            printf(")\n");
        }
    }
}

/* The load is in units of one serial server: twice the devices should carry more than twice as
 * much, for a line with several servers waits less. */
static void print_farms(const int *effort) {
    static const struct farm farms[] = {{"one device", 1, {1}},
                                        {"two", 2, {1, 1}},
                                        {"four", 4, {1, 1, 1, 1}},
                                        {"two, one 2 x slower", 2, {1, 2}},
                                        {"two, one 4 x slower", 2, {1, 4}}};
    printf("\nhighest load of several devices, %s, k = 3, edf, fill\n", mixes[0].name);
    for (size_t i = 0; i < sizeof farms / sizeof *farms; i++) {
        run.farm = &farms[i];
        printf("%-22s %.2f\n", farms[i].name, goodput(&mixes[0], &modes[N_MODES - 1], 3, effort));
        fflush(stdout);
    }
    run.farm = &single;
}

/* ---- too much of it -------------------------------------------------------------------------- */

static const double loads[] = {0.8, 1, 1.5, 2, 3, 10};
enum { N_LOADS = sizeof loads / sizeof *loads };

/* In time by count, as a share of what a serial server makes. */
static double kept(const struct mix *m, const struct mode *mode, double load, const int *effort) {
    double rate = load * serial_capacity(m), seconds = 0;
    int in_time = 0, n = (int)(effort[1] * load);
    if (n > MAX_REQUESTS) n = MAX_REQUESTS;
    for (int seed = 1; seed <= effort[0]; seed++) {
        rng_state = 0x9E3779B97F4A7C15u * (uint64_t)seed;
        trace(requests, n, m, rate);
        play(&run, mode, requests, n, 3, n);
        in_time += run.in_time;
        seconds += requests[n - 1].arrival_ms / 1000;
    }
    return in_time / seconds / serial_capacity(m);
}

static double print_kept(const struct mix *m, const struct mode *mode, const int *effort) {
    double best = 0, last = 0;
    printf("%-22s%-14s", m->name, mode->name);
    for (int k = 0; k < N_LOADS; k++) {
        last = kept(m, mode, loads[k], effort);
        best = fmax(best, last);
        printf("%6.2f", last);
    }
    printf("   at last %.2f of the best\n", last / best);
    fflush(stdout);
    if (mode->policy == SCHED_EDF) CHECK(last >= 0.95 * best);
    return best;
}

static void print_overload(const int *effort, int places) {
    printf("\nin time at so many times a serial server's most, %d places, k = 3\n%-36s", places,
           "");
    for (int k = 0; k < N_LOADS; k++) printf("%6.1f", loads[k]);
    printf("\n");
    run.queue = places;
    for (int i = 0; i < N_MIXES; i++) {
        double fcfs = print_kept(&mixes[i], &modes[1], effort);
        double edf = print_kept(&mixes[i], &modes[3], effort);
        bool mixed = mixes[i].share[0] < 1 && mixes[i].share[1] < 1 && mixes[i].share[2] < 1;
        CHECK(edf >= (mixed ? 2.5 : 1.0) * fcfs);
    }
    run.queue = 0;
}

static int effort[2] = {1, 100};

static void test_a_lane_beside_the_steps_is_no_loss(void) {
    printf(
        "\nhighest load with openings and decodings in line with steps, and beside them, k = 3\n");
    for (int i = 0; i < N_MIXES; i++) {
        double line = goodput(&mixes[i], &modes[N_MODES - 1], 3, effort);
        double both = goodput(&mixes[i], &beside, 3, effort);
        printf("%-22s %.2f  %.2f (%.2fx)\n", mixes[i].name, line, both, both / line);
        fflush(stdout);
        CHECK(both >= 0.97 * line); /* a lane more is never a loss */
    }
}

static void test_ten_times_too_much_leaves_the_best(void) {
    print_overload(effort, 32);
    if (effort[0] > 1) print_overload(effort, 256);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc && i < 3; i++) effort[i - 1] = (int)strtol(argv[i], NULL, 10);
    if (effort[0] < 1 || effort[1] < 20 || effort[1] > MAX_REQUESTS)
        return fprintf(stderr, "usage: sched_sim [SEEDS [REQUESTS of 20..%d]]\n", MAX_REQUESTS), 2;
    run.seqs = calloc(MAX_REQUESTS, sizeof *run.seqs);
    run.slowdown = calloc(MAX_REQUESTS, sizeof *run.slowdown);
    if (!run.seqs || !run.slowdown) return 1;
    run.farm = &single;
    print_goodput(effort);
    print_tails(effort);
    print_farms(effort);
    TEST(test_a_lane_beside_the_steps_is_no_loss);
    TEST(test_ten_times_too_much_leaves_the_best);
    free(run.seqs);
    free(run.slowdown);
    return TEST_END();
}
