/* adapted.h - linear maps as a forward runs them: the model's weight, and beside it whatever the
 * adapters of each segment change. Inside engine/dit only. */
#ifndef TACA_ENGINE_DIT_ADAPTED_H
#define TACA_ENGINE_DIT_ADAPTED_H

#include "engine/dit/adapter.h"
#include "engine/dit/block.h"

/* A change of columns [first, first + out) of what the matrix `on` gives. */
struct dit_change {
    const struct taca_linear *on;
    int64_t first, out;
    struct taca_low_rank w;
};
/* A norm's gain in the place of the model's. */
struct dit_gain {
    const struct taca_vec *on;
    struct taca_vec gain;
};
struct dit_adapter {
    struct dit_change *changes; /* sorted by matrix, then column */
    struct dit_gain *gains;
    int n, n_gains;
    struct dit_adapter_info info;
};
/* The *n changes of the matrix w. */
const struct dit_change *dit_adapter_changes(const struct dit_adapter *a,
                                             const struct taca_linear *w, int *n);

/* Whose rows a matrix has. */
enum dit_rows {
    DIT_IMG = TACA_IMG,
    DIT_TXT = TACA_TXT,
    DIT_BOTH, /* the image stream's, then the text stream's */
    DIT_ONE   /* of one sequence: outside a forward, without a layout */
};

/* y = act(x W^T + b) with the changes of the pass's adapters. A change that wants more columns than
 * W finds them behind those of x. */
void dit_linear(const struct dit_pass *p, struct taca_mat y, struct taca_mat x,
                const struct taca_linear *w, enum taca_act act, enum dit_rows rows);

/* Scratch for rows that only feed v and w: in 8 bits where both take them so and no change of this
 * pass reads them. */
struct taca_mat dit_input(const struct dit_pass *p, int64_t rows, const struct taca_linear *v,
                          const struct taca_linear *w);

/* taca_qk_norm_rope of a stream's rows, under the gains of the last adapter that replaces them. */
void dit_qk_norm_rope(const struct dit_pass *p, struct taca_mat q, struct taca_mat k,
                      const struct dit_attn *w, enum taca_stream stream);

#endif
