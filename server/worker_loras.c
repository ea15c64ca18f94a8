/* worker_loras.c - see worker_loras.h. Knows what such an item looks like; files are the engine's.
 */
#include "server/worker_loras.h"

#include <string.h>
#include <unistd.h>

#include "base/log.h"

static const char id_bytes[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

/* The bytes of its id; 0 = it has not the form. */
static size_t id_len(const char *item) {
    const size_t len = strspn(item, id_bytes);
    return len <= TACA_MAX_LORA_ID && item[len] == '=' && item[len + 1] ? len : 0;
}

enum taca_code serve_loras_check(const struct serve_loras *l, struct taca_err *err) {
    if (l->n > TACA_MAX_SERVED_LORAS)
        return taca_fail_param(err, "lora", "--lora: at most %d adapters, got %d",
                               TACA_MAX_SERVED_LORAS, l->n);
    for (int i = 0; i < l->n; i++) {
        const char *item = l->list[i];
        const size_t len = id_len(item);
        if (!len)
            return taca_fail_param(err, "lora",
                                   "--lora must be ID=FILE with an ID of 1..%d letters, digits, "
                                   "'.', '_' or '-', got '%s'",
                                   TACA_MAX_LORA_ID, item);
        for (int k = 0; k < i; k++)
            if (strncmp(l->list[k], item, len + 1) == 0)
                return taca_fail_param(err, "lora", "--lora %s: this id is given twice", item);
        if (access(item + len + 1, R_OK) != 0)
            return taca_fail_param(err, "lora", "--lora %s: no such file or no permission", item);
    }
    return TACA_OK;
}

static void log_warning(void *ctx, const char *text) {
    taca_log(TACA_LOG_WARN, "adapter %s: %s", (const char *)ctx, text);
}

enum taca_code worker_loras_open(struct taca_engine *e, const struct serve_loras *l,
                                 struct taca_model_info *info, struct taca_err *err) {
    enum taca_code rc = serve_loras_check(l, err);
    for (int i = 0; i < l->n && !rc; i++) {
        char id[TACA_MAX_LORA_ID + 1];
        const size_t len = id_len(l->list[i]);
        memcpy(id, l->list[i], len);
        id[len] = 0;
        struct taca_err why = {0};
        rc = taca_lora_open(e, id, l->list[i] + len + 1, log_warning, id, &why);
        if (rc) (void)taca_fail(err, rc, "adapter %s: %s", id, why.text);
    }
    for (int i = 0; i < l->n && !rc; i++) info->loras[info->n_loras++] = *taca_lora_at(e, i);
    return rc;
}
