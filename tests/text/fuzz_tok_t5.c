/* fuzz_tok_t5.c - any bytes as a T5 tokenizer: opening ends in an error with words, or texts become
 * ids of the vocabulary, the last of them EOS. The first byte chooses spiece.model or
 * tokenizer.json. For libFuzzer (preset fuzz) and for test_tok_t5_mutations.c,
 * which mutates on its own. */
#include "engine/text/tok_t5.h"
#include "tests/fuzz/fuzz.h"

enum { N_FILES = 2, MAX_IDS = 256, PATH_BYTES = 64 };
static const char *const files[N_FILES] = {"spiece.model", "tokenizer.json"};
static char dir[] = "/tmp/taca_fuzz_XXXXXX", paths[N_FILES + 1][PATH_BYTES];

static void remove_dir(void) {
    for (int i = 0; i <= N_FILES; i++) unlink(paths[i]);
    rmdir(dir);
}

static void make_dir(void) {
    static const char config[] = "{\"extra_ids\":2}";
    if (!mkdtemp(dir)) abort();
    for (int i = 0; i < N_FILES; i++) snprintf(paths[i], PATH_BYTES, "%s/%s", dir, files[i]);
    snprintf(paths[N_FILES], PATH_BYTES, "%s/tokenizer_config.json", dir);
    fuzz_write(paths[N_FILES], config, sizeof config - 1);
    atexit(remove_dir);
}

static void encode(const struct tok_t5 *t, const char *text) {
    struct taca_err err = {0};
    int32_t ids[MAX_IDS];
    int total = 0;
    enum taca_code rc = tok_t5_encode(t, text, ids, MAX_IDS, &total, &err);
    demand(rc == TACA_OK || rc == TACA_ENOMEM, "a text becomes ids", err.text);
    if (rc != TACA_OK) return;
    const int n = total < MAX_IDS ? total : MAX_IDS;
    demand(n >= 1, "EOS is always there", text);
    for (int i = 0; i < MAX_IDS; i++)
        demand(ids[i] >= 0 && ids[i] < tok_t5_vocab(t), "ids are in the vocabulary", text);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    /* a ligature, a letter and its accent, a sign that grows, an emoji that is joined to nothing */
    static const char signs[] = "\xEF\xAC\x81 e\xCC\x81 \xE2\x84\xA2\r\n<extra_id_0> "
                                "\xF0\x9F\x91\xA8\xE2\x80\x8D";
    static const char *const texts[] = {"", "a cat sat on the mat  ", signs,
                                        "\xFF\xC2 \x01\x02\x7F zzz\xE2\x96\x81</s>"};
    struct tok_t5 *t = NULL;
    struct taca_err err = {0};
    if (size == 0) return 0;
    if (!paths[0][0]) make_dir();
    const int which = data[0] % N_FILES;
    unlink(paths[1 - which]);
    fuzz_write(paths[which], data + 1, size - 1);
    enum taca_code rc = tok_t5_open(&t, dir, &err);
    demand((rc == TACA_OK) == (t != NULL), "a tokenizer or an error", err.text);
    demand(rc == TACA_OK || (err.code == rc && err.text[0]), "an error has words", err.text);
    for (size_t i = 0; t && i < sizeof texts / sizeof *texts; i++) encode(t, texts[i]);
    tok_t5_close(t);
    return 0;
}
