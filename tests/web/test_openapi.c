/* test_openapi.c - the document against the parser: what it calls allowed is taken by some model,
 * and the next value beyond each end is refused at that field by all of them. */
#include <jansson.h>

#include "api/reply.h"
#include "tests/api/common.h"
#include "tests/test.h"

enum { DOCUMENT_BYTES = 1 << 20 };

static struct taca_model_info served[3];
static int n_served;
static struct api_limits limits;

static void serve(int n) {
    n_served = n;
    for (int i = 0; i < n; i++) served[i] = demo;
    api_limits_init(&limits);
}

/* As a FLUX: another family's fields, other sides, no picture to begin from. */
static void make_other(struct taca_model_info *m, const char *id) {
    snprintf(m->id, sizeof m->id, "%s", id);
    m->guidance_embeds = true;
    m->default_guidance_scale = 3.5;
    m->t5_tokens = 256;
    m->takes_images = false;
    m->min_side_px = m->default_width_px = m->default_height_px = 288;
    m->max_side_px = 4800;
    m->side_multiple_px = 24;
    m->has_taesd = true;
}

static json_t *document(void) {
    char *base = NULL;
    size_t len = 0;
    FILE *f = fopen(TACA_SOURCE_DIR "/web/openapi.json", "rb");
    if (!CHECK(f != NULL)) return NULL;
    base = malloc(DOCUMENT_BYTES);
    len = base ? fread(base, 1, DOCUMENT_BYTES, f) : 0;
    fclose(f);
    struct taca_buf b;
    taca_buf_init(&b, DOCUMENT_BYTES);
    const struct taca_model_info *all[3] = {&served[0], &served[1], &served[2]};
    const struct api_served of = {all[0], all, n_served};
    api_openapi_json(&b, base, len, &of, &limits, true);
    CHECK(!b.failed);
    json_t *doc = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, NULL);
    CHECK(doc != NULL);
    taca_buf_finish(&b);
    free(base);
    return doc;
}

static json_t *fields_of(json_t *doc) {
    json_t *schemas = json_object_get(json_object_get(doc, "components"), "schemas");
    return json_object_get(json_object_get(schemas, "GenerateRequest"), "properties");
}

/* 64 x 64 black pixels: `strength` means something only beside a picture. */
#define PICTURE                                                                                    \
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAA"                                             \
    "D0lEQVR42mNgGAWjgHwAAAJAAAHgTR1EAAAAAElFTkSuQmCC"

/* The parser's word on {"prompt":"x", <member>}, for the first model that takes it, else for the
 * first: `member` is "name":value, or holds {"name":value}. */
static int ask(const char *member, struct api_error *e) {
    struct taca_buf b;
    struct api_request r = {0};
    *e = (struct api_error){0};
    taca_buf_init(&b, 1 << 17);
    taca_buf_printf(&b, strncmp(member, "\"prompt\"", 8) ? "{\"prompt\":\"x\",%s}" : "{%s}",
                    member);
    if (strncmp(member, "\"strength\"", 10) == 0 && b.len > 0) {
        b.len--;
        taca_buf_puts(&b, ",\"image\":\"" PICTURE "\"}");
    }
    int rc = -1;
    for (int i = n_served - 1; i >= 0 && rc; i--) {
        *e = (struct api_error){0};
        rc = api_request_parse(&r, b.data, b.len, &served[i], &limits, 5, e);
        if (!rc) api_request_finish(&r);
        CHECK(rc == 0 || rc == 400);
    }
    taca_buf_finish(&b);
    return rc;
}

/* Where a value goes: `parent` is the object that the field is a member of, or "", and `others` are
 * further members that it must have, or NULL. */
struct place {
    const char *parent, *name;
    const json_t *others;
};

static void put_member(struct taca_buf *b, struct place at, const char *value) {
    const char *key;
    json_t *v;
    if (!*at.parent) {
        taca_buf_printf(b, "\"%s\":%s", at.name, value);
        return;
    }
    taca_buf_printf(b, "\"%s\":{\"%s\":%s", at.parent, at.name, value);
    json_object_foreach((json_t *)(uintptr_t)at.others, key, v) {
        char *text = strcmp(key, at.name) ? json_dumps(v, JSON_ENCODE_ANY) : NULL;
        if (text) taca_buf_printf(b, ",\"%s\":%s", key, text);
        free(text);
    }
    taca_buf_puts(b, "}");
}

