/* levels.c - see levels.h. In double, rounded to float once. */
#include "engine/sample/levels.h"

#include <math.h>

static double shifted(double t, double shift) { return shift * t / (1 + (shift - 1) * t); }

/* ---- the distribution ------------------------------------------------------------------------ */

/* The integral of t^(a-1) (1-t)^(a-1) from 0 to x <= 1/2, by the binomial series. */
static double beta_part(double x) {
    const double a = 0.6;
    double sum = 0, term = 1; /* (1-a)_k / k! x^k */
    for (int k = 0; k < 64; k++) {
        sum += term / (a + k);
        term *= (1 - a + k) / (k + 1) * x;
    }
    return pow(x, a) * sum;
}

double levels_beta_quantile(double p) {
    if (p == 0.5) return p; /* exactly: callers round it times an odd number */
    if (p > 0.5) return 1 - levels_beta_quantile(1 - p);
    const double want = p * 2 * beta_part(0.5); /* symmetric: half of the whole lies below 1/2 */
    double low = 0, high = 0.5;
    for (int i = 0; i < 64; i++) {
        const double mid = (low + high) / 2;
        if (beta_part(mid) < want)
            low = mid;
        else
            high = mid;
    }
    return high;
}

/* ---- levels ---------------------------------------------------------------------------------- */

/* n times from the first to the last of the table, ends included. What the table calls a time is
 * shifted already, so that the shift acts twice at the low end: so it is in ComfyUI. */
static double normal_time(const struct levels_model *m, int i, int n) {
    const double last = shifted(1.0 / m->entries, m->shift);
    return n > 1 ? 1 + (last - 1) * i / (n - 1) : 1;
}

static int beta_entry(const struct levels_model *m, int i, int n) {
    return (int)rint(levels_beta_quantile(1 - (double)i / n) * (m->entries - 1));
}

void levels_fill(struct taca_schedule *r, enum taca_levels levels, const struct levels_model *m) {
    const int n = r->steps;
    int filled = 0, before = -1;
    for (int i = 0; i < n; i++) {
        double t;
        int entry = -1; /* from 0 */
        if (levels == TACA_LEVELS_SIMPLE)
            entry = m->entries - 1 - (int)(i * ((double)m->entries / n)); /* as it rounds there */
        else if (levels == TACA_LEVELS_BETA)
            entry = beta_entry(m, i, n);
        if (entry >= 0 && entry == before) continue;
        before = entry;
        if (entry >= 0)
            t = (double)(entry + 1) / m->entries;
        else
            t = normal_time(m, i, levels == TACA_LEVELS_NORMAL ? n : n + 1);
        r->sigma[filled++] = (float)shifted(t, m->shift);
    }
    r->sigma[filled] = 0;
    r->steps = filled;
}

void levels_remap(struct taca_schedule *r, enum taca_levels levels) {
    const double rho = 7, first = (double)r->sigma[0], last = (double)r->sigma[r->steps - 1];
    const double a = pow(first, 1 / rho), b = pow(last, 1 / rho);
    for (int i = 1; i < r->steps - 1; i++) {
        const double part = (double)i / (r->steps - 1);
        r->sigma[i] = levels == TACA_LEVELS_KARRAS
                          ? (float)pow(a + part * (b - a), rho)
                          : (float)exp(log(first) + part * (log(last) - log(first)));
    }
}
