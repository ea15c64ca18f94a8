/* backend.c - a backend's life and its ops as model code sees them: checked, then dispatched.
 *
 * Every op looks at its shapes first; a mismatch becomes the backend's error, worded with the op's
 * name and what was found. After an error ops do nothing until taca_sync has reported it. What an
 * op computes is the business of the table behind it. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend_ops.h"

/* ---- life ---------------------------------------------------------------------------------- */

void taca_backend_fail(struct taca_backend *b, enum taca_code code, const char *fmt, ...) {
    char text[sizeof b->error.text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)taca_fail(&b->error, code, "%s", text);
}

void taca_backend_finish(struct taca_backend *b) {
    for (int i = 0; i < b->n_owned; i++) b->ops->free(b, b->owned[i]);
    free(b->owned);
    b->owned = NULL;
    b->n_owned = b->cap_owned = 0;
}

void taca_backend_close(struct taca_backend *b) {
    if (b) b->ops->close(b);
}

const char *taca_backend_name(const struct taca_backend *b) { return b->ops->name; }
const char *taca_backend_detail(const struct taca_backend *b) { return b->detail; }
void taca_backend_narrow(struct taca_backend *b, bool on) { b->narrow = on; }
enum taca_narrow taca_backend_narrow_type(const struct taca_backend *b) { return b->narrow_type; }
enum taca_dtype taca_backend_precision(const struct taca_backend *b) { return b->precision; }
size_t taca_backend_scratch_peak(const struct taca_backend *b) { return b->scratch_peak; }

bool taca_backend_memory(struct taca_backend *b, struct taca_device_memory *out) {
    return b->ops->memory && b->ops->memory(b, out);
}

static bool live(const struct taca_backend *b) { return b->error.code == TACA_OK; }
/* a counting backend: arguments are checked, nothing moves */
static bool dry(const struct taca_backend *b) { return b->ops->counting; }

void *taca_alloc(struct taca_backend *b, size_t bytes, struct taca_err *err) {
    void *p = b->ops->alloc(b, bytes ? bytes : 1);
    if (!p && b->error.code)
        (void)taca_fail(err, b->error.code, "%s", b->error.text);
    else if (!p)
        (void)taca_fail(err, TACA_ENOMEM, "%s: %zu bytes", b->ops->name, bytes);
    return p;
}

enum taca_code taca_alloc_code(const struct taca_backend *b) {
    return b->error.code ? b->error.code : TACA_ENOMEM;
}

void taca_free(struct taca_backend *b, void *p) {
    if (p) b->ops->free(b, p);
}

void taca_upload(struct taca_backend *b, void *dst, const void *host, size_t bytes) {
    if (live(b) && bytes && !dry(b)) b->ops->upload(b, dst, host, bytes);
}
void taca_download(struct taca_backend *b, void *host, const void *src, size_t bytes) {
    if (live(b) && bytes && !dry(b)) b->ops->download(b, host, src, bytes);
}
void taca_fill_zero(struct taca_backend *b, void *dst, size_t bytes) {
    if (live(b) && bytes && !dry(b)) b->ops->fill_zero(b, dst, bytes);
}

enum taca_code taca_sync(struct taca_backend *b, struct taca_err *err) {
    if (!dry(b)) b->ops->wait(b);
    return taca_queued(b, err);
}

/* ---- checks -------------------------------------------------------------------------------- */

enum { TEXT = 104 }; /* four numbers of 20 digits, a dtype */

static const char *mat_text(char buf[TEXT], struct taca_mat m) {
    snprintf(buf, TEXT, "[%" PRId64 ", %" PRId64 "] ld %" PRId64 " %s", m.rows, m.cols, m.ld,
             taca_dtype_name(m.dtype));
    return buf;
}
static const char *map_text(char buf[TEXT], struct taca_map m) {
    snprintf(buf, TEXT, "[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] %s", m.n, m.h, m.w,
             m.c, taca_dtype_name(m.dtype));
    return buf;
}
static const char *chw_text(char buf[TEXT], struct taca_chw m) {
    snprintf(buf, TEXT, "[%" PRId64 ", %" PRId64 ", %" PRId64 "]", m.c, m.h, m.w);
    return buf;
}

static bool is_float(enum taca_dtype t) { return t == TACA_F32 || t == TACA_BF16; }