static void expect(bool taken, struct place at, const char *value) {
    struct api_error e;
    struct taca_buf b;
    taca_buf_init(&b, 1 << 17);
    put_member(&b, at, value);
    int rc = ask(b.data, &e);
    if (!CHECK(rc == (taken ? 0 : 400)))
        printf("        %s %s = %.40s: %d %s\n", at.parent, at.name, value, rc, e.message);
    /* a member is blamed under its field's first name */
    const char *dot = strrchr(e.param, '.');
    if (!taken && rc && !CHECK(strcmp(*at.parent && dot ? dot + 1 : e.param, at.name) == 0))
        printf("        %s is blamed for %s %s\n", e.param, at.parent, at.name);
    taca_buf_finish(&b);
}

static void expect_number(bool taken, struct place at, double v) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", v);
    expect(taken, at, text);
}

static bool has_type(const json_t *schema, const char *type) {
    json_t *t = json_object_get(schema, "type"), *item;
    size_t i;
    if (json_is_string(t)) return strcmp(json_string_value(t), type) == 0;
    json_array_foreach(t, i, item) if (strcmp(json_string_value(item), type) == 0) return true;
    return false;
}

static int check_range(struct place at, const json_t *s, double step) {
    json_t *low = json_object_get(s, "minimum"), *high = json_object_get(s, "maximum");
    if (!low || !high) return 0;
    bool whole = has_type(s, "integer");
    double min = json_number_value(low), max = json_number_value(high), beyond = whole ? 1 : 1e-3;
    CHECK(min <= max);
    expect_number(false, at, min - beyond);
    expect_number(true, at, min);
    expect_number(true, at, max);
    expect_number(false, at, max + beyond);
    if (step > 0) expect_number(false, at, min + step / 2);
    if (whole) expect(false, at, "1.5");
    return 1;
}

static void expect_text(bool taken, struct place at, size_t len) {
    char *text = malloc(len + 3);
    if (!CHECK(text != NULL)) return;
    memset(text, 'a', len + 2);
    text[0] = text[len + 1] = '"';
    text[len + 2] = 0;
    expect(taken, at, text);
    free(text);
}

static int check_text(struct place at, const json_t *s) {
    json_t *least = json_object_get(s, "minLength"), *most = json_object_get(s, "maxLength");
    if (!most) return 0;
    size_t min = (size_t)json_integer_value(least), max = (size_t)json_integer_value(most);
    if (min > 0) expect_text(false, at, min - 1);
    expect_text(true, at, min);
    expect_text(true, at, max);
    expect_text(false, at, max + 1);
    return 1;
}

static int check_values(struct place at, const json_t *s) {
    json_t *values = json_object_get(s, "enum"), *v;
    size_t i;
    json_array_foreach(values, i, v) {
        char *text = json_dumps(v, JSON_ENCODE_ANY);
        if (CHECK(text != NULL)) expect(true, at, text);
        free(text);
    }
    if (values) expect(false, at, "\"no such\"");
    return values != NULL;
}

/* How many rules of the schema were tried. */
static int check_schema(struct place at, json_t *s) {
    json_t *choice, *member, *examples = json_object_get(s, "examples");
    const char *key;
    size_t i;
    double step = json_number_value(json_object_get(s, "multipleOf"));
    int n = check_range(at, s, step) + check_values(at, s);
    if (!*at.parent) n += check_text(at, s);
    json_array_foreach(json_object_get(s, "anyOf"), i, choice) {
        if (json_object_get(choice, "required")) at.others = json_array_get(examples, 0);
        n += check_schema(at, choice);
    }
    json_object_foreach(json_object_get(s, "properties"), key, member) {
        if (*at.parent) continue;
        n += check_schema((struct place){at.name, key, at.others}, member);
    }
    /* null is as good as absent wherever the document says so */
    if (has_type(s, "null")) expect(true, at, "null");
    return n;
}

static void check_model(int at_least) {
    const char *name;
    json_t *s, *doc = document();
    int n = 0;
    json_object_foreach(fields_of(doc), name, s) n +=
        check_schema((struct place){"", name, NULL}, s);
    if (!CHECK(n >= at_least)) printf("        only %d rules\n", n);
    json_decref(doc);
}

static void test_every_range_ends_where_the_document_says(void) {
    serve(1);
    check_model(35);
    limits.max_steps = 7;
    limits.max_n = 2;
    limits.max_side_px = 144;
    limits.max_prompt_bytes = 33;
    check_model(35);
    limits.max_n = 1;
    check_model(35);
}

