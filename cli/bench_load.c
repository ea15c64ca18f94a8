/* bench_load.c - see bench_load.h. One thread a request: that many wait anyway. */
#include "cli/bench_load.h"

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cli/bench_plot.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/file.h"
#include "cli/flags.h"

enum { MAX_SIZES = 8, STACK_BYTES = 256 << 10, PATIENCE_MS = 600000 };

struct load_opts {
    const char *server; /* http://host:port */
    const char *api_key, *plot, *samples;
    const char *mix; /* "64:0.5,128:0.3,256:0.2": side in pixels and share */
    double rate;     /* requests a second */
    int requests, steps, seed;
    bool taca;     /* every second one with TACA, the others without */
    int warm;      /* requests of each size, one at a time, that tell the time alone */
    double within; /* a request is in time within so many times its time alone */
    bool poisson;  /* false: at even distances */
    bool json;
};
struct size {
    int side_px;
    double share, alone_ms;
};
struct shot {
    const struct load *load;
    int size, number;
    double at_ms, took_ms; /* from the first shot; from at_ms to the last byte */
    int status;            /* 0 = no answer */
    pthread_t thread;
    bool started;
};
struct load {
    const struct load_opts *opts;
    struct client_url url;
    char path[CLIENT_MAX_PATH + 16];
    struct taca_buf headers;
    struct size sizes[MAX_SIZES];
    int n_sizes;
    struct shot *shots;
    double start_ms, ended_ms;
    uint64_t rng;
};

static double random_unit(uint64_t *x) {
    *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
    return ((double)(*x >> 11) + 0.5) / 9007199254740992.0;
}

/* ---- what is asked --------------------------------------------------------------------------- */

static enum taca_code parse_mix(struct load *l, const char *mix, struct taca_err *err) {
    double sum = 0;
    for (const char *at = mix; *at;) {
        struct size z = {.share = 1};
        int used = 0;
        if (l->n_sizes == MAX_SIZES || (sscanf(at, "%d:%lf%n", &z.side_px, &z.share, &used) != 2 &&
                                        sscanf(at, "%d%n", &z.side_px, &used) != 1))
            break;
        if (z.side_px < 1 || !(z.share > 0)) break;
        sum += z.share;
        l->sizes[l->n_sizes++] = z;
        at += used;
        if (*at == 0) {
            for (int i = 0; i < l->n_sizes; i++) l->sizes[i].share /= sum;
            return TACA_OK;
        }
        if (*at++ != ',') break;
    }
    return taca_fail_param(err, "mix", "--mix must be SIDE:SHARE,..., at most %d of them, got %s",
                           MAX_SIZES, mix);
}

/* ---- asking ---------------------------------------------------------------------------------- */

/* The status, or 0; *ms from `from_ms` to the last byte. */
static int ask(const struct load *l, int side_px, int number, double from_ms, double *ms,
               struct taca_err *err) {
    struct taca_buf body;
    char json[256], steps[32] = "";
    int status = 0;
    if (l->opts->steps > 0) snprintf(steps, sizeof steps, ",\"steps\":%d", l->opts->steps);
    /* every request is another picture: nothing can be answered from a cache */
    snprintf(json, sizeof json,
             "{\"prompt\":\"a red cube, number %d\",\"seed\":%d,\"width\":%d,\"height\":%d%s,"
             "\"taca\":%s}",
             number, number, side_px, side_px, steps,
             l->opts->taca && number % 2 ? "true" : "false");
    taca_buf_init(&body, 256 << 20);
    const struct client_request r = {.host = l->url.host,
                                     .port = l->url.port,
                                     .method = "POST",
                                     .path = l->path,
                                     .headers = l->headers.data,
                                     .body = json,
                                     .timeout_ms = PATIENCE_MS};
    enum taca_code rc = client_send(&r, &status, &body, err);
    *ms = taca_now_ms() - from_ms;
    if (!rc && status != 200)
        (void)taca_fail(err, TACA_EPROTO, "POST /v1/generate: %d %.200s", status,
                        body.data ? body.data : "");
    taca_buf_finish(&body);
    return rc ? 0 : status;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double *v, int n, double q) {
    if (n == 0) return (double)NAN;
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[(int)lround(q * (n - 1))];
}

/* The median of a few, one at a time, the first of them not counted. */
static enum taca_code measure_alone(struct load *l, struct taca_err *err) {
    double *ms = calloc((size_t)l->opts->warm, sizeof *ms);
    if (!ms) return taca_fail(err, TACA_ENOMEM, "bench");
    enum taca_code rc = TACA_OK;
    for (int i = 0; i < l->n_sizes && !rc; i++) {
        for (int k = -1; k < l->opts->warm && !rc; k++) {
            double took;
            if (ask(l, l->sizes[i].side_px, 1000000 + k, taca_now_ms(), &took, err) != 200)
                rc = err->code ? err->code : TACA_EPROTO;
            if (k >= 0) ms[k] = took;
        }
        l->sizes[i].alone_ms = quantile(ms, l->opts->warm, 0.5);
    }
    free(ms);
    return rc;
}

