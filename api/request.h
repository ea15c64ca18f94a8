/* request.h - the body of POST /v1/generate, parsed once into plain data.
 *
 * Unknown fields, fields that this build cannot honour and values out of range are refused by name;
 * no field is ever ignored. Pure: no sockets, no threads, no clock. */
#ifndef TACA_API_REQUEST_H
#define TACA_API_REQUEST_H

#include "api/error.h"
#include "api/image_write.h"
#include "api/limits.h"

/* Where the body itself says how pictures travel; ANY leaves it to Accept. */
enum api_response {
    API_RESPONSE_ANY,
    API_RESPONSE_B64_JSON,
    API_RESPONSE_BINARY,
    API_RESPONSE_URL
};
/* DEFAULT: cancel when the client waits for the result, continue when it will come back for it. */
enum api_on_disconnect { API_DISCONNECT_DEFAULT, API_DISCONNECT_CANCEL, API_DISCONNECT_CONTINUE };
enum { API_MAX_N = 64, API_MAX_PREVIEWS = 8, API_MAX_PREVIEW_PX = 256, API_MAX_LORAS = 4 };

/* A picture as it came. */
struct api_packed {
    const char *bytes; /* NULL = none */
    size_t len;
    const char *param;       /* the field as the client spelt it */
    int width_px, height_px; /* as its head says */
};

struct api_request {
    struct taca_arena arena;  /* owns every string below */
    struct taca_arena pixels; /* owns those of params.image and params.mask */
    struct taca_arena files;  /* owns what those come from, until api_request_unpack */
    struct api_packed image, mask;
    bool mask_is_holes; /* repaint where the mask is clear, instead of where it is white */
    bool mask_inverted; /* repaint the rest */
    int model;          /* its number among those that were offered */
    struct taca_gen_params params; /* seed is that of image 0; image k uses seed + k */
    int n;
    struct api_encoding file; /* its format is known after api_negotiate or api_settle_format */
    bool metadata;            /* parameters in the file */
    bool stream;              /* body asked for events */
    enum api_response response;
    int previews;            /* how many previews at most over the run, 0 = none */
    int preview_every;       /* a preview each so many steps, 0 = spread over the run */
    int preview_max_side_px; /* larger ones are shrunk: api_preview_shrink */
    int priority;            /* -10..10 */
    int start_timeout_ms;    /* 0 = the server's own */
    int deadline_ms;         /* 0 = none */
    enum api_on_disconnect on_disconnect;
    const char *user;     /* NULL = none */
    unsigned warnings;    /* enum taca_warning: what was found here already */
    bool edit;            /* openai: of a picture */
    bool openai;          /* read by api_request_parse_openai */
    bool progress_events; /* openai: queued and progress in the stream too */
    bool a1111;           /* of their API */
    bool send_images;     /* a1111: in the reply */
    const char *echo;     /* a1111: what was asked, as JSON */
    const char *notes;    /* a1111: how it was understood, JSON strings with "," between; NULL */
    const char *quality;  /* openai: as asked, a constant */
    const char *ignored;  /* openai: names that mean nothing here, "a, b"; NULL = none */
    char *json;           /* the request as it will be repeated: normalised, seed fixed */
};

enum { API_MAX_MODELS = 8 };
/* What a request is read against. */
struct api_offer {
    const struct api_limits *limits;
    int n_models;
    struct {
        const char *id;
        const struct taca_model_info *info; /* NULL = not loaded */
        bool loading;                       /* but will be soon */
    } models[API_MAX_MODELS];               /* the first is meant by requests that name none */
};

/* Parses and checks `len` bytes of JSON (RFC 8259, duplicates refused, depth and size limited), for
 * one model.
 *   random_seed  used when seed is -1 or absent, below 2^53
 * Returns 0, or an HTTP status with *err filled; *out then needs no finish. */
int api_request_parse(struct api_request *out, const char *body, size_t len,
                      const struct taca_model_info *model, const struct api_limits *limits,
                      uint64_t random_seed, struct api_error *err);
/* What a body is the body of. */
enum api_dialect { API_NATIVE, API_OPENAI, API_OPENAI_EDIT, API_A1111, API_A1111_IMAGE };
struct api_source {
    enum api_dialect dialect;
    const char *content_type; /* a form for OPENAI_EDIT, or anything else for JSON; NULL = JSON */
    const char *body;
    size_t len;
    bool packed; /* pictures are looked at by their heads alone: api_request_unpack is to follow */
};
/* As api_request_parse, of any dialect and for any model that is offered: OpenAI's edits take a
 * form or JSON, want a picture, and paint where its mask is clear. */
int api_request_read(struct api_request *out, const struct api_source *from,
                     const struct api_offer *offer, uint64_t random_seed, struct api_error *err);
/* The same for the body of POST /v1/images/generations: OpenAI's fields beside ours. What neither
 * knows is ignored and named in out->ignored. */
int api_request_parse_openai(struct api_request *out, const char *body, size_t len,
                             const struct taca_model_info *model, const struct api_limits *limits,
                             uint64_t random_seed, struct api_error *err);
/* The pictures' pixels, which is most of the work of reading a request: any thread. 0, or a status
 * with *err filled; in either case the files are gone. Without pictures it does nothing. */
int api_request_unpack(struct api_request *r, struct api_error *err);
void api_request_finish(struct api_request *r); /* zeroed is fine */
/* Gives the pixels back: nothing will be made of them any more. */
void api_request_drop_pixels(struct api_request *r);

/* Which preview (0, 1, ...) is due once `steps_done` of the request's steps are; -1 = none. Never
 * at the last step: the image itself follows. */
int api_preview_due(const struct api_request *r, int steps_done);
/* Averages *img down in place until neither side is above max_side_px. */
void api_preview_shrink(struct taca_image *img, int max_side_px);

/* How the client wants its answer. `accept` is the header's value or NULL. */
enum api_reply { API_REPLY_JSON, API_REPLY_IMAGE, API_REPLY_EVENTS };
/* In this order: OpenAI's way when it is one, stream:true, response_format, Accept by q-value,
 * JSON. Settles the format, too: the one of the body, or which of the image types Accept likes
 * better, in whatever reply the picture travels. 0, or with *err filled 406 (n > 1 with only image
 * types acceptable, or nothing that we make) or the 400 of api_settle_format. */
int api_negotiate(enum api_reply *out, const char *accept, struct api_request *r,
                  struct api_error *err);
/* Of a request that does not say, pictures become `otherwise`. 0, or 400 when it says how to pack
 * another format than that. */
int api_settle_format(struct api_request *r, enum api_format otherwise, struct api_error *err);

#endif
