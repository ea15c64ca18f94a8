/* openai_form.c - the parts of a form as the JSON object that would say the same, and its files as
 * pictures; see fields.h. Text becomes what its field is: "2" a number where one is wanted, and
 * stays text where that is. `name[]` adds to a list, `name[member]` to an object. */
#include <stdio.h>
#include <string.h>

#include "api/fields.h"
#include "api/form.h"
#include "base/json.h"

enum { MAX_TEXT = 64 << 10, MAX_DEPTH = 8, MAX_VALUES = 200 };

static int refuse(struct api_draft *d, const char *name, const char *why) {
    return api_fail(d->err, 400, "invalid_form", name, "%s: %s", name, why);
}

static int no_memory(struct api_draft *d) {
    return api_fail(d->err, 503, "gpu_oom", NULL, "out of memory reading the request");
}

/* ---- values -----------------------------------------------------------------------------------
 */

static bool is_text(const char *name) {
    static const char *const theirs[] = {"quality", "background", "moderation", "style",
                                         "input_fidelity"};
    size_t n;
    const struct api_field *f = api_fields(&n);
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++)
        if (strcmp(name, theirs[i]) == 0) return true;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(f[i].name, name) != 0) continue;
        return f[i].kind == API_TEXT || f[i].kind == API_CHOICE ||
               (f[i].kind == API_SPECIAL && strncmp(f[i].type, "string", 6) == 0);
    }
    return false;
}

/* JSON when it is, text when it is not; NULL only without memory or when it is not even text. */
static json_t *value_of(const struct api_part *part, bool text) {
    json_error_t why;
    bool no_mem;
    struct taca_buf b;
    json_t *root = NULL, *v = NULL;
    if (text || part->len > MAX_TEXT ||
        taca_json_fit(part->bytes, part->len, MAX_DEPTH, MAX_VALUES) != TACA_JSON_FITS)
        return json_stringn(part->bytes, part->len);
    taca_buf_init(&b, MAX_TEXT + 16);
    taca_buf_puts(&b, "{\"v\":");
    taca_buf_put(&b, part->bytes, part->len);
    taca_buf_puts(&b, "}");
    if (!b.failed) root = taca_json_parse(b.data, b.len, &why, &no_mem);
    if (root && json_object_size(root) == 1) v = json_incref(json_object_get(root, "v"));
    json_decref(root);
    taca_buf_finish(&b);
    return v ? v : json_stringn(part->bytes, part->len);
}

/* ---- places -----------------------------------------------------------------------------------
 */

/* "taca[scale]" is the member "scale" of "taca", "x[]" an item of "x". */
struct place {
    char base[API_MAX_PART_NAME + 1], member[API_MAX_PART_NAME + 1];
    bool nested;
};

static bool read_place(struct place *p, const char *name) {
    const char *open = strchr(name, '[');
    size_t len = strlen(name), base = open ? (size_t)(open - name) : len;
    *p = (struct place){.nested = open != NULL};
    if (base == 0 || (open && (name[len - 1] != ']' || strchr(open + 1, '[')))) return false;
    memcpy(p->base, name, base);
    if (open) memcpy(p->member, open + 1, len - base - 2);
    return !strchr(p->member, ']');
}

/* Takes v over. */
static int put(struct api_draft *d, json_t *root, const struct place *p, const char *name,
               json_t *v) {
    json_t *there = json_object_get(root, p->base);
    int bad;
    if (!p->nested) {
        if (there) return json_decref(v), refuse(d, name, "it is there twice");
        return json_object_set_new(root, p->base, v) ? no_memory(d) : 0;
    }
    if (!there) {
        there = p->member[0] ? json_object() : json_array();
        if (json_object_set_new(root, p->base, there)) return json_decref(v), no_memory(d);
    }
    if (p->member[0] ? !json_is_object(there) : !json_is_array(there))
        return json_decref(v), refuse(d, name, "it is there in another form, too");
    if (p->member[0] && json_object_get(there, p->member))
        return json_decref(v), refuse(d, name, "it is there twice");
    bad = p->member[0] ? json_object_set_new(there, p->member, v) : json_array_append_new(there, v);
    return bad ? no_memory(d) : 0;
}

static int add_text(struct api_draft *d, json_t *root, const struct api_part *part) {
    struct place p;
    if (!read_place(&p, part->name)) return refuse(d, part->name, "a name of no known form");
    if (memchr(part->bytes, 0, part->len)) return refuse(d, part->name, "there is a NUL in it");
    json_t *v = value_of(part, !p.nested && is_text(p.base));
    if (!v) return refuse(d, part->name, "it is not UTF-8 text");
    return put(d, root, &p, part->name, v);
}

/* ---- files ------------------------------------------------------------------------------------
 */

/* "image[]" is an image of several. */
static bool is_file(const struct api_part *part, const char *name) {
    const size_t len = strlen(name);
    return part->file && strncmp(part->name, name, len) == 0 &&
           (!part->name[len] || strcmp(part->name + len, "[]") == 0);
}

static int check_count(struct api_draft *d, const struct api_form *form, const char *name) {
    int n = 0;
    for (int i = 0; i < form->n; i++) n += is_file(&form->parts[i], name);
    if (n < 2) return 0;
    return api_refuse(d->err, (struct api_name){name, name},
                      "there is more than one %s: %d came, and this server edits one picture", name,
                      n);
}

static int add_file(struct api_draft *d, const struct api_part *part, struct api_file *f,
                    const char *name) {
    if (part->len == 0)
        return api_refuse(d->err, (struct api_name){name, name}, "%s is an empty file", name);
    *f = (struct api_file){.bytes = part->bytes, .len = part->len, .param = name};
    return 0;
}

static int add_part(struct api_draft *d, json_t *root, const struct api_part *part) {
    if (!part->file) return add_text(d, root, part);
    if (is_file(part, "image")) return add_file(d, part, &d->image, "image");
    if (is_file(part, "mask")) return add_file(d, part, &d->mask, "mask");
    api_openai_ignore(d, part->name);
    return 0;
}

int api_openai_form(struct api_draft *d, json_t **out, const struct api_form *form) {
    json_t *root = json_object();
    int rc = root ? check_count(d, form, "image") : no_memory(d);
    if (!rc) rc = check_count(d, form, "mask");
    for (int i = 0; i < form->n && !rc; i++) rc = add_part(d, root, &form->parts[i]);
    if (!rc)
        *out = root;
    else
        json_decref(root);
    return rc;
}
