/* tok_spiece.c - a SentencePiece model: the few fields of its protobuf that a unigram tokenizer
 * needs. See tok_uni.h. Every length is checked against what encloses it; fields that are not known
 * are passed over. */
#include <string.h>

#include "engine/text/tok_uni.h"

/* ---- protobuf -------------------------------------------------------------------------------- */

struct span {
    const unsigned char *p, *end;
};

enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

struct field {
    uint64_t number, wire, value; /* value of a varint or fixed field */
    struct span bytes;            /* of BYTES */
};

static bool read_varint(struct span *s, uint64_t *out) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64 && s->p < s->end; shift += 7) {
        const unsigned char b = *s->p++;
        v |= (uint64_t)(b & 0x7F) << shift;
        if (b & 0x80) continue;
        *out = v;
        return true;
    }
    return false;
}

static bool read_fixed(struct span *s, int bytes, uint64_t *out) {
    if (s->end - s->p < bytes) return false;
    *out = 0;
    for (int i = 0; i < bytes; i++) *out |= (uint64_t)*s->p++ << 8 * i;
    return true;
}

/* The next field of a message that is not at its end; false when it is malformed. */
static bool next_field(struct span *s, struct field *f) {
    uint64_t key, n;
    if (!read_varint(s, &key)) return false;
    f->number = key >> 3;
    f->wire = key & 7;
    f->bytes = (struct span){NULL, NULL};
    switch (f->wire) {
    case VARINT: return read_varint(s, &f->value);
    case FIXED64: return read_fixed(s, 8, &f->value);
    case FIXED32: return read_fixed(s, 4, &f->value);
    case BYTES:
        if (!read_varint(s, &n) || n > (uint64_t)(s->end - s->p)) return false;
        f->bytes = (struct span){s->p, s->p + n};
        s->p += n;
        return true;
    default: return false; /* groups, which nobody writes any more */
    }
}

/* ---- the model ------------------------------------------------------------------------------- */

struct reader {
    struct tok_t5 *t;
    const char *path;
    struct span charsmap;
    bool unigram, byte_fallback;
    int32_t n_pieces;
};

static enum taca_code malformed(const struct reader *r, const char *where, struct taca_err *err) {
    return taca_fail(err, TACA_EFORMAT, "%s: not a SentencePiece model (malformed %s)", r->path,
                     where);
}

enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3, TYPE_UNKNOWN = 2 };

static enum taca_code read_piece(struct reader *r, struct span s, struct taca_err *err) {
    struct field f;
    struct span text = {NULL, NULL};
    uint64_t type = 1;
    uint32_t bits = 0;
    float score;
    while (s.p < s.end) {
        if (!next_field(&s, &f)) return malformed(r, "piece", err);
        if (f.number == PIECE_TEXT && f.wire == BYTES) text = f.bytes;
        if (f.number == PIECE_SCORE && f.wire == FIXED32) bits = (uint32_t)f.value;
        if (f.number == PIECE_TYPE && f.wire == VARINT) type = f.value;
    }
    memcpy(&score, &bits, sizeof score);
    if (type == TYPE_UNKNOWN) r->t->model.unk = r->n_pieces;
    r->n_pieces++;
    return tok_t5_add(r->t, (const char *)text.p, (size_t)(text.end - text.p), (double)score,
                      r->path, err);
}

enum { TRAINER_TYPE = 3, TRAINER_BYTE_FALLBACK = 35, TYPE_UNIGRAM = 1 };

static enum taca_code read_trainer(struct reader *r, struct span s, struct taca_err *err) {
    struct field f;
    while (s.p < s.end) {
        if (!next_field(&s, &f)) return malformed(r, "trainer", err);
        if (f.number == TRAINER_TYPE && f.wire == VARINT) r->unigram = f.value == TYPE_UNIGRAM;
        if (f.number == TRAINER_BYTE_FALLBACK && f.wire == VARINT) r->byte_fallback = f.value != 0;
    }
    return TACA_OK;
}

enum { NORMALIZER_CHARSMAP = 2 };

static enum taca_code read_normalizer(struct reader *r, struct span s, struct taca_err *err) {
    struct field f;
    while (s.p < s.end) {
        if (!next_field(&s, &f)) return malformed(r, "normalizer", err);
        if (f.number == NORMALIZER_CHARSMAP && f.wire == BYTES) r->charsmap = f.bytes;
    }
    return TACA_OK;
}

enum { MODEL_PIECE = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };

enum taca_code tok_spiece_read(struct tok_t5 *t, const unsigned char *data, size_t size,
                               const char *path, struct taca_err *err) {
    struct reader r = {.t = t, .path = path, .unigram = true};
    struct span s = {data, data + size};
    struct field f;
    enum taca_code rc = TACA_OK;
    t->model.unk = -1;
    while (rc == TACA_OK && s.p < s.end) {
        if (!next_field(&s, &f)) return malformed(&r, "model", err);
        if (f.wire != BYTES) continue;
        if (f.number == MODEL_PIECE) rc = read_piece(&r, f.bytes, err);
        if (f.number == MODEL_TRAINER) rc = read_trainer(&r, f.bytes, err);
        if (f.number == MODEL_NORMALIZER) rc = read_normalizer(&r, f.bytes, err);
    }
    if (rc != TACA_OK) return rc;
    if (!r.unigram || r.byte_fallback)
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "%s: %s, wanted T5's unigram model without byte pieces", path,
                         r.unigram ? "it falls back to bytes" : "not a unigram model");
    if (t->model.unk < 0)
        return taca_fail(err, TACA_EFORMAT, "%s: %d pieces, none of them for the unknown", path,
                         r.n_pieces);
    if (r.charsmap.p == r.charsmap.end) return TACA_OK;
    return uni_charsmap_load(&t->map, &t->arena, r.charsmap.p,
                             (size_t)(r.charsmap.end - r.charsmap.p), path, err);
}