static void *shoot(void *arg) {
    struct shot *s = arg;
    const struct load *l = s->load;
    struct taca_err err = {0};
    s->status =
        ask(l, l->sizes[s->size].side_px, s->number, l->start_ms + s->at_ms, &s->took_ms, &err);
    return NULL;
}

static void sleep_until(double ms) {
    double left = ms - taca_now_ms();
    if (left <= 0) return;
    struct timespec t = {(time_t)(left / 1000), (long)(fmod(left, 1000) * 1e6)};
    nanosleep(&t, NULL);
}

static void plan(struct load *l) {
    const struct load_opts *o = l->opts;
    double at = 0;
    l->rng = 0x9E3779B97F4A7C15u * (uint64_t)(o->seed + 1);
    for (int i = 0; i < o->requests; i++) {
        double u = random_unit(&l->rng), gap = -log(random_unit(&l->rng));
        int size = 0;
        while (size < l->n_sizes - 1 && u > l->sizes[size].share) u -= l->sizes[size++].share;
        l->shots[i] = (struct shot){.load = l, .size = size, .number = i, .at_ms = at};
        at += 1000 / o->rate * (o->poisson ? gap : 1);
    }
}

static enum taca_code fire(struct load *l, struct taca_err *err) {
    pthread_attr_t attr;
    enum taca_code rc = TACA_OK;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    l->start_ms = taca_now_ms() + 50;
    for (int i = 0; i < l->opts->requests && !rc; i++) {
        struct shot *s = &l->shots[i];
        sleep_until(l->start_ms + s->at_ms);
        s->started = pthread_create(&s->thread, &attr, shoot, s) == 0;
        if (!s->started) rc = taca_fail(err, TACA_ENOMEM, "no thread for request %d", i);
    }
    for (int i = 0; i < l->opts->requests; i++)
        if (l->shots[i].started) pthread_join(l->shots[i].thread, NULL);
    l->ended_ms = taca_now_ms();
    pthread_attr_destroy(&attr);
    return rc;
}

/* ---- the report ------------------------------------------------------------------------------ */

struct row {
    int n, ok, in_time, refused;               /* the rest failed */
    double ms[3], slowdown[3], refused_p99_ms; /* p50, p90, p99 */
};

static bool is_refusal(int status) { return status == 429 || status == 503; }

/* size -1 = all. What was refused or failed is not in time, and has no latency. */
static enum taca_code sum_up(const struct load *l, int size, struct row *r, struct taca_err *err) {
    static const double at[3] = {0.5, 0.9, 0.99};
    int n = l->opts->requests;
    double *v = calloc(3 * (size_t)n, sizeof *v);
    if (!v) return taca_fail(err, TACA_ENOMEM, "bench");
    double *slow = v + n, *refused = v + 2 * n;
    *r = (struct row){.n = 0};
    for (int i = 0; i < n; i++) {
        const struct shot *s = &l->shots[i];
        if (size >= 0 && s->size != size) continue;
        double slowdown = s->took_ms / l->sizes[s->size].alone_ms;
        r->n++;
        if (is_refusal(s->status)) refused[r->refused++] = s->took_ms;
        if (s->status != 200) continue;
        v[r->ok] = s->took_ms;
        slow[r->ok++] = slowdown;
        r->in_time += slowdown <= l->opts->within;
    }
    for (int q = 0; q < 3; q++) {
        r->ms[q] = quantile(v, r->ok, at[q]);
        r->slowdown[q] = quantile(slow, r->ok, at[q]);
    }
    r->refused_p99_ms = quantile(refused, r->refused, 0.99);
    free(v);
    return TACA_OK;
}

static void number(const char *name, double v) {
    if (isnan(v))
        printf(",\"%s\":null", name);
    else
        printf(",\"%s\":%.3f", name, v);
}

