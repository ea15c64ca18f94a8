/* generate.c - `taca generate`: a picture from a prompt, by the engine in this process or by a
 * service. */
#include <signal.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/generate.h"

static volatile sig_atomic_t interrupted;
static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

/* The second time ends at once. */
static void listen_to_signals(void) {
    const struct sigaction once = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &once, NULL);
    sigaction(SIGTERM, &once, NULL);
    sigaction(SIGHUP, &once, NULL);
}

void gen_warn(const char *text) { cli_tell("generate", text); }

int cli_generate(int argc, char **argv) {
    struct gen_opts o;
    struct gen g = {.stop = &interrupted};
    struct taca_err err = {0};
    enum flags_result parsed = gen_options(&o, argc, argv);
    if (parsed != FLAGS_OK) return parsed == FLAGS_HELP ? EXIT_OK : EXIT_USAGE;
    listen_to_signals();
    enum taca_code rc = gen_output_check(&o, &err);
    if (!rc) rc = gen_request_open(&g, &o, &err);
    if (!rc) rc = o.server ? gen_there(&g, &err) : gen_here(&g, &err);
    gen_request_close(&g);
    if (rc == TACA_ECANCELLED) return cli_fail("generate", &err), EXIT_CANCELLED;
    return rc ? cli_fail("generate", &err) : EXIT_OK;
}