/* Records "op: what" and is false: `return bad(...)` ends a check. */
static bool bad(struct taca_backend *b, const char *op, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static bool bad(struct taca_backend *b, const char *op, const char *fmt, ...) {
    char text[384];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    taca_backend_fail(b, TACA_EINTERNAL, "%s: %s", op, text);
    return false;
}

static bool mat_ok(struct taca_backend *b, const char *op, const char *name, struct taca_mat m) {
    char t[TEXT];
    if (!is_float(m.dtype) || m.rows < 0 || m.cols <= 0 || m.ld < m.cols)
        return bad(b, op, "%s %s is not a matrix", name, mat_text(t, m));
    if (!m.data && m.rows && !dry(b))
        return bad(b, op, "%s %s has no memory", name, mat_text(t, m));
    return true;
}

/* Rows of either float type or, on a backend that has them, in 8 bits with their scales. */
static bool rows_ok(struct taca_backend *b, const char *op, const char *name, struct taca_mat m) {
    char t[TEXT];
    if (m.dtype != TACA_U8 || b->narrow_type != TACA_NARROW_FP8) return mat_ok(b, op, name, m);
    if (m.rows < 0 || m.cols <= 0 || m.cols % 16 || m.ld % 16 || m.ld < m.cols + TACA_ROW_SCALE)
        return bad(b, op, "%s %s has no room for scales", name, mat_text(t, m));
    if (!m.data && m.rows && !dry(b))
        return bad(b, op, "%s %s has no memory", name, mat_text(t, m));
    return true;
}

static bool map_ok(struct taca_backend *b, const char *op, const char *name, struct taca_map m) {
    char t[TEXT];
    if (!is_float(m.dtype) || m.n <= 0 || m.h <= 0 || m.w <= 0 || m.c <= 0)
        return bad(b, op, "%s %s is not a map", name, map_text(t, m));
    if (!m.data && !dry(b)) return bad(b, op, "%s %s has no memory", name, map_text(t, m));
    return true;
}

static bool chw_ok(struct taca_backend *b, const char *op, const char *name, struct taca_chw m) {
    char t[TEXT];
    if (m.c <= 0 || m.h <= 0 || m.w <= 0)
        return bad(b, op, "%s %s is not a latent", name, chw_text(t, m));
    if (!m.data && !dry(b)) return bad(b, op, "%s %s has no memory", name, chw_text(t, m));
    return true;
}

static bool same_mat(struct taca_backend *b, const char *op, struct taca_mat y, struct taca_mat x) {
    char ty[TEXT], tx[TEXT];
    if (!mat_ok(b, op, "y", y) || !mat_ok(b, op, "x", x)) return false;
    if (y.rows == x.rows && y.cols == x.cols) return true;
    return bad(b, op, "y %s, x %s differ in shape", mat_text(ty, y), mat_text(tx, x));
}

/* y = norm(x), where f32 rows may come out in 8 bits */
static bool norm_ok(struct taca_backend *b, const char *op, struct taca_mat y, struct taca_mat x) {
    char ty[TEXT], tx[TEXT];
    if (y.dtype != TACA_U8) return same_mat(b, op, y, x);
    if (!rows_ok(b, op, "y", y) || !mat_ok(b, op, "x", x)) return false;
    if (y.rows == x.rows && y.cols == x.cols && x.dtype == TACA_F32) return true;
    return bad(b, op, "y %s, x %s", mat_text(ty, y), mat_text(tx, x));
}

static bool same_chw(struct taca_backend *b, const char *op, struct taca_chw y, struct taca_chw x) {
    char ty[TEXT], tx[TEXT];
    if (!chw_ok(b, op, "y", y) || !chw_ok(b, op, "x", x)) return false;
    if (y.c == x.c && y.h == x.h && y.w == x.w) return true;
    return bad(b, op, "%s and %s differ in shape", chw_text(ty, y), chw_text(tx, x));
}

static bool vec_ok(struct taca_backend *b, const char *op, const char *name,
                   const struct taca_vec *v, int64_t n) {
    if (!v || v->n == n) return true;
    return bad(b, op, "%s has %" PRId64 " values, wanted %" PRId64, name, v->n, n);
}

static int64_t stream_rows(const struct taca_layout *l, enum taca_stream s) {
    return s == TACA_IMG ? l->img_rows : l->txt_rows;
}

/* x [rows of stream, d]; mod f32 [n_segs, >= first + d] */
static bool mod_ok(struct taca_backend *b, const char *op, struct taca_mat x, struct taca_mat mod,
                   int64_t first, const struct taca_layout *l, enum taca_stream stream) {
    char tx[TEXT], tm[TEXT];
    if (!mat_ok(b, op, "mod", mod)) return false;
    if (x.rows != stream_rows(l, stream))
        return bad(b, op, "x %s, the stream has %" PRId64 " rows", mat_text(tx, x),
                   stream_rows(l, stream));
    if (mod.dtype != TACA_F32 || mod.rows != l->n_segs || first < 0 || first + x.cols > mod.cols)
        return bad(b, op, "mod %s, wanted f32, %d segments and columns %" PRId64 " to %" PRId64,
                   mat_text(tm, mod), l->n_segs, first, first + x.cols);
    return true;
}

/* ---- ops on rows --------------------------------------------------------------------------- */

enum taca_dtype taca_linear_input(const struct taca_backend *b, const struct taca_linear *w) {
    return w->dtype == TACA_U8 && b->narrow_type == TACA_NARROW_FP8 ? TACA_U8 : b->precision;
}

void taca_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                 const struct taca_linear *w, enum taca_act act) {
    char ty[TEXT], tx[TEXT];
    if (!live(b) || !mat_ok(b, "linear", "y", y) || !rows_ok(b, "linear", "x", x)) return;
    if (x.dtype == TACA_U8 && w->dtype != TACA_U8) {
        bad(b, "linear", "x %s, weight in %s", mat_text(tx, x), taca_dtype_name(w->dtype));
        return;
    }
    if (y.rows != x.rows || x.cols != w->in || y.cols != w->out) {
        bad(b, "linear", "y %s = x %s, weight [%" PRId64 ", %" PRId64 "]", mat_text(ty, y),
            mat_text(tx, x), w->out, w->in);
        return;
    }
    if (y.rows) b->ops->linear(b, y, x, w, act);
}

