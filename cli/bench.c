/* bench.c - `taca bench`: what a user waits for, measured on this machine with the real model.
 *
 * The machine first (bench_machine.c): its ceilings, ops, whole forwards of large models. Then
 * three views of the default picture: the engine alone (where the time goes), a whole process from
 * start to PNG, and a warm server over HTTP while /livez is probed. Every figure is a minimum, a
 * median and a maximum over runs; nothing is averaged away. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/bench.h"
#include "cli/bench_load.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/flags.h"
#include "engine/engine.h"

extern char **environ;

enum { MAX_RUNS = 200, MAX_PROBES = 100000 };
static const char prompt[] = "a red cube to the left of a blue ball";

struct bench {
    struct taca_engine_opts engine;
    int runs, precision;
    bool json, picture, http, process;
};

struct samples {
    double *ms;
    int n, max;
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void put(struct samples *s, double ms) {
    if (s->n < s->max) s->ms[s->n++] = ms;
}

static double quantile(struct samples *s, double q) {
    if (s->n == 0) return (double)NAN;
    qsort(s->ms, (size_t)s->n, sizeof *s->ms, by_value);
    return s->ms[(int)lround(q * (s->n - 1))];
}

static void report(const struct bench *b, const char *name, struct samples *s, double target_ms) {
    double lo = quantile(s, 0), mid = quantile(s, 0.5), p99 = quantile(s, 0.99),
           hi = quantile(s, 1);
    if (b->json) {
        printf("{\"name\":\"%s\",\"n\":%d,\"min_ms\":%.3f,\"median_ms\":%.3f,\"p99_ms\":%.3f,"
               "\"max_ms\":%.3f",
               name, s->n, lo, mid, p99, hi);
        printf(isnan(target_ms) ? "}\n" : ",\"target_ms\":%.0f}\n", target_ms);
        return;
    }
    printf("%-34s %5d %10.2f %10.2f %10.2f %10.2f", name, s->n, lo, mid, p99, hi);
    if (!isnan(target_ms)) printf("   target %.0f", target_ms);
    printf("\n");
}

/* ---- the engine alone ------------------------------------------------------------------------ */

static enum taca_code engine_once(struct taca_engine *e, struct samples *open, struct samples *step,
                                  struct samples *decode, struct taca_err *err) {
    struct taca_gen_params p;
    struct taca_seq *s = NULL;
    struct taca_image img = {0};
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = prompt;
    p.seed = 7;
    double t = taca_now_ms();
    enum taca_code rc = taca_seq_open(e, &p, &s, NULL, err);
    put(open, taca_now_ms() - t);
    while (!rc && !taca_seq_done(s)) {
        t = taca_now_ms();
        rc = taca_step(e, &s, 1, err);
        put(step, taca_now_ms() - t);
    }
    t = taca_now_ms();
    if (!rc) rc = taca_decode(e, &s, 1, &img, err);
    put(decode, taca_now_ms() - t);
    taca_image_finish(&img);
    taca_seq_close(e, s);
    return rc;
}

static enum taca_code bench_engine(const struct bench *b, struct taca_err *err) {
    static double load_ms[1], open_ms[MAX_RUNS], step_ms[MAX_RUNS * TACA_MAX_STEPS],
        dec_ms[MAX_RUNS];
    struct samples load = {load_ms, 0, 1}, open = {open_ms, 0, MAX_RUNS},
                   step = {step_ms, 0, MAX_RUNS * TACA_MAX_STEPS}, dec = {dec_ms, 0, MAX_RUNS};
    struct taca_engine *e = NULL;
    struct taca_gen_params p;
    struct taca_cost cost;
    double t = taca_now_ms();
    enum taca_code rc = taca_engine_open(&e, &b->engine, err);
    put(&load, taca_now_ms() - t);
    for (int i = 0; i < b->runs && !rc; i++) rc = engine_once(e, &open, &step, &dec, err);
    if (!rc) {
        taca_gen_params_init(&p, taca_engine_info(e));
        rc = taca_engine_cost(e, &p, &cost, err);
    }
    if (!rc) {
        report(b, "engine: load the model", &load, (double)NAN);
        report(b, "engine: open a sequence", &open, (double)NAN);
        report(b, "engine: one step", &step, (double)NAN);
        report(b, "engine: decode", &dec, (double)NAN);
        if (!b->json)
            printf("  %d tokens a step, %.2f GFLOP: %.1f GFLOP/s at the median (%s, %s)\n",
                   cost.tokens, cost.step_flops / 1e9, cost.step_flops / 1e6 / quantile(&step, 0.5),
                   taca_engine_info(e)->precision, taca_engine_info(e)->device);
    }
    taca_engine_close(e);
    return rc;
}

