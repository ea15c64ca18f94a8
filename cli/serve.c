/* serve.c - the options of `taca serve` and of the `taca worker` behind it: see serve_options.h. */
#include "cli/serve_options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"

static void add(struct serve_table *t, const struct flag *flags, int n) {
    memcpy(t->flags + t->n, flags, (size_t)n * sizeof *flags);
    t->n += n;
}

/* ---- options --------------------------------------------------------------------------------- */

static void add_models(struct serve_table *t, struct serve_options *o) {
    const struct flag flags[] = {
        {"model", 'm', FLAG_LIST, &o->models, .env = "TACA_MODEL", .arg = "[NAME=]PATH",
         .group = "the model", .help = "model directory or file; the first is who names none gets"},
        {"device", 0, FLAG_LIST, &o->devices, .env = "TACA_DEVICES", .arg = "NAME",
         .help = "where to compute: auto, cpu, cuda or cuda:N; each is a worker, CPUs share the "
                 "threads [auto]"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void add_worker(struct serve_table *t, struct serve_options *o) {
    struct taca_engine_opts *e = &o->serve.engine;
    const struct flag flags[] = {
        {"model", 0, FLAG_STRING, &e->model_path, .arg = "PATH", .help = "as the service's"},
        {"device", 0, FLAG_STRING, &e->device, .arg = "NAME", .help = "as the service's"},
        {"share", 0, FLAG_INT, &e->share, 0, STATUS_DEVICES, .arg = "N",
         .help = "workers that share the threads"},
        {"check-memory", 0, FLAG_SWITCH, &o->worker.check_memory,
         .help = "do not load what does not fit into what is free"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void add_engine(struct serve_table *t, struct serve_options *o) {
    struct taca_engine_opts *e = &o->serve.engine;
    const struct flag flags[] = {
        CLI_PART_FLAGS(e),
        {"model-id", 0, FLAG_STRING, &e->model_id, .env = "TACA_MODEL_ID", .arg = "NAME",
         .help = "what clients call the first model, when --model does not say it"},
        {"lora", 0, FLAG_LIST, &o->lora, .env = "TACA_LORAS", .arg = "[MODEL:]ID=FILE",
         .help = "an adapter that requests may name; of the first model, or of MODEL"},
        {"threads", 0, FLAG_INT, &e->threads, 0, 1024, .env = "TACA_THREADS", .arg = "N",
         .help = "CPU threads of all workers together, 0 = all that there are"},
        {"precision", 0, FLAG_CHOICE, &o->precision, .choices = CLI_PRECISIONS,
         .env = "TACA_PRECISION", .arg = "P", .help = "of matrix products"},
        {"deterministic", 0, FLAG_SWITCH, &e->deterministic, .env = "TACA_DETERMINISTIC",
         .help = "bits do not depend on what is computed together"},
        {"text-cache-bytes", 0, FLAG_INT, &o->text_cache_bytes, 0, 1 << 30,
         .env = "TACA_TEXT_CACHE_BYTES", .arg = "N",
         .help = "memory for encoded prompts, 0 = the engine's own choice"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void add_front(struct serve_table *t, struct serve_options *o) {
    struct front_opts *f = &o->serve.front;
    const struct flag flags[] = {
        {"host", 0, FLAG_STRING, &f->host, .env = "TACA_HOST", .arg = "ADDR",
         .group = "where it listens, and to whom",
         .help = "address, localhost, unix:/PATH, or a comma-separated list"},
        {"port", 'p', FLAG_INT, &f->port, 0, 65535, .env = "TACA_PORT", .arg = "N",
         .help = "0 = any free one, see the log"},
        {"port-file", 0, FLAG_STRING, &o->serve.port_file, .env = "TACA_PORT_FILE", .arg = "FILE",
         .help = "write the port's number there once it listens"},
        {"admin-listen", 0, FLAG_STRING, &f->admin_listen, .env = "TACA_ADMIN_LISTEN",
         .arg = "ADDR:PORT",
         .help = "probes and /metrics on a listener of their own; unix:/PATH too, none = off"},
        {"socket-mode", 0, FLAG_STRING, &o->socket_mode, .env = "TACA_SOCKET_MODE", .arg = "MODE",
         .help = "permissions of Unix sockets, octal"},
        {"insecure", 0, FLAG_SWITCH, &o->serve.insecure, .env = "TACA_INSECURE",
         .help = "listen beyond this machine though nobody has to log in", .live = true},
        {"enable-a1111", 0, FLAG_SWITCH, &f->a1111, .env = "TACA_ENABLE_A1111",
         .help = "the routes of AUTOMATIC1111's API at /sdapi/v1"},
        {"ui", 0, FLAG_SWITCH, &f->ui, .env = "TACA_UI", .help = "the playground at /"},
        {"api-key-file", 0, FLAG_STRING, &f->api_key_file, .env = "TACA_API_KEY_FILE",
         .arg = "FILE", .help = "what `taca key` makes, a line each; /v1/ then wants a key",
         .live = true},
        {"api-key", 0, FLAG_STRING, &f->api_key, .env = "TACA_API_KEY", .arg = "KEY",
         .help = "one key without a file, for trying: others see it in the list of processes",
         .live = true, .secret = true},
        {"cors-origin", 0, FLAG_STRING, &f->cors_origin, .env = "TACA_CORS_ORIGIN", .arg = "LIST",
         .help = "origins whose pages may use this service, exact", .live = true},
        {"max-connections", 0, FLAG_INT, &f->max_connections, 1, 1000000,
         .env = "TACA_MAX_CONNECTIONS", .arg = "N", .help = "more get 503 at once"},
        {"max-connections-per-ip", 0, FLAG_INT, &f->max_per_ip, 0, 1000000,
         .env = "TACA_MAX_CONNECTIONS_PER_IP", .arg = "N",
         .help = "more of one address (or IPv6 /64) get 429 at once, 0 = no such limit"},
        {"head-timeout", 0, FLAG_NUMBER, &o->head_timeout_s, 0.1, 3600, .env = "TACA_HEAD_TIMEOUT",
         .arg = "S", .help = "for the head of a request"},
        {"body-timeout", 0, FLAG_NUMBER, &o->body_timeout_s, 0.1, 3600, .env = "TACA_BODY_TIMEOUT",
         .arg = "S", .help = "for the body of a request"},
        {"sse-ping-interval", 0, FLAG_NUMBER, &o->sse_ping_s, 0.1, 3600,
         .env = "TACA_SSE_PING_INTERVAL", .arg = "S", .help = "comments on a quiet event stream"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void add_limits(struct serve_table *t, struct serve_options *o) {
    struct api_limits *l = &o->serve.front.limits;
    const struct flag flags[] = {
        {"max-pixels", 0, FLAG_INT, &o->max_pixels, 4096, 1 << 28, .env = "TACA_MAX_PIXELS",
         .arg = "N", .group = "what may be asked", .help = "width times height of one image",
         .live = true},
        {"max-image-pixels", 0, FLAG_INT, &o->max_image_pixels, 4096, 1 << 28,
         .env = "TACA_MAX_IMAGE_PIXELS", .arg = "N",
         .help = "width times height of a picture that is sent in", .live = true},
        {"max-side", 0, FLAG_INT, &l->max_side_px, 16, 1 << 14, .env = "TACA_MAX_SIDE", .arg = "N",
         .help = "longest side of one image", .live = true},
        {"max-steps", 0, FLAG_INT, &l->max_steps, 1, TACA_MAX_STEPS, .env = "TACA_MAX_STEPS",
         .arg = "N", .help = "denoising steps", .live = true},
        {"max-n", 0, FLAG_INT, &l->max_n, 1, API_MAX_N, .env = "TACA_MAX_N", .arg = "N",
         .help = "images of one request", .live = true},
        {"max-body-bytes", 0, FLAG_INT, &o->max_body_bytes, 256, 1 << 28,
         .env = "TACA_MAX_BODY_BYTES", .arg = "N", .help = "size of one request"},
        {"max-prompt-bytes", 0, FLAG_INT, &o->max_prompt_bytes, 1, 1 << 20,
         .env = "TACA_MAX_PROMPT_BYTES", .arg = "N", .help = "size of one prompt", .live = true},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void add_queue(struct serve_table *t, struct serve_options *o) {
    struct serve_opts *s = &o->serve;
    const struct flag flags[] = {
        {"max-queue", 0, FLAG_INT, &s->max_queue, 0, 1000000, .env = "TACA_MAX_QUEUE", .arg = "N",
         .group = "the line, its steps and their end",
         .help =
             "requests that may wait; more get 429, and when three quarters wait, also those that "
             "would be late",
         .live = true},
        {"max-backlog-seconds", 0, FLAG_NUMBER, &s->max_backlog_s, 0, 1e6,
         .env = "TACA_MAX_BACKLOG_SECONDS", .arg = "S",
         .help = "device time that may wait; more get 429, 0 = no limit", .live = true},
        {"memory-probe", 0, FLAG_STRING, &s->memory_probe, .env = "TACA_MEMORY_PROBE",
         .arg = "WHAT",
         .help = "auto: the container's limit, none, or a file with the share in use, 0 to 1; new "
                 "work is refused when memory is short"},
        {"policy", 0, FLAG_CHOICE, &o->policy, .choices = "edf|fcfs|fill", .env = "TACA_POLICY",
         .arg = "P", .help = "order by deadlines, as they come, or as they come and all together"},
        {"deadline-factor", 0, FLAG_NUMBER, &s->deadline_factor, 1, 1000,
         .env = "TACA_DEADLINE_FACTOR", .arg = "K",
         .help = "without deadline_ms: so many times what it takes alone", .live = true},
        {"fair-quantum", 0, FLAG_NUMBER, &s->fair_quantum_s, 0, 86400, .env = "TACA_FAIR_QUANTUM",
         .arg = "S", .help = "device time one user may be ahead of others, 0 = any", .live = true},
        {"patience", 0, FLAG_NUMBER, &s->patience_s, 0, 86400, .env = "TACA_PATIENCE", .arg = "S",
         .help = "who waits longer is served first for an eighth of the time", .live = true},
        {"calibrate", 0, FLAG_SWITCH, &s->calibrate, .env = "TACA_CALIBRATE",
         .help = "measure what steps take at the start"},
        {"max-batch-images", 0, FLAG_INT, &s->max_batch_images, 1, 64,
         .env = "TACA_MAX_BATCH_IMAGES", .arg = "N", .help = "images that share a step"},
        {"max-batch-tokens", 0, FLAG_INT, &s->max_batch_tokens, 0, 1 << 30,
         .env = "TACA_MAX_BATCH_TOKENS", .arg = "N",
         .help = "tokens of one step, 0 = what was measured"},
        {"encode-threads", 0, FLAG_INT, &s->encode_threads, 1, 64, .env = "TACA_ENCODE_THREADS",
         .arg = "N", .help = "threads that write pictures"},
        {"start-timeout", 0, FLAG_NUMBER, &o->start_timeout_s, 0, 86400,
         .env = "TACA_START_TIMEOUT", .arg = "S", .help = "longest wait in the queue, 0 = no limit",
         .live = true},
        {"step-timeout", 0, FLAG_NUMBER, &o->step_timeout_s, 0.01, 86400,
         .env = "TACA_STEP_TIMEOUT", .arg = "S",
         .help = "a worker silent for longer, and for 20 times its usual, is replaced",
         .live = true},
        {"job-ttl", 0, FLAG_NUMBER, &o->job_ttl_s, 0, 86400, .env = "TACA_JOB_TTL", .arg = "S",
         .help = "a finished job can be asked for so long"},
        {"max-stored-bytes", 0, FLAG_NUMBER, &o->max_stored_bytes, 0, 1e13,
         .env = "TACA_MAX_STORED_BYTES", .arg = "N",
         .help = "memory, or disk, for results of finished jobs; the oldest go first"},
        {"job-store", 0, FLAG_STRING, &s->job_store, .env = "TACA_JOB_STORE", .arg = "STORE",
         .help = "memory, or sqlite:FILE: async jobs outlive the process"},
        {"max-retries", 0, FLAG_INT, &s->max_retries, 0, 1000, .env = "TACA_MAX_RETRIES",
         .arg = "N", .help = "a job over which a worker or the service died is made again so often",
         .live = true},
        {"max-input-bytes", 0, FLAG_NUMBER, &o->max_input_bytes, 0, 1e13,
         .env = "TACA_MAX_INPUT_BYTES", .arg = "N",
         .help = "memory for pictures that unfinished jobs start from; more get 429"},
        {"drain-grace", 0, FLAG_NUMBER, &o->drain_grace_s, 0, 3600, .env = "TACA_DRAIN_GRACE",
         .arg = "S", .help = "after SIGTERM: new requests for so long", .live = true},
        {"drain-timeout", 0, FLAG_NUMBER, &o->drain_timeout_s, 0, 86400,
         .env = "TACA_DRAIN_TIMEOUT", .arg = "S",
         .help = "after SIGTERM: unfinished requests end then", .live = true},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

#define LOG_FORMATS "auto|text|json"
#define LOG_LEVELS  "debug|info|warn|error"

static void add_log(struct serve_table *t, struct serve_options *o) {
    const struct flag flags[] = {
        {"log-format", 0, FLAG_CHOICE, &o->log_format, .choices = LOG_FORMATS,
         .env = "TACA_LOG_FORMAT", .arg = "F", .group = "the log",
         .help = "auto: text on a terminal, else JSON"},
        {"log-level", 0, FLAG_CHOICE, &o->log_level, .choices = LOG_LEVELS, .env = "TACA_LOG_LEVEL",
         .arg = "L", .help = "least level to log", .live = true},
        {"log-prompts", 0, FLAG_SWITCH, &o->serve.log_prompts, .env = "TACA_LOG_PROMPTS",
         .help = "prompts in the log", .live = true},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

/* What the service has settled for its log, by names of its own: the service's twins are read again
 * on SIGHUP and must stay the operator's. */
static void add_worker_log(struct serve_table *t, struct serve_options *o) {
    const struct flag flags[] = {
        {"log-format", 0, FLAG_CHOICE, &o->log_format, .choices = LOG_FORMATS,
         .env = SERVE_WORKER_LOG_FORMAT, .arg = "F", .help = "as the service's"},
        {"log-level", 0, FLAG_CHOICE, &o->log_level, .choices = LOG_LEVELS, .arg = "L",
         .help = "as the service's"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void add_config(struct serve_table *t, struct serve_options *o) {
    const struct flag flags[] = {
        {"config", 0, FLAG_STRING, &o->config_file, .env = "TACA_CONFIG", .arg = "FILE",
         .group = "configuration",
         .help = "options as one JSON object; environment and command line are stronger",
         .not_in_file = true},
        {"print-config", 0, FLAG_SWITCH, &o->print_config, .not_in_file = true,
         .help = "print every option's value and where it is from, and exit"},
        {"check-config", 0, FLAG_SWITCH, &o->check_config, .not_in_file = true,
         .help = "say whether it would start, by the exit code too (78 = no)"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

/* ---- defaults and results -------------------------------------------------------------------- */

static void set_defaults(struct serve_options *o) {
    struct serve_opts *s = &o->serve;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    *o = (struct serve_options){.log_level = TACA_LOG_INFO,
                                .head_timeout_s = 5,
                                .body_timeout_s = 10,
                                .sse_ping_s = 15,
                                .start_timeout_s = 300,
                                .job_ttl_s = 600,
                                .max_stored_bytes = 256 << 20,
                                .max_input_bytes = 256 << 20,
                                .drain_grace_s = 5,
                                .drain_timeout_s = 60,
                                .step_timeout_s = 30,
                                .socket_mode = "0660"};
    s->front.host = "localhost";
    s->front.port = 8080;
    s->front.admin_listen = "127.0.0.1:8081";
    s->front.max_connections = 6000;
    s->front.ui = true;
    api_limits_init(&s->front.limits);
    o->max_pixels = (int)s->front.limits.max_pixels;
    o->max_image_pixels = (int)s->front.limits.max_image_pixels;
    o->max_body_bytes = (int)s->front.limits.max_body_bytes;
    o->max_prompt_bytes = (int)s->front.limits.max_prompt_bytes;
    s->job_store = "memory";
    s->max_retries = 3;
    s->memory_probe = "auto";
    s->max_queue = 256;
    s->max_backlog_s = 120;
    s->deadline_factor = 3;
    s->fair_quantum_s = 5;
    s->patience_s = 60;
    s->calibrate = true;
    s->max_batch_images = 32;
    s->encode_threads = cores < 2 ? 1 : cores > 8 ? 4 : 2;
}

void serve_options_init(struct serve_options *o, struct serve_table *t) {
    t->n = 0;
    set_defaults(o);
    add_config(t, o);
    add_models(t, o);
    add_engine(t, o);
    add_front(t, o);
    add_limits(t, o);
    add_queue(t, o);
    add_log(t, o);
}

void worker_options_init(struct serve_options *o, struct serve_table *t) {
    t->n = 0;
    set_defaults(o);
    add_worker(t, o);
    add_engine(t, o);
    add_worker_log(t, o);
}

static int to_ms(double s) { return (int)lround(s * 1000); }

static bool read_mode(const char *text, int *out) {
    size_t digits = strspn(text, "01234567");
    if (digits < 1 || digits > 4 || text[digits]) return false;
    *out = (int)strtol(text, NULL, 8);
    return *out <= 0777;
}

enum taca_code serve_options_apply(struct serve_options *o, struct taca_err *err) {
    struct serve_opts *s = &o->serve;
    if (!read_mode(o->socket_mode, &s->front.socket_mode))
        return taca_fail_param(err, "socket-mode",
                               "--socket-mode must be octal digits in 0..0777, got '%s'",
                               o->socket_mode);
    s->loras = (struct serve_loras){o->lora.item, o->lora.n};
    s->models = (struct serve_list){o->models.item, o->models.n};
    s->devices = (struct serve_list){o->devices.item, o->devices.n};
    s->engine.precision = (enum taca_precision)o->precision;
    s->policy = (enum sched_policy)o->policy;
    s->engine.text_cache_bytes = (size_t)o->text_cache_bytes;
    s->front.limits.max_pixels = o->max_pixels;
    s->front.limits.max_image_pixels = o->max_image_pixels;
    s->front.limits.max_body_bytes = (size_t)o->max_body_bytes;
    s->front.limits.max_prompt_bytes = (size_t)o->max_prompt_bytes;
    s->front.head_timeout_ms = to_ms(o->head_timeout_s);
    s->front.body_timeout_ms = to_ms(o->body_timeout_s);
    s->front.sse_ping_ms = to_ms(o->sse_ping_s);
    s->job_ttl_ms = to_ms(o->job_ttl_s);
    s->max_stored_bytes = (size_t)o->max_stored_bytes;
    s->max_input_bytes = (size_t)o->max_input_bytes;
    s->start_timeout_ms = to_ms(o->start_timeout_s);
    s->step_timeout_ms = to_ms(o->step_timeout_s);
    s->drain_grace_ms = to_ms(o->drain_grace_s);
    s->drain_timeout_ms = to_ms(o->drain_timeout_s);
    if (strcmp(s->front.admin_listen, "none") == 0) s->front.admin_listen = "";
    return TACA_OK;
}