void taca_activate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                   enum taca_act act) {
    if (!live(b) || !same_mat(b, "activate", y, x)) return;
    if (y.rows && !dry(b)) b->ops->activate(b, y, x, act);
}

void taca_layer_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                     const struct taca_vec *gain, const struct taca_vec *bias, float eps) {
    if (!live(b) || !same_mat(b, "layer_norm", y, x)) return;
    if (!vec_ok(b, "layer_norm", "gain", gain, x.cols) ||
        !vec_ok(b, "layer_norm", "bias", bias, x.cols))
        return;
    if (y.rows && !dry(b))
        b->ops->layer_norm(b, y, x, gain ? gain->data : NULL, bias ? bias->data : NULL, eps);
}

void taca_norm_modulate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                        struct taca_mat mod, int64_t shift, int64_t scale,
                        const struct taca_layout *l, enum taca_stream stream, float eps) {
    static const char op[] = "norm_modulate";
    if (!live(b) || !norm_ok(b, op, y, x) || !mod_ok(b, op, x, mod, shift, l, stream) ||
        !mod_ok(b, op, x, mod, scale, l, stream))
        return;
    if (y.rows && !dry(b))
        b->ops->norm_modulate(b, y, x, taca_mat_cols(mod, shift, y.cols),
                              taca_mat_cols(mod, scale, y.cols), taca_layout_seg_of_row(l, stream),
                              eps);
}

void taca_gate_add(struct taca_backend *b, struct taca_mat x, struct taca_mat y,
                   struct taca_mat mod, int64_t gate, const struct taca_layout *l,
                   enum taca_stream stream) {
    static const char op[] = "gate_add";
    char t[TEXT];
    if (!live(b) || !same_mat(b, op, x, y) || !mod_ok(b, op, x, mod, gate, l, stream)) return;
    if (x.dtype != TACA_F32) {
        bad(b, op, "x %s is not f32", mat_text(t, x));
        return;
    }
    if (x.rows && !dry(b))
        b->ops->gate_add(b, x, y, taca_mat_cols(mod, gate, x.cols),
                         taca_layout_seg_of_row(l, stream));
}

