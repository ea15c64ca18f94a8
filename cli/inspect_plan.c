/* inspect_plan.c - see inspect_plan.h. */
#include "cli/inspect_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/size.h"

const char *inspect_scaled(char buf[24], double x, const char *unit) {
    static const char *const prefix[] = {"", "k", "M", "G", "T", "P"};
    int i = 0;
    while (x >= 999.5 && i < 5) x /= 1000, i++;
    snprintf(buf, 24, i && x < 99.95 ? "%.1f %s%s" : "%.0f %s%s", x, prefix[i], unit);
    return buf;
}

/* ---- made ------------------------------------------------------------------------------------ */

/* Resident pages of this process; 0 when the system does not tell. */
static size_t resident_bytes(void) {
    unsigned long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    const int n = fscanf(f, "%lu %lu", &size, &resident);
    fclose(f);
    return n == 2 ? (size_t)resident * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

static enum taca_code open_loras(struct inspect_plan *p, struct taca_engine *e, char id[][16],
                                 struct taca_err *err) {
    if (p->lora.n > TACA_MAX_LORAS)
        return taca_fail_param(err, "lora", "at most %d adapters, got %d", TACA_MAX_LORAS,
                               p->lora.n);
    for (int i = 0; i < p->lora.n; i++) {
        snprintf(id[i], 16, "%d", i + 1);
        enum taca_code rc = taca_lora_open(e, id[i], p->lora.item[i], NULL, NULL, err);
        if (rc) return rc;
        p->params.loras[p->params.n_loras++] =
            (struct taca_lora_use){.id = id[i], .scale = 1, .when = TACA_LORA_ALWAYS};
    }
    return TACA_OK;
}

/* No picture is read: its size is all that counts. */
static enum taca_code plan_with(struct inspect_plan *p, struct taca_engine *e, uint8_t *pixels,
                                struct taca_err *err) {
    struct taca_gen_params with = p->params;
    if (p->image || p->mask) with.image = pixels;
    if (p->mask) with.mask = pixels;
    enum taca_code rc = taca_gen_params_check(&with, &p->model, err);
    if (!rc) rc = taca_engine_plan(e, &with, p->n, &p->bytes, err);
    p->process_bytes = resident_bytes(); /* before something is timed */
    if (!rc) rc = taca_engine_plan_seconds(e, &with, p->n, &p->seconds, err);
    return rc;
}

static enum taca_code plan_for(struct inspect_plan *p, struct taca_engine *e,
                               struct taca_err *err) {
    char id[TACA_MAX_LORAS][16];
    struct taca_gen_params *g = &p->params;
    p->model = *taca_engine_info(e);
    taca_gen_params_init(g, &p->model);
    g->prompt = "";
    if (p->steps > 0) g->steps = p->steps;
    if (p->t5_tokens > 0) g->max_sequence_length = p->t5_tokens;
    if (!isnan(p->cfg)) g->cfg_scale = p->cfg;
    enum taca_code rc = p->size ? cli_size(p->size, &g->width_px, &g->height_px, err) : TACA_OK;
    if (!rc) rc = taca_gen_params_check(g, &p->model, err);
    if (!rc) rc = open_loras(p, e, id, err);
    if (rc) return rc;
    uint8_t *pixels = calloc((size_t)g->width_px * (size_t)g->height_px, 3);
    if (!pixels) return taca_fail(err, TACA_ENOMEM, "a picture");
    rc = plan_with(p, e, pixels, err);
    free(pixels);
    g->n_loras = 0; /* their names end here */
    p->made = !rc;
    return rc;
}

enum taca_code inspect_plan_make(struct inspect_plan *p, struct taca_err *err) {
    struct taca_engine *e = NULL;
    p->engine.plan = true;
    p->engine.precision = (enum taca_precision)p->precision;
    enum taca_code rc = taca_engine_open(&e, &p->engine, &p->why_not);
    if (rc && p->why_not.param[0] && strcmp(p->why_not.param, "precision") == 0) {
        *err = p->why_not;
        return rc;
    }
    if (rc) return TACA_OK;
    rc = plan_for(p, e, err);
    taca_engine_close(e);
    return rc;
}

/* ---- told ------------------------------------------------------------------------------------ */

static size_t peak(const struct inspect_plan *p) { return p->process_bytes + p->bytes.peak_bytes; }

static void put_bytes(struct taca_buf *b, const char *what, size_t bytes) {
    char text[24];
    if (bytes) taca_buf_printf(b, ", %s %s", what, inspect_scaled(text, (double)bytes, "B"));
}

static void put_seconds(struct taca_buf *b, const char *what, double s) {
    if (s < 1)
        taca_buf_printf(b, "%s %.3g ms", what, s * 1e3);
    else
        taca_buf_printf(b, "%s %.3g s", what, s);
}

void inspect_plan_text(const struct inspect_plan *p, struct taca_buf *b) {
    const struct taca_plan *m = &p->bytes;
    const struct taca_plan_seconds *s = &p->seconds;
    const struct taca_gen_params *g = &p->params;
    char text[24];
    if (!p->made) {
        taca_buf_printf(b, "%-16s %s\n", "no plan", p->why_not.text);
        return;
    }
    taca_buf_printf(b, "\nmaking %d picture%s of %dx%d, %d steps, in %s (%s)\n", p->n,
                    p->n == 1 ? "" : "s", g->width_px, g->height_px, g->steps, p->model.precision,
                    p->model.device);
    taca_buf_printf(b, "%-16s %s at most, opening %s", "memory",
                    inspect_scaled(text, (double)peak(p), "B"), "");
    taca_buf_printf(b, "%s\n",
                    inspect_scaled(text, (double)(p->process_bytes + m->opening_bytes), "B"));
    taca_buf_printf(b, "%-16s process %s", "", inspect_scaled(text, (double)p->process_bytes, "B"));
    put_bytes(b, "transformer", m->transformer_bytes);
    put_bytes(b, "vae", m->vae_bytes);
    put_bytes(b, "text encoders", m->text_bytes);
    put_bytes(b, "tiny decoder", m->taesd_bytes);
    put_bytes(b, "adapters", m->adapter_bytes);
    taca_buf_printf(b, "\n%-16s ", "");
    taca_buf_printf(b, "pictures in the making %s",
                    inspect_scaled(text, (double)m->sequence_bytes, "B"));
    put_bytes(b, "scratch", m->scratch_bytes);
    put_bytes(b, "work of ops", m->work_bytes);
    put_bytes(b, "pixels", m->picture_bytes);
    taca_buf_puts(b, "\n");
    if (m->mapped_bytes)
        taca_buf_printf(b, "%-16s beside that %s of files stay mapped, which the system may drop\n",
                        "", inspect_scaled(text, (double)m->mapped_bytes, "B"));
    taca_buf_printf(b, "%-16s %s a step", "arithmetic",
                    inspect_scaled(text, m->step_flops, "FLOP"));
    taca_buf_printf(b, ", %s a decode", inspect_scaled(text, m->decode_flops, "FLOP"));
    taca_buf_printf(b, ", %s for the text\n", inspect_scaled(text, m->text_flops, "FLOP"));
    taca_buf_printf(b, "%-16s about", "time");
    put_seconds(b, "", s->step);
    put_seconds(b, " a step,", s->decode);
    put_seconds(b, " a decode,", s->text + s->admission + s->encode);
    put_seconds(b, " to begin:", s->all);
    taca_buf_puts(b, " in all, from products timed here and now\n");
}

static void put_size(struct taca_buf *b, const char *key, size_t bytes) {
    taca_buf_printf(b, "\"%s\":%zu,", key, bytes);
}
static void put_number(struct taca_buf *b, const char *key, double x, const char *end) {
    taca_buf_printf(b, "\"%s\":%.6g%s", key, x, end);
}

static void put_memory(struct taca_buf *b, const struct inspect_plan *p) {
    const struct taca_plan *m = &p->bytes;
    taca_buf_puts(b, "\"memory\":{");
    put_size(b, "process", p->process_bytes);
    put_size(b, "transformer", m->transformer_bytes);
    put_size(b, "vae", m->vae_bytes);
    put_size(b, "text", m->text_bytes);
    put_size(b, "taesd", m->taesd_bytes);
    put_size(b, "adapters", m->adapter_bytes);
    put_size(b, "sequences", m->sequence_bytes);
    put_size(b, "scratch", m->scratch_bytes);
    put_size(b, "work", m->work_bytes);
    put_size(b, "pixels", m->picture_bytes);
    put_size(b, "mapped", m->mapped_bytes);
    put_size(b, "opening", p->process_bytes + m->opening_bytes);
    taca_buf_printf(b, "\"peak\":%zu}", peak(p));
}

void inspect_plan_json(const struct inspect_plan *p, struct taca_buf *b) {
    const struct taca_plan *m = &p->bytes;
    const struct taca_plan_seconds *s = &p->seconds;
    if (!p->made) {
        taca_buf_puts(b, "\"plan\":null,\"plan_missing\":");
        taca_buf_json(b, p->why_not.text, strlen(p->why_not.text));
        return;
    }
    taca_buf_printf(b,
                    "\"plan\":{\"width\":%d,\"height\":%d,\"steps\":%d,\"count\":%d,"
                    "\"precision\":\"%s\",\"device\":\"%s\",\"tokens\":%d,",
                    p->params.width_px, p->params.height_px, p->params.steps, p->n,
                    p->model.precision, p->model.device, m->cost.tokens);
    put_memory(b, p);
    taca_buf_puts(b, ",\"flops\":{");
    put_number(b, "text", m->text_flops, ",");
    put_number(b, "encode", m->encode_flops, ",");
    put_number(b, "admission", m->admission_flops, ",");
    put_number(b, "step", m->step_flops, ",");
    put_number(b, "decode", m->decode_flops, "},\"seconds\":{");
    put_number(b, "text", s->text, ",");
    put_number(b, "encode", s->encode, ",");
    put_number(b, "admission", s->admission, ",");
    put_number(b, "step", s->step, ",");
    put_number(b, "decode", s->decode, ",");
    put_number(b, "all", s->all, "}}");
}
