/* job_record.h - a job as bytes that outlive the process: the request as it was accepted, with its
 * seed, and how the job ended.
 *
 * Versioned: bytes of another version are refused, never guessed at. Pure. */
#ifndef TACA_SERVER_JOB_RECORD_H
#define TACA_SERVER_JOB_RECORD_H

#include "server/job.h"

/* `pixels`: with the pictures that the request starts from, which only a job that has still to run
 * needs. */
void job_record_request(struct taca_buf *out, const struct job *job, bool pixels);
/* Fills the request, who asked and how; id, tag and times are not in it. TACA_EPROTO. */
enum taca_code job_record_read_request(struct job *job, const void *bytes, size_t len,
                                       struct taca_err *err) TACA_MUST_USE;
/* How it ended, its timings, events and results; not the bytes of pictures. */
void job_record_outcome(struct taca_buf *out, const struct job *job);
/* After the request. TACA_EPROTO. */
enum taca_code job_record_read_outcome(struct job *job, const void *bytes, size_t len,
                                       struct taca_err *err) TACA_MUST_USE;

#endif
