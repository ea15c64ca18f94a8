/* main.c - finds the subcommand. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/near.h"
#include "cli/cli.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about; /* NULL: hidden */
} commands[] = {
    {"bench", cli_bench, "time the model's default picture, or put a service under load"},
    {"generate", cli_generate, "make a picture from a prompt, here or by a service"},
    {"healthcheck", cli_healthcheck, "ask a running service whether it is well"},
    {"inspect", cli_inspect, "tell what a model holds, or how a picture was made"},
#ifdef TACA_WITH_SERVER
    {"key", cli_key, "make an API key for `serve --api-key-file`"},
    {"serve", cli_serve, "make pictures for others over HTTP"},
    {"worker", cli_worker, NULL},
#endif
    {"tokenize", cli_tokenize, "print the token ids of a text"},
    {"verify", cli_verify, "compare this build with reference tensors"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_usage(FILE *to) {
    fprintf(to,
            "taca %s - pictures from text with multimodal diffusion transformers\n\n"
            "usage: taca COMMAND [options]\n\n",
            TACA_VERSION);
    for (int i = 0; i < N_COMMANDS; i++)
        if (commands[i].about) fprintf(to, "  %-12s %s\n", commands[i].name, commands[i].about);
    fprintf(to, "\n`taca COMMAND --help` tells the rest.\n");
}

int cli_fail(const char *command, const struct taca_err *err) {
    cli_tell(command, err->text[0] ? err->text : taca_code_text(err->code));
    return err->code == TACA_EINVAL ? EXIT_USAGE : EXIT_FAILED;
}

/* Who starts us with a standard descriptor closed would give its number to a socket or a file of
 * ours, and a line of the log would go there; libuv even aborts when it closes one. */
static void fill_standard_descriptors(void) {
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) _exit(EXIT_FAILED);
}

/* What was printed may still wait in memory; a key or an answer that is lost is no success. */
static int finish_output(int code) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "taca: standard output: %s\n", strerror(errno));
    return code == EXIT_OK ? EXIT_FAILED : code;
}

int main(int argc, char **argv) {
    fill_standard_descriptors();
    /* large blocks go back to the system when they are freed, whatever was freed before: a model
     * that is being opened leaves no holes */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error of write, too */
    const char *word = argc > 1 ? argv[1] : "";
    if (!*word) return print_usage(stderr), EXIT_USAGE;
    if (strcmp(word, "--version") == 0 || strcmp(word, "version") == 0)
        return printf("taca %s\n", TACA_VERSION), finish_output(EXIT_OK);
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0)
        return print_usage(stdout), finish_output(EXIT_OK);
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) {
        names[i] = commands[i].name;
        if (strcmp(word, commands[i].name) == 0)
            return finish_output(commands[i].run(argc - 1, argv + 1));
    }
    const char *near = taca_nearest(word, names, N_COMMANDS);
    fprintf(stderr, "taca: unknown command '%s'%s%s%s\n", word, near ? ", did you mean " : "",
            near ? near : "", near ? "?" : " (see taca --help)");
    return EXIT_USAGE;
}
