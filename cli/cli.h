/* cli.h - the subcommands. Each gets argv with argv[0] = its own name and returns the exit code. */
#ifndef TACA_CLI_CLI_H
#define TACA_CLI_CLI_H

#include "base/buf.h"
#include "base/err.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_CANCELLED = 3, EXIT_CONFIG = 78 };

int cli_bench(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_healthcheck(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_key(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_tokenize(int argc, char **argv);
int cli_verify(int argc, char **argv);
int cli_worker(int argc, char **argv); /* the service's child process, not for people */

/* "taca <command>: <text>" on stderr, where files' and servers' words do nothing to a terminal. */
void cli_tell(const char *command, const char *text);
/* The same of a failure; returns EXIT_FAILED, or EXIT_USAGE for TACA_EINVAL. */
int cli_fail(const char *command, const struct taca_err *err);
/* Lines of whatever origin on stdout, likewise; main looks how that went. */
void cli_print(const struct taca_buf *text);
/* Directory of the embedded demo model: beside the executable's source tree or installed; NULL when
 * it cannot be found. Owned by the program. */
const char *cli_demo_model(void);

/* Options that name parts of a model apart, into a struct taca_engine_opts. */
#define CLI_PART_FLAG(option, field, variable, what)                                               \
    { option, 0, FLAG_STRING, field, .env = variable, .arg = "PATH", .help = what }
#define CLI_PART_FLAGS(e)                                                                          \
    CLI_PART_FLAG("transformer", &(e)->transformer, "TACA_TRANSFORMER",                            \
                  "transformer from another file or folder"),                                      \
        CLI_PART_FLAG("vae", &(e)->vae, "TACA_VAE", "VAE from another file or folder"),            \
        CLI_PART_FLAG("clip-l", &(e)->clip_l, "TACA_CLIP_L", "the same for CLIP-L"),               \
        CLI_PART_FLAG("clip-g", &(e)->clip_g, "TACA_CLIP_G", "the same for CLIP-G"),               \
        CLI_PART_FLAG("t5", &(e)->t5, "TACA_T5", "the same for T5; none: do without"),             \
        CLI_PART_FLAG("taesd", &(e)->taesd, "TACA_TAESD",                                          \
                      "tiny decoder for previews (TAESD3, TAEF1)"),                                \
        CLI_PART_FLAG("model-config", &(e)->config, "TACA_MODEL_CONFIG",                           \
                      "folder like a model's, for configs and tokenizers of files")

/* clang-format off */
/* What computes, and how: a struct taca_engine_opts, and an int for the precision. */
#define CLI_PRECISIONS "auto|f32|bf16|int8|fp8"
#define CLI_MACHINE_FLAGS(e, choice)                                                               \
    {"precision", 0, FLAG_CHOICE, choice, .choices = CLI_PRECISIONS,                         \
     .env = "TACA_PRECISION", .arg = "P", .help = "of matrix products"},                           \
    {"device", 0, FLAG_STRING, &(e)->device, .env = "TACA_DEVICE", .arg = "D",                     \
     .help = "auto, cpu, cuda or cuda:N"},                                                         \
    {"threads", 0, FLAG_INT, &(e)->threads, 0, 1024, .env = "TACA_THREADS", .arg = "N",            \
     .help = "CPU threads, 0 = all"}
/* clang-format on */

#endif
