/* fields.h - every field of a request: name, type, range, default, and where it goes. The parser
 * walks this table and /v1/capabilities shows it. Internal to api/. */
#ifndef TACA_API_FIELDS_H
#define TACA_API_FIELDS_H

#include "api/request.h"
#include "api/values.h"

/* A picture as it came; api/picture.h makes pixels of it. */
struct api_file {
    const char *bytes; /* borrowed from the body, or `own`; NULL = none */
    size_t len;
    bool base64;
    const char *param; /* as the client spelt it; NULL = by the field's own name */
    uint8_t *own;
    int width_px, height_px; /* once its head was read */
};

/* A request while it is read: with what only the checks between fields need. */
struct api_draft {
    struct api_request r;
    const struct taca_model_info *model;
    const struct api_limits *limits;
    struct api_error *err;
    int64_t seed; /* -1 = the server chooses */
    bool round_size;
    bool openai;            /* fields are read as OpenAI means them */
    int quality;            /* openai: index into its list */
    char notes[1024];       /* a1111: JSON strings, "," between them */
    char ignored[256];      /* openai: names, ", " between them */
    const char *taca_lora;  /* the adapter that follows the TACA window; NULL = none */
    const char *size_param; /* "size" once that field gave the sides, else NULL */
    struct api_file image, mask;
    json_t *root;               /* owned: what they lie in, when it is not the object of fields */
    const char *strength_param; /* as it was spelt; NULL = not given */
};

#define API_MAX_SEED ((INT64_C(1) << 53) - 1) /* above it JSON clients lose digits */

enum api_kind {
    API_BOOL,
    API_INT,
    API_NUMBER,
    API_TEXT,
    API_CHOICE,
    API_SPECIAL, /* has a setter of its own */
    API_REFUSED  /* known, but this build cannot honour it */
};
/* Where the upper end of a range comes from. */
enum api_bound { API_FIXED, API_BY_STEPS, API_BY_N, API_BY_SIDE, API_BY_PROMPT, API_BY_TIMEOUT };

struct api_field {
    const char *name, *alias;
    enum api_kind kind;
    enum api_bound bound;
    double min, max;                /* of text: bytes */
    size_t at;                      /* offset in struct api_draft */
    const char *const *choices;     /* NULL-terminated: the value is an index into them */
    const char *const *not_choices; /* known values that this build cannot honour */
    const char *type;               /* of a special field, for people */
    const char *shown;              /* its default as JSON, NULL = none */
    int (*set)(struct api_draft *d, const json_t *v, struct api_name name);
    bool embedded;   /* refused by models without embedded guidance */
    bool of_t5;      /* refused by models whose text has no T5 rows */
    bool of_images;  /* refused by models that cannot start from a picture */
    const char *why; /* refused: what to do instead, or NULL */
};

const struct api_field *api_fields(size_t *n);
/* Whether a request to this model cannot have the field. */
bool api_field_refused(const struct api_field *f, const struct taca_model_info *model);
/* The table's default values; r->params are the model's. */
void api_draft_init(struct api_draft *d, const struct taca_model_info *model,
                    const struct api_limits *limits, struct api_error *err);
void api_field_range(const struct api_field *f, const struct taca_model_info *model,
                     const struct api_limits *limits, double *min, double *max);
void api_side_range(const struct taca_model_info *model, const struct api_limits *limits,
                    double *min, double *max);
/* Checks v, which is not null, and stores it. */
int api_field_set(const struct api_field *f, struct api_draft *d, const json_t *v,
                  const char *param);

/* special.c: fields that are more than one value */
int api_set_model(struct api_draft *d, const json_t *v, struct api_name name);
/* 404: names those that there are. */
int api_no_such_model(struct api_error *err, const char *id, const char *param,
                      const struct api_offer *offer);
int api_set_seed(struct api_draft *d, const json_t *v, struct api_name name);
int api_set_size(struct api_draft *d, const json_t *v, struct api_name name);
int api_set_previews(struct api_draft *d, const json_t *v, struct api_name name);
int api_set_strength(struct api_draft *d, const json_t *v, struct api_name name);
/* field_taca.c */
int api_set_taca(struct api_draft *d, const json_t *v, struct api_name name);
/* field_slg.c */
int api_set_slg(struct api_draft *d, const json_t *v, struct api_name name);

/* field_loras.c */
int api_set_loras(struct api_draft *d, const json_t *v, struct api_name name);
int api_set_taca_lora(struct api_draft *d, const json_t *v);
int api_finish_loras(struct api_draft *d); /* once all fields are read */

/* openai.c: one field of OpenAI's. *ours = true: it means what it means natively. */
int api_openai_field(struct api_draft *d, const char *key, const json_t *v, bool *ours);
void api_openai_ignore(struct api_draft *d, const char *key);
/* Pictures in the ways of its edits, other than a string. True when it was one, with *rc set. */
bool api_openai_picture(struct api_draft *d, const char *key, const json_t *v, int *rc);
struct api_form;
/* The object that a form's text stands for, to be read like JSON; its files into d->image, mask. */
int api_openai_form(struct api_draft *d, json_t **out, const struct api_form *form);
/* Once all fields are read: what quality asks for. */
void api_openai_finish(struct api_draft *d, bool steps_given);

bool api_is_field(const char *name); /* of the table */
/* a1111.c: the object that their request stands for, to be read like JSON. r.edit: of img2img. */
int api_a1111_fields(struct api_draft *d, json_t **out, json_t *theirs);

/* suggest.c: the known name that `name` was likely meant to be, or NULL. */
const char *api_suggest(const char *name);

#endif
