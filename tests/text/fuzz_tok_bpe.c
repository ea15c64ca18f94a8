/* fuzz_tok_bpe.c - any bytes as one file of a CLIP tokenizer: opening ends in an error with words,
 * or texts become ids of the vocabulary. The first byte chooses the file; the others are small good
 * ones. */
#include <string.h>

#include "engine/text/tok_bpe.h"
#include "tests/fuzz/fuzz.h"

enum { N_FILES = 5, LEN = 24, PATH_BYTES = 64 };
static const struct {
    const char *name, *good; /* NULL: only there when chosen */
} files[N_FILES] = {
    {"vocab.json", "{\"c\":0,\"a\":1,\"t\":2,\"t</w>\":3,\"ca\":4,\"cat</w>\":5,"
                   "\"<|startoftext|>\":6,\"<|endoftext|>\":7,\"!\":8,\"a</w>\":9}"},
    {"merges.txt", "#version: 0.2\nc a\nca t</w>\n"},
    {"tokenizer_config.json", "{\"model_max_length\":24}"},
    {"special_tokens_map.json", "{\"pad_token\":\"!\"}"},
    {"tokenizer.json", NULL},
};
static char dir[] = "/tmp/taca_fuzz_XXXXXX", paths[N_FILES][PATH_BYTES];

static void remove_dir(void) {
    for (int i = 0; i < N_FILES; i++) unlink(paths[i]);
    rmdir(dir);
}

static void make_dir(void) {
    if (!mkdtemp(dir)) abort();
    for (int i = 0; i < N_FILES; i++) snprintf(paths[i], PATH_BYTES, "%s/%s", dir, files[i].name);
    atexit(remove_dir);
}

/* Everything good but file `which`; tokenizer.json stands alone. */
static void lay_out(int which, const unsigned char *data, size_t size) {
    const bool alone = !files[which].good;
    for (int i = 0; i < N_FILES; i++) {
        if (i == which)
            fuzz_write(paths[i], data, size);
        else if (files[i].good && !(alone && i < 2))
            fuzz_write(paths[i], files[i].good, strlen(files[i].good));
        else
            unlink(paths[i]);
    }
}

static void encode(const struct tok_bpe *t, const char *text) {
    struct taca_err err = {0};
    int32_t ids[LEN];
    int total = 0;
    enum taca_code rc = tok_bpe_encode(t, text, ids, LEN, &total, &err);
    demand(rc == TACA_OK || err.text[0], "an error has words", err.text);
    if (rc != TACA_OK) return;
    demand(total >= 2, "BOS and EOS are always there", text);
    for (int i = 0; i < LEN; i++)
        demand(ids[i] >= 0 && ids[i] < tok_bpe_vocab(t), "ids are in the vocabulary", text);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static const char *const texts[] = {"", "a cat CATS t!!  taca",
                                        "\xFF\xC2 \x01\x7F \xEF\xAC\x81",
                                        "<|startoftext|>cat<|endoftext|>'s 12 e\xCC\x81"};
    struct tok_bpe *t = NULL;
    struct taca_err err = {0};
    if (size == 0) return 0;
    if (!paths[0][0]) make_dir();
    lay_out(data[0] % N_FILES, data + 1, size - 1);
    enum taca_code rc = tok_bpe_open(&t, dir, &err);
    demand((rc == TACA_OK) == (t != NULL), "a tokenizer or an error", err.text);
    demand(rc == TACA_OK || (err.code == rc && err.text[0]), "an error has words", err.text);
    for (size_t i = 0; t && i < sizeof texts / sizeof *texts; i++) encode(t, texts[i]);
    tok_bpe_close(t);
    return 0;
}
