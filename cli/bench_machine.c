/* bench_machine.c - the part of `taca bench` that needs no model: a line for each figure of
 * engine/bench. */
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"

struct table {
    bool json;
    char group[16]; /* of the last line */
};

static void put_times(const char *name, const struct taca_bench_times *t) {
    printf(",\"%s\":[%.4f,%.4f,%.4f,%.4f]", name, t->min, t->q1, t->median, t->q3);
}

static void put_json(const struct taca_bench_row *r) {
    printf("{\"group\":\"%s\",\"name\":\"%s\",\"dtype\":\"%s\",\"threads\":%d", r->group, r->name,
           r->dtype, r->threads);
    if (r->gflop > 0) printf(",\"gflop\":%.4f", r->gflop);
    if (r->mbyte > 0) printf(",\"mbyte\":%.3f", r->mbyte);
    if (r->n > 0) {
        printf(",\"n\":%d", r->n);
        put_times("wall_ms", &r->wall_ms);
        put_times("cpu_ms", &r->cpu_ms);
    }
    if (r->share > 0) printf(",\"share\":%.4f,\"cpu_share\":%.4f", r->share, r->cpu_share);
    if (r->ratio > 0) printf(",\"ratio\":%.4f", r->ratio);
    if (r->device) printf(",\"device\":true");
    printf("}\n");
}

static void put_ceiling(const struct taca_bench_row *r) {
    printf("%-52s %-5s %3d", r->name, r->dtype, r->threads);
    if (r->gflop > 0) printf(" %9.1f G%s/s", r->gflop, r->dtype[0] == 'i' ? "OP" : "FLOP");
    if (r->mbyte > 0) printf(" %9.1f GB/s", r->mbyte * 1e-3);
    printf("\n");
}

static void put_line(const struct taca_bench_row *r) {
    printf("%-52s %-5s %3d %9.3f %9.3f %9.3f", r->name, r->dtype, r->threads, r->wall_ms.min,
           r->wall_ms.median, r->cpu_ms.min);
    if (r->share > 0)
        printf(" %9.1f %6.2f %6.2f", r->gflop / r->wall_ms.min * 1e3, r->share, r->cpu_share);
    else if (r->mbyte > 0)
        printf(" %9.1f GB/s", r->mbyte / r->wall_ms.min);
    if (r->ratio > 0) printf("  ratio %.3f", r->ratio);
    printf("\n");
}

static void put_row(void *ctx, const struct taca_bench_row *r) {
    struct table *t = ctx;
    const bool ceiling = r->n == 0;
    if (t->json) {
        put_json(r);
    } else {
        if (strcmp(t->group, r->group) != 0 && !ceiling)
            printf("\n%-52s %-5s %3s %9s %9s %9s %9s %6s %6s\n", r->group, "", "thr", "ms min",
                   "median", "cpu min", "GFLOP/s", "share", "of cpu");
        snprintf(t->group, sizeof t->group, "%s", r->group);
        (ceiling ? put_ceiling : put_line)(r);
    }
    fflush(stdout);
}

enum taca_code bench_machine_run(const struct bench_machine *m, struct taca_err *err) {
    struct table table = {.json = m->json};
    struct taca_bench b = {.device = m->device,
                           .threads = m->threads,
                           .precision = m->precision,
                           .budget_ms = m->budget_ms,
                           .filter = m->filter,
                           .row = put_row,
                           .ctx = &table};
    enum taca_code rc = TACA_OK;
    taca_bench_ceilings(&b);
    if (m->ops) rc = taca_bench_ops(&b, err);
    if (!rc && m->models) rc = taca_bench_models(&b, err);
    if (!rc && m->transformer.path) rc = taca_bench_transformer(&b, &m->transformer, err);
    if (!m->json) printf("\n");
    return rc;
}