void taca_gate_norm(struct taca_backend *b, struct taca_mat h, struct taca_mat x, struct taca_mat y,
                    const struct taca_adaln *m) {
    static const char op[] = "gate_norm";
    char tx[TEXT], ty[TEXT];
    const struct taca_mat mod = m->mod;
    if (!live(b) || !norm_ok(b, op, h, x) || !same_mat(b, op, y, x) ||
        !mod_ok(b, op, x, mod, m->gate, m->layout, m->stream) ||
        !mod_ok(b, op, x, mod, m->shift, m->layout, m->stream) ||
        !mod_ok(b, op, x, mod, m->scale, m->layout, m->stream))
        return;
    if (x.dtype != TACA_F32 || y.dtype != TACA_F32) {
        bad(b, op, "x %s, y %s, wanted f32", mat_text(tx, x), mat_text(ty, y));
        return;
    }
    const struct taca_gate_norm n = {
        taca_mat_cols(mod, m->gate, x.cols), taca_mat_cols(mod, m->shift, x.cols),
        taca_mat_cols(mod, m->scale, x.cols), taca_layout_seg_of_row(m->layout, m->stream), m->eps};
    if (x.rows && !dry(b)) b->ops->gate_norm(b, h, x, y, &n);
}

void taca_add(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat c) {
    if (!live(b) || !same_mat(b, "add", y, a) || !same_mat(b, "add", y, c)) return;
    if (y.rows && !dry(b)) b->ops->add(b, y, a, c);
}

void taca_multiply(struct taca_backend *b, struct taca_mat y, struct taca_mat a,
                   struct taca_mat c) {
    if (!live(b) || !same_mat(b, "multiply", y, a) || !same_mat(b, "multiply", y, c)) return;
    if (y.rows && !dry(b)) b->ops->multiply(b, y, a, c);
}

void taca_rms_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                   const struct taca_vec *gain, float eps) {
    if (!live(b) || !same_mat(b, "rms_norm", y, x) || !vec_ok(b, "rms_norm", "gain", gain, x.cols))
        return;
    if (y.rows && !dry(b)) b->ops->rms_norm(b, y, x, gain->data, eps);
}

/* Whether w's gains and table are for heads of d columns, of which q has whole ones. */
static bool qk_ok(struct taca_backend *b, const char *op, struct taca_mat q,
                  const struct taca_qk *w, int64_t d) {
    char tq[TEXT], tt[TEXT];
    const struct taca_mat t = w->table;
    if (d <= 0 || q.cols % d) return bad(b, op, "q %s, heads of %" PRId64, mat_text(tq, q), d);
    if (!w->gain_q != !w->gain_k) return bad(b, op, "a gain for %s alone", w->gain_q ? "q" : "k");
    if (w->gain_q &&
        (!vec_ok(b, op, "gain of q", w->gain_q, d) || !vec_ok(b, op, "gain of k", w->gain_k, d)))
        return false;
    if (t.cols == 0) return true;
    if (!mat_ok(b, op, "table", t)) return false;
    if (t.dtype == TACA_F32 && t.rows == q.rows && t.cols == d && d % 2 == 0) return true;
    return bad(b, op, "q %s, table %s", mat_text(tq, q), mat_text(tt, t));
}

void taca_qk_norm_rope(struct taca_backend *b, struct taca_mat q, struct taca_mat k,
                       const struct taca_qk *w) {
    static const char op[] = "qk_norm_rope";
    char tq[TEXT], tk[TEXT];
    const int64_t d = w->gain_q ? w->gain_q->n : w->table.cols;
    if (!live(b) || !mat_ok(b, op, "q", q) || !mat_ok(b, op, "k", k)) return;
    if (q.rows != k.rows || q.cols != k.cols || q.dtype != k.dtype) {
        bad(b, op, "q %s, k %s", mat_text(tq, q), mat_text(tk, k));
        return;
    }
    if (!w->gain_q && !w->gain_k && w->table.cols == 0) return;
    if (qk_ok(b, op, q, w, d) && q.rows && !dry(b)) b->ops->qk_norm_rope(b, q, k, w, d);
}

/* ---- attention ----------------------------------------------------------------------------- */

/* o (unless it is absent), q, k, v of one stream */
static bool stream_ok(struct taca_backend *b, struct taca_mat o, const struct taca_qkv *s,
                      int64_t rows, const char *which) {
    static const char op[] = "attention";
    char t[TEXT];
    const struct taca_mat view[] = {s->q, s->k, s->v, o};
    static const char *const name[] = {"q", "k", "v", "o"};
    for (int i = 0; i < 4; i++) {
        if (i == 3 && o.cols == 0) continue;
        if (!mat_ok(b, op, name[i], view[i])) return false;
        if (view[i].rows != rows || view[i].cols != s->q.cols)
            return bad(b, op, "%s %s %s, wanted [%" PRId64 ", %" PRId64 "]", which, name[i],
                       mat_text(t, view[i]), rows, s->q.cols);
    }
    return true;
}