static void print_json(const struct load *l, int size, const struct row *r) {
    const struct load_opts *o = l->opts;
    const double seconds = (l->ended_ms - l->start_ms) / 1000;
    printf("{\"side_px\":%d,\"rate\":%.4f,\"n\":%d,\"ok\":%d,\"refused\":%d,\"failed\":%d,"
           "\"in_time\":%d,\"within\":%.3f",
           size < 0 ? 0 : l->sizes[size].side_px, o->rate * (size < 0 ? 1 : l->sizes[size].share),
           r->n, r->ok, r->refused, r->n - r->ok - r->refused, r->in_time, o->within);
    number("goodput", r->in_time / seconds);
    number("alone_ms", size < 0 ? (double)NAN : l->sizes[size].alone_ms);
    number("p50_ms", r->ms[0]);
    number("p90_ms", r->ms[1]);
    number("p99_ms", r->ms[2]);
    number("p50_slowdown", r->slowdown[0]);
    number("p90_slowdown", r->slowdown[1]);
    number("p99_slowdown", r->slowdown[2]);
    number("refused_p99_ms", r->refused_p99_ms);
    if (size < 0) number("seconds", seconds);
    printf("}\n");
}

static void print_row(const struct load *l, int size, const struct row *r) {
    char name[16];
    if (size < 0)
        snprintf(name, sizeof name, "all");
    else
        snprintf(name, sizeof name, "%d", l->sizes[size].side_px);
    printf("%-6s %6d %6d %7d %6d %8.1f%% %9.0f %9.0f %9.0f %9.2f %9.2f %9.0f\n", name, r->n, r->ok,
           r->refused, r->n - r->ok - r->refused, r->n ? 100.0 * r->in_time / r->n : (double)NAN,
           r->ms[0], r->ms[1], r->ms[2], r->slowdown[0], r->slowdown[2],
           size < 0 ? (double)NAN : l->sizes[size].alone_ms);
}

static enum taca_code print_report(const struct load *l, struct taca_err *err) {
    if (!l->opts->json)
        printf("%g requests a second, %s; in time: within %g times the time alone\n"
               "%-6s %6s %6s %7s %6s %9s %9s %9s %9s %9s %9s %9s\n",
               l->opts->rate, l->opts->poisson ? "Poisson" : "even", l->opts->within, "side", "n",
               "ok", "refused", "failed", "in time", "p50 ms", "p90 ms", "p99 ms", "p50 slow",
               "p99 slow", "alone ms");
    for (int size = 0; size <= l->n_sizes; size++) {
        int which = size < l->n_sizes ? size : -1;
        struct row r = {.n = 0};
        enum taca_code rc = sum_up(l, which, &r, err);
        if (rc) return rc;
        if (l->opts->json)
            print_json(l, which, &r);
        else
            print_row(l, which, &r);
    }
    return TACA_OK;
}

/* A line of JSON for each request, in the order of their moments. */
static enum taca_code write_samples(const struct load *l, struct taca_err *err) {
    struct taca_buf out;
    if (!l->opts->samples) return TACA_OK;
    taca_buf_init(&out, 1 << 30);
    for (int i = 0; i < l->opts->requests; i++) {
        const struct shot *s = &l->shots[i];
        taca_buf_printf(&out, "{\"side_px\":%d,\"at_ms\":%.3f,\"took_ms\":%.3f,\"status\":%d}\n",
                        l->sizes[s->size].side_px, s->at_ms, s->took_ms, s->status);
    }
    enum taca_code rc = out.failed ? taca_fail(err, TACA_ENOMEM, "samples")
                                   : file_write(l->opts->samples, &out, err);
    taca_buf_finish(&out);
    return rc;
}

static enum taca_code draw(const struct load *l, struct taca_err *err) {
    const struct load_opts *o = l->opts;
    char title[96], names[MAX_SIZES][24];
    if (!o->plot) return TACA_OK;
    struct plot_point *points = calloc((size_t)o->requests, sizeof *points);
    if (!points) return taca_fail(err, TACA_ENOMEM, "a plot");
    snprintf(title, sizeof title, "%d requests, %g a second, %s", o->requests, o->rate,
             o->poisson ? "Poisson" : "even");
    struct plot p = {
        .title = title, .points = points, .n_points = o->requests, .n_series = l->n_sizes};
    for (int i = 0; i < l->n_sizes; i++) {
        snprintf(names[i], sizeof names[i], "%d px", l->sizes[i].side_px);
        p.series[i] = names[i];
        p.limit_ms[i] = l->sizes[i].alone_ms * o->within;
    }
    for (int i = 0; i < o->requests; i++) {
        const struct shot *s = &l->shots[i];
        points[i] = (struct plot_point){s->at_ms, s->took_ms, s->size,
                                        s->status == 200        ? PLOT_OK
                                        : is_refusal(s->status) ? PLOT_REFUSED
                                                                : PLOT_FAILED};
    }
    enum taca_code rc = plot_write(o->plot, &p, err);
    free(points);
    return rc;
}

