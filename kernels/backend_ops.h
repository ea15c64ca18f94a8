/* backend_ops.h - what a backend is made of; only backends and kernels/backend*.c see this.
 *
 * The taca_* functions of backend.h check their arguments and then go through this table, so a
 * function in it may rely on matching shapes, legal dtypes, at least one row and non-NULL data.
 * Nothing outside a backend's own folder dereferences memory that its `alloc` returned: a view's
 * data, a vec, the device form of a layout may all live on another device. Host pointers are marked
 * so. A backend reports trouble inside an op with taca_backend_fail; it never returns it. */
#ifndef TACA_KERNELS_BACKEND_OPS_H
#define TACA_KERNELS_BACKEND_OPS_H

#include "kernels/backend.h"

/* Columns of modulations, as wide as a row, of the segment that a row belongs to. */
struct taca_gate_norm {
    struct taca_mat gate, shift, scale;
    const int32_t *seg_of_row; /* on the device, one for each row */
    float eps;
};

/* Of an opened weight: while it lives, and beside that while it is being opened. */
struct taca_weight_bytes {
    size_t kept, opening;
};

struct taca_backend_ops {
    const char *name;
    /* No memory behind views: data may be NULL everywhere. Such a backend fills in only close,
     * alloc, free, linear_open, conv_open, linear, conv2d and attention; the rest is checked and
     * not called. */
    bool counting;

    void (*close)(struct taca_backend *b); /* weights and *b itself */
    void *(*alloc)(struct taca_backend *b, size_t bytes);
    void (*free)(struct taca_backend *b, void *p);
    void (*upload)(struct taca_backend *b, void *dst, const void *host, size_t bytes);
    void (*download)(struct taca_backend *b, void *host, const void *src, size_t bytes);
    void (*fill_zero)(struct taca_backend *b, void *dst, size_t bytes);
    void (*wait)(struct taca_backend *b); /* queued work; failures through taca_backend_fail */
    /* optional: the device's own memory; false when it does not say, which is no failure */
    bool (*memory)(struct taca_backend *b, struct taca_device_memory *out);

    /* Two queues, see backend.h; all NULL where there is one. lane: b->lane is still the last one.
     * mark_open: NULL and the backend's error when there is none. */
    void (*lane)(struct taca_backend *b, enum taca_lane lane);
    void *(*mark_open)(struct taca_backend *b);
    void (*mark_close)(struct taca_backend *b, void *event);
    void (*mark_set)(struct taca_backend *b, void *event);
    bool (*mark_done)(struct taca_backend *b, void *event);
    void (*mark_follow)(struct taca_backend *b, void *event);

    enum taca_code (*linear_open)(struct taca_backend *b, struct taca_linear **out,
                                  const struct taca_tensor *parts, const struct taca_tensor *biases,
                                  int n_parts, struct taca_err *err);
    void (*linear_close)(struct taca_backend *b, struct taca_linear *w);
    enum taca_code (*conv_open)(struct taca_backend *b, struct taca_conv **out,
                                const struct taca_tensor *weight, const struct taca_tensor *bias,
                                const struct taca_conv *shape, struct taca_err *err);

    void (*linear)(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                   const struct taca_linear *w, enum taca_act act);
    void (*activate)(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                     enum taca_act act);
    void (*layer_norm)(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                       const float *gain, const float *bias, float eps);
    /* seg_of_row: device, one int32 per row of y; shift and scale: mod's columns, as wide as y */
    void (*norm_modulate)(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                          struct taca_mat shift, struct taca_mat scale, const int32_t *seg_of_row,
                          float eps);
    void (*gate_add)(struct taca_backend *b, struct taca_mat x, struct taca_mat y,
                     struct taca_mat gate, const int32_t *seg_of_row);
    void (*gate_norm)(struct taca_backend *b, struct taca_mat h, struct taca_mat x,
                      struct taca_mat y, const struct taca_gate_norm *m);
    void (*add)(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat c);
    void (*multiply)(struct taca_backend *b, struct taca_mat y, struct taca_mat a,
                     struct taca_mat c);
    void (*rms_norm)(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                     const float *gain, float eps);
    /* d: columns of a head; gains, a table or both are there */
    void (*qk_norm_rope)(struct taca_backend *b, struct taca_mat q, struct taca_mat k,
                         const struct taca_qk *w, int64_t d);
    /* txt->q.cols == 0: every segment counts as n_txt = 0; o_txt.cols == 0: no text queries */
    void (*attention)(struct taca_backend *b, struct taca_mat o_img, struct taca_mat o_txt,
                      const struct taca_qkv *img, const struct taca_qkv *txt,
                      const struct taca_layout *l, const struct taca_attn *a);
    void (*embed)(struct taca_backend *b, struct taca_mat y, struct taca_mat table,
                  const int32_t *host_ids);
    void (*time_features)(struct taca_backend *b, struct taca_mat y, const float *host_t);
    void (*patchify)(struct taca_backend *b, struct taca_mat y, struct taca_chw x, int p,
                     enum taca_patch order);
    void (*unpatchify)(struct taca_backend *b, struct taca_chw y, struct taca_mat x, int p,
                       enum taca_patch order);
    void (*add_position)(struct taca_backend *b, struct taca_mat x, struct taca_mat table,
                         int64_t side, int64_t h, int64_t w);
    void (*cfg_euler)(struct taca_backend *b, struct taca_chw x, struct taca_chw c,
                      struct taca_chw u, float guidance, float dsigma);
    void (*axpb)(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c);
    void (*axpby)(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c);
    void (*blend)(struct taca_backend *b, struct taca_chw y, struct taca_chw x, struct taca_chw m);
    void (*chw_to_map)(struct taca_backend *b, struct taca_map y, struct taca_chw x);
    void (*map_to_chw)(struct taca_backend *b, struct taca_chw y, struct taca_map x);
    void (*conv2d)(struct taca_backend *b, struct taca_map y, struct taca_map x,
                   const struct taca_conv *w, bool add); /* add: to what y holds */
    void (*group_norm)(struct taca_backend *b, struct taca_map y, struct taca_map x,
                       const float *gain, const float *bias, int groups, float eps,
                       enum taca_act act);
    void (*upsample2)(struct taca_backend *b, struct taca_map y, struct taca_map x);
    /* an int32 at taca_rgb8_flag: 1 when a value was not finite, else 0 */
    void (*map_to_rgb8)(struct taca_backend *b, uint8_t *pixels, struct taca_map x);

