/* inspect_plan.h - the part of `taca inspect` that says what making pictures will take. */
#ifndef TACA_CLI_INSPECT_PLAN_H
#define TACA_CLI_INSPECT_PLAN_H

#include "base/buf.h"
#include "cli/flags.h"
#include "engine/engine.h"

struct inspect_plan {
    struct taca_engine_opts engine;
    const char *size;
    int precision, steps, n, t5_tokens;
    double cfg;
    bool image, mask; /* from a picture; with a mask */
    struct flag_list lora;
    /* filled */
    bool made;
    struct taca_err why_not; /* the model cannot be opened as it is */
    struct taca_model_info model;
    struct taca_gen_params params; /* without pictures */
    struct taca_plan bytes;
    struct taca_plan_seconds seconds;
    size_t process_bytes; /* what this process takes: code, libraries, tokenizers */
};

/* Only a mistake in the options is an error: what is wrong with the model is told in why_not. */
enum taca_code inspect_plan_make(struct inspect_plan *p, struct taca_err *err) TACA_MUST_USE;
void inspect_plan_text(const struct inspect_plan *p, struct taca_buf *b);
/* "plan":{...} or "plan":null,"plan_missing":"why" */
void inspect_plan_json(const struct inspect_plan *p, struct taca_buf *b);
/* 11220544 as "11.2 M" + unit */
const char *inspect_scaled(char buf[24], double x, const char *unit);

#endif
