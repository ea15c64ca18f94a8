/* adapter.h - low-rank adapters of a transformer (LoRA), applied beside its weights: requests with
 * different adapters, or none, share weights and batches.
 *
 * An adapter is what a file changes of this model; who uses it, how strongly and in which steps is
 * said per forward. Knows neither sequences nor ids. */
#ifndef TACA_ENGINE_DIT_ADAPTER_H
#define TACA_ENGINE_DIT_ADAPTER_H

#include "engine/dit/dit.h"
#include "engine/io/lora.h"

struct dit_adapter;

struct dit_adapter_info {
    char naming[24]; /* the naming of the file, for people */
    int modules;     /* that it changes */
    int rank;        /* the largest of its pairs */
    int64_t parameters, bytes;
    bool control; /* it reads a second latent beside each item's own */
    bool context; /* it changes how text enters: dit_context differs with it */
};

/* warn (may be NULL) gets a line for each thing that was left out, see engine/io/lora.h. */
enum taca_code dit_adapter_open(struct dit_adapter **out, const struct dit *d,
                                struct taca_backend *b, const char *path,
                                const struct taca_lora_warn *warn,
                                struct taca_err *err) TACA_MUST_USE;
/* No forward may be under way that uses it; NULL is fine. */
void dit_adapter_close(struct dit_adapter *a, struct taca_backend *b);
const struct dit_adapter_info *dit_adapter_get_info(const struct dit_adapter *a);

#endif