/* ---- a whole process ---------------------------------------------------------------------------
 */

/* What is started computes as the engine here was told to: options are stronger than these, and
 * none of them is given. */
static enum taca_code tell_children(const struct bench *b, struct taca_err *err) {
    const char *device = b->engine.device;
    char threads[16];
    snprintf(threads, sizeof threads, "%d", b->engine.threads);
    if (setenv("TACA_PRECISION", taca_precision_word((enum taca_precision)b->precision), 1) ||
        setenv("TACA_THREADS", threads, 1) ||
        (device && (setenv("TACA_DEVICE", device, 1) || setenv("TACA_DEVICES", device, 1))))
        return taca_fail(err, TACA_ENOMEM, "starting taca");
    unsetenv("TACA_API_KEY"); /* the service here is asked without one */
    return TACA_OK;
}

static enum taca_code spawn_self(const char *const *argv, pid_t *pid, struct taca_err *err) {
    /* posix_spawn does not write to the strings; its prototype only predates const */
    int rc =
        posix_spawn(pid, "/proc/self/exe", NULL, NULL, (char *const *)(uintptr_t)argv, environ);
    return rc ? taca_fail(err, TACA_EIO, "starting taca %s: %s", argv[1], strerror(rc)) : TACA_OK;
}

static enum taca_code bench_process(const struct bench *b, struct taca_err *err) {
    static double ms[MAX_RUNS];
    struct samples s = {ms, 0, MAX_RUNS};
    char out[] = "/tmp/taca-bench-XXXXXX";
    int fd = mkstemp(out);
    if (fd < 0) return taca_fail(err, TACA_EIO, "%s: %s", out, strerror(errno));
    close(fd);
    const char *const argv[] = {"taca",    "generate", prompt, "--seed",  "7",
                                "--quiet", "--output", out,    "--model", b->engine.model_path,
                                NULL};
    enum taca_code rc = TACA_OK;
    for (int i = 0; i < b->runs && !rc; i++) {
        pid_t pid;
        int status = 0;
        double t = taca_now_ms();
        rc = spawn_self(argv, &pid, err);
        if (!rc && (waitpid(pid, &status, 0) != pid || status != 0))
            rc = taca_fail(err, TACA_EIO, "taca generate failed");
        put(&s, taca_now_ms() - t);
    }
    unlink(out);
    if (!rc) report(b, "process start to PNG", &s, 1500);
    return rc;
}

/* ---- a warm server -----------------------------------------------------------------------------
 */

struct prober {
    int port;
    atomic_bool stop;
    struct samples s;
};

static void *probe(void *arg) {
    struct prober *p = arg;
    while (!atomic_load(&p->stop)) {
        struct taca_buf body;
        int status;
        taca_buf_init(&body, 1 << 16);
        double t = taca_now_ms();
        const struct client_request r = {.host = "127.0.0.1",
                                         .port = p->port,
                                         .method = "GET",
                                         .path = "/livez",
                                         .timeout_ms = 5000};
        if (client_send(&r, &status, &body, NULL) == TACA_OK && status == 200)
            put(&p->s, taca_now_ms() - t);
        taca_buf_finish(&body);
        usleep(5000);
    }
    return NULL;
}

