/* main.c - the subcommands of taca and how to find them. */
#include <stdio.h>

int main(void) {
    printf("taca %s\n", TACA_VERSION);
    return 0;
}
