/* layout.c - the segments of a batch, checked once and copied to the device.
 *
 * Device form (backend_ops.h): the segments, then for each stream the segment of every row. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/backend_ops.h"

/* Ranges are contiguous and in order; counts the rows of both streams. */
static enum taca_code check(struct taca_layout *l, const struct taca_seg *segs, int n_segs,
                            struct taca_err *err) {
    int64_t img = 0, txt = 0;
    if (n_segs <= 0) return taca_fail(err, TACA_EINTERNAL, "layout: %d segments", n_segs);
    for (int i = 0; i < n_segs; i++) {
        const struct taca_seg *s = &segs[i];
        if (s->n_img < 0 || s->n_txt < 0 || s->img != img || s->txt != txt)
            return taca_fail(err, TACA_EINTERNAL,
                             "layout: segment %d has image rows %" PRId64 "+%" PRId64
                             ", text rows %" PRId64 "+%" PRId64 "; rows %" PRId64 " and %" PRId64
                             " come next",
                             i, s->img, s->n_img, s->txt, s->n_txt, img, txt);
        if (!isfinite(s->gamma))
            return taca_fail(err, TACA_EINTERNAL, "layout: gamma of segment %d is not finite", i);
        img += s->n_img;
        txt += s->n_txt;
    }
    l->img_rows = img;
    l->txt_rows = txt;
    return TACA_OK;
}

static void fill(const struct taca_layout *l, char *block) {
    memcpy(block, l->segs, (size_t)l->n_segs * sizeof *l->segs);
    int32_t *img = (int32_t *)(block + taca_layout_map_offset(l, TACA_IMG));
    int32_t *txt = (int32_t *)(block + taca_layout_map_offset(l, TACA_TXT));
    for (int i = 0; i < l->n_segs; i++) {
        for (int64_t r = 0; r < l->segs[i].n_img; r++) *img++ = i;
        for (int64_t r = 0; r < l->segs[i].n_txt; r++) *txt++ = i;
    }
}

/* Device memory of the layout's own, or scratch where there is one. */
static enum taca_code take(struct taca_layout *l, struct taca_scratch *s, size_t bytes,
                           struct taca_err *err) {
    if (!s && l->b->ops->counting) return TACA_OK;
    if (!s) {
        l->device = taca_alloc(l->b, bytes, err);
        return l->device ? TACA_OK : taca_alloc_code(l->b);
    }
    l->device = taca_scratch_mat(s, TACA_U8, 1, (int64_t)bytes).data;
    l->borrowed = true;
    return l->device || l->b->ops->counting ? TACA_OK : taca_sync(l->b, err);
}

static enum taca_code init(struct taca_layout *out, struct taca_backend *b, struct taca_scratch *s,
                           const struct taca_seg *segs, int n_segs, struct taca_err *err) {
    struct taca_layout l = {.b = b, .n_segs = n_segs};
    struct taca_seg *copy = NULL;
    char *block = NULL;
    enum taca_code rc = check(&l, segs, n_segs, err);
    if (rc != TACA_OK) return rc;

    size_t bytes = taca_layout_map_offset(&l, TACA_TXT) + (size_t)l.txt_rows * sizeof(int32_t);
    copy = malloc((size_t)n_segs * sizeof *copy);
    block = malloc(bytes);
    if (!copy || !block) {
        rc = taca_fail(err, TACA_ENOMEM, "layout of %d segments", n_segs);
        goto out;
    }
    memcpy(copy, segs, (size_t)n_segs * sizeof *copy);
    l.segs = copy;
    rc = take(&l, s, bytes, err);
    if (rc != TACA_OK) goto out;
    if (l.device) {
        fill(&l, block);
        b->ops->upload(b, l.device, block, bytes); /* after an error, too: the layout may live on */
    }
    *out = l;
    copy = NULL; /* the layout owns it now */
out:
    free(copy);
    free(block);
    return rc;
}

enum taca_code taca_layout_init(struct taca_layout *l, struct taca_backend *b,
                                const struct taca_seg *segs, int n_segs, struct taca_err *err) {
    return init(l, b, NULL, segs, n_segs, err);
}

enum taca_code taca_scratch_layout(struct taca_scratch *s, struct taca_layout *l,
                                   const struct taca_seg *segs, int n_segs, struct taca_err *err) {
    return init(l, s->b, s, segs, n_segs, err);
}

void taca_layout_finish(struct taca_layout *l) {
    if (!l->b) return;
    if (!l->borrowed) taca_free(l->b, l->device);
    free((void *)l->segs);
    memset(l, 0, sizeof *l);
}