/* Waits for the port file and for /readyz. */
static enum taca_code wait_ready(const char *port_file, int *port, struct taca_err *err) {
    for (int i = 0; i < 600; i++, usleep(50000)) {
        FILE *f = fopen(port_file, "r");
        struct taca_buf body;
        int status = 0, got = f ? fscanf(f, "%d", port) : 0;
        if (f) fclose(f);
        if (got != 1) continue;
        taca_buf_init(&body, 1 << 16);
        const struct client_request r = {.host = "127.0.0.1",
                                         .port = *port,
                                         .method = "GET",
                                         .path = "/readyz",
                                         .timeout_ms = 1000};
        enum taca_code rc = client_send(&r, &status, &body, NULL);
        taca_buf_finish(&body);
        if (rc == TACA_OK && status == 200) return TACA_OK;
    }
    return taca_fail(err, TACA_EIO, "the server was not ready within 30 s");
}

static enum taca_code request_picture(int port, struct samples *s, struct taca_err *err) {
    struct taca_buf body;
    int status;
    char json[256];
    snprintf(json, sizeof json, "{\"prompt\":\"%s\",\"seed\":7}", prompt);
    taca_buf_init(&body, 64 << 20);
    const struct client_request r = {.host = "127.0.0.1",
                                     .port = port,
                                     .method = "POST",
                                     .path = "/v1/generate",
                                     .headers = "Accept: image/png\r\n",
                                     .body = json,
                                     .timeout_ms = 60000};
    double t = taca_now_ms();
    enum taca_code rc = client_send(&r, &status, &body, err);
    if (!rc && (status != 200 || body.len < 8 || memcmp(body.data, "\x89PNG", 4) != 0))
        rc = taca_fail(err, TACA_EPROTO, "POST /v1/generate: %d %.200s", status, body.data);
    if (s) put(s, taca_now_ms() - t);
    taca_buf_finish(&body);
    return rc;
}

static enum taca_code bench_http(const struct bench *b, struct taca_err *err) {
    static double ms[MAX_RUNS], live_ms[MAX_PROBES];
    struct samples s = {ms, 0, MAX_RUNS};
    struct prober p = {.s = {live_ms, 0, MAX_PROBES}};
    char dir[] = "/tmp/taca-bench-XXXXXX", port_file[64];
    if (!mkdtemp(dir)) return taca_fail(err, TACA_EIO, "%s: %s", dir, strerror(errno));
    snprintf(port_file, sizeof port_file, "%s/port", dir);
    const char *const argv[] = {
        "taca",    "serve",       "--port", "0",       "--admin-listen",     "",  "--port-file",
        port_file, "--log-level", "warn",   "--model", b->engine.model_path, NULL};
    pid_t pid = 0;
    pthread_t thread;
    enum taca_code rc = spawn_self(argv, &pid, err);
    if (!rc) rc = wait_ready(port_file, &p.port, err);
    if (!rc) rc = request_picture(p.port, NULL, err); /* warm */
    if (!rc && pthread_create(&thread, NULL, probe, &p) == 0) {
        for (int i = 0; i < b->runs && !rc; i++) rc = request_picture(p.port, &s, err);
        atomic_store(&p.stop, true);
        pthread_join(thread, NULL);
    }
    if (pid > 0) {
        kill(pid, SIGTERM);
        waitpid(pid, NULL, 0);
    }
    unlink(port_file);
    rmdir(dir);
    if (!rc) report(b, "HTTP, warm server, PNG", &s, 1000);
    if (!rc) report(b, "/livez meanwhile (p99)", &p.s, 10);
    return rc;
}

static enum taca_code bench_picture(const struct bench *b, struct taca_err *err) {
    if (!b->engine.model_path)
        return taca_fail(err, TACA_ENOTFOUND, "the demo model was not found: give --model DIR");
    if (!b->json)
        printf("%-34s %5s %10s %10s %10s %10s\n", "milliseconds", "n", "min", "median", "p99",
               "max");
    enum taca_code rc = bench_engine(b, err);
    if (!rc) rc = tell_children(b, err);
    if (!rc && b->process) rc = bench_process(b, err);
    return !rc && b->http ? bench_http(b, err) : rc;
}

