/* negotiate.c - which of our replies a client wants, and which files in it; see request.h. */
#include <string.h>
#include <strings.h>

#include "api/request.h"

/* What we make, in our own order of preference. */
enum { N_OFFERS = 4 };
static const struct {
    enum api_reply reply;
    enum api_format format; /* of IMAGE */
    const char *type;
    size_t group_len; /* of "image" in "image/png" */
} offers[N_OFFERS] = {{API_REPLY_JSON, API_FORMAT_ANY, "application/json", 11},
                      {API_REPLY_IMAGE, API_PNG, "image/png", 5},
                      {API_REPLY_IMAGE, API_JPEG, "image/jpeg", 5},
                      {API_REPLY_EVENTS, API_FORMAT_ANY, "text/event-stream", 4}};

/* How the header speaks of one offer: the most specific range that matches decides. */
struct wish {
    int q;        /* 0..1000; 0 = not acceptable */
    int exact;    /* 3 by its own name, 2 by its group, 1 by the range of all, 0 not at all */
    int position; /* of that range in the header */
};

struct range {
    const char *type;
    size_t len;
    int q;
};

static const char *skip_space(const char *s) {
    while (*s == ' ' || *s == '\t') s++;
    return s;
}

static bool token_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static const char *skip_token(const char *s) {
    while (token_char(*s)) s++;
    return s;
}

/* "0", "0.75", "1", "1.000" to thousandths; -1 when malformed. */
static int parse_q(const char *s, size_t len) {
    if (len == 0 || len > 5 || (s[0] != '0' && s[0] != '1') || (len > 1 && s[1] != '.')) return -1;
    int q = s[0] == '1' ? 1000 : 0, weight = 100;
    for (size_t i = 2; i < len; i++, weight /= 10) {
        if (s[i] < '0' || s[i] > '9') return -1;
        q += (s[i] - '0') * weight;
    }
    return q <= 1000 ? q : -1;
}

/* One `; name=value`, value a token or a quoted string; NULL when malformed. */
static const char *parse_parameter(const char *s, struct range *r) {
    const char *name = s, *value;
    s = skip_token(s);
    size_t name_len = (size_t)(s - name);
    if (name_len == 0 || *s != '=') return NULL;
    value = ++s;
    if (*s == '"') {
        for (s++; *s && *s != '"'; s++)
            if (*s == '\\' && s[1]) s++;
        return *s ? s + 1 : NULL;
    }
    s = skip_token(s);
    if (s == value) return NULL;
    if (name_len == 1 && (*name == 'q' || *name == 'Q')) r->q = parse_q(value, (size_t)(s - value));
    return r->q < 0 ? NULL : s;
}

/* One media range from s, which is not empty; returns what follows, NULL when malformed. */
static const char *parse_range(const char *s, struct range *r) {
    *r = (struct range){.type = s, .q = 1000};
    const char *slash = skip_token(s);
    if (slash == s || *slash != '/') return NULL;
    s = skip_token(slash + 1);
    if (s == slash + 1) return NULL;
    r->len = (size_t)(s - r->type);
    for (s = skip_space(s); *s == ';'; s = skip_space(s)) {
        s = skip_space(s + 1);
        if (*s == ';' || *s == ',' || !*s) continue; /* an empty parameter is allowed */
        if (!(s = parse_parameter(s, r))) return NULL;
    }
    return *s == ',' || !*s ? s : NULL;
}

/* 3, 2, 1 as in struct wish, 0 when the range does not cover the offer. */
static int match(const struct range *r, int offer) {
    const char *type = offers[offer].type;
    size_t group = offers[offer].group_len;
    if (r->len == 3 && memcmp(r->type, "*/*", 3) == 0) return 1;
    if (r->len == strlen(type) && strncasecmp(r->type, type, r->len) == 0) return 3;
    if (r->len == group + 2 && strncasecmp(r->type, type, group + 1) == 0 &&
        r->type[group + 1] == '*')
        return 2;
    return 0;
}

/* False when the header is malformed or empty: the caller then takes it as absent. */
static bool read_accept(struct wish wishes[N_OFFERS], const char *accept) {
    int position = 0;
    for (const char *s = skip_space(accept); *s; s = skip_space(s)) {
        struct range r;
        if (*s == ',') {
            s++;
            continue;
        }
        if (!(s = parse_range(s, &r))) return false;
        position++;
        for (int i = 0; i < N_OFFERS; i++) {
            int exact = match(&r, i);
            if (exact > wishes[i].exact)
                wishes[i] = (struct wish){.q = r.q, .exact = exact, .position = position};
        }
    }
    return position > 0;
}

