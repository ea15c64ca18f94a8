/* cli.h - the subcommands. Each gets argv with argv[0] = its own name and returns the exit code. */
#ifndef TACA_CLI_CLI_H
#define TACA_CLI_CLI_H

#include "base/err.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_CANCELLED = 3, EXIT_CONFIG = 78 };

int cli_bench(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_healthcheck(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_tokenize(int argc, char **argv);
int cli_verify(int argc, char **argv);
int cli_worker(int argc, char **argv); /* the service's child process, not for people */

/* "taca <command>: <text>" on stderr; returns EXIT_FAILED, or EXIT_USAGE for TACA_EINVAL. */
int cli_fail(const char *command, const struct taca_err *err);
/* Directory of the embedded demo model: beside the executable's source tree or installed; NULL when
 * it cannot be found. Owned by the program. */
const char *cli_demo_model(void);

#endif
