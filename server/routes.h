/* routes.h - which path answers what. Everything here runs on the HTTP threads, reads the status
 * that the loop publishes, and never waits: work becomes a job for the loop. */
#ifndef TACA_SERVER_ROUTES_H
#define TACA_SERVER_ROUTES_H

#include "server/front.h"
#include "server/http.h"

struct routes {
    struct front_hooks hooks;
    struct api_limits limits;
    bool ui;           /* the pages for people */
    bool a1111;        /* the routes of /sdapi */
    bool trusts_admin; /* only this machine reaches the operator's listener */
    const struct access *access;
};

/* The http side's `answer`. */
void routes_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
/* The http side's `early`: what can be refused without the body. */
bool routes_early(const struct routes *r, const struct http_request *q, struct http_reply *out);

/* For the files that hold the routes. */
void reply_refuse(struct http_reply *out, const struct api_error *e);
void reply_json(struct http_reply *out, int status); /* body is written by the caller */
/* True, with *out filled, when the service takes no new work just now. */
bool refuse_unless_ready(const struct routes *r, struct http_reply *out);

/* The model that is meant by who names none; NULL, with *out filled, when there is none. */
const struct taca_model_info *usual_model(const struct routes *r, struct http_reply *out);

/* Those that may be named; how many. `out` has MODELS_MAX places. */
int ready_models(const struct routes *r, const struct taca_model_info *out[MODELS_MAX]);

/* For routes that wait for the loop: the ask's reader becomes the reply's stream. */
void reply_when_asked(const struct routes *r, struct ask *ask, struct http_reply *out);
void reply_no_memory(struct http_reply *out);
/* "http://host" as the client sees us; "" when its Host cannot stand in an address. */
void request_base(char out[API_BASE_MAX], const struct http_request *q);

/* admin_routes.c */
void model_load_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out);
void model_unload_answer(const struct routes *r, const struct http_request *q,
                         struct http_reply *out);
/* generate.c */
bool is_json(const char *content_type);
bool edit_early(const struct routes *r, const struct http_request *q, struct http_reply *out);
void edit_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
bool generate_early(const struct routes *r, const struct http_request *q, struct http_reply *out);
void generate_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
void openai_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
void a1111_text_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out);
void a1111_image_answer(const struct routes *r, const struct http_request *q,
                        struct http_reply *out);
void job_put_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
/* job_routes.c */
size_t job_id_len(const char *s); /* of the id that s begins with; 0 = none is there */
/* That of /v1/jobs/{id}..., whose pattern has matched. */
void job_id_from(char out[API_ID_MAX + 1], const char *path);
void job_status_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out);
void job_events_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out);
void job_image_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
void job_cancel_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out);
void queue_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
struct ask *job_ask_open(enum ask_kind kind, enum api_reply form, const struct http_request *q);
/* a1111.c */
void a1111_list_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out);
void a1111_options_answer(const struct routes *r, const struct http_request *q,
                          struct http_reply *out);
void a1111_png_info_answer(const struct routes *r, const struct http_request *q,
                           struct http_reply *out);
void a1111_nothing_answer(const struct routes *r, const struct http_request *q,
                          struct http_reply *out);
void a1111_progress_answer(const struct routes *r, const struct http_request *q,
                           struct http_reply *out);
void a1111_interrupt_answer(const struct routes *r, const struct http_request *q,
                            struct http_reply *out);
/* page.c */
#define PAGE_FILES "/ui/"
bool page_wanted(const struct http_request *q); /* a browser asks */
void page_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
void page_docs_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
void openapi_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
void page_file_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
/* health.c */
void health_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
void livez_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
void readyz_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);
void startupz_answer(const struct routes *r, const struct http_request *q, struct http_reply *out);

#endif
