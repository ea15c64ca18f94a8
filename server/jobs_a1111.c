/* jobs_a1111.c - what AUTOMATIC1111's clients ask without naming a job: how far "the" picture is,
 * and to stop it. There it is one for everybody; here it is the oldest unfinished one that the same
 * API key asked for through that API. */
#include <string.h>

#include "api/a1111.h"
#include "server/jobs_internal.h"

enum { SMALL_BODY = 4096 };

static struct job *current(const struct jobs *js, const struct access_client *who) {
    struct job *oldest = NULL;
    for (struct job *job = js->first; job; job = job->next) {
        if (!job->request.a1111 || strcmp(job->client.name, who->name) != 0) continue;
        if (job->state == JOB_RUNNING) return job;
        if (!oldest) oldest = job;
    }
    return oldest;
}

static void describe(const struct job *job, struct api_a1111_progress *p) {
    const int forwards = taca_gen_params_forwards(&job->request.params);
    int done = 0, all = 0, shown = -1;
    *p = (struct api_a1111_progress){.job = job->id,
                                     .created_s = job->created_s,
                                     .images = job->request.n,
                                     .images_done = job->images_done,
                                     .eta_ms = job->finish_ms};
    for (int i = 0; i < job->request.n; i++) {
        const struct job_image *im = &job->images[i];
        const int steps = im->stage == IMAGE_WAITING ? forwards : im->steps;
        done += im->step;
        all += steps;
        if (shown < 0 && im->stage == IMAGE_OPEN) shown = i;
        if (i == 0 || shown == i) p->step = im->step, p->steps = steps;
    }
    p->part = all > 0 ? (double)done / all : 0;
}

void jobs_answer_a1111(struct jobs *js, const struct ask *a) {
    struct job *job = current(js, &a->client);
    struct api_a1111_progress p = {0};
    struct taca_buf body;
    taca_buf_init(&body, SMALL_BODY);
    if (a->kind == ASK_INTERRUPT) {
        if (job) jobs_cancel(js, job, "client", 499);
        taca_buf_puts(&body, "{}");
    } else {
        if (job) (void)jobs_estimate(js);
        if (job) describe(job, &p);
        api_a1111_progress_json(&body, &p);
    }
    stream_reply(a->reader->stream, 200, "application/json", NULL, &body);
    taca_buf_finish(&body);
}
