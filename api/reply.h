/* reply.h - what clients receive: the JSON of a finished request and the frames of an event stream.
 *
 * A frame is `id: <n>`, `event: <type>`, one `data:` line of JSON that repeats type and job id, and
 * an empty line. Every function appends to a caller's buffer. */
#ifndef TACA_API_REPLY_H
#define TACA_API_REPLY_H

#include "api/error.h"
#include "api/request.h"

enum { API_ID_LEN = 32, API_ID_MAX = 64 }; /* made here; chosen by a client */
enum { API_BASE_MAX = 272 };               /* "http://host:port" */

struct api_timings {
    double queue_ms, text_ms, denoise_ms, vae_ms, encode_ms, total_ms;
};
struct api_result_image {
    int index;
    uint64_t seed;
    int width_px, height_px;
    const void *bytes; /* encoded file */
    size_t len;
    uint64_t event_id;      /* of its event */
    const char *url_prefix; /* the picture is at this and its index; NULL = base64 */
    enum api_format format; /* of the bytes */
};

void api_base64(struct taca_buf *out, const void *bytes, size_t len);
/* Reads either alphabet, with padding or without, white space anywhere. out has room for
 * len / 4 * 3 + 2 bytes. False when there is anything else in it or it ends in the middle of a
 * byte. */
bool api_base64_read(uint8_t *out, size_t *out_len, const char *s, size_t len);

/* {"id","created","model","images":[{index,seed,width,height,format,b64_json}],"timings","warnings",
 *  "taca","loras"}; no loras without adapters */
void api_reply_json(struct taca_buf *out, const char *id, int64_t created_s,
                    const struct api_request *r, const struct taca_model_info *m,
                    const struct api_result_image *images, int n, const struct api_timings *t,
                    unsigned warnings);
/* "prompt_cut" ... as a JSON array of {code,message}. */
void api_warnings_json(struct taca_buf *out, unsigned warnings);

void api_event_queued(struct taca_buf *out, uint64_t event_id, const char *id, int64_t created_s,
                      int position, double eta_ms);
void api_event_started(struct taca_buf *out, uint64_t event_id, const char *id, double queue_ms,
                       const char *model, int steps);
struct api_progress {
    int index, step, steps; /* image index; steps done of steps */
    double elapsed_ms, eta_ms;
    int batch, batch_tokens; /* sequences and tokens of the last forward */
};
void api_event_progress(struct taca_buf *out, uint64_t event_id, const char *id,
                        const struct api_progress *p);
void api_event_preview(struct taca_buf *out, uint64_t event_id, const char *id, int step,
                       int partial_index, const struct api_result_image *img);
void api_event_image(struct taca_buf *out, uint64_t event_id, const char *id,
                     const struct api_result_image *img);
void api_event_completed(struct taca_buf *out, uint64_t event_id, const char *id, int64_t created_s,
                         const struct api_timings *t, unsigned warnings, int n);
void api_event_cancelled(struct taca_buf *out, uint64_t event_id, const char *id,
                         const char *reason);
void api_event_error(struct taca_buf *out, uint64_t event_id, const char *id,
                     const struct api_error *e);
void api_event_retrying(struct taca_buf *out, uint64_t event_id, const char *id, int attempt,
                        const char *reason);

/* How a job stands: {"id","status","created","position","eta_ms","started","completed","result",
 * "error","urls"}; what does not apply is null. */
struct api_job {
    const char *id, *status;                   /* queued running completed failed cancelled */
    const char *base;                          /* of the urls */
    int64_t created_s, started_s, completed_s; /* 0 = not yet */
    int position;                              /* 1 = next; 0 = does not wait */
    double eta_ms;                             /* < 0 = over */
    const struct api_error *error;             /* NULL = none */
    const struct api_result_image *images;     /* completed */
    int n;
    const struct api_timings *timings;
    unsigned warnings;
};
void api_job_json(struct taca_buf *out, const struct api_job *j);

/* OpenAI's words: the body of a finished request and the frames of a stream. */
void api_openai_json(struct taca_buf *out, int64_t created_s, const struct api_request *r,
                     const struct taca_model_info *m, const struct api_result_image *images);
void api_openai_partial(struct taca_buf *out, int64_t created_s, const struct api_request *r,
                        int partial_index, const struct api_result_image *img);
void api_openai_completed(struct taca_buf *out, int64_t created_s, const struct api_request *r,
                          const struct taca_model_info *m, const struct api_result_image *img);
void api_openai_queued(struct taca_buf *out, const struct api_request *r, int position,
                       double eta_ms);
void api_openai_progress(struct taca_buf *out, const struct api_request *r,
                         const struct api_progress *p);

/* {"object":"list","data":[...]} of /v1/models and /v1/loras, and the body of /v1/capabilities. */
struct api_model {
    const char *id, *state, *error;     /* error NULL = none */
    const struct taca_model_info *info; /* NULL = never loaded */
    int workers;
    int64_t created_s;
};
void api_models_json(struct taca_buf *out, const struct api_model *list, int n);
void api_loras_json(struct taca_buf *out, const struct taca_model_info *const *models, int n);
/* What `usual`, the model of requests that name none, takes stands at the top; `models` has the
 * same members for each of those that may be named. */
void api_capabilities_json(struct taca_buf *out, const struct api_limits *l,
                           const struct taca_model_info *usual,
                           const struct taca_model_info *const *models, int n);
struct api_served {
    const struct taca_model_info *usual, *const *models; /* as above */
    int n;
};
/* `base` is an OpenAPI document without the ranges, values and defaults of fields, which come from
 * the capabilities, and without the routes of A1111's API where they are off; sets out->failed when
 * it is not one, or without memory. What any of the models takes is within the ranges, defaults are
 * the usual one's, and a field's description says how models differ in it. */
void api_openapi_json(struct taca_buf *out, const void *base, size_t len,
                      const struct api_served *served, const struct api_limits *l, bool a1111);

#endif
