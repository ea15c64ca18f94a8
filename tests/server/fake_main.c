/* fake_main.c - taca serve and taca worker over fake_engine.c: the service without a model. */
#include <string.h>

#include "cli/cli.h"

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "serve") == 0) return cli_serve(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "worker") == 0) return cli_worker(argc - 1, argv + 1);
    return EXIT_USAGE;
}