/* A path that is wrong is found before minutes of measuring. */
static enum taca_code check_paths(const struct bench *b, const struct bench_machine *m,
                                  struct taca_err *err) {
    const char *const paths[] = {m->transformer.path, b->picture ? b->engine.model_path : NULL};
    for (int i = 0; i < 2; i++)
        if (paths[i] && access(paths[i], R_OK) != 0)
            return taca_fail(err, TACA_ENOTFOUND, "%s: %s", paths[i], strerror(errno));
    return TACA_OK;
}

int cli_bench(int argc, char **argv) {
    if (bench_load_wanted(argc, argv)) return bench_load_run(argc, argv);
    struct bench b = {.engine = {.model_path = cli_demo_model()},
                      .runs = 10,
                      .picture = true,
                      .http = true,
                      .process = true};
    struct bench_machine machine = {
        .ops = true, .transformer = {.items = 2, .latent_side = 32, .text_tokens = 333}};
    int budget_ms = 300;
    const struct flag flags[] = {
        {"model", 'm', FLAG_STRING, &b.engine.model_path, .env = "TACA_MODEL", .arg = "DIR",
         .help = "model directory"},
        {"runs", 'n', FLAG_INT, &b.runs, 1, MAX_RUNS, .arg = "N", .help = "pictures per view"},
        CLI_MACHINE_FLAGS(&b.engine, &b.precision),
        {"ops", 0, FLAG_SWITCH, &machine.ops, .help = "measure single ops"},
        {"models", 0, FLAG_SWITCH, &machine.models,
         .help = "measure SD3.5-medium, FLUX and their VAE with random weights (7 GiB)"},
        {"transformer", 0, FLAG_STRING, &machine.transformer.path, .arg = "DIR",
         .help = "measure a forward of the transformer in DIR, a CFG pair"},
        {"latent", 0, FLAG_INT, &machine.transformer.latent_side, 2, 1024, .arg = "N",
         .help = "for that: latents per side"},
        {"text", 0, FLAG_INT, &machine.transformer.text_tokens, 1, 4096, .arg = "N",
         .help = "for that: text tokens"},
        {"only", 0, FLAG_STRING, &machine.filter, .arg = "TEXT",
         .help = "of those: where TEXT is in the name or the group"},
        {"budget", 0, FLAG_INT, &budget_ms, 1, 60000, .arg = "MS",
         .help = "time for each of those"},
        {"picture", 0, FLAG_SWITCH, &b.picture, .help = "measure the model's default picture"},
        {"process", 0, FLAG_SWITCH, &b.process, .help = "measure whole processes"},
        {"http", 0, FLAG_SWITCH, &b.http, .help = "measure a warm server"},
        {"json", 0, FLAG_SWITCH, &b.json, .help = "one object a line"},
    };
    struct flag_set set = {
        .usage = "bench [options]",
        .about = "Times this machine, then the model's default picture: engine, process, HTTP.\n"
                 "`taca bench --server URL` puts a running service under load (its --help).",
        .flags = flags,
        .n_flags = FLAGS_COUNT(flags)};
    enum flags_result parsed = flags_parse(&set, argc, argv);
    if (parsed != FLAGS_OK) return parsed == FLAGS_HELP ? EXIT_OK : EXIT_USAGE;
    struct taca_err err = {0};
    b.engine.precision = machine.precision = (enum taca_precision)b.precision;
    machine.json = b.json;
    machine.device = b.engine.device;
    machine.threads = b.engine.threads;
    machine.budget_ms = budget_ms;
    enum taca_code rc = check_paths(&b, &machine, &err);
    if (!rc) rc = bench_machine_run(&machine, &err);
    if (!rc && b.picture) rc = bench_picture(&b, &err);
    return rc ? cli_fail("bench", &err) : EXIT_OK;
}