static json_t *field(json_t *doc, const char *name) {
    return json_object_get(fields_of(doc), name);
}

static void test_a_model_with_guidance_and_t5_has_their_fields(void) {
    serve(1);
    json_t *doc = document();
    CHECK(field(doc, "guidance_scale") == NULL);
    CHECK(field(doc, "max_sequence_length") == NULL);
    json_decref(doc);
    make_other(&served[0], "other");
    limits.max_side_px = 2400; /* one that its steps meet */
    doc = document();
    CHECK(field(doc, "guidance_scale") != NULL);
    CHECK(field(doc, "max_sequence_length") != NULL);
    CHECK(field(doc, "image") == NULL);
    json_decref(doc);
    check_model(35);
}

/* The description of the field, or "". */
static const char *told(json_t *doc, const char *name) {
    const char *s = json_string_value(json_object_get(field(doc, name), "description"));
    return s ? s : "";
}

static void test_what_any_of_several_models_takes_is_in_the_ranges(void) {
    serve(3);
    limits.max_side_px = 8192;
    make_other(&served[1], "flux");
    served[2].default_steps = 4;
    snprintf(served[2].id, sizeof served[2].id, "quick");
    check_model(38);
    json_t *doc = document(), *width = field(doc, "width");
    CHECK_INT(json_integer_value(json_object_get(width, "minimum")), 64);
    CHECK_INT(json_integer_value(json_object_get(width, "maximum")), 4800);
    CHECK_INT(json_integer_value(json_object_get(width, "multipleOf")), 8);
    CHECK_INT(json_integer_value(json_object_get(width, "default")), 128);
    CHECK(json_object_get(field(doc, "guidance_scale"), "default") == NULL);
    json_decref(doc);
}

static void test_where_models_differ_a_field_says_how(void) {
    serve(2);
    json_t *doc = document();
    CHECK(!strstr(told(doc, "width"), "By model"));
    json_decref(doc);
    make_other(&served[1], "flux");
    doc = document();
    CHECK_STR(
        told(doc, "width"),
        "Pixels. By model: `demo` from 64 to 2048, in steps of 16, 128 by default; `flux` from "
        "288 to 2048, in steps of 24, 288 by default");
    CHECK_HAS(told(doc, "guidance_scale"),
              "`demo` refuses it; `flux` from 0 to 100, 3.5 by default");
    CHECK_HAS(told(doc, "image"), "`demo` takes it; `flux` refuses it");
    CHECK_HAS(told(doc, "previews"), "`flux` from 0 to 8, method [\"latent_rgb\"");
    CHECK(!strstr(told(doc, "steps"), "By model"));
    json_decref(doc);
}

static void test_unknown_fields_are_refused_as_documented(void) {
    struct api_error e;
    serve(1);
    json_t *doc = document();
    json_t *schemas = json_object_get(json_object_get(doc, "components"), "schemas");
    CHECK(json_is_false(
        json_object_get(json_object_get(schemas, "GenerateRequest"), "additionalProperties")));
    CHECK_INT(ask("\"no_such\":1", &e), 400);
    json_decref(doc);
}

static void test_every_field_says_what_it_is_for(void) {
    const char *name;
    serve(1);
    json_t *s, *doc = document();
    json_object_foreach(fields_of(doc), name, s) {
        if (!CHECK(json_string_length(json_object_get(s, "description")) > 0))
            printf("        %s has no description in web/openapi.json\n", name);
    }
    json_decref(doc);
}

static void test_what_is_no_document_fails(void) {
    struct taca_buf b;
    taca_buf_init(&b, DOCUMENT_BYTES);
    const struct api_served none = {.usual = &demo};
    api_openapi_json(&b, "{", 1, &none, &limits, true);
    CHECK(b.failed);
    taca_buf_finish(&b);
}

int main(void) {
    TEST(test_every_range_ends_where_the_document_says);
    TEST(test_a_model_with_guidance_and_t5_has_their_fields);
    TEST(test_what_any_of_several_models_takes_is_in_the_ranges);
    TEST(test_where_models_differ_a_field_says_how);
    TEST(test_unknown_fields_are_refused_as_documented);
    TEST(test_every_field_says_what_it_is_for);
    TEST(test_what_is_no_document_fails);
    return TEST_END();
}