/* One row a head, odd, and wide enough for every segment of the only stream. */
static bool rel_bias_ok(struct taca_backend *b, const char *op, const struct taca_layout *l,
                        const struct taca_attn *a, bool text) {
    char t[TEXT];
    const struct taca_mat m = a->rel_bias;
    int64_t longest = 0;
    if (m.rows == 0 && m.cols == 0) return true;
    if (!mat_ok(b, op, "rel_bias", m)) return false;
    for (int i = 0; i < l->n_segs; i++)
        if (l->segs[i].n_img > longest) longest = l->segs[i].n_img;
    if (text)
        return bad(b, op, "a relative bias needs the image stream alone, %" PRId64 " text rows",
                   l->txt_rows);
    if (m.dtype == TACA_F32 && m.rows == a->heads && m.cols % 2 == 1 && m.cols / 2 + 1 >= longest)
        return true;
    return bad(b, op, "rel_bias %s, wanted f32, %d heads and %" PRId64 " columns or more",
               mat_text(t, m), a->heads, 2 * longest - 1);
}

static bool attention_ok(struct taca_backend *b, struct taca_mat o_img, struct taca_mat o_txt,
                         const struct taca_qkv *img, const struct taca_qkv *txt,
                         const struct taca_layout *l, const struct taca_attn *a) {
    static const char op[] = "attention";
    char t[TEXT];
    const bool text = l->txt_rows && txt->q.cols; /* zeroed views leave it out */
    if (a->heads <= 0) return bad(b, op, "%d heads", a->heads);
    /* rows that the layout does not know of would be left as they are, without a word */
    const bool image = l->img_rows || img->q.rows;
    if (image && !stream_ok(b, o_img, img, l->img_rows, "image")) return false;
    if (text && !stream_ok(b, o_txt, txt, l->txt_rows, "text")) return false;
    if (l->img_rows && o_img.cols == 0) return bad(b, op, "no output for the image stream");
    struct taca_mat q = l->img_rows ? img->q : txt->q;
    if (q.cols % a->heads) return bad(b, op, "q %s, %d heads", mat_text(t, q), a->heads);
    if (text && txt->q.cols != q.cols)
        return bad(b, op, "text q %s, image has %" PRId64 " columns", mat_text(t, txt->q), q.cols);
    if (a->mask == TACA_MASK_CAUSAL && text)
        return bad(b, op, "a causal mask needs the image stream alone, %" PRId64 " text rows",
                   l->txt_rows);
    return rel_bias_ok(b, op, l, a, text);
}

void taca_attention(struct taca_backend *b, struct taca_mat o_img, struct taca_mat o_txt,
                    struct taca_qkv img, struct taca_qkv txt, const struct taca_layout *l,
                    const struct taca_attn *a) {
    if (!live(b) || !attention_ok(b, o_img, o_txt, &img, &txt, l, a)) return;
    if (txt.q.cols == 0) o_txt = (struct taca_mat){0}; /* no text queries without text */
    if (l->img_rows + l->txt_rows) b->ops->attention(b, o_img, o_txt, &img, &txt, l, a);
}

/* ---- embeddings and latents ------------------------------------------------------------------ */

void taca_embed(struct taca_backend *b, struct taca_mat y, struct taca_mat table,
                const int32_t *ids) {
    static const char op[] = "embed";
    char ty[TEXT], tt[TEXT];
    if (!live(b) || !mat_ok(b, op, "y", y) || !mat_ok(b, op, "table", table)) return;
    if (y.cols != table.cols || table.dtype != TACA_F32) {
        bad(b, op, "y %s, table %s", mat_text(ty, y), mat_text(tt, table));
        return;
    }
    if (dry(b)) return;
    for (int64_t r = 0; r < y.rows; r++)
        if (ids[r] < 0 || ids[r] >= table.rows) {
            bad(b, op, "id %" PRId32 " of row %" PRId64 ", the table has %" PRId64 " rows", ids[r],
                r, table.rows);
            return;
        }
    if (y.rows) b->ops->embed(b, y, table, ids);
}