    /* Recording and replaying ops; all or none of them. */
    bool (*replay)(struct taca_backend *b, const void *key, size_t bytes);
    bool (*recorded)(struct taca_backend *b); /* also after an error */
    void (*replay_forget)(struct taca_backend *b);
    struct taca_replay_counts (*replay_count)(const struct taca_backend *b);

    /* What the real thing would take, for a counting backend that stands for this one. weigh: w has
     * its shape, has_bias and nothing else; sets its dtype. foresee: views have no data, w is known
     * by its shape and dtype alone. All optional. */
    struct taca_weight_bytes (*weigh_linear)(struct taca_backend *b, struct taca_linear *w);
    struct taca_weight_bytes (*weigh_conv)(struct taca_backend *b, struct taca_conv *w);
    void (*foresee_linear)(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                           const struct taca_linear *w, enum taca_act act);
    void (*foresee_conv2d)(struct taca_backend *b, struct taca_map y, struct taca_map x,
                           const struct taca_conv *w, bool add);
    void (*foresee_attention)(struct taca_backend *b, const struct taca_qkv *img,
                              const struct taca_qkv *txt, const struct taca_layout *l,
                              const struct taca_attn *a);
    size_t (*foreseen)(const struct taca_backend *b); /* bytes of all that was foreseen */
    /* By buffer, and only since the last call; and making them so: both or none. */
    struct taca_work (*work)(struct taca_backend *b);
    bool (*reserve)(struct taca_backend *b, const struct taca_work *work);
};

/* Notes a weight, on a counting backend that stands for another. */
void taca_count_keep(struct taca_backend *b, struct taca_weight_bytes bytes);

/* The base every backend's own struct starts with. One thread owns it. */
struct taca_backend {
    const struct taca_backend_ops *ops;
    enum taca_dtype precision;
    enum taca_narrow narrow_type;
    bool narrow; /* linear maps opened now are to be so */
    bool plain;  /* nothing is recorded or replayed */
    enum taca_lane lane;
    char detail[96];
    struct taca_err error; /* the first since the last sync */
    size_t scratch_peak;   /* over all scratch of this backend */
    void **owned;          /* device blocks of vecs and tables, freed at close */
    int n_owned, cap_owned;
};

/* Keeps the first error; every op after it is skipped until taca_sync has reported it. */
void taca_backend_fail(struct taca_backend *b, enum taca_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Frees what `owned` lists; a backend's close calls it. */
void taca_backend_finish(struct taca_backend *b);

/* Behind the bytes of a picture, aligned. */
static inline size_t taca_rgb8_flag(int64_t h, int64_t w) {
    return ((size_t)(h * w) * 3 + 15) / 16 * 16;
}

/* ---- device form of a layout: one block, [segs][segment of image rows][segment of text rows] ---
 */

static inline size_t taca_layout_map_offset(const struct taca_layout *l, enum taca_stream stream) {
    return (size_t)l->n_segs * sizeof(struct taca_seg) +
           (stream == TACA_TXT ? (size_t)l->img_rows * sizeof(int32_t) : 0);
}
static inline const struct taca_seg *taca_layout_segs(const struct taca_layout *l) {
    return (const struct taca_seg *)l->device;
}
static inline const int32_t *taca_layout_seg_of_row(const struct taca_layout *l,
                                                    enum taca_stream stream) {
    return l->device
               ? (const int32_t *)((const char *)l->device + taca_layout_map_offset(l, stream))
               : NULL;
}

#endif
