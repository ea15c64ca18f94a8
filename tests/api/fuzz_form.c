/* fuzz_form.c - any bytes as a form, and what a form says as a request to edit a picture: a refusal
 * is a client's error with words, parts lie inside the body and apart from each other, and no part
 * holds its own boundary. For libFuzzer (preset fuzz). */
#include <stdlib.h>

#include "api/form.h"
#include "tests/api/common.h"
#include "tests/fuzz/fuzz.h"

static const char type[] = "multipart/form-data; boundary=b";

static void check_parts(const struct api_form *f, const char *body, size_t size) {
    const char *before = body;
    for (int i = 0; i < f->n; i++) {
        const struct api_part *p = &f->parts[i];
        demand(p->bytes > before && p->len <= size, "in their order", p->name);
        demand(p->bytes + p->len + 5 <= body + size, "an end behind each", p->name);
        demand(!memmem(p->bytes, p->len, "\r\n--b", 5), "no boundary inside", p->name);
        demand(memcmp(p->bytes + p->len, "\r\n--b", 5) == 0, "and one behind", p->name);
        demand(p->name[0] && strlen(p->name) <= API_MAX_PART_NAME, "a name", p->name);
        before = p->bytes + p->len;
    }
}

static void edit(const char *body, size_t size) {
    struct api_request r = {0};
    struct api_error e = {0};
    struct api_limits limits;
    const struct api_source from = {API_OPENAI_EDIT, type, body, size, false};
    api_limits_init(&limits);
    limits.max_image_pixels = 1 << 16;
    const struct api_offer offer = {&limits, 1, {{demo.id, &demo, false}}};
    int rc = api_request_read(&r, &from, &offer, RANDOM_SEED, &e);
    demand(rc == e.status, "one status", e.code);
    demand(!rc || rc == 400 || rc == 404 || rc == 413, "a client's error", e.code);
    demand(!rc || (e.code[0] && e.message[0]), "an error with words", e.code);
    demand(rc || r.params.image, "a picture", "");
    if (!rc) api_request_finish(&r);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct api_form f;
    struct api_error e = {0};
    const char *body = (const char *)data;
    int rc = api_form_read(&f, type, body, size, &e);
    demand(rc == 0 || (rc == 400 && e.message[0]), "a client's error", e.code);
    if (!rc) check_parts(&f, body, size);
    if (!rc) edit(body, size);
    /* the same bytes as what names the boundary */
    char *text = calloc(1, size + 32);
    if (!text) return 0;
    memcpy(text, "multipart/form-data", 19);
    memcpy(text + 19, data, size);
    e = (struct api_error){0};
    (void)!api_form_read(&f, text, "--b--", 5, &e);
    free(text);
    return 0;
}