static bool better(const struct wish *a, const struct wish *b) {
    if (a->q != b->q) return a->q > b->q;
    if (a->exact != b->exact) return a->exact > b->exact;
    return a->position < b->position;
}

/* Among the images only, or among all; -1 = none. */
static int best(const struct wish wishes[N_OFFERS], bool images) {
    int found = -1;
    for (int i = 0; i < N_OFFERS; i++) {
        if (wishes[i].q <= 0 || (images && offers[i].reply != API_REPLY_IMAGE)) continue;
        if (found < 0 || better(&wishes[i], &wishes[found])) found = i;
    }
    return found;
}

/* Images that will not be are not offered: of another format than the body's, or none at all. */
static void drop_images(struct wish wishes[N_OFFERS], enum api_format but) {
    for (int i = 0; i < N_OFFERS; i++)
        if (offers[i].reply == API_REPLY_IMAGE && offers[i].format != but) wishes[i].q = 0;
}

/* `wanted`: the image that Accept likes best, -1 = none. It is not made of several pictures, or
 * when the body names another format. */
static int refuse(const struct api_request *r, int wanted, struct api_error *err) {
    if (wanted >= 0 && r->n > 1)
        return api_fail(err, 406, "not_acceptable", "n",
                        "an image reply holds one image and n is %d: accept application/json or "
                        "text/event-stream, or send %d requests with n 1",
                        r->n, r->n);
    if (wanted >= 0)
        return api_fail(err, 406, "not_acceptable", "output_format",
                        "output_format is \"%s\" and Accept wants %s: name the same in both, or "
                        "leave one out",
                        api_format_name(r->file.format), offers[wanted].type);
    return api_fail(err, 406, "not_acceptable", NULL,
                    "nothing in Accept that this server makes; it makes application/json, "
                    "image/png, image/jpeg and text/event-stream");
}

static int choose(enum api_reply *out, struct wish wishes[N_OFFERS], const struct api_request *r,
                  struct api_error *err) {
    const int image = best(wishes, true);
    const bool text = r->response == API_RESPONSE_B64_JSON || r->response == API_RESPONSE_URL;
    if (r->file.format != API_FORMAT_ANY) drop_images(wishes, r->file.format);
    /* one body holds one picture, and these two ask for JSON or events by name */
    if (r->n > 1 || text) drop_images(wishes, API_FORMAT_ANY);
    const int i = best(wishes, false);
    if (i < 0 && !text) return refuse(r, image, err);
    *out = i < 0 ? API_REPLY_JSON : offers[i].reply;
    return 0;
}

int api_negotiate(enum api_reply *out, const char *accept, struct api_request *r,
                  struct api_error *err) {
    struct wish wishes[N_OFFERS] = {0};
    enum api_reply reply = API_REPLY_JSON;
    /* its clients send Accept: application/json whatever they ask for */
    const bool theirs = r->openai || r->a1111;
    const bool said = !theirs && accept && read_accept(wishes, accept);
    const int image = said ? best(wishes, true) : -1;
    int rc = 0;
    if (r->stream)
        reply = API_REPLY_EVENTS;
    else if (!theirs && r->response == API_RESPONSE_BINARY)
        reply = API_REPLY_IMAGE;
    else if (said)
        rc = choose(&reply, wishes, r, err);
    if (!rc) rc = api_settle_format(r, image < 0 ? API_PNG : offers[image].format, err);
    if (!rc) *out = reply;
    return rc;
}

int api_settle_format(struct api_request *r, enum api_format otherwise, struct api_error *err) {
    struct api_encoding file = r->file;
    if (file.format == API_FORMAT_ANY) file.format = otherwise;
    if (file.format == API_PNG && file.quality >= 0)
        return api_fail(err, 400, "invalid_output_compression", "output_compression",
                        "output_compression is for JPEG, and the picture is a PNG, which loses "
                        "nothing: use png_level (0..9), or output_format \"jpeg\"");
    if (file.format == API_JPEG && file.png_level >= 0)
        return api_fail(err, 400, "invalid_png_level", "png_level",
                        "png_level is for PNG, and the picture is a JPEG: use output_compression "
                        "(0..100), or output_format \"png\"");
    r->file = file;
    return 0;
}
