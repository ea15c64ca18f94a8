/* layout.h - names: which model part a file's tensors are, and what the reference calls them.
 *
 * Model code knows one spelling, that of diffusers and transformers. Files have others (the
 * original releases, OpenCLIP, llama.cpp), under prefixes when several parts share a file, and fuse
 * or turn matrices. A layout is a table from stored names to wanted ones. Private to engine/io. */
#ifndef TACA_ENGINE_IO_LAYOUT_H
#define TACA_ENGINE_IO_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/io/checkpoint.h"
#include "engine/io/storage.h"

enum io_how {
    IO_SWAP = 1,         /* halves of the rows change places */
    IO_SWAP_IN_LAST = 2, /* the same, but only in the block of the highest number */
    IO_TRANSPOSE = 4,
    IO_SQUEEZE = 8,   /* dimensions of 1 behind the second go: [c, c, 1, 1] is [c, c] */
    IO_FROM_TOP = 16, /* the first number counts from the highest one down */
    IO_ALIAS = 32,    /* a second name, unless a tensor has it already */
};

/* Patterns: '#' is a number, '*' at the end is the rest of the name. Numbers and rest of `have` go
 * to the same places in `want` (which may do without the rest). Rules with one `have` stand
 * together and all apply; otherwise the first match wins. */
struct io_rule {
    const char *have, *want;
    unsigned char first, count, of; /* rows [first, first + count) when they are cut in `of`;
                                       of = 0: all */
    unsigned char how;
};

struct io_layout {
    const char *what;            /* "a FLUX transformer, original names" */
    enum taca_kind kind;         /* TACA_KINDS: known, but not readable */
    const char *probe;           /* the name (behind the prefix) that tells it */
    const struct io_rule *rules; /* ended by have = NULL; NULL = names are the wanted ones */
    const char *counted; /* the pattern whose first number is looked at by _IN_LAST and _FROM_TOP */
};

extern const struct io_layout io_layouts[];
extern const size_t io_n_layouts;
/* Prefixes under which a part of this kind is found, NULL-ended; "" is the last one. */
const char *const *io_prefixes(enum taca_kind kind);

/* Tensors of all files, sorted by name. */
struct io_names {
    const struct taca_stored **t;
    size_t n;
};
const struct taca_stored *io_names_find(const struct io_names *n, const char *name);

struct io_found {
    const struct io_layout *layout; /* NULL: nothing of it */
    const char *prefix;
};
/* The part of this kind; TACA_KINDS finds what cannot be read. */
struct io_found io_layout_find(const struct io_names *n, enum taca_kind kind);
/* Whether this stored name belongs to a part of that prefix. */
bool io_under_prefix(const char *name, const char *prefix);
/* The highest number at the first '#' of layout->counted, -1 = none. */
long io_layout_last(const struct io_names *n, struct io_found f);

enum { IO_NAME = 1200 };
/* Whether `name` (without prefix) matches the rule; then want gets the wanted name. */
bool io_rule_apply(const struct io_rule *r, const char *name, long last, char want[IO_NAME],
                   long *first_number);

/* What the tensors look like to a person, as the end of "this is ...": "a VAE, original names",
 * "a LoRA adapter"; NULL when nothing is known. */
const char *io_names_look_like(const struct io_names *n);

#endif
