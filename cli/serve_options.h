/* serve_options.h - what `taca serve` and `taca worker` can be told: tables of options over one
 * structure, and the way from there to the server's. */
#ifndef TACA_CLI_SERVE_OPTIONS_H
#define TACA_CLI_SERVE_OPTIONS_H

#include "cli/flags.h"
#include "server/serve.h"

struct serve_options {
    struct serve_opts serve;
    const char *config_file, *socket_mode;
    bool print_config, check_config;
    int precision, policy, text_cache_bytes, max_pixels, max_image_pixels, max_body_bytes,
        max_prompt_bytes;
    double head_timeout_s, body_timeout_s, sse_ping_s, start_timeout_s, drain_grace_s,
        drain_timeout_s, step_timeout_s, job_ttl_s, max_stored_bytes, max_input_bytes;
    int log_level, log_format;
    struct flag_list models, devices, lora;
    struct worker_opts worker; /* of `taca worker` alone */
};

enum { SERVE_MAX_FLAGS = 96 };
struct serve_table {
    struct flag flags[SERVE_MAX_FLAGS]; /* they point into the options */
    int n;
};

/* The environment through which workers learn how to log. */
#define SERVE_WORKER_LOG_FORMAT "TACA_WORKER_LOG_FORMAT"

/* Defaults, and the table over them. */
void serve_options_init(struct serve_options *o, struct serve_table *t);
void worker_options_init(struct serve_options *o, struct serve_table *t);
/* Once all is read: seconds to milliseconds and the like, into o->serve. */
enum taca_code serve_options_apply(struct serve_options *o, struct taca_err *err) TACA_MUST_USE;

#endif