static enum taca_code open_load(struct load *l, struct taca_err *err) {
    const struct load_opts *o = l->opts;
    enum taca_code rc = client_url_parse(&l->url, o->server, "server", err);
    if (!rc) rc = parse_mix(l, o->mix, err);
    if (!rc && o->samples) rc = file_check(o->samples, err); /* before the load, not after it */
    if (!rc && o->plot) rc = file_check(o->plot, err);
    if (rc) return rc;
    size_t n = strlen(l->url.path);
    while (n > 0 && l->url.path[n - 1] == '/') n--;
    snprintf(l->path, sizeof l->path, "%.*s/v1/generate", (int)n, l->url.path);
    taca_buf_init(&l->headers, 1 << 16);
    taca_buf_puts(&l->headers, "Accept: image/png\r\n");
    if (o->api_key) taca_buf_printf(&l->headers, "Authorization: Bearer %s\r\n", o->api_key);
    l->shots = calloc((size_t)o->requests, sizeof *l->shots);
    if (!l->shots || l->headers.failed)
        return taca_fail(err, TACA_ENOMEM, "bench: %d requests", o->requests);
    return TACA_OK;
}

static enum taca_code bench_load(const struct load_opts *o, struct taca_err *err) {
    struct load l = {.opts = o};
    enum taca_code rc = open_load(&l, err);
    if (!rc) rc = measure_alone(&l, err);
    if (!rc) plan(&l);
    if (!rc) rc = fire(&l, err);
    if (!rc) rc = print_report(&l, err);
    if (!rc) rc = write_samples(&l, err);
    if (!rc) rc = draw(&l, err);
    taca_buf_finish(&l.headers);
    free(l.shots);
    return rc;
}

bool bench_load_wanted(int argc, char **argv) {
    static const char option[] = "--server";
    for (int i = 1; i < argc; i++) {
        char next = strncmp(argv[i], option, sizeof option - 1) ? 'x' : argv[i][sizeof option - 1];
        if (next == 0 || next == '=') return true;
    }
    return false;
}

int bench_load_run(int argc, char **argv) {
    struct load_opts o = {.mix = "128",
                          .rate = 1,
                          .requests = 100,
                          .seed = 1,
                          .warm = 5,
                          .within = 3,
                          .poisson = true};
    const struct flag flags[] = {
        {"server", 0, FLAG_STRING, &o.server, .arg = "URL",
         .help = "http://HOST:PORT or unix:/PATH"},
        {"api-key", 0, FLAG_STRING, &o.api_key, .env = "TACA_API_KEY", .arg = "KEY",
         .help = "key for a service that wants one"},
        {"rate", 0, FLAG_NUMBER, &o.rate, 0.001, 100000, .arg = "R", .help = "requests a second"},
        {"requests", 0, FLAG_INT, &o.requests, 1, 100000, .arg = "N", .help = "how many"},
        {"mix", 0, FLAG_STRING, &o.mix, .arg = "SIDE:SHARE,...",
         .help = "sizes, as in 64:0.5,128:0.3,256:0.2"},
        {"poisson", 0, FLAG_SWITCH, &o.poisson, .help = "at random moments, not even distances"},
        {"within", 0, FLAG_NUMBER, &o.within, 1, 1000, .arg = "K",
         .help = "in time is within K times the time alone"},
        {"steps", 0, FLAG_INT, &o.steps, 0, 200, .arg = "N",
         .help = "of each picture, 0 = the model's own"},
        {"taca", 0, FLAG_SWITCH, &o.taca, .help = "every second picture with TACA"},
        {"warm", 0, FLAG_INT, &o.warm, 1, 1000, .arg = "N",
         .help = "pictures of each size that tell the time alone"},
        {"seed", 0, FLAG_INT, &o.seed, 0, 1 << 30, .arg = "N", .help = "other random moments"},
        {"json", 0, FLAG_SWITCH, &o.json, .help = "one object a line"},
        {"samples", 0, FLAG_STRING, &o.samples, .arg = "FILE",
         .help = "each request there, one JSON object a line"},
        {"plot", 0, FLAG_STRING, &o.plot, .arg = "FILE", .help = "a picture of all of them (SVG)"},
    };
    struct flag_set set = {
        .usage = "bench --server URL [options]",
        .about = "Puts a running service under load: each request is sent at its own moment, "
                 "whatever\nbecame of those before it, and timed from that moment.",
        .flags = flags,
        .n_flags = FLAGS_COUNT(flags)};
    enum flags_result parsed = flags_parse(&set, argc, argv);
    if (parsed != FLAGS_OK) return parsed == FLAGS_HELP ? EXIT_OK : EXIT_USAGE;
    struct taca_err err = {0};
    return bench_load(&o, &err) ? cli_fail("bench", &err) : EXIT_OK;
}
