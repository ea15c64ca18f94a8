/* json.h - untrusted JSON text to a jansson value: bounded before it is parsed, and never altered
 * by a failed allocation. For whoever reads files (engine/io) and requests (api). */
#ifndef TACA_BASE_JSON_H
#define TACA_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Whether a text keeps to the bounds, judged by its punctuation outside strings alone, before any
 * memory is spent on it (a parsed {} takes 73 times its size). Malformed text may pass: the parser
 * is next. */
enum taca_json_fit { TACA_JSON_FITS, TACA_JSON_TOO_DEEP, TACA_JSON_TOO_MANY };
enum taca_json_fit taca_json_fit(const char *text, size_t len, int max_depth, size_t max_values);

/* json_loadb with duplicate keys refused; free with json_decref. NULL with *no_memory set, or with
 * *why filled. jansson's lexer drops a byte and reports success when its buffer cannot grow; here
 * that is out of memory, not another text. */
json_t *taca_json_parse(const char *text, size_t len, json_error_t *why, bool *no_memory);

#endif
