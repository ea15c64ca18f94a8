/* log.h - one line per record on stderr, JSON or text; never blocks on a full pipe.
 *
 * The only global state of the program besides constant tables. A record is written by one write(2)
 * so that lines of several threads and processes do not mix; when the sink would block the record
 * is dropped and counted. Client text is escaped (JSON) or loses its controls (text), so a record
 * stays one line. */
#ifndef TACA_BASE_LOG_H
#define TACA_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum taca_log_level { TACA_LOG_DEBUG, TACA_LOG_INFO, TACA_LOG_WARN, TACA_LOG_ERROR };

struct taca_buf;

/* Call once, before other threads exist. The default is text at INFO. */
void taca_log_setup(enum taca_log_level least, bool json);
void taca_log_level(enum taca_log_level least); /* any time */
enum taca_log_level taca_log_least(void);
const char *taca_log_level_word(enum taca_log_level level); /* "debug", as options spell it */
bool taca_log_enabled(enum taca_log_level level);
void taca_log(enum taca_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* A record with fields: `fields` is the inside of a JSON object without braces, such as
 * "\"seed\":7,\"code\":200", or NULL. Text format prints it after the message. */
void taca_log_fields(enum taca_log_level level, const char *fields, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
uint64_t taca_log_dropped(void); /* records lost to a sink that would block */

#endif