void taca_time_features(struct taca_backend *b, struct taca_mat y, const float *t) {
    char ty[TEXT];
    if (!live(b) || !mat_ok(b, "time_features", "y", y)) return;
    if (y.dtype != TACA_F32 || y.cols % 2) {
        bad(b, "time_features", "y %s, wanted f32 and an even width", mat_text(ty, y));
        return;
    }
    if (y.rows && !dry(b)) b->ops->time_features(b, y, t);
}

static bool patch_ok(struct taca_backend *b, const char *op, struct taca_mat m, struct taca_chw x,
                     int p) {
    char tm[TEXT], tx[TEXT];
    if (!mat_ok(b, op, "tokens", m) || !chw_ok(b, op, "latent", x)) return false;
    if (p > 0 && x.h % p == 0 && x.w % p == 0 && m.rows == (x.h / p) * (x.w / p) &&
        m.cols == x.c * p * p)
        return true;
    return bad(b, op, "tokens %s, latent %s, patch %d", mat_text(tm, m), chw_text(tx, x), p);
}

void taca_patchify(struct taca_backend *b, struct taca_mat y, struct taca_chw x, int p,
                   enum taca_patch order) {
    if (live(b) && patch_ok(b, "patchify", y, x, p) && !dry(b)) b->ops->patchify(b, y, x, p, order);
}

void taca_unpatchify(struct taca_backend *b, struct taca_chw y, struct taca_mat x, int p,
                     enum taca_patch order) {
    if (live(b) && patch_ok(b, "unpatchify", x, y, p) && !dry(b))
        b->ops->unpatchify(b, y, x, p, order);
}

void taca_add_position(struct taca_backend *b, struct taca_mat x, struct taca_mat table,
                       int64_t side, int64_t h, int64_t w) {
    static const char op[] = "add_position";
    char tx[TEXT], tt[TEXT];
    if (!live(b) || !mat_ok(b, op, "x", x) || !mat_ok(b, op, "table", table)) return;
    if (h <= 0 || w <= 0 || h > side || w > side || x.rows != h * w || x.cols != table.cols ||
        table.rows != side * side || table.dtype != TACA_F32) {
        bad(b, op, "x %s, table %s, side %" PRId64 ", window %" PRId64 " x %" PRId64,
            mat_text(tx, x), mat_text(tt, table), side, h, w);
        return;
    }
    if (!dry(b)) b->ops->add_position(b, x, table, side, h, w);
}

void taca_cfg_euler(struct taca_backend *b, struct taca_chw x, struct taca_chw c, struct taca_chw u,
                    float guidance, float dsigma) {
    if (!live(b) || !same_chw(b, "cfg_euler", x, c)) return;
    if (u.data && !same_chw(b, "cfg_euler", x, u)) return;
    if (!dry(b)) b->ops->cfg_euler(b, x, c, u, guidance, dsigma);
}

void taca_axpb(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c) {
    if (live(b) && same_chw(b, "axpb", y, x) && !dry(b)) b->ops->axpb(b, y, x, a, c);
}

void taca_axpby(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c) {
    if (live(b) && same_chw(b, "axpby", y, x) && !dry(b)) b->ops->axpby(b, y, x, a, c);
}

void taca_blend(struct taca_backend *b, struct taca_chw y, struct taca_chw x, struct taca_chw m) {
    const struct taca_chw plane = {y.data, 1, y.h, y.w};
    if (!live(b) || !same_chw(b, "blend", y, x) || !same_chw(b, "blend", plane, m)) return;
    if (!dry(b)) b->ops->blend(b, y, x, m);
}

/* ---- feature maps ---------------------------------------------------------------------------- */

static bool chw_map_ok(struct taca_backend *b, const char *op, struct taca_map m,
                       struct taca_chw x) {
    char tm[TEXT], tx[TEXT];
    if (!map_ok(b, op, "map", m) || !chw_ok(b, op, "latent", x)) return false;
    if (m.n == 1 && m.h == x.h && m.w == x.w && m.c == x.c) return true;
    return bad(b, op, "map %s, latent %s", map_text(tm, m), chw_text(tx, x));
}

void taca_chw_to_map(struct taca_backend *b, struct taca_map y, struct taca_chw x) {
    if (live(b) && chw_map_ok(b, "chw_to_map", y, x) && !dry(b)) b->ops->chw_to_map(b, y, x);
}

