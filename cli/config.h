/* config.h - options from a file: one JSON object whose members are options' names without dashes.
 *
 *     {"port": 8080, "ui": false, "log-level": "warn", "lora": ["ink=/srv/loras/ink.safetensors"]}
 *
 * It is driven by the options' own table (cli/flags.h), so it knows no option itself. */
#ifndef TACA_CLI_CONFIG_H
#define TACA_CLI_CONFIG_H

#include <stdio.h>

#include "cli/flags.h"

struct config;

/* Sets every option of the file that neither the environment nor the command line has set: call it
 * after flags_read, with set->sources. What is overridden is checked all the same. On success the
 * options point into *out; on failure they may be of both kinds, and are for nobody.
 *   TACA_EIO  the file cannot be read; TACA_EINVAL names file, line, option and accepted values */
enum taca_code config_read(struct config **out, struct flag_set *set, const char *path,
                           struct taca_err *err) TACA_MUST_USE;
/* The same for a text that was read from `path`. */
enum taca_code config_parse(struct config **out, struct flag_set *set, const char *path,
                            const char *text, size_t len, struct taca_err *err) TACA_MUST_USE;
void config_close(struct config *c); /* NULL is fine */

/* A line for each option: name, value as JSON, where the value is from. */
void config_print(const struct flag_set *set, const char *path, FILE *to);

#endif