void taca_map_to_chw(struct taca_backend *b, struct taca_chw y, struct taca_map x) {
    if (live(b) && chw_map_ok(b, "map_to_chw", x, y) && !dry(b)) b->ops->map_to_chw(b, y, x);
}

static void conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                   const struct taca_conv *w, bool add) {
    char ty[TEXT], tx[TEXT];
    if (!live(b) || !map_ok(b, "conv2d", "y", y) || !map_ok(b, "conv2d", "x", x)) return;
    int64_t h = x.h + w->pad_top + w->pad_bottom - w->kh;
    int64_t wd = x.w + w->pad_left + w->pad_right - w->kw;
    if (x.c != w->c_in || y.c != w->c_out || y.n != x.n || h < 0 || wd < 0 ||
        y.h != h / w->stride + 1 || y.w != wd / w->stride + 1) {
        bad(b, "conv2d",
            "y %s, x %s, weight [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] stride %d",
            map_text(ty, y), map_text(tx, x), w->c_out, w->c_in, w->kh, w->kw, w->stride);
        return;
    }
    b->ops->conv2d(b, y, x, w, add);
}

void taca_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                 const struct taca_conv *w) {
    conv2d(b, y, x, w, false);
}

void taca_conv2d_add(struct taca_backend *b, struct taca_map y, struct taca_map x,
                     const struct taca_conv *w) {
    conv2d(b, y, x, w, true);
}

static bool same_map(struct taca_backend *b, const char *op, struct taca_map y, struct taca_map x,
                     int grow) {
    char ty[TEXT], tx[TEXT];
    if (!map_ok(b, op, "y", y) || !map_ok(b, op, "x", x)) return false;
    if (y.n == x.n && y.h == grow * x.h && y.w == grow * x.w && y.c == x.c) return true;
    return bad(b, op, "y %s, x %s", map_text(ty, y), map_text(tx, x));
}

void taca_group_norm(struct taca_backend *b, struct taca_map y, struct taca_map x,
                     const struct taca_vec *gain, const struct taca_vec *bias, int groups,
                     float eps, enum taca_act act) {
    static const char op[] = "group_norm";
    if (!live(b) || !same_map(b, op, y, x, 1) || !vec_ok(b, op, "gain", gain, x.c) ||
        !vec_ok(b, op, "bias", bias, x.c))
        return;
    if (groups <= 0 || x.c % groups || (act != TACA_ACT_NONE && act != TACA_ACT_SILU)) {
        bad(b, op, "%" PRId64 " channels, %d groups, activation %d", x.c, groups, (int)act);
        return;
    }
    if (!dry(b))
        b->ops->group_norm(b, y, x, gain ? gain->data : NULL, bias ? bias->data : NULL, groups, eps,
                           act);
}

void taca_upsample2(struct taca_backend *b, struct taca_map y, struct taca_map x) {
    if (live(b) && same_map(b, "upsample2", y, x, 2) && !dry(b)) b->ops->upsample2(b, y, x);
}

size_t taca_rgb8_bytes(int64_t h, int64_t w) { return taca_rgb8_flag(h, w) + sizeof(int32_t); }

void taca_map_to_rgb8(struct taca_backend *b, void *pixels, struct taca_map x) {
    char t[TEXT];
    if (!live(b) || !map_ok(b, "map_to_rgb8", "x", x)) return;
    if (x.n != 1 || x.c != 3) {
        bad(b, "map_to_rgb8", "x %s, wanted one image of 3 channels", map_text(t, x));
        return;
    }
    if (!pixels && !dry(b)) bad(b, "map_to_rgb8", "no memory for the pixels");
    if (live(b) && !dry(b)) b->ops->map_to_rgb8(b, pixels, x);
}

void taca_rgb8_read(struct taca_backend *b, uint8_t *host, const void *pixels, int64_t h,
                    int64_t w) {
    int32_t wrong = 0;
    taca_download(b, host, pixels, (size_t)(h * w) * 3);
    taca_download(b, &wrong, (const char *)pixels + taca_rgb8_flag(h, w), sizeof wrong);
    if (live(b) && wrong)
        taca_backend_fail(b, TACA_ENUMERIC,
                          "map_to_rgb8: the image has values that are not finite");
}
